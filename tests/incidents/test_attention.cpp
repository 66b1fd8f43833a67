// Incidents of other systems that concern attention, each as a case of its own: forward and backward against the oracle.
// Names say where it happened; all run over thread ranks, rings by every schedule and Ulysses.
#include <doctest/doctest.h>

#include <string>

#include "incidents/incident.hpp"
#include "support/failure.hpp"

namespace test_attention {
namespace {

using namespace incidents;
using sp::index_t;

TEST_CASE("DeepSpeed#7384: S not divisible by P: every (S, P), S < P included, is right [asan]") {
  int cases = 0;
  for (int parts = 1; parts <= 8; ++parts)
    for (index_t n = 0; n <= 2 * parts + 2; ++n) {
      CAPTURE(n);
      CAPTURE(parts);
      any_sharding const how = all_shardings(parts)[std::size_t(n + parts) % 4];
      CHECK(worst_error(incident(sp::packed{0, n}, 2, 1), parts, how) < bound);
      ++cases;
    }
  CHECK(cases == 96);
}

TEST_CASE("DeepSpeed#6774, #8317: Ulysses there and back is the identity for all layouts [asan]") {
  // each token sees itself only, so the output is its own value: any row that comes back to another place is seen, bitwise
  for (int parts = 1; parts <= 8; ++parts)
    for (any_sharding const& how : all_shardings(parts))
      for (auto shapes : {sp::shapes::ragged, sp::shapes::padded}) {
        incident s(sp::packed{0, 0, 7, 8, 21}, 6, 3);
        s.mask = sp::window(0, 0);
        auto found = run(s, parts, {how, how, shapes}, ulysses(s.mask)).found;
        bool same = true;
        for (index_t i = 0; i < 21; ++i)
          for (index_t h = 0; h < 6; ++h)
            for (index_t c = 0; c < 2; ++c)
              same = same && found.out[std::size_t((i * 6 + h) * 2 + c)] == s.v[std::size_t((i * 3 + h / 2) * 2 + c)];
        CHECK(same);
      }
}

TEST_CASE("LlamaFactory#10794: kv heads < P: kv heads 1, 2, 3 with up to 8 ranks, q heads < P and uneven cuts too [asan]") {
  for (int parts = 1; parts <= 8; ++parts)
    for (index_t kv : {1, 2, 3})
      for (index_t group : {1, 2, 3}) {
        CAPTURE(parts);
        CAPTURE(kv);
        CAPTURE(group);
        incident s(sp::packed{0, 5, 11}, kv * group, kv);
        CHECK(error(run(s, parts, {zigzag, zigzag}, ulysses(s.mask)).found, s.truth()) < bound);
      }
}

TEST_CASE("TransformerEngine#3331: tail padding drops keys: real length mod 2P = 1 .. 2P-1") {
  for (int parts : {2, 3, 4, 8})
    for (index_t tail = 1; tail < 2 * parts; ++tail) {
      CAPTURE(parts);
      CAPTURE(tail);
      incident s(sp::packed{0, 2 * parts + tail}, 2, 2);
      CHECK(worst_error(s, parts, {zigzag, zigzag, sp::shapes::padded}) < bound);
    }
}

TEST_CASE("TransformerEngine#1557, Megatron#1464: wrong ring gradients: P >= 3, every schedule and sharding [asan]") {
  for (int parts : {3, 4, 5, 8})
    for (any_sharding const& how : all_shardings(parts)) {
      CAPTURE(parts);
      CAPTURE(how.kind);
      CAPTURE(how.inner);
      CHECK(worst_error(incident(sp::packed{0, 9, 10, 31}, 4, 2), parts, how) < bound);
    }
}

TEST_CASE("ring-flash-attention#35: a window reaches across ranks, left and right, far and near") {
  for (int parts : {3, 4, 7})
    for (auto [left, right] : {std::pair<index_t, index_t>{0, 0}, {3, 0}, {9, 0}, {2, 2}, {0, 5}, {40, 40}})
      for (any_sharding const& how : all_shardings(parts)) {
        incident s(sp::packed{0, 20, 26}, 2, 1);
        s.mask = sp::window(left, right);
        s.sees = [left = left, right = right](std::size_t, index_t q, index_t k) { return -left <= k - q && k - q <= right; };
        CHECK(worst_error(s, parts, how) < bound);
      }
}

TEST_CASE(
    "ring-flash-attention#20, #30, pytorch#134650: extreme logits and rows without keys merge without overflow or NaN [asan]") {
  for (double size : {1.0, 30.0, 300.0})
    for (int parts : {1, 3, 4}) {
      incident s(sp::packed{0, 18}, 2, 1);
      for (double& x : s.q) x *= size;
      for (double& x : s.k) x *= size; // scores up to +-1e5: exp of any of them is 0 or infinite
      // queries 0..3 see nothing, on any rank; the others a corner that most ranks have no key of
      s.mask = sp::user_slices({{4, 18, 2, 9}});
      s.sees = [](std::size_t, index_t q, index_t k) { return q >= 4 && 2 <= k && k < 9; };
      CHECK(worst_error(s, parts) < bound * std::max(1.0, size * size / 1000 * 10));
      auto found = run(s, parts, {zigzag, zigzag}, ring(s.mask, sp::schedule::rotate)).found;
      bool zero = true; // a fully masked row is defined: out 0, gradient 0
      for (std::size_t i = 0; i < 4 * 2 * 2; ++i) zero = zero && found.out[i] == 0;
      for (std::size_t i = 0; i < 4 * 2 * 3; ++i) zero = zero && found.dq[i] == 0;
      CHECK(zero);
    }
}

TEST_CASE("flash-linear-attention#892, flash-attention#1228: slack rows hold NaN: outputs and gradients there are 0, the rest is "
          "right [asan]") {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  for (int parts : {1, 2, 3, 4, 8})
    for (any_sharding const& how : all_shardings(parts)) {
      CAPTURE(parts);
      incident s(sp::packed{0, 1, 1, 8, 19}, 2, 1);
      CHECK(worst_error(s, parts, {how, how, sp::shapes::padded, nan}) < bound);
      CHECK(worst_error(s, parts, {how, how, sp::shapes::padded, std::numeric_limits<double>::infinity()}) < bound);
    }
}

TEST_CASE("flash-attention#2562, #2470, #2421, #1254: zero-length documents anywhere, q and k sides [asan]") {
  std::vector<std::pair<sp::documents, sp::documents>> both{
      {sp::packed{0, 0, 6, 6, 6, 13, 13}, sp::packed{0, 0, 6, 6, 6, 13, 13}}, // first, middle twice, last
      {sp::packed{0, 0, 4, 9, 9}, sp::packed{0, 5, 5, 11, 14}},               // queries without keys, keys without queries
      {sp::packed{0, 4, 4}, sp::packed{0, 0, 7}},                             // nothing meets anything
      {sp::packed{0, 0, 0}, sp::packed{0, 0, 0}},
      {sp::packed{0}, sp::packed{0}},
  };
  for (auto const& [q, k] : both)
    for (int parts : {1, 2, 3, 8})
      for (any_sharding const& how : {all_shardings(parts)[0], zigzag, all_shardings(parts)[2]}) {
        incident s(q, k, 2, 1);
        s.mask = sp::full();
        s.sees = [](std::size_t, index_t, index_t) { return true; };
        CHECK(worst_error(s, parts, {how, zigzag}) < bound);
      }
}

TEST_CASE("DeepSpeed#8291: two objects of different shapes alive at once do not disturb each other [asan]") {
  incident a(sp::packed{0, 5, 17}, 4, 2), b(sp::packed{0, 9}, 3, 1);
  attention_results const want_a = a.truth(), want_b = b.truth();
  std::atomic<int> good{0};
  int const parts = 3;
  sp::threads::run(parts, [&](sp::threads const& c) {
    sp::batch ba(a.q_docs, sp::zigzag{}, c), bb(b.q_docs, sp::striped{}, c);
    rank_tensors x(a, ba, ba, 0), y(b, bb, bb, 0);
    sp::ulysses_attention first(c, sp::reference{}, {.mask = a.mask}), second(c, sp::reference{}, {.mask = b.mask});
    CHECK(first.local_heads(4, 2) != second.local_heads(3, 1));
    // forward, forward, backward, backward
    auto kept_x = first.forward(ba, x.q, x.k, x.v, x.out);
    auto kept_y = second.forward(bb, y.q, y.k, y.v, y.out);
    first.backward(ba, std::move(kept_x), x.q, x.k, x.v, x.out, x.dout, x.dq, x.dk, x.dv);
    second.backward(bb, std::move(kept_y), y.q, y.k, y.v, y.out, y.dout, y.dq, y.dk, y.dv);
    auto right = [&](sp::batch const& on, rank_tensors const& t, attention_results const& want) {
      auto same = [&](sp::view<double, 3> const& found, std::vector<double> const& global) {
        std::vector<double> expected(std::size_t(found.elements()));
        auto const share = tensor<3>(expected, found.extents); // the truth, split like the rest
        sp::split(on, tensor<3>(global, {on.source().length(), found.extent(1), found.extent(2)}), share);
        double worst = 0;
        for (std::size_t i = 0; i < expected.size(); ++i) worst = std::max(worst, std::abs(found.data[i] - expected[i]));
        return worst < 1e-12;
      };
      return same(t.out, want.out) && same(t.dq, want.dq) && same(t.dk, want.dk) && same(t.dv, want.dv);
    };
    good += right(ba, x, want_a) && right(bb, y, want_b);
  });
  CHECK(good == parts);
}

TEST_CASE("twinkle: query length and cu_seqlens disagree in attention: both numbers, before any communication") {
  sp::threads::run(2, [](sp::threads const& c) {
    incident s(sp::packed{0, 10}, 2, 1);
    sp::batch b(s.q_docs, sp::zigzag{}, c);
    rank_tensors t(s, b, b, 0);
    std::vector<double> wrong(100);
    auto attention = ring(s.mask, sp::schedule::automatic)(c);
    auto e = support::failure_of([&] { return attention.forward(b, tensor<3>(wrong, {7, 2, 3}), t.k, t.v, t.out); });
    CHECK(support::says(e, sp::errc::bad_documents, "(7, 2, 3)", "(5, 2, 3)"));
    CHECK(e.primitive == "ring_attention.forward");
    CHECK(e.rank == c.rank());
  });
}

} // namespace
} // namespace test_attention
