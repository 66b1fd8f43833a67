// Kernels of linear attention against the recurrence, token by token: outputs, states and every gradient, in double and in float.
// All forms, head ratios, widths beside register tiles, lengths around chunks and blocks, decays of 0, -1e4 and -infinity, any strides.
// optimised: long products
#include <doctest/doctest.h>

#include <deque>
#include <limits>

#include <sp/workers.hpp>

#include "linear/linear_problem.hpp"
#include "support/failure.hpp"

namespace test_kernels {
namespace {

using namespace linear_tests;

#ifndef SP_TEST_SANITIZED
double worst(numbers const& x, numbers const& expected) {
  double w = 0;
  numbers::each([&](char const*, auto member) {
    double const d = difference(x.*member, expected.*member);
    if (!(d <= w)) w = d;
  });
  return w;
}
#endif

[[maybe_unused]] void agree(numbers const& x, numbers const& expected, double bound) {
  numbers::each([&](char const* name, auto member) {
    INFO(name);
    CHECK(difference(x.*member, expected.*member) <= bound);
  });
}

setting some(unsigned i, index_t n) {
  setting s{.shape = {n, 2, 4, 19, 21}, .log_decays = decays(i % 5), .normalise = i % 3 != 0, .initial = i % 2 == 0};
  s.largest_beta = s.normalise ? 2 : 0.1; // of longer keys each token would turn the state around and make it larger
  s.order = i, s.seed = i + 1;
  return s;
}

template <class K>
void check(setting const& set) {
  problem<K, double> const p(set);
  CAPTURE(set.shape.rows);
  CAPTURE(int(set.log_decays));
  agree(p.run(), p.expected(), 1e-11);
  CHECK(p.intact);
}

#if !defined(SP_TEST_SANITIZED) || !defined(SP_TEST_THREAD_SANITIZER) // tagged for another sanitizer
TEST_CASE_TEMPLATE("linear kernels: double against the recurrence [asan]", K, sp::gated_delta, sp::gated_linear, sp::scalar_decay,
                   sp::plain_linear) {
  unsigned i = 0;
  for (index_t const n : {0, 1, 63, 64, 65, 130, 513}) check<K>(some(i++, n));
  for (index_t const n : {3, 70, 129}) { // wide values, wide keys, one head, blocks of one chunk, long and short chunks
    setting s = some(i++, n);
    s.shape = i % 2 ? sp::linear_shape{n, 1, 3, 5, 40} : sp::linear_shape{n, 3, 3, 66, 1};
    s.options = {.scale = 0.3, .chunk = i % 2 ? 16 : 100, .keep_every = 1};
    check<K>(s);
  }
}
#endif

#ifndef SP_TEST_SANITIZED // no tagged case
TEST_CASE_TEMPLATE("linear kernels: each extreme of decays alone", K, sp::gated_delta, sp::gated_linear, sp::scalar_decay) {
  for (unsigned i = 0; i < 5; ++i) {
    setting s = some(1, 90);
    s.log_decays = decays(i);
    check<K>(s);
  }
}

/// Twice what the recurrence makes of the same floats, and what n tokens' sums differ by when they are added up in another order.
template <class K, class T>
void check_float(unsigned i, index_t n) {
  problem<K, T> const p(some(i, n));
  numbers const expected = p.expected();
  double const bound = 2 * worst(p.template expected<float>(), expected) + 6e-8 * std::sqrt(double(n));
  numbers found = p.run();
  CAPTURE(bound);
  if constexpr (sizeof(T) == 2) {
    double const rounding = std::is_same_v<T, sp::bf16> ? 0x1p-8 : 0x1p-11;
    CHECK(difference(found.out, expected.out) <= rounding);
    found.out = expected.out;
  }
  agree(found, expected, bound);
}

TEST_CASE("linear kernels: float, and 16 bits with float sums") {
  for (unsigned i = 0; i < 5; ++i) {
    check_float<sp::gated_delta, float>(i, 300);
    check_float<sp::gated_linear, float>(i, 100);
    check_float<sp::scalar_decay, float>(i, 200);
  }
  check_float<sp::gated_delta, sp::bf16>(3, 130);
  check_float<sp::plain_linear, sp::fp16>(4, 130);
}

TEST_CASE("linear kernels: decays that add up to thousands do not blur those behind them") {
  // -50 at each of 40 tokens: the sum is -2000, where floats are 1e-4 apart
  setting s = some(1, 64);
  s.log_decays = decays::none;
  problem<sp::scalar_decay, float> p(s);
  for (index_t i = 0; i < 64; ++i)
    for (index_t h = 0; h < 4; ++h) p.gate[0].v(i, h, 0) = i < 40 ? -50.0f : -0.013f;
  numbers const expected = p.expected();
  agree(p.run(), expected, 2 * worst(p.expected<float>(), expected) + 1e-7);
}
#endif

#if !defined(SP_TEST_SANITIZED) || !defined(SP_TEST_ADDRESS_SANITIZER) // tagged for another sanitizer
TEST_CASE_TEMPLATE("linear kernels: kept, recomputed, on any number of threads: the same bits [tsan]", K, sp::gated_delta,
                   sp::gated_linear) {
  setting s = some(2, 300);
  s.options = {.keep_every = 64};
  problem<K, float> const kept(s);
  numbers const expected = kept.run();
  CHECK(kept.run({0}, sp::workers{3}) == expected);
  s.options.recompute = true;
  problem<K, float> const again(s);
  CHECK(again.run() == expected);
  CHECK(again.run({0}, sp::workers{2}) == expected);
}
#endif

#ifndef SP_TEST_SANITIZED // no tagged case
TEST_CASE_TEMPLATE("linear kernels: infer gives the bits of forward, and its memory does not grow with states that are kept", K,
                   sp::gated_delta, sp::gated_linear) {
  std::size_t peak = 0;
  for (index_t const every : {64, 1000}) {
    setting s = some(2, 300);
    s.options.keep_every = every;
    problem<K, float> const p(s);
    typename problem<K, float>::rows_of out(300, 4, 21, s.order, 7), again(300, 4, 21, s.order, 8);
    auto leaving = p.empty_state(), left = p.empty_state();
    sp::pool scratch, kept, of_infer, none;
    auto const saved = p.kernel.template forward<float>(p.call(0, 300), p.start(), out.v, leaving.v, sp::context(scratch, kept));
    p.kernel.template infer<float>(p.call(0, 300), p.start(), again.v, left.v, sp::context(of_infer, none));
    CHECK(p.values(again.v) == p.values(out.v));
    CHECK(p.values(left.v) == p.values(leaving.v));
    CHECK((kept.bytes_in_use() > 0) == (every == 64));
    CHECK(none.peak_bytes() == 0);
    CHECK((peak == 0 || of_infer.peak_bytes() == peak));
    peak = of_infer.peak_bytes();
  }
}

TEST_CASE("linear kernels: a token changes no bit of the outputs before it") {
  setting s = some(3, 200);
  problem<sp::gated_delta, float> p(s);
  problem<sp::gated_linear, float> l(s);
  std::vector<double> const before = p.run().out, linear = l.run().out;
  auto change = [](auto& x, index_t t) {
    x.gate[0].v(t, 1, 0) -= 30, x.k.v(t, 0, 2) += 5, x.v.v(t, 1, 3) -= 7, x.q.v(t, 0, 1) *= -3;
  };
  for (index_t const t : {199, 100, 65, 3}) {
    change(p, t), change(l, t);
    auto const same = [&](std::vector<double> const& a, std::vector<double> const& b) {
      return std::equal(a.begin(), a.begin() + t * 4 * 21, b.begin());
    };
    CHECK(same(p.run().out, before));
    CHECK(same(l.run().out, linear));
    CHECK(p.run().out != before);
  }
}

TEST_CASE("linear kernels: memory is what they say") {
  sp::linear_shape const s{1100, 2, 4, 16, 24};
  sp::gated_delta const keeps, recomputes({.recompute = true}), never({.keep_every = std::numeric_limits<index_t>::max()});
  CHECK(keeps.saved_bytes<float>(s) == 4 * 8 * 16 * 24 * 4); // before tokens 128, 256, ..., 1024
  CHECK(keeps.saved_bytes<double>(s) == 4 * 8 * 16 * 24 * 8);
  CHECK(recomputes.saved_bytes<float>(s) == 0);
  CHECK(never.saved_bytes<float>(s) == 0);
  problem<sp::gated_delta, float> const p({.shape = s});
  sp::inline_queue const queue;
  for (sp::gated_delta const& kernel : {keeps, recomputes, never}) {
    std::vector<std::byte> room(std::size_t(kernel.scratch_bytes<float>(s, queue)) + 64),
        state(std::size_t(kernel.saved_bytes<float>(s)) + 64);
    sp::workspace scratch(room.data(), room.size()), kept(state.data(), state.size());
    sp::context const where(scratch, kept);
    std::vector<float> out(1100 * 4 * 24), de(4 * 16 * 24), m(4 * 16 * 16);
    sp::linear_grad<float, 2> g{p.dout.read(), {}, {}, {}, {}, {}, {}};
    g.dentering = {de.data(), 4, 16, 24};
    kernel.reduce<float>(p.call(0, 1100), {{m.data(), 4, 256}, g.dentering}, where);
    auto const saved = kernel.forward<float>(p.call(0, 1100), {}, {out.data(), 1100, 4, 24}, {}, where);
    kernel.backward<float>(p.call(0, 1100), {}, saved, g, where);
    CHECK(de != std::vector<float>(de.size()));
  }
}
#endif

#if !defined(SP_TEST_SANITIZED) || !defined(SP_TEST_THREAD_SANITIZER) // tagged for another sanitizer
/// All tensors of one segment: 5 rows, 2 key heads, 4 value heads, key dim 3, value dim 2.
struct segment {
  using tensor = sp::view<double, 3>;

