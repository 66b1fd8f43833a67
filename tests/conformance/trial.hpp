// A trial: one random case of the conformance matrix, a pure function of its 64-bit seed, and the covering sample of trials.
// The mask is written twice: as an sp::mask, and as a predicate of global positions that knows nothing of slices.
#pragma once

#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>
#include <set>
#include <string>

#include <doctest/doctest.h>

#include <sp/batch.hpp>
#include <sp/ring.hpp>
#include <sp/ulysses.hpp>

#include "support/sharding.hpp"

namespace conformance {

using sp::index_t;
using support::any_sharding;

enum class object_kind { ring, ulysses, usp };

struct trial {
  std::uint64_t seed = 0;
  object_kind object = object_kind::ring;
  int ranks = 1, ring = 1, ulysses = 1;
  bool ring_is_fast = false; ///< mesh order ulysses x ring: ulysses groups are strided
  sp::schedule how = sp::schedule::rotate;
  index_t head_chunks = 1;
  sp::keep keep = sp::keep::heads;
  any_sharding sharding{};
  bool padded = false;
  index_t q_heads = 1, kv_heads = 1, dim = 1, value_dim = 1;
  double scale = 0, loud = 1, softcap = 0, dropout = 0;
  bool alibi = false, sinks = false, featured = false, accumulate = false, short_form = false;
  unsigned order = 0; ///< memory order of tensors
  bool cross = false;
  sp::documents docs{}, key_docs{};
  sp::mask mask{};
  int mask_kind = 0, document_kind = 0;

  static constexpr std::size_t dimensions = 11;
  std::array<int, dimensions> drawn{}, choices{}; ///< what the covering sample pairs up: value i of choices[i]

  sp::documents const& keys() const { return cross ? key_docs : docs; }
  double score_scale() const { return scale != 0 ? scale : 1 / std::sqrt(double(dim)); }
  sp::random_key random() const { return short_form ? sp::random_key{} : sp::random_key{seed, 3}; }

  /// Whether query position i may see key position j, from positions, documents and the rule alone.
  bool sees(index_t i, index_t j) const {
    if (mask.only_user) {
      for (auto const& s : mask.user)
        if (s.q0 <= i && i < s.q1 && s.k0 <= j && j < s.k1 && s.lo <= j - i && j - i <= s.hi) return true;
      return false;
    }
    for (std::size_t d = 0; d < docs.size(); ++d) {
      sp::document const &q = docs[d], &k = keys()[d];
      if (i < q.begin || i >= q.begin + q.count || j < k.begin || j >= k.begin + k.count) continue;
      if (!mask.prefix.empty() && j - k.begin < mask.prefix[d]) return true;
      index_t const shift = mask.at == sp::align::end ? k.count - q.count : 0;
      index_t const stands = k.begin + (i - q.begin) + shift, distance = j - stands; // the query's place among the keys
      for (auto const& s : mask.spans)
        if (s.k0 <= stands && stands < s.k1 && s.k0 <= j && j < s.k1) return true;
      return mask.lo <= distance && distance <= mask.hi;
    }
    return false;
  }

