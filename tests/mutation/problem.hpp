// One small attention problem with every feature at once, over ring x ulysses ranks that are threads, against the oracle.
// Built to compile in seconds: one element type, one kernel, one communicator; still every index of a schedule matters in it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include <sp/collective/reductions.hpp>
#include <sp/mesh.hpp>
#include <sp/reference.hpp>
#include <sp/relayout.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>

#include "support/attention_problem.hpp"
#include "support/sharding.hpp"
#include "support/tensors.hpp"

namespace sentinel {

using sp::index_t;
using support::any_sharding;
using support::tensor;
using comm = sp::group<sp::threads>;

/// Long enough for a busy machine, short enough for a schedule that hangs.
inline constexpr sp::threads_options patience{.deadline = std::chrono::seconds(10)};

inline constexpr double cap = 2, chance = 0.25;
inline std::vector<float> const slopes{0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.375f};
inline constexpr sp::random_key key{42, 7};

/// The reference with all features. It can be made to come late, so that whoever does not wait for it is found out.
struct kernel : sp::reference<sp::softcap, sp::alibi, sp::dropout> {
  using base = sp::reference<sp::softcap, sp::alibi, sp::dropout>;
  std::chrono::milliseconds late{0};
  explicit kernel(std::chrono::milliseconds by = {}) : base(sp::softcap{cap}, sp::alibi{slopes}, sp::dropout{chance}), late(by) {}

  template <class T>
  base::saved forward(base::plan const& p, sp::allocator& scratch, sp::call_params const& n, sp::view<T const, 3> q,
                      std::span<sp::kv_views<T> const> keys, sp::attention_state<T> state) const {
    std::this_thread::sleep_for(late);
    return base::forward<T>(p, scratch, n, q, keys, state);
  }
  template <class T>
  void backward(base::plan const& p, sp::allocator& scratch, sp::call_params const& n, std::span<sp::query_grad<T> const> queries,
                std::span<sp::key_grad<T> const> keys, base::saved const& x) const {
    std::this_thread::sleep_for(late);
    base::backward<T>(p, scratch, n, queries, keys, x);
  }
};

struct numbers : support::attention_results {
  std::vector<double> dsinks;
};

struct problem : support::attention_problem {
  std::vector<double> sinks{0.3, -1.0, 2.0, 0.0, -0.5, 1.0};
  double scale = 0; ///< 0: the usual one

  problem(sp::documents qd, sp::documents kd, sp::mask rule)
      : attention_problem(std::move(qd), std::move(kd), {6, 3, 3, 4}, std::move(rule), 17) {}

  /// Nobody's key q + hi + 1 and nobody's key q + lo - 1: the rule of the mask, from offsets in documents alone.
  numbers truth() const {
    return truth([&](std::size_t d, index_t i, index_t j) {
      index_t distance = j - i - (mask.at == sp::align::end ? k_docs[d].count - q_docs[d].count : 0);
      return mask.lo <= distance && distance <= mask.hi;
    });
  }
  template <class Sees>
  numbers truth(Sees const& sees) const {
    auto o = oracle_of(sees);
    o.sinks = sinks, o.softcap = cap;
    if (scale != 0) o.scale = scale;
    o.slopes.assign(slopes.begin(), slopes.end());
    o.keep = support::dropout_of(key, chance);
    auto r = o.backward(dout);
    return {{r.out, r.dq, r.dk, r.dv}, r.dsinks};
  }
};

/// Packed documents, one of a single token, one empty, whose ids are not their indices, under a window with two edges.
inline problem self_attention() {
  sp::documents docs = sp::packed{0, 9, 10, 10, 31}.with_ids(std::vector<index_t>{11, 5, 900, 2});
  return {docs, docs, sp::window(7, 1)};
}
/// Fewer queries than keys; the last query stands on the last key.
inline problem cross_attention() {
  sp::documents q = sp::packed{0, 5, 13}.with_ids(std::vector<index_t>{3, 8});
  return {q, sp::packed{0, 9, 26}, {.lo = -9, .hi = 0, .at = sp::align::end}};
}

/// The last queries of every document of self attention, as decode with a cache computes them, and what self attention says of
/// these rows: its out and dq, and dk, dv and dsinks of an upstream gradient that is 0 everywhere else.
struct decode {
  problem part;
  numbers want;

