// One attention problem over thread ranks against the naive oracle: documents, heads, a mask with its definition.
// Tensors go through split and gather, so that the whole path of a trainer is under test, gradients always included.
#pragma once

#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <mutex>
#include <random>
#include <vector>

#include <sp/batch.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

#include "support/oracle.hpp"
#include "support/sharding.hpp"
#include "support/tensors.hpp"

namespace incidents {

using sp::index_t;
using support::any_sharding;
using support::tensor;

/// What a trainer may choose for this many ranks; the last one is the order of USP with Ulysses over pairs of ranks.
inline std::array<any_sharding, 4> all_shardings(int parts) {
  return {{{any_sharding::contiguous, sp::scope::stream},
           {any_sharding::zigzag},
           {any_sharding::striped},
           {any_sharding::zigzag, sp::scope::document, parts % 2 == 0 ? 2 : 1}}};
}
inline any_sharding const zigzag{any_sharding::zigzag};

/// sees(document, q offset, k offset) is the mask's definition.
using predicate = std::function<bool(std::size_t, index_t, index_t)>;
inline bool below(std::size_t, index_t q, index_t k) { return k <= q; }

struct tensors {
  std::vector<double> out, dq, dk, dv;
};

struct scene {
  sp::documents q_docs, k_docs;
  index_t q_heads = 2, kv_heads = 1, dim = 3, value_dim = 2;
  sp::mask mask = sp::causal();
  predicate sees = below;
  std::vector<double> q{}, k{}, v{}, dout{};

  scene(sp::documents docs, index_t hq, index_t hk) : scene(docs, docs, hq, hk) {}
  scene(sp::documents qd, sp::documents kd, index_t hq, index_t hk)
      : q_docs(std::move(qd)), k_docs(std::move(kd)), q_heads(hq), kv_heads(hk) {
    std::mt19937 g(unsigned(q_docs.length() * 31 + hq * 7 + hk));
    std::normal_distribution<double> normal;
    auto fill = [&](index_t n) {
      std::vector<double> x(static_cast<std::size_t>(n));
      for (double& y : x) y = normal(g);
      return x;
    };
    q = fill(q_docs.length() * q_heads * dim);
    k = fill(k_docs.length() * kv_heads * dim);
    v = fill(k_docs.length() * kv_heads * value_dim);
    dout = fill(q_docs.length() * q_heads * value_dim);
  }

