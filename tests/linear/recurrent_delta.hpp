// The gated delta rule as a kernel of somebody else, token by token, for tensors in any memory: all it does is work of a queue.
// Nothing is normalised; states of all tokens are kept. What a strategy does with other memory than the host's is tested with it.
#pragma once

#include <cmath>

#include <sp/linear/kernels.hpp>

namespace linear_tests {

using sp::index_t;

/// The operands of one token of a head.
template <class T, class M>
struct delta_token {
  sp::linear_call<T, 2, M> const& c;
  index_t head, key_head, t;
  T q(index_t d) const { return c.q(t, key_head, d); }
  T k(index_t d) const { return c.k(t, key_head, d); }
  T v(index_t x) const { return c.v(t, head, x); }
  T decay() const { return std::exp(c.gates[0](t, head, 0)); }
  T beta() const { return c.gates[1](t, head, 0); }
  T scale() const { return T(1 / std::sqrt(double(c.q.extent(2)))); }
  /// x (key dim, columns) becomes decay (I - beta k k^T) x
  template <class State>
  void transform(State const& x, index_t head_of_x, index_t columns) const {
    for (index_t j = 0; j < columns; ++j) {
      T along = 0;
      for (index_t d = 0; d < c.k.extent(2); ++d) along += k(d) * x(head_of_x, d, j);
      for (index_t d = 0; d < c.k.extent(2); ++d) x(head_of_x, d, j) = decay() * (x(head_of_x, d, j) - beta() * k(d) * along);
    }
  }
};
template <class T, class M>
delta_token<T, M> token(sp::linear_call<T, 2, M> const& c, index_t head, index_t t) {
  return {c, head, head / (c.v.extent(1) / c.q.extent(1)), t};
}

/// States before each token and behind the last one, and outputs.
template <class T, class M>
struct delta_forward {
  sp::linear_call<T, 2, M> c;
  sp::view<T const, 3, M> entering;
  sp::view<T, 3, M> out, leaving;
  sp::view<T, 4, M> states; // (rows + 1, value heads, key dim, value dim)
  void operator()(index_t h) const {
    index_t const n = c.q.extent(0), dim = c.q.extent(2), values = c.v.extent(2);
    for (index_t d = 0; d < dim; ++d)
      for (index_t x = 0; x < values; ++x) states(0, h, d, x) = entering.data ? entering(h, d, x) : T(0);
    for (index_t t = 0; t < n; ++t) {
      auto const now = token(c, h, t);
      sp::view<T, 3, M> const s = sp::detail::state_at(states, t + 1, 0, states.extent(1));
      for (index_t d = 0; d < dim; ++d)
        for (index_t x = 0; x < values; ++x) s(h, d, x) = states(t, h, d, x);
      now.transform(s, h, values);
      for (index_t x = 0; x < values; ++x) {
        T sum = 0;
        for (index_t d = 0; d < dim; ++d) sum += now.q(d) * (s(h, d, x) += now.beta() * now.k(d) * now.v(x));
        out(t, h, x) = now.scale() * sum;
      }
    }
    for (index_t d = 0; leaving.data && d < dim; ++d)
      for (index_t x = 0; x < values; ++x) leaving(h, d, x) = states(n, h, d, x);
  }
};

template <class T, class M>
struct delta_reduce {
  sp::linear_call<T, 2, M> c;
  sp::view<T, 3, M> m, b; // (value heads, key dim, key dim), (value heads, key dim, value dim)
  void operator()(index_t h) const {
    index_t const dim = c.q.extent(2), values = c.v.extent(2);
    for (index_t d = 0; d < dim; ++d) {
      for (index_t j = 0; m.data && j < dim; ++j) m(h, d, j) = d == j ? T(1) : T(0);
      for (index_t x = 0; b.data && x < values; ++x) b(h, d, x) = 0;
    }
    for (index_t t = 0; t < c.q.extent(0); ++t) {
      auto const now = token(c, h, t);
      if (m.data) now.transform(m, h, dim);
      if (!b.data) continue;
      now.transform(b, h, values);
      for (index_t d = 0; d < dim; ++d)
        for (index_t x = 0; x < values; ++x) b(h, d, x) += now.beta() * now.k(d) * now.v(x);
    }
  }
};

/// Of one key head. Where only `e` is wanted, states are not needed.
template <class T, class M>
struct delta_backward {
  sp::linear_call<T, 2, M> c;
  sp::linear_grad<T, 2, M> g;
  sp::view<T, 4, M> states;
  sp::view<T, 3, M> e; // (value heads, key dim, value dim): from the gradient behind the last row to that before the first one
  void operator()(index_t key_head) const {
    index_t const each = c.v.extent(1) / c.q.extent(1);
    for (index_t h = key_head * each; h < (key_head + 1) * each; ++h) head(h);
  }

private:
  void head(index_t h) const {
    index_t const dim = c.q.extent(2), values = c.v.extent(2);
    for (index_t d = 0; d < dim; ++d)
      for (index_t x = 0; x < values; ++x) e(h, d, x) = g.dleaving.data ? g.dleaving(h, d, x) : T(0);
    for (index_t t = c.q.extent(0); t-- > 0;) {
      auto const now = token(c, h, t);
      for (index_t d = 0; d < dim; ++d)
        for (index_t x = 0; x < values; ++x) {
          if (g.dq.data) g.dq(t, now.key_head, d) += now.scale() * states(t + 1, h, d, x) * g.dout(t, h, x);
          e(h, d, x) += now.scale() * now.q(d) * g.dout(t, h, x);
        }
      if (g.dv.data) rows(now, h);
      now.transform(e, h, values);
      for (index_t d = 0; g.dv.data && d < dim; ++d)
        for (index_t x = 0; x < values; ++x) g.dgates[0](t, h, 0) += e(h, d, x) * states(t, h, d, x);
    }
    for (index_t d = 0; g.dentering.data && d < dim; ++d)
      for (index_t x = 0; x < values; ++x) g.dentering(h, d, x) = e(h, d, x);
  }
  /// With e the gradient of the state behind the token: S' = a S + b k w^T, w = v - a S^T k.
  void rows(delta_token<T, M> const& now, index_t h) const {
    index_t const dim = c.q.extent(2), t = now.t;
    for (index_t x = 0; x < c.v.extent(2); ++x) {
      T along = 0, written = now.v(x);
      for (index_t d = 0; d < dim; ++d) {
        along += e(h, d, x) * now.k(d);
        written -= now.decay() * states(t, h, d, x) * now.k(d);
      }
      g.dv(t, h, x) += now.beta() * along;
      g.dgates[1](t, h, 0) += along * written;
      for (index_t d = 0; d < dim; ++d)
        g.dk(t, now.key_head, d) += now.beta() * (e(h, d, x) * written - now.decay() * states(t, h, d, x) * along);
    }
  }
};

template <class M>
struct recurrent_delta {
  using memory_type = M;
  static constexpr sp::map_form form = sp::map_form::dense;
  static constexpr int gates = 2;
  static constexpr index_t gate_width(int, index_t) { return 1; }
  template <class T>
  using saved = sp::owned<T, 4, M>;
  template <class T>
  using call = sp::linear_call<T, 2, M>;

