// A scene: one attention problem over global tensors, computed by a backend (in one piece or by parts) and by the oracle.
// Rows that no slice covers hold NaN, so a kernel that reads them is found out. Strides vary from tensor to tensor.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <random>

#include <sp/backend/concepts.hpp>
#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>

#include "support/oracle_documents.hpp"
#include "support/strided_tensor.hpp"
#include "support/tensors.hpp"

namespace backend_tests {

using sp::index_t;
using support::oracle;
using support::relative_error;
using support::strided_tensor;

/// What a scene is made of. Queries and keys are the same tokens unless key documents are given.
struct setting {
  sp::documents docs;
  sp::mask rule = sp::causal();
  index_t q_heads = 1, kv_heads = 1, dim = 8, value_dim = 8;
  sp::documents key_docs{};
  double softcap = 0;
  std::vector<float> slopes{};
  double dropout = 0;
  double loud = 1; ///< factor on q: large logits
  index_t head_parts = 1;
  unsigned seed = 1;
  sp::documents const& keys() const { return key_docs.size() ? key_docs : docs; }
};

/// Results of a run over the whole stream, row-major.
template <class A>
struct outcome {
  std::vector<A> out, lse, dq, dk, dv;
  friend bool operator==(outcome const& a, outcome const& b) { // bitwise
    using support::same_bits;
    return same_bits(a.out, b.out) && same_bits(a.lse, b.lse) && same_bits(a.dq, b.dq) && same_bits(a.dk, b.dk) &&
           same_bits(a.dv, b.dv);
  }
};

/// Errors against the oracle, in the order out, lse, dq, dk, dv.
using errors = std::array<double, 5>;
inline double worst(errors const& e) {
  double w = 0;
  for (double x : e) w = x > w || x != x ? x : w;
  return w;
}

/// How a run cuts the work: every rank's rows, and whether keys come all at once (pull) or part by part (rotate).
struct cutting {
  std::vector<std::vector<sp::run>> q, k;
  bool rotate = false;
};

template <class Sharding>
std::vector<std::vector<sp::run>> cut_up(sp::documents const& docs, Sharding s, index_t parts) {
  std::vector<std::vector<sp::run>> out;
  for (index_t p = 0; p < parts; ++p) {
    std::vector<sp::run> runs;
    for (sp::document const& d : docs)
      for (sp::run r : s.runs(d.count, p, parts)) {
        r.begin += d.begin;
        sp::append(runs, r);
      }
    out.push_back(std::move(runs));
  }
  return out;
}

template <class T>
class scene {
public:
  using A = sp::accumulate_t<T>;

  explicit scene(setting s)
      : set(std::move(s)), mask(sp::slices(set.rule, set.docs, set.keys())), nq(set.docs.length()), nk(set.keys().length()),
        q(random(nq, set.q_heads, set.dim, 1, set.loud)), k(random(nk, set.kv_heads, set.dim, 2)),
        v(random(nk, set.kv_heads, set.value_dim, 3)), dout(random(nq, set.q_heads, set.value_dim, 4)) {
    T nan(std::numeric_limits<float>::quiet_NaN());
    for (index_t i = 0; i < nq; ++i)
      if (!covered(i, true)) fill_row(q.v, i, nan), fill_row(dout.v, i, nan);
    for (index_t j = 0; j < nk; ++j)
      if (!covered(j, false)) fill_row(k.v, j, nan), fill_row(v.v, j, nan);
  }

  cutting whole() const { return {{{{0, nq, 1}}}, {{{0, nk, 1}}}}; }
  template <class Sharding>
  cutting cut_by(Sharding s, index_t parts, bool rotate = false) const {
    return {cut_up(set.docs, s, parts), cut_up(set.keys(), s, parts), rotate};
  }

  /// What the oracle says.
  oracle::result expected() const {
    oracle o(nq, nk, set.q_heads, set.kv_heads, set.dim, set.value_dim);
    o.softcap = set.softcap;
    o.slopes.assign(set.slopes.begin(), set.slopes.end());
    o.see([&](index_t i, index_t j) {
      for (auto const& s : mask)
        if (s.sees(i, j)) return true;
      return false;
    });
    support::place_tokens(o, set.docs, set.keys(), set.rule.at);
    if (set.dropout > 0) o.keep = support::dropout_of(key, set.dropout);
    o.q = doubles(q.v);
    o.k = doubles(k.v);
    o.v = doubles(v.v);
    return o.backward(doubles(dout.v));
  }