  static index_t document_of(sp::documents const& docs, index_t p) {
    for (std::size_t d = 0; d < docs.size(); ++d)
      if (docs[d].begin <= p && p < docs[d].end()) return index_t(d);
    return -1;
  }
  tensors truth() const {
    sp_test::oracle o(q_docs.length(), k_docs.length(), q_heads, kv_heads, dim, value_dim);
    o.q = q, o.k = k, o.v = v;
    o.see([&](index_t i, index_t j) {
      index_t d = document_of(q_docs, i);
      return d >= 0 && d == document_of(k_docs, j) &&
             sees(std::size_t(d), i - q_docs[std::size_t(d)].begin, j - k_docs[std::size_t(d)].begin);
    });
    auto r = o.backward(dout);
    return {r.out, r.dq, r.dk, r.dv};
  }
};

/// Largest relative error of the four tensors.
inline double error(tensors const& a, tensors const& b) {
  double worst = 0;
  auto take = [&](std::vector<double> const& x, std::vector<double> const& y) {
    double e = sp_test::relative_error(x, y);
    worst = std::isnan(e) || worst < e ? e : worst;
  };
  take(a.out, b.out);
  take(a.dq, b.dq);
  take(a.dk, b.dk);
  take(a.dv, b.dv);
  return worst;
}

/// One rank's tensor (tokens, heads, width).
struct local {
  std::vector<double> values;
  std::array<index_t, 3> extents;
  local(index_t rows, index_t heads, index_t width, double fill)
      : values(std::size_t(rows * heads * width), fill), extents{rows, heads, width} {}
  sp::view<double, 3> view() { return tensor<3>(values, extents); }
  sp::view<double const, 3> read() const { return tensor<3>(values, extents); }
};

/// Everything one rank holds of a scene. Slack rows of the inputs get `slack`, outputs start as NaN.
struct rank_tensors {
  local q, k, v, dout, out, dq, dk, dv;
  rank_tensors(scene const& s, sp::batch const& qb, sp::batch const& kb, double slack)
      : q(qb.tokens(), s.q_heads, s.dim, 0), k(kb.tokens(), s.kv_heads, s.dim, 0), v(kb.tokens(), s.kv_heads, s.value_dim, 0),
        dout(qb.tokens(), s.q_heads, s.value_dim, 0), out(qb.tokens(), s.q_heads, s.value_dim, nan()),
        dq(qb.tokens(), s.q_heads, s.dim, nan()), dk(kb.tokens(), s.kv_heads, s.dim, nan()),
        dv(kb.tokens(), s.kv_heads, s.value_dim, nan()) {
    auto give = [&](sp::batch const& b, std::vector<double> const& global, local& to) {
      sp::split(b, tensor<3>(global, {b.source().length(), to.extents[1], to.extents[2]}), to.view(), slack);
    };
    give(qb, s.q, q);
    give(kb, s.k, k);
    give(kb, s.v, v);
    give(qb, s.dout, dout);
  }
  static double nan() { return std::numeric_limits<double>::quiet_NaN(); }
};

/// The tensors of all ranks in stream order (positions in no document 0), and the number of slack rows that are not zero.
struct outcome {
  tensors found;
  index_t dirty_slack = 0;
};

inline index_t dirty(sp::batch const& b, local const& x) {
  index_t n = 0, width = x.extents[1] * x.extents[2];
  sp::for_each_row(b, [&](sp::local_row const& r) {
    if (!r.real)
      for (index_t c = 0; c < width; ++c) n += x.values[std::size_t(r.row * width + c)] == 0 ? 0 : 1; // NaN counts
  });
  return n;
}

struct how_to_run {
  any_sharding q_sharding{}, k_sharding{};
  sp::shapes shapes = sp::shapes::ragged;
  double slack = 0;
};

/// Forward and backward over `parts` thread ranks; make(communicator) gives the attention object.
template <class Make>
outcome run(scene const& s, int parts, how_to_run const& how, Make const& make) {
  outcome result;
  std::atomic<index_t> bad{0};
  sp::threads::run(parts, [&](sp::threads const& c) {
    sp::batch qb(s.q_docs, how.q_sharding, c, {how.shapes}), kb(s.k_docs, how.k_sharding, c, {how.shapes});
    rank_tensors t(s, qb, kb, how.slack);
    auto attention = make(c);
    auto prepared = attention.prepare(qb, kb);
    sp::pool scratch, kept;
    sp::context ctx(scratch, kept);
    auto saved = attention.forward(prepared, ctx, t.q.read(), t.k.read(), t.v.read(), t.out.view());
    attention.backward(prepared, ctx, std::move(saved), t.q.read(), t.k.read(), t.v.read(), t.out.read(), t.dout.read(),
                       t.dq.view(), t.dk.view(), t.dv.view());
    bad += dirty(qb, t.out) + dirty(qb, t.dq) + dirty(kb, t.dk) + dirty(kb, t.dv);
    tensors all;
    auto collect = [&](sp::batch const& b, local const& x, std::vector<double>& to) {
      index_t n = b.source().length();
      to.resize(std::size_t(n * x.extents[1] * x.extents[2]));
      sp::gather(c, b, x.read(), tensor<3>(to, {n, x.extents[1], x.extents[2]}));
    };
    collect(qb, t.out, all.out);
    collect(qb, t.dq, all.dq);
    collect(kb, t.dk, all.dk);
    collect(kb, t.dv, all.dv);
    if (c.rank() == 0) result.found = std::move(all);
  });
  result.dirty_slack = bad;
  return result;
}

inline auto ring(sp::mask const& mask, sp::schedule how) {
  return [&mask, how](sp::threads const& c) { return sp::ring_attention(c, sp::reference{}, {.mask = mask, .schedule = how}); };
}
inline auto ulysses(sp::mask const& mask) {
  return [&mask](sp::threads const& c) { return sp::ulysses_attention(c, sp::reference{}, {.mask = mask}); };
}

/// The worst error over Ulysses and the three schedules of the ring; dirty slack counts as infinite.
inline double worst_error(scene const& s, int parts, how_to_run const& how) {
  tensors const want = s.truth();
  double worst = 0;
  auto take = [&](outcome const& o) {
    double e = o.dirty_slack ? std::numeric_limits<double>::infinity() : error(o.found, want);
    worst = std::isnan(e) || worst < e ? e : worst;
  };
  for (auto schedule : {sp::schedule::rotate, sp::schedule::gather, sp::schedule::pull})
    take(run(s, parts, how, ring(s.mask, schedule)));
  take(run(s, parts, how, ulysses(s.mask)));
  return worst;
}
inline double worst_error(scene const& s, int parts, any_sharding const& how = zigzag) {
  return worst_error(s, parts, how_to_run{how, how});
}

/// What double agrees to (RELIABILITY: 1e-12 normwise).
inline constexpr double bound = 1e-12;

} // namespace incidents