  /// `rule` is the mask of the decode call; sees(document, offset of the query, offset of the key) is that of self attention.
  template <class Sees>
  decode(sp::documents const& queries, sp::documents const& all, sp::mask rule, Sees const& sees)
      : part(queries, all, std::move(rule)) {
    problem self(all, all, {});
    self.k = part.k, self.v = part.v;
    std::fill(self.dout.begin(), self.dout.end(), 0.0);
    each_row(part.q, self.q, [](double& of_part, double& of_self) { of_part = of_self; });
    each_row(part.dout, self.dout, [](double& of_part, double& of_self) { of_self = of_part; });
    numbers of_self = self.truth(sees);
    want = {{std::vector<double>(part.dout.size()), std::vector<double>(part.q.size()), of_self.dk, of_self.dv}, of_self.dsinks};
    each_row(want.out, of_self.out, [](double& last, double& found) { last = found; });
    each_row(want.dq, of_self.dq, [](double& last, double& found) { last = found; });
  }

private:
  /// Calls f with the numbers of a decode row and of the row it is in self attention.
  template <class F>
  void each_row(std::vector<double>& of_part, std::vector<double>& of_self, F const& f) const {
    auto const width = index_t(of_self.size()) / part.k_docs.length();
    for (std::size_t d = 0; d < part.q_docs.size(); ++d) {
      sp::document const &q = part.q_docs[d], &k = part.k_docs[d];
      for (index_t i = 0; i < q.count * width; ++i)
        f(of_part[std::size_t(q.begin * width + i)], of_self[std::size_t((k.end() - q.count) * width + i)]);
    }
  }
};

/// Decode under every kind of mask. Documents have several queries, one, or none.
inline std::vector<decode> decodes() {
  std::vector<index_t> const ids{11, 5, 900, 2, 40};
  auto const end = sp::align::end;
  sp::documents const all = sp::packed(sp::packed{0, 9, 10, 10, 27, 36}).with_ids(ids);
  sp::documents const last = sp::packed(sp::packed{0, 2, 3, 3, 9, 9}).with_ids(ids);
  std::vector<index_t> const prefix{3, 0, 0, 14, 2};
  std::vector<sp::document> const images{{2, 3, 3}, {19, 6, 6}}; // [9, 15) of the fourth document, where decode begins at 11
  std::vector<sp::slice> few;                                    // the first two keys, and the three before the query
  for (std::size_t d = 0; d < all.size(); ++d) {
    sp::document const &q = last[d], &k = all[d];
    index_t const by = k.end() - q.end(), cut = k.begin + sp::min(index_t{2}, k.count);
    few.push_back({q.begin, q.end(), k.begin, cut});
    few.push_back({q.begin, q.end(), cut, k.end(), by - 3, by});
  }
  sp::mask chosen = sp::user_slices(few);
  chosen.at = end;
  auto inside = [=](std::size_t d, index_t i) {
    return std::any_of(images.begin(), images.end(), [&](auto const& s) { return s.holds(all[d].begin + i); });
  };
  using at = std::size_t;
  return {
      {last, all, sp::causal(end), [](at, index_t i, index_t j) { return j <= i; }},
      {last, all, sp::full(end), [](at, index_t, index_t) { return true; }},
      {last, all, sp::window(4, 0, end), [](at, index_t i, index_t j) { return i - 4 <= j && j <= i; }},
      {last, all, sp::window(2, 3, end), [](at, index_t i, index_t j) { return i - 2 <= j && j <= i + 3; }},
      {last, all, sp::prefix_lm(prefix, end), [=](at d, index_t i, index_t j) { return j <= i || j < prefix[d]; }},
      {last, all, sp::image_spans(images, end),
       [=](at d, index_t i, index_t j) { return j <= i || (inside(d, i) && inside(d, j)); }},
      {last, all, chosen, [](at, index_t i, index_t j) { return j < 2 || (i - 3 <= j && j <= i); }},
  };
}

/// How a problem is run.
struct way {
  int ring = 3, ulysses = 1;
  bool ring_is_fast = false; ///< ring ranks are neighbours, ulysses groups are strided
  sp::attention_options options{};
  bool stripes = false, padded = false, accumulate = false;

  sp::mesh mesh() const {
    if (ring_is_fast) return sp::mesh{sp::axis::ulysses{ulysses}, sp::axis::ring{ring}};
    return sp::mesh{sp::axis::ring{ring}, sp::axis::ulysses{ulysses}};
  }
  any_sharding sharding() const {
    return {stripes ? any_sharding::striped : any_sharding::zigzag, sp::scope::document, ulysses, ring_is_fast ? ring : 1};
  }
  sp::batch_options batch() const { return {padded ? sp::shapes::padded : sp::shapes::ragged}; }
};

/// By rotate, by cast in one, two and three chunks of heads, by pull, and by pass_q in one and three chunks.
inline std::vector<sp::attention_options> every_schedule(sp::mask const& mask, double scale = 0) {
  std::vector<sp::attention_options> list;
  for (auto [how, chunks] : {std::pair(sp::schedule::rotate, 1), std::pair(sp::schedule::cast, 1),
                             std::pair(sp::schedule::cast, 2), std::pair(sp::schedule::cast, 3), std::pair(sp::schedule::pull, 1),
                             std::pair(sp::schedule::pass_q, 1), std::pair(sp::schedule::pass_q, 3)})
    list.push_back({.mask = mask, .scale = scale, .schedule = how, .head_chunks = chunks});
  return list;
}

/// What gradients hold before the call: something where they are to be added to, else NaN.
inline double before(way const& w) { return w.accumulate ? 0.5 : std::numeric_limits<double>::quiet_NaN(); }

struct rank_batches {
  sp::batch qb, kb;
  rank_batches(problem const& p, way const& w, sp::threads const& c)
      : qb(p.q_docs, w.sharding(), c, w.batch()), kb(p.k_docs, w.sharding(), c, w.batch()) {}
};

/// Everything one rank has at hand. Inputs of slack rows are NaN.
struct rank_scene : rank_batches, support::rank_tensors {
  std::vector<double> dsinks;