  template <class Backend>
  outcome<A> run(Backend const& b, cutting const& c, sp::allocator& memory) const {
    outcome<A> r;
    r.out.assign(size(nq, set.q_heads, set.value_dim), 0);
    r.lse.assign(size(nq, set.q_heads, 1), -std::numeric_limits<A>::infinity());
    r.dq.assign(size(nq, set.q_heads, set.dim), 0);
    r.dk.assign(size(nk, set.kv_heads, set.dim), 0);
    r.dv.assign(size(nk, set.kv_heads, set.value_dim), 0);
    locals p(*this, c);
    for (index_t share = 0; share < set.head_parts; ++share) {
      auto h = sp::heads_of(set.q_heads, set.kv_heads, share, set.head_parts);
      if (h.q_count == 0) continue;
      sp::call_params n{h, 1 / std::sqrt(static_cast<double>(set.dim)), key};
      run_share(b, c, p, n, memory);
    }
    p.collect(c, r);
    return r;
  }
  template <class Backend>
  outcome<A> run(Backend const& b, cutting const& c) const {
    sp::pool memory;
    return run(b, c, memory);
  }

  /// dk sums dS q: where loud queries saturate the softmax, dS is nearly 0 and what is left of it is rounding, times loud.
  errors against(outcome<A> const& r, oracle::result const& o) const {
    return {relative_error(r.out, o.out), relative_error(r.lse, o.lse), relative_error(r.dq, o.dq),
            relative_error(r.dk, o.dk) / set.loud, relative_error(r.dv, o.dv)};
  }

  setting set;
  std::vector<sp::slice> mask;
  index_t nq, nk;
  strided_tensor<T> q, k, v, dout;
  sp::random_key key{42, 7};

private:
  static std::size_t size(index_t a, index_t b, index_t c) { return static_cast<std::size_t>(a * b * c); }

  strided_tensor<T> random(index_t rows, index_t heads, index_t width, unsigned salt, double factor = 1) const {
    strided_tensor<T> t(rows, heads, width, salt + set.seed, T(0));
    std::mt19937 gen(set.seed * 16 + salt);
    std::normal_distribution<double> normal;
    for (index_t i = 0; i < rows; ++i)
      for (index_t h = 0; h < heads; ++h)
        for (index_t d = 0; d < width; ++d) t.v(i, h, d) = T(factor * normal(gen));
    return t;
  }
  static void fill_row(sp::view<T, 3> const& v, index_t row, T x) {
    for (index_t h = 0; h < v.extent(1); ++h)
      for (index_t d = 0; d < v.extent(2); ++d) v(row, h, d) = x;
  }
  bool covered(index_t position, bool query) const {
    for (auto const& s : mask)
      if (query ? s.q0 <= position && position < s.q1 : s.k0 <= position && position < s.k1) return true;
    return false;
  }
  static std::vector<double> doubles(sp::view<T, 3> const& v) {
    std::vector<double> out;
    for (index_t i = 0; i < v.extent(0); ++i)
      for (index_t h = 0; h < v.extent(1); ++h)
        for (index_t d = 0; d < v.extent(2); ++d) { // the oracle skips what is masked, but 0 x NaN must not come up
          double x = static_cast<double>(v(i, h, d));
          out.push_back(x == x ? x : 0);
        }
    return out;
  }

  /// Everybody's local tensors.
  struct locals {
    std::vector<strided_tensor<T>> q, dout, out_t, k, v;
    std::vector<strided_tensor<A>> out, dq, dk, dv;
    std::vector<std::vector<A>> lse, delta;

