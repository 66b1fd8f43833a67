// Random segments for kernels of linear attention: what the kernel makes of them, whole or cut anywhere, and what the recurrence does.
// All tensors are strided and lie between canaries; numbers of all tensors come back as doubles to compare.
#pragma once

#include <algorithm>
#include <random>
#include <string>

#include <sp/linear/kernels.hpp>

#include "linear/recurrence.hpp"
#include "support/strided_tensor.hpp"

namespace linear_tests {

using sp::index_t;

enum class decays { mild, none, large, forgetting, mixed };

struct setting {
  sp::linear_shape shape{};
  decays log_decays = decays::mild;
  bool normalise = true;
  bool initial = true; ///< a state before, and a gradient of the one behind
  double largest_beta = 2;
  unsigned order = 0; ///< of memory, see strided_tensor
  unsigned seed = 1;
  sp::linear_options options{};
};

/// Numbers of every tensor that a forward and a backward pass write, by name.
struct numbers {
  std::vector<double> out, leaving, dq, dk, dv, dg, db, dentering;

  template <class F>
  static void each(F&& f) {
    f("out", &numbers::out), f("leaving", &numbers::leaving), f("dq", &numbers::dq), f("dk", &numbers::dk);
    f("dv", &numbers::dv), f("dg", &numbers::dg), f("db", &numbers::db), f("dentering", &numbers::dentering);
  }
  friend bool operator==(numbers const&, numbers const&) = default;
};

/// The largest difference over the largest number of the tensor that is expected; NaN if there is one.
inline double difference(std::vector<double> const& x, std::vector<double> const& expected) {
  double largest = 0, worst = x.size() == expected.size() ? 0 : 1e300;
  for (double e : expected) largest = std::max(largest, std::abs(e));
  for (std::size_t i = 0; i < x.size() && i < expected.size(); ++i) {
    double const d = std::abs(x[i] - expected[i]);
    if (!(d <= worst)) worst = d;
  }
  return largest > 0 ? worst / largest : worst;
}

template <class K, class T>
struct problem {
  using A = sp::accumulate_t<T>;
  using rows_of = support::strided_tensor<T>;
  using sums_of = support::strided_tensor<A>;
  static constexpr int gates = K::gates;
  static constexpr bool delta = K::form == sp::map_form::dense;

  setting set;
  sp::linear_shape s;
  K kernel;
  rows_of q, k, v, dout;
  std::vector<sums_of> gate;
  sums_of entering, dleaving;

  explicit problem(setting const& x)
      : set(x), s(x.shape), kernel(options(x)), q(random(s.k_heads, s.key_dim, 1)), k(random(s.k_heads, s.key_dim, 2)),
        v(random(s.v_heads, s.value_dim, 3)), dout(random(s.v_heads, s.value_dim, 4)), entering(state(5)), dleaving(state(6)) {
    for (int i = 0; i < gates; ++i) gate.push_back(i == 0 ? log_decays() : betas());
  }

  static sp::linear_options options(setting const& x) {
    sp::linear_options o = x.options;
    o.normalise = x.normalise;
    return o;
  }
  double scale() const { return set.options.scale ? *set.options.scale : 1 / std::sqrt(double(s.key_dim)); }

  /// The kernel over segments that begin at the given rows, the first of them 0; states and their gradients go from one to the next.
  template <class Q = sp::inline_queue>
  numbers run(std::vector<index_t> cuts = {0}, Q const& queue = {}) const {
    sp::pool scratch, kept;
    sp::context<Q> const where(queue, scratch, kept);
    cuts.push_back(s.rows);
    std::size_t const parts = cuts.size() - 1;
    rows_of out(s.rows, s.v_heads, s.value_dim, set.order, T(7));
    std::vector<sums_of> states;
    std::vector<sp::linear_saved_t<K, T>> saved;
    for (std::size_t i = 0; i < parts; ++i) {
      states.push_back(empty_state());
      saved.push_back(kernel.template forward<T>(call(cuts[i], cuts[i + 1]), before(states, i),
                                                 narrow(out.v, cuts[i], cuts[i + 1]), states.back().v, where));
    }
    gradients d(*this);
    sums_of later = empty_state();
    sp::view<A const, 3> dstate = set.initial ? sp::view<A const, 3>(dleaving.v) : sp::view<A const, 3>{};
    for (std::size_t i = parts; i-- > 0;) {
      sums_of earlier = empty_state();
      kernel.template backward<T>(call(cuts[i], cuts[i + 1]), before(states, i), saved[i],
                                  d.narrowed(cuts[i], cuts[i + 1], dstate, earlier.v), where);
      later.data.swap(earlier.data);
      std::swap(later.v, earlier.v);
      dstate = later.v;
    }
    intact = out.intact() && d.intact();
    return d.with(values(out.v), values(states.back().v), values(later.v));
  }
  mutable bool intact = true; ///< nothing was written beside the tensors of the last run

