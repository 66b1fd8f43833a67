// One small attention problem with every feature at once, over ring x ulysses ranks that are threads, against the oracle.
// Built to compile in seconds: one element type, one kernel, one communicator; still every index of a schedule matters in it.
#pragma once

#include <chrono>
#include <cmath>
#include <random>
#include <thread>

#include <sp/batch.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/mesh.hpp>
#include <sp/reference.hpp>
#include <sp/relayout.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>

#include "support/oracle.hpp"
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

struct numbers {
  std::vector<double> out, dq, dk, dv, dsinks;
};

struct problem {
  sp::documents q_docs, k_docs;
  sp::mask mask;
  static constexpr index_t q_heads = 6, kv_heads = 3, dim = 3, value_dim = 4;
  std::vector<double> q, k, v, dout, sinks{0.3, -1.0, 2.0, 0.0, -0.5, 1.0};

  problem(sp::documents qd, sp::documents kd, sp::mask rule)
      : q_docs(std::move(qd)), k_docs(std::move(kd)), mask(std::move(rule)) {
    std::mt19937 g(17);
    std::normal_distribution<double> normal;
    for (auto [x, n] :
         {std::pair(&q, q_docs.length() * q_heads * dim), std::pair(&k, k_docs.length() * kv_heads * dim),
          std::pair(&v, k_docs.length() * kv_heads * value_dim), std::pair(&dout, q_docs.length() * q_heads * value_dim)})
      for (index_t i = 0; i < n; ++i) x->push_back(normal(g));
  }