    locals(scene const& from, cutting const& c) {
      auto const& x = from.set;
      A zero = 0;
      for (auto const& runs : c.q) {
        index_t n = sp::count_of(runs);
        q.push_back(from.local(from.q.v, runs, 0));
        dout.push_back(from.local(from.dout.v, runs, 1));
        out_t.emplace_back(n, x.q_heads, x.value_dim, x.seed + 1, T(0));
        out.emplace_back(n, x.q_heads, x.value_dim, x.seed + 2, zero);
        dq.emplace_back(n, x.q_heads, x.dim, x.seed + 3, zero);
        lse.emplace_back(size(n, x.q_heads, 1), -std::numeric_limits<A>::infinity());
        delta.emplace_back(size(n, x.q_heads, 1), zero);
      }
      for (auto const& runs : c.k) {
        index_t n = sp::count_of(runs);
        k.push_back(from.local(from.k.v, runs, 2));
        v.push_back(from.local(from.v.v, runs, 0));
        dk.emplace_back(n, x.kv_heads, x.dim, x.seed + 4, zero);
        dv.emplace_back(n, x.kv_heads, x.value_dim, x.seed + 5, zero);
      }
    }

    /// Rounds the outputs of these heads to T and computes delta = dout . out, once all forward passes are through.
    void close_forward(sp::heads const& h) {
      for (std::size_t p = 0; p < q.size(); ++p) {
        auto const& o = out[p].v;
        for (index_t i = 0; i < o.extent(0); ++i)
          for (index_t g = h.q_begin; g < h.q_end(); ++g) {
            A sum = 0;
            for (index_t e = 0; e < o.extent(2); ++e) {
              out_t[p].v(i, g, e) = T(o(i, g, e));
              sum = std::fma(A(dout[p].v(i, g, e)), o(i, g, e), sum); // the same bits whatever the strides
            }
            delta[p][static_cast<std::size_t>(i * o.extent(1) + g)] = sum;
          }
      }
    }

    void collect(cutting const& c, outcome<A>& r) const {
      for (std::size_t p = 0; p < q.size(); ++p) {
        spread(out[p].v, c.q[p], r.out);
        spread(dq[p].v, c.q[p], r.dq);
        sp::view<A const, 3> l(lse[p].data(), {out[p].v.extent(0), out[p].v.extent(1), 1});
        spread(l, c.q[p], r.lse);
      }
      for (std::size_t p = 0; p < k.size(); ++p) {
        spread(dk[p].v, c.k[p], r.dk);
        spread(dv[p].v, c.k[p], r.dv);
      }
    }
    template <class View>
    static void spread(View const& v, std::vector<sp::run> const& runs, std::vector<A>& global) {
      index_t row = 0;
      for (auto const& x : runs)
        for (index_t i = 0; i < x.count; ++i, ++row)
          for (index_t h = 0; h < v.extent(1); ++h)
            for (index_t d = 0; d < v.extent(2); ++d)
              global[static_cast<std::size_t>((x.at(i) * v.extent(1) + h) * v.extent(2) + d)] = v(row, h, d);
    }
  };

  strided_tensor<T> local(sp::view<T, 3> const& global, std::vector<sp::run> const& runs, unsigned order) const {
    strided_tensor<T> t(sp::count_of(runs), global.extent(1), global.extent(2), order + set.seed, T(0));
    index_t row = 0;
    for (auto const& r : runs)
      for (index_t i = 0; i < r.count; ++i, ++row)
        for (index_t h = 0; h < global.extent(1); ++h)
          for (index_t d = 0; d < global.extent(2); ++d) t.v(row, h, d) = global(r.at(i), h, d);
    return t;
  }

  /// One table of the runs of the given parts, in document order.
  static std::vector<sp::placed_run> table(std::vector<std::vector<sp::run>> const& runs, std::size_t from, std::size_t to) {
    std::vector<sp::placed_run> out;
    for (std::size_t p = from; p < to; ++p)
      for (auto const& x : sp::place(runs[p], static_cast<int>(p - from))) out.push_back(x);
    std::sort(out.begin(), out.end(), [](auto const& a, auto const& b) { return a.positions.begin < b.positions.begin; });
    return out;
  }

  /// A share of the heads: this part of their tensors.
  static auto of_queries(sp::heads const& h) {
    return [&h](auto const& x) { return x.narrow(1, h.q_begin, h.q_count); };
  }
  static auto of_keys(sp::heads const& h) {
    return [&h](auto const& x) { return x.narrow(1, h.kv_begin, h.kv_count); };
  }
  auto rows_of(locals& p, sp::heads const& h, std::vector<A>& x, std::size_t part) const {
    return of_queries(h)(sp::view<A, 2>(x.data(), {p.q[part].v.extent(0), set.q_heads}));
  }