  problem<sp::gated_delta, double> p{{.shape = {5, 2, 4, 3, 2}}};
  std::deque<std::vector<double>> memory{}; // what it holds does not move
  sp::linear_call<double, 2> call = p.call(0, 5);
  tensor out = make(5, 4, 2), entering = make(4, 3, 2), leaving = make(4, 3, 2), dleaving = make(4, 3, 2);
  sp::view<double const, 3> dout = p.dout.read();
  tensor dq = make(5, 2, 3), dk = make(5, 2, 3), dv = make(5, 4, 2), dg = make(5, 4, 1), db = make(5, 4, 1), e = make(4, 3, 2);
  sp::view<double, 2> m{make(4, 9, 1).data, {4, 9}};
  sp::pool pool{};

  tensor make(index_t a, index_t b, index_t c) { // with room behind it: longer ones are laid over it and must reach no neighbour
    return {memory.emplace_back(std::size_t(a * b * c) + 64, 0.5).data(), {a, b, c}};
  }
  auto where() { return sp::context(pool, pool); }
  void reduce() { p.kernel.reduce<double>(call, {m, e}, where()); }
  auto forward() { return p.kernel.forward<double>(call, entering, out, leaving, where()); }
  void backward(sp::linear_saved_t<sp::gated_delta, double> const& kept) {
    p.kernel.backward<double>(call, entering, kept, {dout, dleaving, dq, dk, dv, {dg, db}, e}, where());
  }
  void backward() { backward(p.kernel.forward<double>(p.call(0, 5), {}, {}, {}, where())); }
  void backward_reduce() { p.kernel.backward_reduce<double>(call, dout, e, where()); }
};

/// What the call says about a segment that is changed.
template <class Change>
sp::error_info said(void (*call)(segment&), Change change) {
  segment s;
  change(s);
  return support::failure_of([&] { return (call(s), 0); });
}

TEST_CASE("linear kernels: what does not fit is refused [asan]") {
  auto const reduce = [](segment& s) { s.reduce(); };
  auto const forward = [](segment& s) { s.forward(); };
  auto const backward = [](segment& s) { s.backward(); };
  auto const backward_reduce = [](segment& s) { s.backward_reduce(); };
  constexpr auto shape = sp::errc::invalid_shape, null = sp::errc::bad_pointer;
  using support::says;
  for (auto const& call : {+reduce, +forward, +backward, +backward_reduce}) {
    CHECK(says(said(call, [](segment& s) { s.call.v = s.call.v.narrow(1, 0, 3); }), shape, "3 value heads", "no multiple"));
    CHECK(says(said(call, [](segment& s) { s.call.k = s.call.k.rows(0, 4); }), shape, "k (4, 2, 3)", "do not fit"));
    CHECK(says(said(call, [](segment& s) { s.call.gates[1] = s.call.gates[1].rows(1, 4); }), shape, "gate 1 is (4, 4, 1)"));
    CHECK(says(said(call, [](segment& s) { s.call.k.data = nullptr; }), null, "k is null"));
    CHECK(says(said(call, [](segment& s) { s.call.gates[0].data = nullptr; }), null, "gate 0 is null"));
  }
  CHECK(says(said(reduce, [](segment& s) { s.m = {s.m.data, {4, 3}}; }), shape, "m is (4, 3), expected (4, 9)"));
  CHECK(says(said(reduce, [](segment& s) { s.e = s.e.narrow(0, 0, 3); }), shape, "b is (3, 3, 2), expected (4, 3, 2)"));
  CHECK(says(said(forward, [](segment& s) { s.call.q.data = nullptr; }), null, "q is null"));
  CHECK(says(said(forward, [](segment& s) { s.out = s.out.rows(0, 4); }), shape, "out is (4, 4, 2), expected (5, 4, 2)"));
  CHECK(says(said(forward, [](segment& s) { s.entering = s.make(4, 2, 3); }), shape, "entering state is (4, 2, 3)"));
  CHECK(says(said(forward, [](segment& s) { s.leaving = s.leaving.narrow(2, 0, 1); }), shape, "leaving state is (4, 3, 1)"));
  for (auto const& call : {+backward, +backward_reduce}) {
    CHECK(says(said(call, [](segment& s) { s.dout = s.dout.narrow(1, 0, 2); }), shape, "dout is (5, 2, 2), expected (5, 4, 2)"));
    CHECK(says(said(call, [](segment& s) { s.dout = {}; }), null, "dout is null"));
    CHECK(says(said(call, [](segment& s) { s.e = s.make(2, 3, 2); }), shape, "(2, 3, 2), expected (4, 3, 2)"));
  }
  CHECK(says(said(backward, [](segment& s) { s.call.v.data = nullptr; }), null, "v is null"));
  CHECK(says(said(backward, [](segment& s) { s.dleaving = s.make(4, 2, 3); }), shape, "dleaving is (4, 2, 3)"));
  CHECK(says(said(backward, [](segment& s) { s.dk = s.dk.rows(0, 4); }), shape, "dk is (4, 2, 3), expected (5, 2, 3)"));
  CHECK(says(said(backward, [](segment& s) { s.dv = s.make(5, 2, 2); }), shape, "dv is (5, 2, 2), expected (5, 4, 2)"));
  CHECK(says(said(backward, [](segment& s) { s.db = s.make(5, 4, 2); }), shape, "dgate 1 is (5, 4, 2), expected (5, 4, 1)"));
  // what forward kept is of a segment of one block, which is no state at all
  segment s;
  auto const kept = s.p.kernel.forward<double>(problem<sp::gated_delta, double>({.shape = {600, 2, 4, 3, 2}}).call(0, 600), {},
                                               {}, {}, s.where());
  CHECK(says(support::failure_of([&] { return (s.backward(kept), 0); }), sp::errc::bad_state, "(4, 4, 3, 2)", "(4, 0, 3, 2)"));
}
#endif

#ifndef SP_TEST_SANITIZED // no tagged case
TEST_CASE("linear kernels: options that keep or compute no token at a time are refused") {
  auto made = [](sp::linear_options const& o) {
    return support::failure_of([&] { return sp::gated_delta(o).saved_bytes<float>({}); });
  };
  using support::says;
  CHECK(says(made({.keep_every = 0}), sp::errc::invalid_shape, "linear attention: a state kept for every 0 tokens"));
  CHECK(says(made({.keep_every = -64}), sp::errc::invalid_shape, "every -64 tokens"));
  CHECK(says(made({.chunk = -1}), sp::errc::invalid_shape, "chunks of -1 tokens"));
}

TEST_CASE("linear kernels: what shares memory is refused, but for a state that is replaced") {
  auto const reduce = [](segment& s) { s.reduce(); };
  auto const forward = [](segment& s) { s.forward(); };
  auto const backward = [](segment& s) { s.backward(); };
  auto const backward_reduce = [](segment& s) { s.backward_reduce(); };
  constexpr auto code = sp::errc::aliasing;
  using support::says;
  auto over = [](segment::tensor const& at, auto const& from) {
    return segment::tensor(const_cast<double*>(from.data), at.extents);
  };
  CHECK(says(said(forward, [&](segment& s) { s.call.v = s.out; }), code, "out overlaps v"));
  CHECK(says(said(forward, [&](segment& s) { s.call.gates[1] = over(s.db, s.out); }), code, "out overlaps gate 1"));
  CHECK(says(said(forward, [&](segment& s) { s.out = over(s.out, s.entering); }), code, "out overlaps the entering state"));
  CHECK(says(said(forward, [&](segment& s) { s.out.strides[1] = 0; }), code, "out overlaps itself"));
  CHECK(says(said(forward,
                  [&](segment& s) {
                    s.leaving = s.make(5, 3, 2).narrow(0, 0, 4); // heads 1 to 4 go in, 0 to 3 come out
                    s.entering = segment::tensor(&s.leaving(1, 0, 0), {4, 3, 2});
                  }),
             code, "the leaving state overlaps the entering state"));
  CHECK(says(said(reduce, [&](segment& s) { s.call.k = over(s.dq, s.e); }), code, "b overlaps k"));
  CHECK(says(said(backward, [&](segment& s) { s.dk = s.dq; }), code, "dq overlaps dk"));
  CHECK(says(said(backward, [&](segment& s) { s.call.q = s.dq; }), code, "dq overlaps q"));
  CHECK(says(said(backward, [&](segment& s) { s.dout = s.dv; }), code, "dv overlaps dout"));
  CHECK(says(said(backward, [&](segment& s) { s.dg = s.db; }), code, "dgate 0 overlaps dgate 1"));
  CHECK(says(said(backward, [&](segment& s) { s.e = s.entering; }), code, "dentering overlaps the entering state"));
  CHECK(says(said(backward_reduce, [&](segment& s) { s.dout = over(s.out, s.e); }), code, "e overlaps dout"));

  segment apart, one;
  apart.forward(), one.leaving = one.entering, one.forward();
  CHECK(one.p.values(one.out) == apart.p.values(apart.out));
  CHECK(one.p.values(one.leaving) == apart.p.values(apart.leaving));
  apart.backward();
  segment again;
  again.e = again.dleaving, again.backward();
  CHECK(again.p.values(again.dq) == apart.p.values(apart.dq));
  CHECK(again.p.values(again.e) == apart.p.values(apart.e));
}
#endif

} // namespace
} // namespace test_kernels
