// Kernels of linear attention against the recurrence, token by token: outputs, states and every gradient, in double and in float.
// All forms, head ratios, widths beside register tiles, lengths around chunks and blocks, decays of 0, -1e4 and -infinity, any strides.
// optimised: long products
#include <doctest/doctest.h>

#include <sp/workers.hpp>

#include "linear/linear_problem.hpp"

namespace test_kernels {
namespace {

using namespace linear_tests;

double worst(numbers const& x, numbers const& expected) {
  double w = 0;
  numbers::each([&](char const*, auto member) {
    double const d = difference(x.*member, expected.*member);
    if (!(d <= w)) w = d;
  });
  return w;
}

void agree(numbers const& x, numbers const& expected, double bound) {
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
  sp::gated_delta const keeps, recomputes({.recompute = true});
  CHECK(keeps.saved_bytes<float>(s) == 4 * 2 * 16 * 24 * 4); // before tokens 512 and 1024
  CHECK(keeps.saved_bytes<double>(s) == 4 * 2 * 16 * 24 * 8);
  CHECK(recomputes.saved_bytes<float>(s) == 0);
  problem<sp::gated_delta, float> const p({.shape = s});
  sp::inline_queue const queue;
  for (sp::gated_delta const& kernel : {keeps, recomputes}) {
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

TEST_CASE("linear kernels: what does not fit is refused") {
  problem<sp::scalar_decay, float> const p({.shape = {5, 2, 4, 3, 2}});
  sp::pool memory;
  sp::context const where(memory, memory);
  auto refused = [&](auto change, char const* word) {
    auto c = p.call(0, 5);
    change(c);
    try {
      p.kernel.reduce<float>(c, {}, where);
      FAIL_CHECK("nothing was thrown");
    } catch (sp::error const& e) {
      CHECK(e.code() == sp::errc::invalid_shape);
      CHECK(std::string(e.what()).find(word) != std::string::npos);
    }
  };
  refused([](auto& c) { c.v = c.v.narrow(1, 0, 3); }, "no multiple");
  refused([](auto& c) { c.k = c.k.rows(0, 4); }, "do not fit");
  refused([](auto& c) { c.gates[0] = c.gates[0].rows(1, 4); }, "gate 0");
}

} // namespace
} // namespace test_kernels