  template <class Backend>
  void run_share(Backend const& b, cutting const& c, locals& p, sp::call_params const& n, sp::allocator& memory) const {
    auto const saved = forward_share(b, c, p, n, memory);
    p.close_forward(n.heads);
    backward_share(b, c, n, memory, gradients(p, n.heads), saved);
  }

  template <class Backend>
  auto forward_share(Backend const& b, cutting const& c, locals& p, sp::call_params const& n, sp::allocator& memory) const {
    auto const& h = n.heads;
    auto const qs = of_queries(h);
    auto const ks = of_keys(h);
    std::size_t const parts = c.k.size();
    std::vector<sp::kv_views<T>> keys;
    std::vector<typename Backend::saved> saved;
    for (std::size_t s = 0; s < parts; ++s) keys.push_back({ks(p.k[s].v), ks(p.v[s].v)});
    auto all = std::span<sp::kv_views<T> const>(keys);
    for (std::size_t r = 0; r < c.q.size(); ++r) {
      sp::attention_state<T> state{qs(p.out[r].v), rows_of(p, h, p.lse[r], r)};
      for (std::size_t s = 0; s < (c.rotate ? parts : 1); ++s) {
        auto k_table = c.rotate ? table(c.k, s, s + 1) : table(c.k, 0, parts);
        auto plan = b.prepare({table(c.q, r, r + 1), k_table, mask});
        saved.push_back(b.template forward<T>(plan, memory, n, qs(p.q[r].v), c.rotate ? all.subspan(s, 1) : all, state));
      }
    }
    return saved;
  }

  /// What backward is given for each part: its gradient, or without it, where another call has it.
  struct gradient_lists {
    std::vector<sp::query_grad<T>> wanted, silent;
    std::vector<sp::key_grad<T>> wanted_keys, silent_keys;
  };
  gradient_lists gradients(locals& p, sp::heads const& h) const {
    auto const qs = of_queries(h);
    auto const ks = of_keys(h);
    gradient_lists g;
    for (std::size_t r = 0; r < p.q.size(); ++r) {
      g.wanted.push_back({qs(p.q[r].v), qs(p.out_t[r].v), qs(p.dout[r].v), rows_of(p, h, p.lse[r], r),
                          rows_of(p, h, p.delta[r], r), qs(p.dq[r].v)});
      g.silent.push_back(g.wanted.back());
      g.silent.back().dq = {};
    }
    for (std::size_t s = 0; s < p.k.size(); ++s) {
      g.wanted_keys.push_back({ks(p.k[s].v), ks(p.v[s].v), ks(p.dk[s].v), ks(p.dv[s].v)});
      g.silent_keys.push_back({ks(p.k[s].v), ks(p.v[s].v), {}, {}});
    }
    return g;
  }

  template <class Backend>
  void backward_share(Backend const& b, cutting const& c, sp::call_params const& n, sp::allocator& memory,
                      gradient_lists const& g, std::vector<typename Backend::saved> const& saved) const {
    std::size_t const q_parts = c.q.size(), k_parts = c.k.size();
    using queries = std::span<sp::query_grad<T> const>;
    using key_list = std::span<sp::key_grad<T> const>;
    if (c.rotate || q_parts == 1) {
      for (std::size_t r = 0; r < q_parts; ++r)
        for (std::size_t s = 0; s < k_parts; ++s) {
          auto plan = b.prepare({table(c.q, r, r + 1), table(c.k, s, s + 1), mask});
          b.template backward<T>(plan, memory, n, queries(g.wanted).subspan(r, 1), key_list(g.wanted_keys).subspan(s, 1),
                                 saved[r * k_parts + s]);
        }
      return;
    } // pull: dq against everybody's keys, dk and dv against everybody's queries
    for (std::size_t r = 0; r < q_parts; ++r) {
      auto plan = b.prepare({table(c.q, r, r + 1), table(c.k, 0, k_parts), mask});
      b.template backward<T>(plan, memory, n, queries(g.wanted).subspan(r, 1), key_list(g.silent_keys), saved[r]);
    }
    for (std::size_t s = 0; s < k_parts; ++s) {
      auto plan = b.prepare({table(c.q, 0, q_parts), table(c.k, s, s + 1), mask});
      b.template backward<T>(plan, memory, n, queries(g.silent), key_list(g.wanted_keys).subspan(s, 1), saved[0]);
    }
  }
};

} // namespace backend_tests