  /// Nobody's key q + hi + 1 and nobody's key q + lo - 1: the rule of the mask, from offsets in documents alone.
  numbers truth() const {
    sp_test::oracle o(q_docs.length(), k_docs.length(), q_heads, kv_heads, dim, value_dim);
    o.q = q, o.k = k, o.v = v, o.sinks = sinks, o.softcap = cap;
    o.slopes.assign(slopes.begin(), slopes.end());
    for (auto [docs, places] : {std::pair(&q_docs, &o.q_places), std::pair(&k_docs, &o.k_places)})
      for (sp::document const& d : *docs)
        for (index_t i = 0; i < d.count; ++i) (*places)[std::size_t(d.begin + i)] = {d.id, i};
    o.see([&](index_t i, index_t j) {
      for (std::size_t d = 0; d < q_docs.size(); ++d) {
        sp::document const &a = q_docs[d], &b = k_docs[d];
        if (i < a.begin || i >= a.end() || j < b.begin || j >= b.end()) continue;
        index_t distance = (j - b.begin) - (i - a.begin) - (mask.at == sp::align::end ? b.count - a.count : 0);
        return mask.lo <= distance && distance <= mask.hi;
      }
      return false;
    });
    o.keep = [](index_t document, index_t h, index_t i, index_t j) {
      auto u = sp::uniforms4(sp::site_key(key, document, h), i, j / 4);
      return u[std::size_t(j % 4)] < float(chance) ? 0.0 : 1 / (1 - chance);
    };
    auto r = o.backward(dout);
    return {r.out, r.dq, r.dk, r.dv, r.dsinks};
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

/// By rotate, by gather in one, two and three chunks of heads, and by pull.
inline std::vector<sp::attention_options> every_schedule(sp::mask const& mask) {
  std::vector<sp::attention_options> list;
  for (auto [how, chunks] :
       {std::pair(sp::schedule::rotate, 1), std::pair(sp::schedule::gather, 1), std::pair(sp::schedule::gather, 2),
        std::pair(sp::schedule::gather, 3), std::pair(sp::schedule::pull, 1)})
    list.push_back({.mask = mask, .schedule = how, .head_chunks = chunks});
  return list;
}

/// One rank's tensor (rows, heads, width) and what it held before the call.
struct local {
  std::vector<double> values;
  sp::view<double, 3> v;
  local(index_t rows, index_t heads, index_t width, double fill = 0)
      : values(std::size_t(rows * heads * width), fill), v(values.data(), {rows, heads, width}) {}
  sp::view<double const, 3> read() const { return v; }
};

/// Everything one rank has at hand. Inputs of slack rows are NaN; gradients hold 0.5 where they are to be added to, else NaN.
struct rank_scene {
  sp::batch qb, kb;
  local q, k, v, dout, out, dq, dk, dv;
  std::vector<double> dsinks;
  static constexpr double nan = std::numeric_limits<double>::quiet_NaN();

  rank_scene(problem const& p, way const& w, sp::threads const& c)
      : qb(p.q_docs, w.sharding(), c, w.batch()), kb(p.k_docs, w.sharding(), c, w.batch()), q(qb.tokens(), p.q_heads, p.dim),
        k(kb.tokens(), p.kv_heads, p.dim), v(kb.tokens(), p.kv_heads, p.value_dim), dout(qb.tokens(), p.q_heads, p.value_dim),
        out(qb.tokens(), p.q_heads, p.value_dim, nan), dq(qb.tokens(), p.q_heads, p.dim, before(w)),
        dk(kb.tokens(), p.kv_heads, p.dim, before(w)), dv(kb.tokens(), p.kv_heads, p.value_dim, before(w)),
        dsinks(std::size_t(p.q_heads), before(w)) {
    auto give = [](sp::batch const& b, std::vector<double> const& global, local& to) {
      sp::split(b, tensor<3>(global, {b.source().length(), to.v.extent(1), to.v.extent(2)}), to.v, nan);
    };
    give(qb, p.q, q), give(kb, p.k, k), give(kb, p.v, v), give(qb, p.dout, dout);
  }
  static double before(way const& w) { return w.accumulate ? 0.5 : nan; }

  sp::attention_extras<double> extras(problem const& p, way const& w) {
    return {tensor<1>(p.sinks, {p.q_heads}), tensor<1>(dsinks, {p.q_heads}), {}, w.accumulate};
  }
  template <class Object, class Prepared>
  auto forward(Object const& o, Prepared const& at, sp::context const& ctx, problem const& p, way const& w) {
    return o.forward(at, ctx, q.read(), k.read(), v.read(), out.v, extras(p, w));
  }
  template <class Object, class Prepared, class Saved>
  void backward(Object const& o, Prepared const& at, sp::context const& ctx, Saved&& s, problem const& p, way const& w) {
    o.backward(at, ctx, std::move(s), q.read(), k.read(), v.read(), out.read(), dout.read(), dq.v, dk.v, dv.v, extras(p, w));
  }

  /// All ranks' tensors in stream order; what gradients held before is taken off again.
  numbers collect(sp::threads const& c, way const& w) {
    auto whole = [&](sp::batch const& b, local const& x, double held) {
      std::vector<double> all(std::size_t(b.source().length() * x.v.extent(1) * x.v.extent(2)));
      sp::gather(c, b, x.read(), tensor<3>(all, {b.source().length(), x.v.extent(1), x.v.extent(2)}), held);
      for (double& y : all) y -= held;
      return all;
    };
    double held = w.accumulate ? 0.5 : 0;
    numbers n{whole(qb, out, 0), whole(qb, dq, held), whole(kb, dk, held), whole(kb, dv, held), dsinks};
    sp::pool scratch;
    sp::all_reduce(c, tensor<1>(n.dsinks, {index_t(n.dsinks.size())}), scratch);
    for (double& x : n.dsinks) x -= c.size() * held;
    return n;
  }
};

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
  CHECK(sp_test::relative_error(found.out, want.out) < bound);
  CHECK(sp_test::relative_error(found.dq, want.dq) < bound);
  CHECK(sp_test::relative_error(found.dk, want.dk) < bound);
  CHECK(sp_test::relative_error(found.dv, want.dv) < bound);
  CHECK(sp_test::relative_error(found.dsinks, want.dsinks) < bound);
}

} // namespace sentinel
