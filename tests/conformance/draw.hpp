// The trial of a seed, and the covering sample of trials: every two choices occur together in one of them.
// Every number of a trial is a pure function of its seed, so a line of a failed run replays it.
#pragma once

#include <chrono>
#include <cstdlib>
#include <functional>
#include <random>

#include <doctest/doctest.h>

#include "trial.hpp"

namespace conformance {
namespace detail {

struct dice {
  std::mt19937_64 g;
  int pick(int n) { return int(g() % std::uint64_t(n)); }
  bool one_in(int n) { return pick(n) == 0; }
  index_t between(index_t a, index_t b) { return a + index_t(g() % std::uint64_t(b - a + 1)); }
  template <class T, std::size_t N>
  T const& of(T const (&list)[N]) {
    return list[std::size_t(pick(int(N)))];
  }
};

/// Lengths of documents of one kind.
inline std::vector<index_t> lengths(dice& r, int kind) {
  std::vector<index_t> n;
  switch (kind) {
  case 0:
    n = {r.between(1, 70)};
    break; // one document
  case 1:
    for (int d = r.pick(3) + 3; d > 0; --d) n.push_back(r.between(1, 24));
    break; // ragged
  case 2:
    n = {0, r.between(3, 20), 0, 0, r.between(1, 20), 0};
    break; // empty ones
  case 3:
    for (int d = 0; d < 10; ++d) n.push_back(r.pick(4) == 0 ? 2 : 1);
    break; // one token
  case 4:
    for (int d = 0; d < 4; ++d) n.push_back(r.between(0, 18));
    break; // with gaps
  case 5:
    n.assign(3, r.between(5, 16));
    break; // rectangular
  case 6:
    n = {r.between(90, 150), r.between(1, 20)};
    break; // several tiles of the cpu kernel
  default:
    for (int d = 0; d < 2; ++d) n.push_back(r.between(0, 3));
    break; // fewer tokens than ranks
  }
  return n;
}
inline constexpr int document_kinds = 8;

/// Documents of these lengths, at times with room of the caller's that a sharding spreads with them.
inline sp::documents stream(dice& r, std::vector<index_t> const& n, bool gaps) {
  std::vector<sp::document> list;
  index_t at = gaps ? r.between(0, 3) : 0;
  bool const rooms = r.one_in(5);
  for (index_t count : n) {
    index_t const room = count + (rooms ? r.between(0, 3) : 0);
    list.push_back({at, count, room, 1000 - 7 * index_t(list.size())});
    at += room + (gaps ? r.between(0, 4) : 0);
  }
  return {list, at};
}

// ---- masks: bounds, and what may be added to them ---------------------------------------------------------------------------------

inline std::vector<index_t> prefixes(dice& r, sp::documents const& keys) {
  std::vector<index_t> list;
  for (auto const& d : keys) list.push_back(r.between(0, d.count));
  return list;
}
inline std::vector<sp::document> spans(sp::documents const& keys) {
  std::vector<sp::document> list;
  for (auto const& d : keys)
    if (d.count > 4) list.push_back({d.begin + 1, d.count / 2, d.count / 2, 0});
  return list;
}
/// A full corner, a band and a window of each document.
inline std::vector<sp::slice> user_slices(sp::documents const& docs, sp::documents const& keys) {
  std::vector<sp::slice> list;
  for (std::size_t d = 0; d < docs.size(); ++d) {
    auto const &q = docs[d], &k = keys[d];
    index_t const q_mid = q.begin + q.count / 2, k_mid = k.begin + k.count / 3, by = k.begin - q.begin;
    list.push_back({q.begin, q_mid, k.begin, k_mid});
    list.push_back({q.begin, q_mid, k_mid, k.begin + k.count, by - 3, by + 2});
    list.push_back({q_mid, q.begin + q.count, k.begin, k.begin + k.count, by - 9, by});
  }
  return list;
}
/// Everything that a rule can say at once: a window, prefixes and spans.
inline sp::mask window_prefix_spans(dice& r, trial const& t) {
  sp::mask m = sp::image_spans(spans(t.keys()));
  m.lo = -r.between(0, 9);
  m.hi = r.between(0, 3);
  m.prefix = prefixes(r, t.keys());
  return m;
}

inline constexpr int mask_kinds = 9;
inline sp::mask make_mask(dice& r, int kind, trial const& t) {
  switch (kind) {
  case 1:
    return sp::full();
  case 2:
    return sp::window(r.between(0, 9));
  case 3:
    return sp::window(r.between(0, 6), r.between(1, 6));
  case 5:
    return sp::prefix_lm(prefixes(r, t.keys()));
  case 6:
    return sp::image_spans(spans(t.keys()));
  case 7:
    return sp::user_slices(user_slices(t.docs, t.keys()));
  case 8:
    return window_prefix_spans(r, t);
  default: // 0 and 4: most common of all, twice
    return sp::causal();
  }
}

/// Draws a trial part by part; what pick() draws is paired up by the covering sample.
class drawer {
public:
  drawer(std::uint64_t seed, object_kind object, bool featured) : r_{std::mt19937_64(seed)} {
    t_.seed = seed;
    t_.object = object;
    t_.featured = featured;
  }

