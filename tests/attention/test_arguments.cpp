// Every operand of a call with every fault that one can have: null, misaligned, of other rows, heads or dim, on memory of another one.
// Each is refused with its code and its name before a byte is written, and what forward returned is good for the next try.
#include <doctest/doctest.h>

#include <array>
#include <functional>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include <sp/reference.hpp>
#include <sp/ring.hpp>

#include "support/failure.hpp"
#include "support/tensors.hpp"

namespace test_arguments {
namespace {

using sp::errc;
using sp::index_t;
using support::says;
using tensor = sp::view<float, 3>;
using row = sp::view<float, 1>;
using object = sp::ring_attention<sp::solo, sp::reference<>>;

constexpr std::array names{"q", "k", "v", "out", "dout", "dq", "dk", "dv"};
enum : std::size_t { q, k, v, out, dout, dq, dk, dv };
constexpr index_t space = 400; ///< elements between the tensors: as large as any

/// Views of one rank's operands, which a test may spoil.
struct operands {
  std::array<tensor, 8> t;
  row sinks, dsinks;
};

/// Five rows, 4 query heads on 2 kv heads, dims 6 and 3, each tensor in a place of its own.
class scene {
public:
  scene() : memory_(std::size_t(11 * space), 0.5F) {
    auto place = [this](index_t n) { return memory_.data() + n * space; };
    constexpr index_t heads[] = {4, 2, 2, 4, 4, 4, 2, 2}, dims[] = {6, 6, 3, 3, 3, 6, 6, 3};
    for (std::size_t i = 0; i < 8; ++i) good.t[i] = tensor(place(index_t(i)), {5, heads[i], dims[i]});
    good.sinks = row(place(8), {4});
    good.dsinks = row(place(9), {4});
    saved_ = forward(good);
  }

  object::saved<float> forward(operands const& o) {
    sp::attention_extras<float> e;
    e.sinks = o.sinks;
    return attention_.forward(prepared_, {scratch_, scratch_}, o.t[q], o.t[k], o.t[v], o.t[out], e);
  }
  /// Backward from a saved that stays whatever happens.
  void backward(operands const& o) {
    sp::attention_extras<float> e;
    e.sinks = o.sinks, e.dsinks = o.dsinks;
    attention_.backward(prepared_, {scratch_, scratch_}, std::move(saved_), o.t[q], o.t[k], o.t[v], o.t[out], o.t[dout], o.t[dq],
                        o.t[dk], o.t[dv], e);
  }

  /// The failure of a call with one operand spoilt; no byte of any tensor has changed.
  sp::error_info refused(bool in_backward, std::function<void(operands&)> const& spoil) {
    operands o = good;
    spoil(o);
    auto const before = memory_;
    auto const e = support::failure_of([&] {
      if (in_backward) return backward(o), 0;
      return static_cast<void>(forward(o)), 0;
    });
    CHECK(support::same_bits(memory_, before));
    CHECK(e.primitive == (in_backward ? "ring_attention.backward" : "ring_attention.forward"));
    return e;
  }

