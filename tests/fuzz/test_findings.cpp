// What fuzzing has found in the library, each as a case of its own: numbers from outside that were added up before they were checked.
// The inputs that showed them live on in tests/corpus; here is what must be said about each.
#include <sp/core/adapt.hpp>
#include <sp/layout/batch.hpp>
#include <sp/sharding/contiguous.hpp>

#include "support/failure.hpp"

namespace test_findings {

using sp::errc;
using support::failure_of;
using support::says;

namespace {

struct dl_tensor { // as in dlpack.h
  void* data;
  struct {
    int device_type, device_id;
  } device;
  int ndim;
  struct {
    unsigned char code, bits;
    unsigned short lanes;
  } dtype;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};

/// A sharding of a caller whose run ends far behind int64.
struct far_run {
  sp::scope over = sp::scope::document;
  sp::run one{0, 5, sp::index_t{1} << 62};
  std::vector<sp::run> runs(sp::index_t, sp::index_t, sp::index_t) const { return {one}; }
};

} // namespace

TEST_CASE("a prefix is checked where user slices replace the rule, too [asan]") {
  sp::documents const docs = sp::packed{0, 4, 9};
  sp::mask m = sp::user_slices({});
  m.prefix = {0, INT64_MAX};
  m.spans.push_back({5, 7, 5, 7}); // spans ask where a prefix ends
  CHECK(says(failure_of([&] { return sp::slices(m, docs, docs); }), errc::bad_mask, "prefix 9223372036854775807 of document 1"));
}

TEST_CASE("positions stay clear of the bounds of masks [asan]") {
  sp::index_t const far = sp::unbounded + 1;
  CHECK(says(failure_of([&] { return sp::documents({{far - 3, 3, 3, 0}}, far); }), errc::size_overflow, "1152921504606846977"));
  sp::documents const near({{sp::unbounded - 3, 3, 3, 0}}, sp::unbounded), low({{0, 3, 3, 0}}, 3);
  CHECK(sp::slices(sp::window(1), near, low).size() == 1);
  CHECK(sp::slices(sp::window(1), low, near).size() == 1);
}

TEST_CASE("a stride that leads out of the address space is refused, in either direction [asan]") {
  float one[8] = {};
  sp::index_t const far = sp::index_t{1} << 58;
  CHECK(says(failure_of([&] { return sp::checked_view(sp::view<float, 1>(one, {8}, {-far})); }), errc::bad_pointer,
             "leave the address space"));
  CHECK(sp::checked_view(sp::view<float, 1>(one + 7, {8}, {-1})).data == one + 7);
}

TEST_CASE("a byte offset that wraps around is refused [asan]") {
  float one[8] = {};
  std::int64_t shape[] = {8};
  dl_tensor const t{one, {1, 0}, 1, {2, 32, 1}, shape, nullptr, UINT64_MAX - 3};
  CHECK(says(failure_of([&] { return sp::from_dlpack<float, 1>(t); }), errc::bad_pointer, "byte offset 18446744073709551612"));
}

TEST_CASE("a run whose last position is no number is refused [asan]") {
  CHECK(says(failure_of([] {
               return sp::layout(sp::packed{0, 7}, far_run{}, 1);
             }),
             errc::uneven_partition, "{0, 5, 4611686018427387904}", "outside [0, 7)"));
  CHECK(sp::layout(sp::packed{0, 5}, far_run{.one = {0, 5, 1}}, 1).tokens(0) == 5);
}

} // namespace test_findings