  trial draw(bool pulls) {
    ranks();
    schedule(pulls);
    cuts();
    problem();
    heads();
    features();
    numbers();
    return std::move(t_);
  }

private:
  int pick(int n) { return t_.choices[at_] = n, t_.drawn[at_++] = r_.pick(n); }

  void ranks() {
    constexpr int rank_list[] = {1, 2, 3, 4, 5, 6, 7, 8, 3, 5};
    constexpr int meshes[][2] = {{2, 2}, {2, 3}, {3, 2}, {2, 4}, {4, 2}, {3, 1}};
    constexpr int nested[][3] = {{1, 2, 2}, {2, 2, 2}, {1, 3, 2}, {1, 2, 3}, {3, 2, 1}, {3, 1, 2}}; // ring, inner, outer
    int const place = pick(on_mesh() ? 6 : 10);
    if (t_.object == object_kind::usp)
      t_.ring = meshes[place][0], t_.ulysses = meshes[place][1];
    else if (t_.object == object_kind::nested)
      t_.ring = nested[place][0], t_.outer = nested[place][2], t_.ulysses = nested[place][1] * t_.outer;
    else
      (t_.object == object_kind::ring ? t_.ring : t_.ulysses) = rank_list[place];
    t_.ranks = t_.ring * t_.ulysses;
  }

  void schedule(bool pulls) {
    constexpr sp::schedule how[] = {sp::schedule::rotate, sp::schedule::cast,      sp::schedule::cast,   sp::schedule::cast,
                                    sp::schedule::pull,   sp::schedule::automatic, sp::schedule::pass_q, sp::schedule::pass_q};
    int const variant = pick(8);
    t_.how = t_.object == object_kind::ulysses ? sp::schedule::automatic : how[variant];
    if (t_.how == sp::schedule::pull && !pulls) t_.how = sp::schedule::rotate;
    t_.head_chunks = variant >= 1 && variant <= 3 ? variant : variant == 7 ? 3 : 1;
    int const modes = pick(4);
    t_.keep = modes % 2 ? sp::keep::output : sp::keep::heads;
    if (t_.object != object_kind::ring) t_.ulysses_chunks = 1 + index_t(t_.seed >> 4) % 4;
    t_.ring_is_fast = on_mesh() && modes / 2;
    if (t_.object == object_kind::nested) t_.outer_place = r_.pick(3), t_.keep_inner = r_.one_in(2);
  }
  bool on_mesh() const { return t_.object == object_kind::usp || t_.object == object_kind::nested; }

  any_sharding sharding(int kind, bool over_stream) {
    any_sharding s{kind, over_stream ? sp::scope::stream : sp::scope::document};
    if (on_mesh() && !r_.one_in(3)) {
      s.inner = t_.object == object_kind::nested && r_.one_in(3) ? t_.outer : t_.ulysses;
      s.stride = t_.ring_is_fast ? t_.ring : 1;
    }
    return s;
  }
  void cuts() {
    int const kind = pick(3), room = pick(5);
    t_.sharding = sharding(kind, room % 2);
    t_.padded = room >= 3;
    t_.key_sharding = t_.sharding;
    t_.key_padded = t_.padded;
    if (r_.one_in(3)) return;
    t_.key_sharding = sharding(r_.pick(3), r_.one_in(2));
    t_.key_padded = r_.one_in(3);
  }

  void problem() {
    t_.document_kind = pick(document_kinds);
    bool const gaps = t_.document_kind == 4 || r_.one_in(6);
    auto n = lengths(r_, t_.document_kind);
    t_.docs = stream(r_, n, gaps);
    int const crossing = pick(4);
    t_.cross = crossing >= 2;
    if (t_.cross) {
      for (index_t& x : n) x = x == 0 ? r_.between(0, 3) : r_.between(0, 2 * x);
      t_.key_docs = stream(r_, n, gaps);
    }
    t_.mask_kind = pick(mask_kinds);
    t_.mask = make_mask(r_, t_.mask_kind, t_);
    if (t_.cross) t_.mask.at = crossing == 3 ? sp::align::end : sp::align::begin;
  }

  void heads() {
    constexpr index_t heads[][2] = {{1, 1}, {4, 4}, {4, 2}, {4, 1}, {7, 7}, {6, 3}, {12, 4}, {5, 1}, {9, 3}, {2, 1}};
    int const h = pick(10);
    t_.q_heads = heads[h][0], t_.kv_heads = heads[h][1];
    constexpr index_t dims[][2] = {{8, 8}, {5, 3}, {1, 1}, {3, 7}, {16, 16}, {33, 20}};
    int const d = pick(6);
    t_.dim = dims[d][0], t_.value_dim = dims[d][1];
  }

