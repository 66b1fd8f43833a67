// Calls with operands by name: the same bits as by position for every object, with sinks, accumulation and foreign tensors.
// An operand that is missing, null or of another rank is named by the error, and nothing is left allocated.
#include <doctest/doctest.h>

#include "simple.hpp"
#include "support/failure.hpp"
#include "support/tensors.hpp"

namespace conformance::test_named {
namespace {

/// A tensor type of somebody else's: float, (tokens, heads, dim), dense.
struct foreign {
  float* data = nullptr;
  index_t extents[3] = {};
  int rank = 3;
  explicit foreign(sp::view<float, 3> v) : data(v.data), extents{v.extent(0), v.extent(1), v.extent(2)} {}
};

} // namespace
} // namespace conformance::test_named

template <>
struct sp::tensor_traits<conformance::test_named::foreign> {
  using element_type = float;
  using memory_type = sp::host_memory;
  using tensor = conformance::test_named::foreign;
  static float* data(tensor const& t) { return t.data; }
  static int rank(tensor const& t) { return t.rank; }
  static sp::index_t extent(tensor const& t, int d) { return t.extents[d]; }
  static sp::index_t stride(tensor const& t, int d) { return d == 2 ? 1 : d == 1 ? t.extents[2] : t.extents[1] * t.extents[2]; }
};

namespace conformance::test_named {
namespace {

sp::documents const docs = sp::packed{0, 20, 21, 49};
sp::attention_shape const shape{4, 2, 8, 4};

/// The tensors of one rank, its sinks and their gradient, which starts from values.
template <class T>
struct tensors_with_sinks : attention_tensors<T> {
  std::vector<sp::accumulate_t<T>> sink{0.5F, -1, 2, 0}, dsink{1, 2, 3, 4};
  sp::view<sp::accumulate_t<T> const, 1> sinks{sink.data(), {4}};
  sp::view<sp::accumulate_t<T>, 1> dsinks{dsink.data(), {4}};
  using attention_tensors<T>::attention_tensors;
};

/// Bits of both forms on this rank. `as` makes the operand of a view: the view itself or a foreign tensor.
template <class T, class Object, class As>
bool equal_forms(Object const& attn, sp::batch const& b, bool accumulate, As as) {
  tensors_with_sinks<T> x(b, shape), y(b, shape);
  sp::attention_extras<T> e;
  e.sinks = x.sinks, e.dsinks = x.dsinks, e.accumulate = accumulate;
  sp::pool memory;
  sp::context ctx(memory, memory);
  auto prepared = attn.prepare(b);

  auto s = attn.forward(prepared, ctx, x.q, x.k, x.v, x.out, e);
  attn.backward(prepared, ctx, std::move(s), x.q, x.k, x.v, x.out, x.dout, x.dq, x.dk, x.dv, e);

  auto t = attn.forward(prepared, ctx, {.q = as(y.q), .k = as(y.k), .v = as(y.v), .out = as(y.out), .sinks = y.sinks});
  attn.backward(prepared, ctx, std::move(t),
                {.q = as(y.q),
                 .k = as(y.k),
                 .v = as(y.v),
                 .out = as(y.out),
                 .dout = as(y.dout),
                 .dq = as(y.dq),
                 .dk = as(y.dk),
                 .dv = as(y.dv),
                 .sinks = y.sinks,
                 .dsinks = y.dsinks,
                 .accumulate = accumulate});
  bool equal = same_bits(x.results(), y.results()) && same_bits(x.dsink, y.dsink);

  // the short forms, and infer
  tensors_with_sinks<T> z(b, shape);
  auto u = attn.forward(b, {.q = as(z.q), .k = as(z.k), .v = as(z.v), .out = as(z.out), .sinks = z.sinks});
  attn.backward(b, std::move(u),
                {.q = as(z.q),
                 .k = as(z.k),
                 .v = as(z.v),
                 .out = as(z.out),
                 .dout = as(z.dout),
                 .dq = as(z.dq),
                 .dk = as(z.dk),
                 .dv = as(z.dv),
                 .sinks = z.sinks,
                 .dsinks = z.dsinks,
                 .accumulate = accumulate});
  equal = equal && same_bits(x.results(), z.results()) && same_bits(x.dsink, z.dsink);
  std::fill(z[operand::out].begin(), z[operand::out].end(), T(5.0F));
  attn.infer(prepared, ctx, {.q = as(z.q), .k = as(z.k), .v = as(z.v), .out = as(z.out), .sinks = z.sinks});
  equal = equal && same_bits(x[operand::out], z[operand::out]);
  std::fill(z[operand::out].begin(), z[operand::out].end(), T(5.0F));
  attn.infer(b, {.q = as(z.q), .k = as(z.k), .v = as(z.v), .out = as(z.out), .sinks = z.sinks});
  equal = equal && same_bits(x[operand::out], z[operand::out]);
  std::fill(z[operand::out].begin(), z[operand::out].end(), T(5.0F));
  attn.infer(b, as(z.q), as(z.k), as(z.v), as(z.out), e);
  return equal && same_bits(x[operand::out], z[operand::out]) && memory.bytes_in_use() == 0;
}

/// Ring (three schedules) and Ulysses (both ways to keep) over three ranks, USP over four: the ranks on which f is true.
template <class F>
int ranks_where(F&& f) {
  std::atomic<int> good{0};
  sp::threads::run(
      3,
      [&](sp::threads const& comm) {
        sp::batch b(docs, sp::zigzag{}, comm);
        for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull})
          good += f(sp::ring_attention{comm, sp::cpu{}, {.schedule = how}}, b);
        for (auto keep : {sp::keep::heads, sp::keep::output}) good += f(sp::ulysses_attention{comm, sp::cpu{}, {}, {keep}}, b);
      },
      impatient());
  sp::threads::run(
      4,
      [&](sp::threads const& comm) {
        sp::batch b(docs, sp::nested{sp::zigzag{}, 2}, comm);
        good += f(make_usp(comm, 2, sp::cpu{}, {}), b);
      },
      impatient());
  return good;
}
constexpr int all = 3 * 5 + 4;

