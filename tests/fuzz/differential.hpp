// Runs a recipe: every strategy it names, forward and backward, against the float64 oracle and, where promised, bit by bit
// against one rank. Uses the conformance body, so tensors lie between canaries in varied memory orders and slack rows are NaN.
#pragma once

#include "conformance/bits.hpp"
#include "conformance/check.hpp"
#include "recipe.hpp"

namespace fuzz {

namespace detail {

inline sp::documents stream_of(std::vector<number> const& list, number room) {
  std::vector<sp::document> docs;
  number at = 0;
  for (number n : list) {
    if (n >= 0) docs.push_back({at, n, n + room, 1000 - 7 * number(docs.size())});
    at += n < 0 ? -n : n + room;
  }
  return {docs, at};
}

inline std::vector<number> prefixes(recipe const& r, sp::documents const& keys) {
  std::vector<number> list;
  for (auto const& d : keys) list.push_back(sp::min(r.a, d.count));
  return list;
}
inline std::vector<sp::document> spans(recipe const& r, sp::documents const& keys) {
  std::vector<sp::document> list;
  for (auto const& d : keys)
    if (d.count > r.a + 1) list.push_back({d.begin + r.a, (d.count - r.a) / 2 + 1, 0, 0});
  return list;
}
inline std::vector<sp::slice> slices(recipe const& r, sp::documents const& q, sp::documents const& k) {
  std::vector<sp::slice> list;
  for (std::size_t d = 0; d < q.size(); ++d) {
    sp::document const &x = q[d], &y = k[d];
    sp::index_t const q_mid = x.begin + x.count / 2, k_mid = y.begin + y.count / 3, by = y.begin - x.begin;
    list.push_back({x.begin, q_mid, y.begin, k_mid});
    list.push_back({x.begin, q_mid, k_mid, y.end(), by - r.a, by + r.b});
    list.push_back({q_mid, x.end(), y.begin, y.end(), by - r.c, by});
  }
  return list;
}

inline sp::mask mask_of(recipe const& r, sp::documents const& q, sp::documents const& k) {
  sp::mask m = sp::causal();
  if (r.mask == masks_full) m = sp::full();
  if (r.mask == masks_window) m = sp::window(r.a, r.b);
  if (r.mask == masks_spans || r.mask == masks_all) m = sp::image_spans(spans(r, k));
  if (r.mask == masks_slices) m = sp::user_slices(slices(r, q, k));
  if (r.mask == masks_all) m.lo = -r.c, m.hi = r.b;
  if (r.mask == masks_prefix || r.mask == masks_all) m.prefix = prefixes(r, k);
  m.at = r.end ? sp::align::end : sp::align::begin;
  return m;
}

} // namespace detail

/// The recipe under one strategy, as the conformance body runs it.
inline conformance::trial trial_of(recipe const& r, number s) {
  using conformance::object_kind;
  conformance::trial t;
  t.seed = std::uint64_t(r.seed);
  t.object = s == usp ? object_kind::usp : s == ulysses ? object_kind::ulysses : object_kind::ring;
  t.ranks = int(r.ranks);
  t.ulysses = s == usp ? int(r.degree) : s == ulysses ? t.ranks : 1;
  t.ring = t.ranks / t.ulysses;
  t.ring_is_fast = s == usp && r.strided;
  constexpr sp::schedule how[] = {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q};
  t.how = s == ulysses ? sp::schedule::automatic : how[s == usp ? r.inner : s];
  t.head_chunks = t.how == sp::schedule::cast || t.how == sp::schedule::pass_q ? r.groups : 1;
  t.keep = r.keep_output ? sp::keep::output : sp::keep::heads;
  auto cut = [&](number shard, bool stream, bool nested) {
    support::any_sharding way{int(shard), stream ? sp::scope::stream : sp::scope::document};
    if (nested) way.inner = r.degree, way.stride = r.strided ? r.ranks / r.degree : 1;
    return way;
  };
  t.sharding = t.key_sharding = cut(r.shard, r.stream, r.nested);
  t.padded = t.key_padded = r.padded;
  if (r.apart) t.key_sharding = cut(r.key_shard, r.key_stream, r.key_nested), t.key_padded = r.key_padded;
  t.q_heads = r.q_heads, t.kv_heads = r.kv_heads, t.dim = r.dim, t.value_dim = r.value_dim;
  t.scale = r.scale, t.loud = r.loud;
  t.featured = r.type == 0; // the kernel for double has every feature compiled in
  t.softcap = r.softcap;
  t.dropout = r.dropout;
  t.alibi = r.alibi, t.sinks = r.sinks, t.accumulate = r.accumulate, t.short_form = r.brief;
  t.start = r.start, t.sink_size = r.sink_size, t.checks = int(r.checks);
  t.order = unsigned(r.order);
  t.docs = detail::stream_of(r.docs, r.room);
  t.cross = !r.keys.empty();
  if (t.cross) t.key_docs = detail::stream_of(r.keys, r.room);
  t.mask = detail::mask_of(r, t.docs, t.keys());
  return t;
}

/// One strategy on ranks that are threads.
template <class T, class Kernel>
void run_strategy(conformance::trial const& t, conformance::inputs<T> const& in, Kernel const& kernel,
                  conformance::outcome<T>& to) {
  using conformance::object_kind;
  if (t.object == object_kind::ring) conformance::run<object_kind::ring>(t, in, kernel, to);
  if (t.object == object_kind::ulysses) conformance::run<object_kind::ulysses>(t, in, kernel, to);
  if (t.object == object_kind::usp) conformance::run<object_kind::usp>(t, in, kernel, to);
}

/// Which bits a strategy shares with one rank: {out, lse, dq}, {dk, dv}. Gradients that start from a value round differently.
inline std::pair<bool, bool> promised_bits(conformance::trial const& t) {
  bool const whole = t.how == sp::schedule::pull || t.how == sp::schedule::automatic; // keys are not cut apart
  bool const local = t.ring == 1 && whole;
  bool const rows = (whole || t.how == sp::schedule::cast || t.ring == 1) && !t.accumulate;
  return {rows, rows && (t.how == sp::schedule::pull || local) && !conformance::shares_kv_heads(t)};
}

/// Does the kernel give the same bits however rows are spread? sp::cpu does; sp::reference sums block by block.
template <class Kernel>
inline constexpr bool any_spread = true;
template <class... Features>
inline constexpr bool any_spread<sp::reference<Features...>> = false;

/// Distances as conformance::judge expects them. Its bounds measure small tensors against inputs of unit size and errors against
/// those of one rank; among hundreds of thousands of cases with a handful of elements three of these need their true measure:
/// - loud queries make dk loud, and where the softmax saturates dk cancels to the rounding of loud terms;
/// - dsinks is a sum over rows of terms of order 1 that may cancel;
/// - gradients that accumulate hold 1 + x and round there, once on one rank and twice on several.
template <class T>
conformance::distances distances_of(conformance::trial const& t, conformance::outcome<T> const& got,
                                    support::oracle::result const& truth, bool one_rank) {
  conformance::distances all = conformance::measure_all(t, got, truth);
  double const place = std::is_same_v<T, sp::bf16> ? 0x1p-8 : std::is_same_v<T, sp::fp16> ? 0x1p-11 : 0;
  conformance::distance &dk = all[3], &dsinks = all[5];
  if (t.loud > 1) dk.truth_norm = std::fmax(dk.truth_norm, 0.05 * t.loud * std::fabs(t.score_scale()) * std::sqrt(double(dk.n)));
  dsinks.truth_worst = std::fmax(dsinks.truth_worst, 1);
  for (std::size_t i = 2; i < 5 && t.accumulate; ++i) {
    double const size = std::fmax(all[i].truth_worst, 1);
    all[i].truth_worst = size;
    if (one_rank) all[i].norm = std::fmax(all[i].norm, place * size * std::sqrt(double(all[i].n)));
  }
  return all;
}

/// What is wrong with a recipe's results; empty if nothing is. run_one(trial, inputs, kernel, outcome) runs one strategy.
template <class T, class Kernel, class Run>
std::string differences(recipe const& r, Kernel const& kernel, conformance::inputs<T> const& in, Run const& run_one) {
  using namespace conformance;
  std::string wrong;
  try {
    trial const base = trial_of(r, rotate);
    auto const truth = expected(base, in);
    outcome<T> alone(base, 1);
    run_alone<T>(base, in, kernel, alone);
    distances const of_one = distances_of(base, alone, truth, true);
    if (std::is_same_v<T, double>) wrong = judge<T>(base, of_one, of_one, truth.largest_score);
    if (!wrong.empty()) wrong = "one rank: " + wrong;
    for (number s : r.run) {
      trial const t = trial_of(r, s);
      outcome<T> got(t, t.ranks);
      run_one(t, in, kernel, got);
      std::string bad = judge<T>(t, distances_of(t, got, truth, false), of_one, truth.largest_score);
      for (auto const& c : got.complaints) bad += "; " + c;
      if (auto [rows, keys] = promised_bits(t); rows && any_spread<Kernel>)
        if (auto bits = differing(got, alone, keys); !bits.empty()) bad += "; bits differ from one rank:" + bits;
      if (!bad.empty()) wrong += (wrong.empty() ? "" : "; ") + std::string(strategy_names[std::size_t(s)]) + ": " + bad;
    }
  } catch (std::exception const& e) {
    wrong = e.what();
    if (wrong.empty()) wrong = "an exception without a sentence";
  }
  return wrong;
}

/// A recipe in its element type; each is compiled once, in check_*.cpp.
std::string check_double(recipe const& r);
std::string check_float(recipe const& r);
std::string check_bf16(recipe const& r);
std::string check_fp16(recipe const& r);

inline std::string check(recipe const& r) {
  constexpr std::string (*list[])(recipe const&) = {check_double, check_float, check_bf16, check_fp16};
  return list[r.type](r);
}

} // namespace fuzz
