// The conformance body: a trial on its ranks, compared with the float64 oracle under the bounds of docs/reliability.md.
// double: 1e-12 max(1, max|S| / 1000) normwise; narrower types: against the error of the same kernel on one rank.
#pragma once

#include <doctest/doctest.h>

#include <sp/cpu.hpp>
#include <sp/reference.hpp>

#include "bits.hpp"
#include "support/oracle_documents.hpp"

namespace conformance {

/// The trial as the oracle sees it: explicit mask, global positions, document offsets.
template <class T>
support::oracle::result expected(trial const& t, inputs<T> const& in) {
  support::oracle o(t.docs.length(), t.keys().length(), t.q_heads, t.kv_heads, t.dim, t.value_dim);
  auto doubles = [](std::vector<T> const& x) { // what is masked is never read, but 0 x NaN must not come up
    std::vector<double> out;
    for (T e : x) out.push_back(double(e) == double(e) ? double(e) : 0.0);
    return out;
  };
  o.q = doubles(in.q);
  o.k = doubles(in.k);
  o.v = doubles(in.v);
  o.scale = t.score_scale();
  if (t.featured) o.softcap = t.softcap;
  if (t.featured) o.slopes.assign(in.slopes.begin(), in.slopes.end());
  if (t.sinks) o.sinks.assign(in.sinks.begin(), in.sinks.end());
  if (t.featured && t.dropout > 0) o.keep = support::dropout_of(t.random(), t.dropout);
  o.see([&](index_t i, index_t j) { return t.sees(i, j); });
  support::place_tokens(o, t.docs, t.keys(), t.mask.at);
  return o.backward(doubles(in.dout));
}

/// How far a tensor is from the truth.
struct distance {
  double norm = 0, worst = 0; ///< Euclidean, largest of one element
  double truth_norm = 0, truth_worst = 0;
  std::size_t n = 0;
  double rms() const { return n ? norm / std::sqrt(double(n)) : 0; }
};

/// got - (truth + offset); rows in no document (NaN inputs) are skipped by the caller's documents.
template <class T>
distance measure(std::vector<T> const& got, std::vector<double> const& truth, sp::documents const& docs, index_t per_row,
                 double offset) {
  distance d;
  for (auto const& x : docs)
    for (index_t i = x.begin * per_row; i < x.end() * per_row; ++i) {
      double want = truth[std::size_t(i)] + offset, is = double(got[std::size_t(i)]), e = std::fabs(is - want);
      if (std::isinf(want) || std::isinf(is)) e = is == want ? 0 : INFINITY;
      if (!std::isinf(want)) d.truth_norm += want * want, d.truth_worst = std::fmax(d.truth_worst, std::fabs(want));
      d.norm += e * e;
      if (!(e <= d.worst)) d.worst = e; // NaN stays
      ++d.n;
    }
  d.norm = std::sqrt(d.norm);
  d.truth_norm = std::sqrt(d.truth_norm);
  return d;
}

using distances = std::array<distance, 6>; // out, lse, dq, dk, dv, dsinks
inline constexpr char const* names[] = {"out", "lse", "dq", "dk", "dv", "dsinks"};

template <class T>
distances measure_all(trial const& t, outcome<T> const& got, support::oracle::result truth) {
  double start = t.accumulate ? t.start : 0;
  std::vector<double> sums(t.sinks ? std::size_t(t.q_heads) : 0);
  for (auto const& rank : got.dsinks)
    for (std::size_t h = 0; h < rank.size(); ++h) sums[h] += double(rank[h]) - start;
  if (!t.sinks) truth.dsinks.clear();
  for (index_t i = 0; i < t.docs.length(); ++i) { // a row that sees no key: (0, -inf) by definition, whatever the sink
    bool sees = false;
    for (index_t j = 0; j < t.keys().length() && !sees; ++j) sees = t.sees(i, j);
    for (index_t h = 0; h < t.q_heads && !sees; ++h) truth.lse[std::size_t(i * t.q_heads + h)] = -INFINITY;
  }
  sp::documents heads({{0, index_t(sums.size()), index_t(sums.size()), 0}}, index_t(sums.size()));
  return {measure(got.out, truth.out, t.docs, t.q_heads * t.value_dim, 0),
          got.has_lse ? measure(got.lse, truth.lse, t.docs, t.q_heads, 0) : distance{},
          measure(got.dq, truth.dq, t.docs, t.q_heads * t.dim, start),
          measure(got.dk, truth.dk, t.keys(), t.kv_heads * t.dim, start),
          measure(got.dv, truth.dv, t.keys(), t.kv_heads * t.value_dim, start),
          measure(sums, truth.dsinks, heads, 1, 0)};
}

/// What is wrong with a result; empty if nothing is.
template <class T>
std::string judge(trial const& t, distances const& got, distances const& alone, double largest_score) {
  std::string wrong;
  for (std::size_t i = 0; i < got.size(); ++i) {
    distance const &d = got[i], &one = alone[i];
    bool good = false;
    if constexpr (std::is_same_v<T,
                                 double>) { // inputs are of unit size: a tensor that cancels to nothing is measured against them
      double scale = std::fmax(d.truth_norm, 0.05 * std::sqrt(double(d.n)));
      good = d.norm <= 1e-12 * std::fmax(1, largest_score / 1000) * scale;
    } else {
      // dsinks that accumulate hold 1 + x on every rank: they round at 1, however small x is
      double least = t.accumulate && i + 1 == got.size() ? 1 : 0.05;
      double ulp = std::ldexp(std::numeric_limits<float>::epsilon(), std::ilogb(std::fmax(d.truth_worst, least)));
      if constexpr (std::is_same_v<T, float>) // each merge rounds the lse once more, by an ulp of the largest score
        good = d.worst <= 2 * one.worst + 4 * ulp * std::fmax(1, largest_score / 2);
      else { // a handful of elements may by luck be rounded to next to nothing on one rank
        double last_place =
            std::ldexp(std::is_same_v<T, sp::bf16> ? 0x1p-7 : 0x1p-10, std::ilogb(std::fmax(d.truth_worst, 0.05)));
        double alone_norm = d.n >= 16 ? one.norm : std::fmax(one.norm, last_place / 2 * std::sqrt(double(d.n)));
        good = d.norm <= 2 * alone_norm + 4 * ulp * std::sqrt(double(d.n)) &&
               (t.loud > 1 || d.rms() <= 0.01 * std::fmax(1, d.truth_norm / std::sqrt(double(d.n))));
      }
    }
    if (!good)
      wrong += std::string(wrong.empty() ? "" : "; ") + names[i] + ": norm of error " +
               std::to_string(d.norm / std::fmax(d.truth_norm, 1e-300)) + " relative, worst " + std::to_string(d.worst) +
               " (one rank " + std::to_string(one.worst) + ", rms " + std::to_string(d.rms()) + " against " +
               std::to_string(one.rms()) + ")";
  }
  return wrong;
}

/// Runs a trial on the ranks of a world; where these are threads, now and then by two threads of each, which must agree bit by bit.
template <object_kind Object, class T, class Kernel, class World>
void run_trial(trial const& t, inputs<T> const& in, Kernel const& kernel, outcome<T>& to, World const& world) {
  if (!t.twice || !std::is_same_v<World, in_threads>) return run<Object, T>(t, in, kernel, to, as_it_is{}, world);
  outcome<T> again(t, t.ranks);
  run_twice<Object>(t, in, kernel, to, again);
  for (auto const& c : again.complaints) to.complain(c);
  if (auto const bits = differing(to, again, true); !bits.empty() || to.dsinks != again.dsinks)
    to.complain("two threads of each rank find other bits:" + bits);
}

/// Runs a trial on the ranks of a world and judges it where the results are; every process learns the verdict.
template <class T, object_kind Object, class Kernel, class World = in_threads>
void conform(trial const& t, inputs<T> const& in, Kernel const& kernel, bool has_lse = true, World const& world = {}) {
  std::string wrong;
  try {
    outcome<T> got(t, t.ranks);
    got.has_lse = has_lse;
    run_trial<Object>(t, in, kernel, got, world);
    wrong = world.decide([&] {
      outcome<T> alone(t, 1);
      if constexpr (!std::is_same_v<T, double>) run_alone<T>(t, in, kernel, alone);
      auto truth = expected(t, in);
      auto of_one = std::is_same_v<T, double> ? distances{} : measure_all(t, alone, truth);
      std::string s = judge<T>(t, measure_all(t, got, truth), of_one, truth.largest_score);
      for (auto const& c : got.complaints) s += "; " + c;
      return s;
    });
  } catch (std::exception const& e) {
    wrong = e.what();
  }
  INFO(t.describe());
  INFO("replay: SP_TEST_SEED=" << t.seed);
  INFO(wrong);
  CHECK(wrong.empty());
}

/// One test case: an object, an element type and a kernel over a covering sample of trials, on the ranks of a world.
template <class T, object_kind Object, template <class...> class Backend, bool Featured, class World = in_threads>
void conformance_of(double budget, World const& world = {}) {
  constexpr bool pulls = World::peers_share_memory && std::is_same_v<typename Backend<>::saved, sp::nothing>;
  auto together = [&](bool mine) { return !world.decide([&] { return std::string(mine ? "yes" : ""); }).empty(); };
  auto body = [&](trial const& t) {
    inputs<T> in(t);
    if constexpr (Featured)
      conform<T, Object>(t, in, Backend{sp::softcap{t.softcap}, sp::alibi{in.slopes}, sp::dropout{t.dropout}}, true, world);
    else
      conform<T, Object>(t, in, Backend<>{}, true, world);
  };
  int trials = sample(Object, Featured, pulls, budget, body, together);
  MESSAGE(trials << " trials");
}

} // namespace conformance
