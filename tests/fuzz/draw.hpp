// Random recipes: every recipe is a pure function of its 64-bit seed. Small on purpose: many small cases find more than a few large ones.
// Documents may be empty, one token, or huge beside tiny; heads are MHA, GQA, MQA and uneven; logits may be extreme.
#pragma once

#include <random>

#include "recipe.hpp"

namespace fuzz {

class dice {
public:
  explicit dice(std::uint64_t seed) : g_(seed) {}
  number between(number a, number b) { return a + number(g_() % std::uint64_t(b - a + 1)); }
  bool one_in(number n) { return between(1, n) == 1; }
  template <class T, std::size_t N>
  T const& of(T const (&list)[N]) {
    return list[std::size_t(between(0, number(N) - 1))];
  }

private:
  std::mt19937_64 g_;
};

namespace detail {

inline std::vector<number> draw_lengths(dice& d) {
  std::vector<number> n;
  switch (d.between(0, 7)) {
  case 0:
    return {d.between(1, 60)};
  case 1: // ragged
    for (number i = d.between(2, 5); i > 0; --i) n.push_back(d.between(1, 16));
    return n;
  case 2: // empty ones between others
    return {0, d.between(1, 12), 0, 0, d.between(1, 12), 0};
  case 3: // one token each
    for (number i = d.between(1, 12); i > 0; --i) n.push_back(1);
    return n;
  case 4: // huge beside tiny
    n = {d.between(60, 140), d.between(0, 2), 1};
    if (d.one_in(2)) std::swap(n[0], n[2]);
    return n;
  case 5: // fewer tokens than ranks
    return {d.between(0, 2), d.between(0, 2)};
  case 6: // equal ones
    return std::vector<number>(std::size_t(d.between(2, 4)), d.between(1, 12));
  default: // anything
    for (number i = d.between(1, 6); i > 0; --i) n.push_back(d.between(0, 20));
    return n;
  }
}

inline std::vector<number> with_gaps(dice& d, std::vector<number> const& lengths) {
  std::vector<number> out;
  for (number n : lengths) {
    if (d.one_in(2)) out.push_back(-d.between(1, 5));
    out.push_back(n);
  }
  if (d.one_in(2)) out.push_back(-d.between(1, 5));
  return out;
}

inline void draw_problem(dice& d, recipe& r) {
  std::vector<number> n = draw_lengths(d);
  bool const gaps = d.one_in(5);
  r.docs = gaps ? with_gaps(d, n) : n;
  if (d.one_in(3)) { // cross attention
    for (number& x : n) x = x == 0 ? d.between(0, 3) : d.between(0, 2 * x);
    r.keys = gaps ? with_gaps(d, n) : n;
    r.end = d.one_in(2);
  }
  constexpr number kinds[] = {masks_causal, masks_causal, masks_causal, masks_full,
                              masks_window, masks_prefix, masks_spans,  masks_slices};
  r.mask = d.of(kinds);
  if (r.mask >= masks_window) r.a = d.between(0, 9), r.b = d.between(0, 6), r.c = d.between(0, 9);
  constexpr number heads[][2] = {{1, 1}, {2, 1}, {4, 4}, {4, 2}, {4, 1}, {7, 7}, {6, 3}, {6, 2}, {5, 1}, {9, 3}, {8, 2}, {3, 3}};
  auto const& h = d.of(heads);
  r.q_heads = h[0], r.kv_heads = h[1];
  constexpr number dims[][2] = {{1, 1}, {8, 8}, {5, 3}, {3, 7}, {16, 4}, {2, 9}, {4, 4}, {33, 2}};
  auto const& w = d.of(dims);
  r.dim = w[0], r.value_dim = w[1];
}

inline void draw_numbers(dice& d, recipe& r) {
  constexpr number types[] = {0, 0, 0, 1, 1, 2, 3};
  r.type = d.of(types);
  constexpr double loud[] = {1, 1, 1, 1, 20, 0.01, 300, 5000};
  r.loud = d.of(loud);
  constexpr double scales[] = {0, 0, 0, 0.4, 0.001, 1.5};
  r.scale = d.of(scales);
  if (r.type > 1) r.loud = std::fmin(r.loud, 20), r.scale = std::fmin(r.scale, 0.4); // 16 bits: RMSE <= 0.01 is for usual sizes
  r.sinks = d.one_in(4);
  r.accumulate = d.one_in(5);
  r.brief = r.keys.empty() && d.one_in(4);
  r.order = d.between(0, 8);
  if (r.type > 0) return;
  if (d.one_in(4)) r.softcap = d.one_in(2) ? 2.5 : 30;
  if (d.one_in(4)) r.dropout = d.one_in(2) ? 0.3 : 0.9;
  r.alibi = d.one_in(4);
}

/// What came later: drawn last, so that a seed keeps all that it drew before.
inline void draw_cuts_and_calls(dice& d, recipe& r) {
  if (d.one_in(8)) {
    r.mask = masks_all;
    r.a = d.between(0, 9), r.b = d.between(0, 3), r.c = d.between(0, 9);
  }
  r.apart = !r.keys.empty() && d.one_in(2);
  if (r.apart) {
    r.key_shard = d.between(0, 2);
    r.key_stream = d.one_in(2), r.key_nested = d.one_in(3), r.key_padded = d.one_in(3);
  }
  if (d.one_in(5)) r.room = d.between(1, 4);
  constexpr double starts[] = {1, -1, 0.5, -0.125}, sinks[] = {0.5, 0.5, 5, 200};
  if (r.accumulate) r.start = d.of(starts);
  if (r.sinks) r.sink_size = d.of(sinks);
  if (d.one_in(6)) r.scale = r.scale != 0 ? -r.scale : -0.3;
  constexpr number levels[] = {1, 1, 1, 0, 2, 3};
  r.checks = d.of(levels);
  r.order += 9 * d.between(0, 3);
}

} // namespace detail

/// The recipe of a seed.
inline recipe draw(std::uint64_t seed) {
  dice d(seed);
  recipe r;
  r.seed = number(seed % 1000000007);
  r.ranks = d.between(1, 8);
  do r.degree = d.between(1, r.ranks);
  while (r.ranks % r.degree != 0);
  r.run.clear();
  constexpr number first[] = {rotate, cast, pull, ulysses, usp};
  for (number s : first)
    if (d.one_in(2)) r.run.push_back(s);
  if (r.run.empty()) r.run.push_back(first[d.between(0, 4)]);
  r.inner = d.between(0, 2);
  r.groups = d.between(1, 3);
  r.strided = d.one_in(2);
  r.keep_output = d.one_in(2);
  r.shard = d.between(0, 2);
  r.stream = d.one_in(2);
  r.nested = d.one_in(3);
  r.padded = d.one_in(3);
  detail::draw_problem(d, r);
  detail::draw_numbers(d, r);
  detail::draw_cuts_and_calls(d, r);
  // last, so that what is above has the numbers that the soak has seen
  if (d.one_in(3)) r.run.push_back(pass_q);
  if (d.one_in(6)) r.inner = pass_q;
  return r;
}

} // namespace fuzz