  rank_scene(problem const& p, way const& w, sp::threads const& c)
      : rank_batches(p, w, c), rank_tensors(p, qb, kb, nan, before(w)), dsinks(p.sinks.size(), before(w)) {}

  sp::attention_extras<double> extras(problem const& p, way const& w) {
    index_t const heads = p.shape.q_heads;
    return {tensor<1>(p.sinks, {heads}), tensor<1>(dsinks, {heads}), {}, w.accumulate};
  }
  template <class Object, class Prepared>
  auto forward(Object const& o, Prepared const& at, sp::context<> const& ctx, problem const& p, way const& w) {
    return rank_tensors::forward(o, at, ctx, extras(p, w));
  }
  template <class Object, class Prepared, class Saved>
  void backward(Object const& o, Prepared const& at, sp::context<> const& ctx, Saved&& s, problem const& p, way const& w) {
    rank_tensors::backward(o, at, ctx, std::move(s), extras(p, w));
  }

  /// All ranks' tensors in stream order; what gradients held before is taken off again.
  numbers collect(sp::threads const& c, way const& w) {
    double const held = w.accumulate ? before(w) : 0;
    numbers n{support::gathered(c, qb, kb, *this, held), dsinks};
    for (auto* gradient : {&n.dq, &n.dk, &n.dv})
      for (double& x : *gradient) x -= held;
    sp::pool scratch;
    sp::all_reduce(c, tensor<1>(n.dsinks, {index_t(n.dsinks.size())}), scratch);
    for (double& x : n.dsinks) x -= c.size() * held;
    return n;
  }
};

/// A workspace of exactly `bytes` between bytes that nobody may write.
struct exact {
  static constexpr std::size_t beside = sp::allocator::alignment;
  std::vector<unsigned char> memory;
  unsigned char* begin;
  std::size_t bytes;
  sp::workspace space;
  explicit exact(index_t n)
      : memory(std::size_t(n) + 3 * beside, 0x5a),
        begin(memory.data() + beside + (beside - (reinterpret_cast<std::uintptr_t>(memory.data()) % beside)) % beside),
        bytes(std::size_t(n)), space(begin, bytes) {}
  bool intact() const {
    bool good = true;
    for (auto const* at = memory.data(); at != memory.data() + memory.size(); ++at)
      good = good && (*at == 0x5a || (at >= begin && at < begin + bytes));
    return good;
  }
};

/// Every result of a step, byte by byte; slack and padding included.
inline std::vector<std::vector<double>> results(rank_scene const& s) {
  return {s[support::operand::out], s[support::operand::dq], s[support::operand::dk], s[support::operand::dv], s.dsinks};
}
inline bool same_bits(std::vector<std::vector<double>> const& a, std::vector<std::vector<double>> const& b) {
  bool same = a.size() == b.size();
  for (std::size_t i = 0; same && i < a.size(); ++i)
    same = a[i].size() == b[i].size() && std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(double)) == 0;
  return same;
}

/// Forward and backward of make(communicator of all ranks, mesh) and what all ranks found, in stream order.
template <class Make>
numbers run(problem const& p, way const& w, Make&& make) {
  numbers found;
  sp::threads::run(
      w.ring * w.ulysses,
      [&](sp::threads const& c) {
        rank_scene s(p, w, c);
        auto attention = make(c, w.mesh());
        auto prepared = attention.prepare(s.qb, s.kb);
        sp::pool scratch, kept;
        sp::context ctx(scratch, kept, key);
        s.backward(attention, prepared, ctx, s.forward(attention, prepared, ctx, p, w), p, w);
        numbers all = s.collect(c, w);
        if (c.rank() == 0) found = std::move(all);
      },
      patience);
  return found;
}

/// What double agrees to with the oracle, normwise.
inline constexpr double bound = 1e-12;

inline void check(numbers const& found, numbers const& want) {
  CHECK(support::relative_error(found.out, want.out) < bound);
  CHECK(support::relative_error(found.dq, want.dq) < bound);
  CHECK(support::relative_error(found.dk, want.dk) < bound);
  CHECK(support::relative_error(found.dv, want.dv) < bound);
  CHECK(support::relative_error(found.dsinks, want.dsinks) < bound);
}

} // namespace sentinel