  void features() {
    int const f = pick(6);
    t_.sinks = f == 1 || f == 5;
    constexpr double sizes[] = {0.5, 0.5, 5, 200}; // beyond what exp() takes in float, of either sign
    t_.sink_size = r_.of(sizes);
    if (!t_.featured) return;
    t_.softcap = f == 2 || f == 5 ? 2.5 : 1e3;
    t_.alibi = f == 3 || f == 5;
    t_.dropout = f == 4 || f == 5 ? 0.3 : 0.0;
  }

  void numbers() {
    int const size = r_.pick(6);
    t_.scale = size == 1 ? 0.4 : size == 2 ? -0.4 : 0;
    t_.loud = size == 3 ? 20 : 1;
    t_.accumulate = r_.one_in(5);
    constexpr double starts[] = {1, -1, 0.5, -0.125};
    t_.start = r_.of(starts);
    t_.short_form = !t_.cross && r_.one_in(3);
    constexpr int levels[] = {1, 1, 1, 0, 2, 3};
    t_.checks = r_.of(levels);
    t_.twice = r_.one_in(12);
    t_.order = unsigned(r_.pick(int(trial::orders)));
    t_.any_order = r_.one_in(4);
  }

  dice r_;
  trial t_;
  std::size_t at_ = 0;
};

} // namespace detail

/// The trial of a seed. `featured`: the kernel has softcap, ALiBi and dropout compiled in; `pulls`: the schedule may be pull.
inline trial draw(std::uint64_t seed, object_kind object, bool featured, bool pulls) {
  return detail::drawer(seed, object, featured).draw(pulls);
}

/// Seconds of random trials beyond the covering sample: none by default, so that every run tests the same cases; set it for a night.
inline double seconds() {
  char const* s = std::getenv("SP_TEST_SECONDS");
  return s ? std::atof(s) : 0;
}

namespace detail {

/// Which pairs of drawn values have occurred together in one trial.
class pairs {
public:
  explicit pairs(trial const& any) {
    for (std::size_t a = 0; a < trial::dimensions; ++a)
      for (std::size_t b = a + 1; b < trial::dimensions; ++b) missing_ += any.choices[a] * any.choices[b];
  }
  int missing() const { return missing_; }
  /// How many pairs of `t` have not occurred yet.
  int fresh(trial const& t) const {
    int n = 0;
    for_each(t, [&](std::size_t i) { n += !seen_[i]; });
    return n;
  }
  void insert(trial const& t) {
    missing_ -= fresh(t);
    for_each(t, [&](std::size_t i) { seen_[i] = true; });
  }

private:
  static constexpr std::size_t most = 10; ///< choices of one dimension
  template <class F>
  static void for_each(trial const& t, F&& f) {
    for (std::size_t a = 0; a < trial::dimensions; ++a)
      for (std::size_t b = a + 1; b < trial::dimensions; ++b)
        f(((a * most + std::size_t(t.drawn[a])) * trial::dimensions + b) * most + std::size_t(t.drawn[b]));
  }
  std::vector<bool> seen_ = std::vector<bool>(trial::dimensions * most * trial::dimensions * most);
  int missing_ = 0;
};

} // namespace detail

/// Calls f(trial) for a sample in which every two choices occur together, 120 to 160 trials; then for random trials until the
/// time is used up. Sanitizers slow everything down tenfold: there it is the first 30 trials. SP_TEST_SEED runs that one alone.
/// `together` makes one answer of the clocks of several processes.
template <class F, class Together = std::identity>
int sample(object_kind object, bool featured, bool pulls, double budget, F&& f, [[maybe_unused]] Together const& together = {}) {
  if (char const* s = std::getenv("SP_TEST_SEED")) return f(draw(std::strtoull(s, nullptr, 10), object, featured, pulls)), 1;
#ifdef SP_TEST_SANITIZED
  constexpr int limit = 30;
#else
  constexpr int limit = 400;
#endif
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(budget);
  std::mt19937_64 g(std::uint64_t(object) * 4 + featured * 2 + pulls + 1);
  detail::pairs covered(draw(1, object, featured, pulls));
  int done = 0;
  for (; covered.missing() > 0 && done < limit; ++done) {
    trial best;
    int most = 0;
    for (int tries = 0; tries < 50 || (most == 0 && tries < 5000); ++tries) {
      trial t = draw(g() % 1000000000, object, featured, pulls);
      if (int const fresh = covered.fresh(t); tries == 0 || fresh > most) most = fresh, best = std::move(t);
    }
    covered.insert(best);
    f(best);
  }
#ifndef SP_TEST_SANITIZED
  INFO("pairs of choices that " << done << " trials have not covered");
  CHECK(covered.missing() == 0);
  for (; together(std::chrono::steady_clock::now() < end); ++done) f(draw(g() % 1000000000, object, featured, pulls));
#else
  static_cast<void>(end);
#endif
  return done;
}

} // namespace conformance