  /// The recurrence, in R.
  template <class R = double>
  numbers expected() const {
    numbers r;
    auto const size = [](index_t a, index_t b, index_t c) { return std::size_t(a * b * c); };
    r.out.resize(size(s.rows, s.v_heads, s.value_dim));
    r.dv = r.out;
    r.leaving.resize(size(s.v_heads, s.key_dim, s.value_dim));
    r.dentering = r.leaving;
    r.dq.resize(size(s.rows, s.k_heads, s.key_dim));
    r.dk = r.dq;
    r.dg.resize(gates > 0 ? size(s.rows, s.v_heads, K::gate_width(0, s.key_dim)) : 0);
    r.db.resize(delta ? size(s.rows, s.v_heads, 1) : 0);
    for (index_t h = 0; h < s.v_heads; ++h) one_head<R>(h, r);
    return r;
  }

  sp::linear_call<T, gates> call(index_t begin, index_t end) const {
    sp::linear_call<T, gates> c{narrow(q.read(), begin, end), narrow(k.read(), begin, end), narrow(v.read(), begin, end), {}};
    for (std::size_t i = 0; i < gate.size(); ++i) c.gates[i] = narrow(gate[i].read(), begin, end);
    return c;
  }
  sums_of empty_state() const { return sums_of(s.v_heads, s.key_dim, s.value_dim, set.order, A(9)); }
  sp::view<A const, 3> start() const { return set.initial ? entering.read() : sp::view<A const, 3>{}; }

  /// Numbers in row-major order.
  template <class E>
  static std::vector<double> values(sp::view<E, 3> const& x) {
    std::vector<double> r;
    for (index_t i = 0; i < x.extent(0); ++i)
      for (index_t j = 0; j < x.extent(1); ++j)
        for (index_t d = 0; d < x.extent(2); ++d) r.push_back(double(x(i, j, d)));
    return r;
  }
  template <class E>
  static sp::view<E, 3> narrow(sp::view<E, 3> const& x, index_t begin, index_t end) {
    return x.rows(begin, end - begin);
  }

  /// What value head h is given, for the recurrence.
  template <class R = double>
  head_inputs<R> inputs(index_t h) const {
    index_t const kh = key_head(h);
    head_inputs<R> in{rows_of_head<R>(q, kh, s.key_dim),
                      rows_of_head<R>(k, kh, s.key_dim),
                      rows_of_head<R>(v, h, s.value_dim),
                      table<R>(std::size_t(s.rows), std::size_t(s.key_dim)),
                      {},
                      one_state<R>(entering, h)};
    if (gates > 0) in.g = rows_of_head<R>(gate[0], h, s.key_dim);
    if (delta) in.b = rows_of_head<R>(gate[1], h, 1).x;
    return in;
  }
  /// The gradients that come to it.
  template <class R = double>
  head_outputs<R> output_gradients(index_t h) const {
    return {rows_of_head<R>(dout, h, s.value_dim), one_state<R>(dleaving, h)};
  }
  index_t key_head(index_t h) const { return h / (s.v_heads / s.k_heads); }

private:
  struct gradients {
    problem const* of;
    sums_of dq, dk, dv;
    std::vector<sums_of> dgate;
    explicit gradients(problem const& p)
        : of(&p), dq(p.s.rows, p.s.k_heads, p.s.key_dim, p.set.order, A(0)),
          dk(p.s.rows, p.s.k_heads, p.s.key_dim, p.set.order, A(0)), dv(p.s.rows, p.s.v_heads, p.s.value_dim, p.set.order, A(0)) {
      for (int i = 0; i < gates; ++i) dgate.emplace_back(p.s.rows, p.s.v_heads, K::gate_width(i, p.s.key_dim), p.set.order, A(0));
    }
    sp::linear_grad<T, gates> narrowed(index_t begin, index_t end, sp::view<A const, 3> from_behind, sp::view<A, 3> to_before) {
      sp::linear_grad<T, gates> g{narrow(of->dout.read(), begin, end), from_behind, {}, {}, {}, {}, {}};
      g.dq = narrow(dq.v, begin, end), g.dk = narrow(dk.v, begin, end), g.dv = narrow(dv.v, begin, end);
      for (std::size_t i = 0; i < dgate.size(); ++i) g.dgates[i] = narrow(dgate[i].v, begin, end);
      g.dentering = to_before;
      return g;
    }
    bool intact() const {
      bool all = dq.intact() && dk.intact() && dv.intact();
      for (auto const& x : dgate) all = all && x.intact();
      return all;
    }
    numbers with(std::vector<double> out, std::vector<double> leaving, std::vector<double> dentering) const {
      numbers r{std::move(out), std::move(leaving), values(dq.v), values(dk.v), values(dv.v), {}, {}, std::move(dentering)};
      if (gates > 0) r.dg = values(dgate.front().v);
      if (delta) r.db = values(dgate.back().v);
      return r;
    }
  };