  explicit recurrent_delta(sp::linear_options = {}) {}

  template <class T, class Q>
  void reduce(call<T> const& c, sp::linear_map<T, M> const& map, sp::context<Q> const& where) const {
    index_t const dim = c.q.extent(2), heads = c.v.extent(1);
    sp::view<T, 3, M> const m(map.m.data, {heads, dim, dim}, {map.m.stride(0), dim, 1});
    where.queue.for_each(std::array{heads}, delta_reduce<T, M>{c, m, map.b});
  }
  template <class T, class Q>
  saved<T> forward(call<T> const& c, sp::view<T const, 3, M> entering, sp::view<T, 3, M> out, sp::view<T, 3, M> leaving,
                   sp::context<Q> const& where) const {
    saved<T> s(*where.kept, states(c.shape()));
    where.queue.for_each(std::array{c.v.extent(1)}, delta_forward<T, M>{c, entering, out, leaving, s.tensor});
    return s;
  }
  template <class T, class Q>
  void backward(call<T> const& c, sp::view<T const, 3, M>, saved<T> const& s, sp::linear_grad<T, 2, M> const& g,
                sp::context<Q> const& where) const {
    sp::owned<T, 3, M> const e(*where.scratch, {c.v.extent(1), c.q.extent(2), c.v.extent(2)});
    where.queue.for_each(std::array{c.q.extent(1)}, delta_backward<T, M>{c, g, s.tensor, e.tensor});
  }
  template <class T, class Q>
  void backward_reduce(call<T> const& c, sp::view<T const, 3, M> dout, sp::view<T, 3, M> e, sp::context<Q> const& where) const {
    sp::linear_grad<T, 2, M> g{};
    g.dout = dout;
    where.queue.for_each(std::array{c.q.extent(1)}, delta_backward<T, M>{c, g, {}, e});
  }
  template <class T>
  index_t saved_bytes(sp::linear_shape const& s) const {
    sp::basic_byte_counter<M> bytes;
    saved<T>(bytes, states(s));
    return bytes.bytes();
  }
  template <class T, class Q>
  index_t scratch_bytes(sp::linear_shape const& s, Q const&) const {
    sp::basic_byte_counter<M> bytes;
    sp::owned<T, 3, M>(bytes, {s.v_heads, s.key_dim, s.value_dim});
    return bytes.bytes();
  }

private:
  static std::array<index_t, 4> states(sp::linear_shape const& s) { return {s.rows + 1, s.v_heads, s.key_dim, s.value_dim}; }
};

} // namespace linear_tests
