// Linear attention by heads against the recurrence over the whole stream: any sharding, any heads on any ranks, key heads on several.
// Bytes that move are those of heads counted one by one, and those that are kept and taken what is said beforehand.
#include <doctest/doctest.h>

#include "linear/linear_trial.hpp"
#include "linear/recurrent_delta.hpp"
#include "support/failure.hpp"

namespace test_by_heads {
namespace {

using namespace linear_trial;

/// Any heads, on fewer ranks than there are and on more.
scene any_scene(std::mt19937& random) {
  scene s = drawn_scene(random);
  s.shape.v_heads = s.shape.k_heads * (1 + index_t(random() % 4));
  return s;
}
bool has(scene const& s, index_t head, int part, int parts) {
  return head >= part * s.shape.v_heads / parts && head < (part + 1) * s.shape.v_heads / parts;
}
/// Key heads that value heads of `part` use.
index_t keys_of(scene const& s, int part, int parts) {
  index_t n = 0;
  for (index_t k = 0, each = s.shape.v_heads / s.shape.k_heads; k < s.shape.k_heads; ++k)
    for (index_t h = k * each; h < (k + 1) * each; ++h)
      if (has(s, h, part, parts)) {
        ++n;
        break;
      }
  return n;
}
index_t values_of(scene const& s, int part, int parts) {
  index_t n = 0;
  for (index_t h = 0; h < s.shape.v_heads; ++h) n += has(s, h, part, parts);
  return n;
}

/// What one rank sends: to each other one its rows of the heads which that one has, and back the rows of that one for its own heads.
template <class Kernel, class T>
void check_bytes(scene const& s, cut const& k, std::vector<part> const& parts) {
  index_t const t = sizeof(T), a = sizeof(sp::accumulate_t<T>), state = s.final ? s.states() / s.shape.v_heads * a : 0;
  index_t gates = 0, copies = 0, forward = 0, backward = 0;
  for (int i = 0; i < Kernel::gates; ++i) gates += gate_width<Kernel>(s, at(i)) * a;
  for (int p = 0; p < k.parts; ++p) copies += keys_of(s, p, k.parts);
  index_t const dkey = copies > s.shape.k_heads ? a : t;
  for (int p = 0; p < k.parts; ++p) {
    index_t there = 0, back = 0;
    for (int q = 0; q < k.parts; ++q) {
      if (q == p) continue;
      index_t const mine = k.batch(s, p).tokens(), theirs = k.batch(s, q).tokens();
      there +=
          mine * (keys_of(s, q, k.parts) * 2 * s.shape.key_dim * t + values_of(s, q, k.parts) * (s.shape.value_dim * t + gates));
      there += values_of(s, p, k.parts) * (theirs * s.shape.value_dim * t + state);
      back += values_of(s, q, k.parts) * (mine * s.shape.value_dim * t + state);
      back += theirs *
              (keys_of(s, p, k.parts) * 2 * s.shape.key_dim * dkey + values_of(s, p, k.parts) * (s.shape.value_dim * t + gates));
    }
    CHECK(parts[at(p)].forward_bytes == there);
    CHECK(parts[at(p)].backward_bytes == back);
    forward += there, backward += back;
  }
  if (s.final) return; // what is stated leaves states aside
  CHECK(parts[0].stated.forward == forward);
  CHECK(parts[0].stated.backward == backward);
}

template <class Kernel, class T, class Place = support::host_place>
void check_trials(unsigned seed, int trials, double bound, bool normalised = true) {
  std::mt19937 random(seed);
  for (int i = 0; i < trials; ++i) {
    scene s = any_scene(random);
    s.normalise = s.normalise && normalised;
    cut k = drawn_cut(s, 1 + (i * 3 + i / 8) % 8, random, true);
    k.options.strategy = sp::linear_strategy::heads;
    inputs const in = draw<Kernel, T>(s, random);
    CAPTURE(i);
    CAPTURE(k.parts);
    CAPTURE(k.how.kind);
    CAPTURE(s.shape.k_heads);
    CAPTURE(s.shape.v_heads);
    bool agreed = false;
    auto const parts = run<Kernel, T, Place>(s, k, in, unsigned(i));
    results const all = joined<Kernel>(s, k, parts, agreed);
    CHECK(agreed);
    results const expected = oracle<Kernel>(s, in).r;
    CHECK(error(s, all, expected) <= allowed<Kernel, T, Place>(s, in, expected, bound));
    if (k.options.checks < 2) check_bytes<Kernel, T>(s, k, parts);
  }
}

TEST_CASE("by heads: any sharding, heads and ranks give the recurrence's outputs, states and gradients, by the bytes of heads "
          "[asan] [tsan]") {
  check_trials<sp::gated_delta, double>(1, 40, 1e-11);
#ifndef SP_TEST_SANITIZED
  check_trials<sp::gated_linear, double>(4, 16, 1e-11); // whose gate has a number for each key dim
#endif
}
#ifndef SP_TEST_SANITIZED // no tagged case is below
TEST_CASE("by heads: float is as exact as one rank is") { check_trials<sp::gated_delta, float>(5, 16, 1e-4); }
TEST_CASE("by heads: gradients of 16 bits are rounded once, behind their sums") {
  check_trials<sp::plain_linear, sp::bf16>(2, 16, 6e-3);
}

TEST_CASE("by heads: queues that work later, in memory of their own, give the same") {
  check_trials<linear_tests::recurrent_delta<support::elsewhere>, double, support::late_place>(3, 12, 1e-11, false);
}

TEST_CASE("by heads: a pass takes the bytes that are said beforehand, and no more") {
  scene s{sp::packed{0, 400, 400, 401, 420}, {0, 2, 6, 16, 16}};
  s.initial = s.final = true;
  for (int parts : {1, 3, 8}) {
    cut const k{.parts = parts, .how = {support::any_sharding::zigzag}, .options = {.strategy = sp::linear_strategy::heads}};
    support::on_all_ranks<support::host_place>(parts, [&](support::host_place& here) {
      sp::ledger unused;
      sp::linear_attention const attention{sp::counting(here.comm, unused), sp::gated_delta{}, k.options};
      sp::batch const b = k.batch(s, here.comm.rank());
      index_t const n = b.tokens();
      std::vector<double> key(at(n * 2 * 16), 0.1), value(at(n * 6 * 16), 0.1), gate(at(n * 6), -0.1),
          more[3] = {key, key, value}, out(value), dgate[2] = {gate, gate}, state(at(s.states()), 0.1), dstate(state), end(state);
      auto keys = [&](auto& v) { return sp::view<double, 3>(v.data(), n, 2, 16); };
      auto values = [&](auto& v) { return sp::view<double, 3>(v.data(), n, 6, 16); };
      auto gates = [&](auto& v) { return sp::view<double, 2>(v.data(), n, 6); };
      auto states = [&](auto& v) { return sp::view<double, 4>(v.data(), 4, 6, 16, 16); };
      auto const p = attention.prepare(b);
      sp::pool scratch, kept;
      sp::context const ctx(scratch, kept);
      sp::linear_operands<double, 2> const operands{.q = keys(key),
                                                    .k = keys(key),
                                                    .v = values(value),
                                                    .gates = {gates(gate), gates(gate)},
                                                    .out = values(out),
                                                    .initial_state = states(state),
                                                    .final_state = states(end)};
      auto saved = attention.forward(p, ctx, operands);
      CHECK(index_t(kept.bytes_in_use()) == attention.saved_bytes<double>(p, s.shape));
      attention.backward(p, ctx, std::move(saved),
                         {.q = keys(key),
                          .k = keys(key),
                          .v = values(value),
                          .gates = {gates(gate), gates(gate)},
                          .dout = values(out),
                          .dq = keys(more[0]),
                          .dk = keys(more[1]),
                          .dv = values(more[2]),
                          .dgates = {gates(dgate[0]), gates(dgate[1])},
                          .initial_state = states(state),
                          .dinitial_state = states(dstate),
                          .dfinal_state = states(end)});
      CHECK(kept.bytes_in_use() == 0);
      index_t const stated = attention.scratch_bytes<double>(p, s.shape);
      CHECK(index_t(scratch.peak_bytes()) <= stated);
      std::vector<double> const outputs = out, ends = end;
      sp::pool of_infer, room, none;
      attention.infer(p, {of_infer, none}, operands);
      CHECK(index_t(of_infer.peak_bytes()) <= stated);
      index_t const most = index_t(std::max(scratch.peak_bytes(), of_infer.peak_bytes()));
      CHECK(5 * most >= 4 * stated); // kernels may say more than their calls of these passes take
      sp::owned<std::byte, 1> const block(room, {stated});
      sp::workspace exact(block.tensor.data, at(stated));
      std::fill(out.begin(), out.end(), rubbish), std::fill(end.begin(), end.end(), rubbish);
      attention.infer(p, {exact, none}, operands);
      CHECK(none.peak_bytes() == 0);
      CHECK((out == outputs && end == ends));
      return 0;
    });
  }
}

TEST_CASE("by heads: passes are made in the bytes that are said beforehand, infer's too, whatever a kernel keeps") {
  using far = linear_tests::recurrent_delta<support::elsewhere>; // keeps the states of all tokens
  std::mt19937 random(5);
  scene s{sp::packed{0, 0, 90, 97}, {0, 2, 6, 9, 10}};
  s.normalise = false, s.initial = s.final = true;
  cut const k{.parts = 3, .how = {support::any_sharding::zigzag}, .options = {.strategy = sp::linear_strategy::heads}};
  inputs const in = draw<far, double>(s, random);
  bool agreed = false;
  results const all = joined<far>(s, k, run<far, double, support::late_place, in_exact_memory>(s, k, in), agreed);
  CHECK(agreed);
  CHECK(error(s, all, oracle<far>(s, in).r) < 1e-11);
}

TEST_CASE("automatic: striped runs and few tokens go by heads, many by state; the reason names the bytes") {
  auto asked_of = [](int parts) {
    return support::on_all_ranks<support::host_place>(parts, [](support::host_place& here) {
      sp::ledger unused;
      sp::linear_attention const one{sp::counting(here.comm, unused), sp::gated_delta{}};
      std::vector<std::pair<sp::linear_strategy, std::string>> found;
      for (auto const& [tokens, kind] : {std::pair{6, 0}, std::pair{6000, 0}, std::pair{6000, 2}}) {
        auto const p = one.prepare(sp::batch(sp::packed{0, index_t(tokens)}, support::any_sharding{kind}, here.comm));
        found.emplace_back(one.strategy_for<double>(p, {0, 2, 4, 8, 8}), one.reason<double>(p, {0, 2, 4, 8, 8}));
      }
      return found;
    });
  };
  CHECK(asked_of(1)[0][0].first == sp::linear_strategy::state); // nothing is sent
  auto const asked = asked_of(3);
  for (auto const& found : asked) {
    CHECK(found == asked[0]);
    CHECK(found[0].first == sp::linear_strategy::heads);
    CHECK(found[1].first == sp::linear_strategy::state);
    CHECK(found[2].first == sp::linear_strategy::heads);
    CHECK(found[0].second.find("bytes by state") != std::string::npos);
    CHECK(found[2].second.find("stride") != std::string::npos);
  }
}
#endif

} // namespace
} // namespace test_by_heads