  sp::view<A const, 3> before(std::vector<sums_of> const& states, std::size_t i) const {
    return i == 0 ? start() : states[i - 1].read();
  }

  /// One head; a width of 1 is repeated.
  template <class R, class E>
  table<R> rows_of_head(support::strided_tensor<E> const& x, index_t head, index_t width) const {
    table<R> t(std::size_t(s.rows), std::size_t(width));
    for (index_t i = 0; i < s.rows; ++i)
      for (index_t d = 0; d < width; ++d) t(std::size_t(i), std::size_t(d)) = R(x.v(i, head, x.v.extent(2) == 1 ? 0 : d));
    return t;
  }
  template <class R>
  table<R> one_state(sums_of const& x, index_t h) const {
    table<R> t(std::size_t(s.key_dim), std::size_t(s.value_dim));
    for (std::size_t i = 0; i < t.x.size() && set.initial; ++i)
      t.x[i] = R(x.v(h, index_t(i) / s.value_dim, index_t(i) % s.value_dim));
    return t;
  }

  template <class R>
  void one_head(index_t h, numbers& r) const {
    index_t const kh = key_head(h);
    recurrence<R> const all(inputs<R>(h), set.normalise, R(scale()));
    auto const d = all.backward(output_gradients<R>(h));
    auto add = [](table<R> const& from, std::vector<double>& to, index_t heads, index_t head, index_t width) {
      for (std::size_t i = 0; i < from.x.size(); ++i) {
        index_t const row = index_t(i / from.columns), column = width == 1 ? 0 : index_t(i % from.columns);
        to[std::size_t((row * heads + head) * width + column)] += double(from.x[i]);
      }
    };
    auto put = [&](table<R> const& from, std::vector<double>& to) {
      for (std::size_t i = 0; i < from.x.size(); ++i) to[std::size_t(h) * from.x.size() + i] = double(from.x[i]);
    };
    add(all.result.out, r.out, s.v_heads, h, s.value_dim);
    add(d.q, r.dq, s.k_heads, kh, s.key_dim);
    add(d.k, r.dk, s.k_heads, kh, s.key_dim);
    add(d.v, r.dv, s.v_heads, h, s.value_dim);
    if (gates > 0) add(d.g, r.dg, s.v_heads, h, K::gate_width(0, s.key_dim));
    for (std::size_t t = 0; delta && t < d.b.size(); ++t) r.db[t * std::size_t(s.v_heads) + std::size_t(h)] = double(d.b[t]);
    put(all.result.s, r.leaving);
    put(d.s, r.dentering);
  }

  template <class E>
  support::strided_tensor<E> filled(index_t rows, index_t heads, index_t width, unsigned which, auto&& draw) const {
    support::strided_tensor<E> x(rows, heads, width, set.order, E(0.f));
    std::mt19937 gen(set.seed * 100 + which);
    for (index_t i = 0; i < rows; ++i)
      for (index_t h = 0; h < heads; ++h)
        for (index_t d = 0; d < width; ++d) x.v(i, h, d) = E(float(draw(gen)));
    return x;
  }
  rows_of random(index_t heads, index_t width, unsigned which) const {
    return filled<T>(s.rows, heads, width, which, [n = std::normal_distribution<double>()](auto& gen) mutable { return n(gen); });
  }
  sums_of state(unsigned which) const {
    return filled<A>(s.v_heads, s.key_dim, s.value_dim, which,
                     [n = std::normal_distribution<double>()](auto& gen) mutable { return n(gen); });
  }
  sums_of betas() const {
    return filled<A>(s.rows, s.v_heads, 1, 7,
                     [&, n = std::uniform_real_distribution<double>()](auto& gen) mutable { return set.largest_beta * n(gen); });
  }
  sums_of log_decays() const {
    constexpr double forget = -std::numeric_limits<double>::infinity();
    return filled<A>(s.rows, s.v_heads, K::gate_width(0, s.key_dim), 8,
                     [&, n = std::uniform_real_distribution<double>()](auto& gen) mutable {
                       double const x = n(gen), some = -0.2 * n(gen);
                       switch (set.log_decays) {
                       case decays::none:
                         return 0.0;
                       case decays::large:
                         return x < 0.2 ? -1e4 : some;
                       case decays::forgetting:
                         return x < 0.1 ? forget : some;
                       case decays::mixed:
                         return x < 0.05 ? forget : x < 0.1 ? -1e4 : x < 0.2 ? 0.0 : x < 0.4 ? -60.0 : some;
                       case decays::mild:
                         break;
                       }
                       return some;
                     });
  }
};

} // namespace linear_tests