  operands good;

private:
  std::vector<float> memory_;
  sp::pool scratch_;
  sp::batch batch_{sp::packed{0, 2, 5}, sp::contiguous{}, sp::solo{}};
  object attention_{sp::solo{}, sp::reference{}};
  object::prepared prepared_ = attention_.prepare(batch_);
  object::saved<float> saved_;
};

/// A fault of one tensor, and whether the sentence is about it: q, k and v say what is expected of the others.
struct fault {
  char const* what;
  void (*apply)(tensor&);
  errc code;
  bool of_shape; ///< heads and dims
};
constexpr fault faults[] = {
    {"null", [](tensor& t) { t.data = nullptr; }, errc::bad_pointer, false},
    {"misaligned", [](tensor& t) { t.data = reinterpret_cast<float*>(reinterpret_cast<char*>(t.data) + 1); }, errc::bad_pointer,
     false},
    {"rows", [](tensor& t) { t.extents[0] = 4; }, errc::bad_documents, false},
    {"more rows", [](tensor& t) { t.extents[0] = 6; }, errc::bad_documents, false},
    {"heads", [](tensor& t) { t.extents[1] /= 2; }, errc::invalid_shape, true},
    {"dim", [](tensor& t) { t.extents[2] -= 1; }, errc::invalid_shape, true},
};

} // namespace

TEST_CASE("arguments: each operand with each fault is refused with its name, forward and backward [asan]") {
  scene s;
  int tried = 0;
  for (bool in_backward : {false, true})
    for (std::size_t n = 0; n < (in_backward ? 8 : 4); ++n)
      for (fault const& f : faults) {
        CAPTURE(names[n]);
        CAPTURE(f.what);
        CAPTURE(in_backward);
        auto const e = s.refused(in_backward, [&](operands& o) { f.apply(o.t[n]); });
        CHECK(e.code == f.code);
        CHECK(!e.remedy.empty());
        bool const told_by_others = f.of_shape && n <= v;
        if (!told_by_others) CHECK(e.problem.rfind(std::string(names[n]) + " ", 0) == 0);
        ++tried;
      }
  CHECK(tried == 12 * 6);
  s.backward(s.good);
}

TEST_CASE("arguments: sinks and their gradient with each fault [asan]") {
  scene s;
  auto crooked = [](row& r) { r.data = reinterpret_cast<float*>(reinterpret_cast<char*>(r.data) + 2); };
  for (bool in_backward : {false, true}) {
    CHECK(says(s.refused(in_backward, [](operands& o) { o.sinks.extents[0] = 3; }), errc::invalid_shape, "sinks is (3)", "(4)"));
    CHECK(says(s.refused(in_backward, [](operands& o) { o.sinks.extents[0] = 5; }), errc::invalid_shape, "sinks is (5)"));
    CHECK(says(s.refused(in_backward, [&](operands& o) { crooked(o.sinks); }), errc::bad_pointer, "sinks is not aligned"));
  }
  CHECK(says(s.refused(true, [](operands& o) { o.dsinks.extents[0] = 3; }), errc::invalid_shape, "dsinks is (3)", "(4)"));
  CHECK(says(s.refused(true, [](operands& o) { o.dsinks.extents[0] = 8; }), errc::invalid_shape, "dsinks is (8)"));
  CHECK(says(s.refused(true, [&](operands& o) { crooked(o.dsinks); }), errc::bad_pointer, "dsinks is not aligned"));
  CHECK(says(s.refused(true, [](operands& o) { o.dsinks = {}; }), errc::bad_pointer, "dsinks were not"));
  s.backward(s.good);
}

TEST_CASE("arguments: what a call writes overlaps nothing else of the call, in every pair [asan]") {
  scene s;
  int pairs = 0;
  auto refused = [&](bool in_backward, std::string const& written, std::string const& other, auto const& spoil) {
    CAPTURE(written);
    CAPTURE(other);
    auto const e = s.refused(in_backward, spoil);
    CHECK(e.code == errc::aliasing);
    CHECK((e.problem == written + " overlaps " + other || e.problem == other + " overlaps " + written));
    ++pairs;
  };
  for (bool in_backward : {false, true})
    for (std::size_t w : in_backward ? std::vector<std::size_t>{dq, dk, dv} : std::vector<std::size_t>{out}) {
      for (std::size_t n = 0; n < (in_backward ? 8 : 4); ++n)
        if (n != w) refused(in_backward, names[w], names[n], [&](operands& o) { o.t[w].data = o.t[n].data + 1; });
      refused(in_backward, names[w], "sinks", [&](operands& o) { o.t[w].data = o.sinks.data - 2; });
      if (in_backward) refused(true, names[w], "dsinks", [&](operands& o) { o.t[w].data = o.dsinks.data - 2; });
      for (std::size_t d = 0; d < 3; ++d) {
        auto const e = s.refused(in_backward, [&](operands& o) { o.t[w].strides[d] = 0; });
        CHECK(e.problem.rfind(std::string(names[w]) + " overlaps itself", 0) == 0);
      }
    }
  for (std::size_t n = 0; n < dq; ++n) refused(true, "dsinks", names[n], [&](operands& o) { o.dsinks.data = o.t[n].data + 1; });
  refused(true, "dsinks", "sinks", [&](operands& o) { o.dsinks.data = o.sinks.data + 3; });
  CHECK(pairs == 4 + 3 * 9 + 6);
  s.backward(s.good);
}

TEST_CASE("arguments: level 3 searches the keys' own rows in cross attention, every one with a token and none without [asan]") {
  sp::batch const q_batch(sp::packed{0, 2, 5}, sp::contiguous{}, sp::solo{}),
      k_batch(sp::documents({{1, 4, 5, 8}, {7, 3, 4, 9}}, 12), sp::contiguous{}, sp::solo{});
  object const attention{sp::solo{}, sp::reference{}, {.mask = sp::full(), .checks = 3}};
  auto const prepared = attention.prepare(q_batch, k_batch);
  std::vector<float> q(5 * 4 * 6, 0.5F), k(9 * 2 * 6, 0.5F), v(9 * 2 * 3, 0.5F), out(5 * 4 * 3);
  sp::pool memory;
  auto infer = [&] {
    attention.infer(prepared, {memory, memory}, support::tensor<3>(q, {5, 4, 6}), support::tensor<3>(k, {9, 2, 6}),
                    support::tensor<3>(v, {9, 2, 3}), support::tensor<3>(out, {5, 4, 3}));
  };
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  for (int slack : {4, 8}) k[std::size_t(slack) * 12 + 3] = v[std::size_t(slack) * 6 + 2] = nan;
  CHECK_NOTHROW(infer());
  for (index_t row : {0, 1, 2, 3, 5, 6, 7}) {
    auto const at = "holds NaN at row " + std::to_string(row) + ", head 1, channel 0: position " +
                    std::to_string(row < 4 ? row + 1 : row + 2) + " of the stream, document " + std::to_string(row > 4);
    for (auto [name, tensor, width] : {std::tuple("k ", &k, 6), std::tuple("v ", &v, 3)}) {
      float& element = (*tensor)[std::size_t((row * 2 + 1) * width)];
      element = nan;
      CHECK(says(support::failure_of([&] { return infer(), 0; }), errc::non_finite, name + at));
      element = 0.5F;
    }
  }
}

} // namespace test_arguments