auto const itself = [](auto const& v) { return v; };
auto const as_foreign = [](sp::view<float, 3> const& v) { return foreign(v); };

} // namespace

TEST_CASE("by name and by position: the same bits, overwriting and accumulating [asan]") {
  for (bool accumulate : {false, true}) {
    CHECK(ranks_where([&](auto const& attn, auto const& b) { return equal_forms<float>(attn, b, accumulate, itself); }) == all);
    CHECK(ranks_where([&](auto const& attn, auto const& b) { return equal_forms<sp::bf16>(attn, b, accumulate, itself); }) ==
          all);
  }
}

TEST_CASE("by name with tensors of a foreign type: the same bits") {
  CHECK(ranks_where([&](auto const& attn, auto const& b) { return equal_forms<float>(attn, b, true, as_foreign); }) == all);
}

TEST_CASE("an operand that is missing, null or of another rank is named") {
  sp::batch b(docs, sp::contiguous{}, sp::solo{});
  attention_tensors<float> x(b, shape);
  sp::ring_attention attn{sp::solo{}, sp::cpu{}};
  sp::pool memory;
  sp::context ctx(memory, memory);
  auto prepared = attn.prepare(b);
  auto forward = [&](sp::forward_operands<float> const& o) {
    auto e = support::failure_of([&] { return attn.forward(prepared, ctx, o); });
    CHECK(e.primitive == "ring_attention.forward");
    CHECK(memory.bytes_in_use() == 0);
    return e;
  };
  CHECK(support::says(forward({.q = x.q, .k = x.k, .out = x.out}), sp::errc::bad_pointer, "v is missing"));
  CHECK(support::says(forward({.q = x.q, .k = x.k, .v = x.v}), sp::errc::bad_pointer, "out is missing"));
  CHECK(support::says(forward({}), sp::errc::bad_pointer, "q is missing"));
  auto null = x.k;
  null.data = nullptr;
  CHECK(support::says(forward({.q = x.q, .k = null, .v = x.v, .out = x.out}), sp::errc::bad_pointer, "k (49, 2, 8) is null"));
  foreign nowhere(x.v), flat(x.v);
  nowhere.data = nullptr;
  flat.rank = 2;
  CHECK(support::says(forward({.q = x.q, .k = x.k, .v = nowhere, .out = x.out}), sp::errc::bad_pointer, "v (49, 2, 4) is null"));
  CHECK(support::says(forward({.q = x.q, .k = x.k, .v = flat, .out = x.out}), sp::errc::invalid_shape, "v has 2 dimensions"));
  CHECK(support::says(support::failure_of([&] { return attn.forward(prepared, ctx, x.q, x.k, flat, x.out); }),
                      sp::errc::invalid_shape, "v has 2 dimensions")); // by position, too

  auto backward = [&](auto change) {
    sp::backward_operands<float> o{
        .q = x.q, .k = x.k, .v = x.v, .out = x.out, .dout = x.dout, .dq = x.dq, .dk = x.dk, .dv = x.dv};
    change(o);
    auto saved = attn.forward(prepared, ctx, {.q = x.q, .k = x.k, .v = x.v, .out = x.out});
    auto e = support::failure_of([&] {
      attn.backward(prepared, ctx, std::move(saved), o);
      return 0;
    });
    CHECK(e.primitive == "ring_attention.backward");
    return e;
  };
  CHECK(support::says(backward([](auto& o) { o.dout = {}; }), sp::errc::bad_pointer, "dout is missing"));
  CHECK(support::says(backward([](auto& o) { o.dk = {}; }), sp::errc::bad_pointer, "dk is missing"));
  CHECK(support::says(backward([&](auto& o) { o.dv = nowhere; }), sp::errc::bad_pointer, "dv (49, 2, 4) is null"));
  CHECK(support::says(backward([&](auto& o) { o.dq = x.dq.rows(0, 3); }), sp::errc::bad_documents, "dq is (3, 4, 8)"));

  sp::ring_attention careless{sp::solo{}, sp::cpu{}, {.checks = 0}}; // a missing operand is refused whatever the level
  auto e = support::failure_of([&] { return careless.forward(b, sp::forward_operands<float>{.q = x.q, .k = x.k, .v = x.v}); });
  CHECK(support::says(e, sp::errc::bad_pointer, "out is missing"));
}

} // namespace conformance::test_named