  std::string describe() const {
    static constexpr char const* objects[] = {"ring", "ulysses", "usp"};
    static constexpr char const* schedules[] = {"automatic", "rotate", "gather", "pull"};
    static constexpr char const* shardings[] = {"contiguous", "zigzag", "striped"};
    auto n = [](auto x) { return std::to_string(x); };
    std::string s = std::string(objects[int(object)]) + " P " + n(ranks) + " (ring " + n(ring) + " ulysses " + n(ulysses) +
                    (ring_is_fast ? " strided" : "") + "), " + schedules[int(how)] + ", head chunks " + n(head_chunks) +
                    ", keep " + (keep == sp::keep::heads ? "heads" : "output") + ", " + shardings[sharding.kind] +
                    (sharding.over == sp::scope::stream ? " over the stream" : "") + (padded ? " padded" : "") +
                    (sharding.inner > 1 ? " nested" : "") + ", mask kind " + n(mask_kind) + ", heads " + n(q_heads) + "/" +
                    n(kv_heads) + ", dims " + n(dim) + "/" + n(value_dim) + ", softcap " + n(softcap) + ", dropout " +
                    n(dropout) + (alibi ? ", alibi" : "") + (sinks ? ", sinks" : "") + (accumulate ? ", accumulate" : "") +
                    (short_form ? ", short form" : "") + ", scale " + n(scale) + ", loud " + n(loud) + ", documents";
    for (auto const& d : docs) s += " [" + n(d.begin) + " +" + n(d.count) + ")";
    if (cross) {
      s += ", keys";
      for (auto const& d : key_docs) s += " [" + n(d.begin) + " +" + n(d.count) + ")";
    }
    return s;
  }
};

/// Whether several ulysses ranks compute with one kv head; counted head by head.
inline bool shares_kv_heads(trial const& t) {
  index_t copies = 0, group = t.q_heads / t.kv_heads;
  for (int r = 0; r < t.ulysses; ++r) {
    std::set<index_t> mine;
    for (index_t h = r * t.q_heads / t.ulysses; h < (r + 1) * t.q_heads / t.ulysses; ++h) mine.insert(h / group);
    copies += index_t(mine.size());
  }
  return copies != t.kv_heads;
}

namespace detail {

struct dice {
  std::mt19937_64 g;
  int pick(int n) { return int(g() % std::uint64_t(n)); }
  index_t between(index_t a, index_t b) { return a + index_t(g() % std::uint64_t(b - a + 1)); }
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

inline sp::documents stream(dice& r, std::vector<index_t> const& n, bool gaps) {
  std::vector<sp::document> list;
  std::vector<index_t> ids;
  index_t at = gaps ? r.between(0, 3) : 0;
  for (index_t count : n) {
    list.push_back({at, count, count, 0});
    at += count + (gaps ? r.between(0, 4) : 0);
    ids.push_back(index_t(1000 - 7 * index_t(ids.size())));
  }
  return sp::documents(list, at).with_ids(ids);
}

inline constexpr int mask_kinds = 8;
inline sp::mask make_mask(dice& r, int kind, trial const& t) {
  sp::mask m;
  switch (kind) {
  case 0:
    m = sp::causal();
    break;
  case 1:
    m = sp::full();
    break;
  case 2:
    m = sp::window(r.between(0, 9));
    break;
  case 3:
    m = sp::window(r.between(0, 6), r.between(1, 6));
    break;
  case 4:
    m = sp::causal();
    break; // most common of all: twice
  case 5: {
    std::vector<index_t> prefix;
    for (auto const& d : t.keys()) prefix.push_back(r.between(0, d.count));
    m = sp::prefix_lm(prefix);
    break;
  }
  case 6: {
    std::vector<sp::document> spans;
    for (auto const& d : t.keys())
      if (d.count > 4) spans.push_back({d.begin + 1, d.count / 2, d.count / 2, 0});
    m = sp::image_spans(spans);
    break;
  }
  default: {
    std::vector<sp::slice> list;
    for (std::size_t d = 0; d < t.docs.size(); ++d) {
      auto const &q = t.docs[d], &k = t.keys()[d];
      index_t q_mid = q.begin + q.count / 2, k_mid = k.begin + k.count / 3, by = k.begin - q.begin;
      list.push_back({q.begin, q_mid, k.begin, k_mid});                                   // full
      list.push_back({q.begin, q_mid, k_mid, k.begin + k.count, by - 3, by + 2});         // a band
      list.push_back({q_mid, q.begin + q.count, k.begin, k.begin + k.count, by - 9, by}); // a window
    }
    m = sp::user_slices(list);
  }
  }
  return m;
}

} // namespace detail

/// The trial of a seed. `featured`: the kernel has softcap, ALiBi and dropout compiled in; `pulls`: the schedule may be pull.
inline trial draw(std::uint64_t seed, object_kind object, bool featured, bool pulls) {
  detail::dice r{std::mt19937_64(seed)};
  trial t;
  t.seed = seed;
  t.object = object;
  t.featured = featured;
  std::size_t at = 0;
  auto pick = [&](int n) { return t.choices[at] = n, t.drawn[at++] = r.pick(n); };

  constexpr int rank_list[] = {1, 2, 3, 4, 5, 6, 7, 8, 3, 5};
  constexpr int meshes[][2] = {{2, 2}, {2, 3}, {3, 2}, {2, 4}, {4, 2}, {3, 1}};
  int place = pick(object == object_kind::usp ? 6 : 10);
  if (object == object_kind::usp)
    t.ring = meshes[place][0], t.ulysses = meshes[place][1];
  else
    (object == object_kind::ring ? t.ring : t.ulysses) = rank_list[place];
  t.ranks = t.ring * t.ulysses;

  constexpr sp::schedule how[] = {sp::schedule::rotate, sp::schedule::gather, sp::schedule::gather,
                                  sp::schedule::gather, sp::schedule::pull,   sp::schedule::automatic};
  int variant = pick(6);
  t.how = object == object_kind::ulysses ? sp::schedule::automatic : how[variant];
  if (t.how == sp::schedule::pull && !pulls) t.how = sp::schedule::rotate;
  t.head_chunks = variant >= 1 && variant <= 3 ? variant : 1;
  int modes = pick(4);
  t.keep = modes % 2 ? sp::keep::output : sp::keep::heads;
  t.ring_is_fast = object == object_kind::usp && modes / 2;

  t.sharding.kind = pick(3);
  int room = pick(5);
  t.sharding.over = room % 2 ? sp::scope::stream : sp::scope::document;
  t.padded = room >= 3;
  if (object == object_kind::usp && r.pick(3) > 0) {
    t.sharding.inner = t.ulysses;
    t.sharding.stride = t.ring_is_fast ? t.ring : 1;
  }

  t.document_kind = pick(detail::document_kinds);
  bool gaps = t.document_kind == 4 || r.pick(6) == 0;
  auto n = detail::lengths(r, t.document_kind);
  t.docs = detail::stream(r, n, gaps);
  int crossing = pick(4);
  t.cross = crossing >= 2;
  if (t.cross) {
    for (index_t& x : n) x = x == 0 ? r.between(0, 3) : r.between(0, 2 * x);
    t.key_docs = detail::stream(r, n, gaps);
  }
  t.mask_kind = pick(detail::mask_kinds);
  t.mask = detail::make_mask(r, t.mask_kind, t);
  if (t.cross) t.mask.at = crossing == 3 ? sp::align::end : sp::align::begin;

  constexpr index_t heads[][2] = {{1, 1}, {4, 4}, {4, 2}, {4, 1}, {7, 7}, {6, 3}, {12, 4}, {5, 1}, {9, 3}, {2, 1}};
  int h = pick(10);
  t.q_heads = heads[h][0], t.kv_heads = heads[h][1];
  constexpr index_t dims[][2] = {{8, 8}, {5, 3}, {1, 1}, {3, 7}, {16, 16}, {33, 20}};
  int d = pick(6);
  t.dim = dims[d][0], t.value_dim = dims[d][1];

  int f = pick(6);
  t.sinks = f == 1 || f == 5;
  if (featured) {
    t.softcap = f == 2 || f == 5 ? 2.5 : 1e3;
    t.alibi = f == 3 || f == 5;
    t.dropout = f == 4 || f == 5 ? 0.3 : 0.0;
  }
  int numbers = r.pick(5);
  t.scale = numbers == 1 ? 0.4 : 0;
  t.loud = numbers == 2 ? 20 : 1;
  t.accumulate = r.pick(5) == 0;
  t.short_form = !t.cross && r.pick(3) == 0;
  t.order = unsigned(r.pick(9));
  return t;
}

/// Seconds of random trials beyond the covering sample: none by default, so that every run tests the same cases; set it for a night.
inline double seconds(double usual = 0) {
  char const* s = std::getenv("SP_TEST_SECONDS");
  return s ? std::atof(s) : usual;
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

/// Calls f(trial) for a sample in which every two choices occur together, 120 to 150 trials; then for random trials until the
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
