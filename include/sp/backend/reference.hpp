// The scalar reference: attention over one block in plain loops, one query row at a time, and the backend made of it.
// It is the specification of a kernel: slow, short, every type, every feature.
#pragma once

#include <cmath>

#include <sp/backend/blockwise.hpp>
#include <sp/backend/features.hpp>

namespace sp {

/// A block_kernel. Sums run in accumulate_t.
template <class... Features>
class scalar_kernel : public detail::with_features<Features...> {
public:
  using memory_type = host_memory;
  constexpr explicit(sizeof...(Features) == 1) scalar_kernel(Features... features)
      : detail::with_features<Features...>(features...) {}

  template <class T>
  void forward(block_call<T> const& c) const {
    for (index_t h = 0; h < c.heads.q_count; ++h) {
      auto modify = score_mod_of(c, h);
      for (index_t i = 0; i < c.where.rows; ++i) forward_row(c, modify, i, h);
    }
  }

  template <class T>
  void backward(block_grad<T> const& g) const {
    for (index_t h = 0; h < g.heads.q_count; ++h) {
      auto modify = score_mod_of(g, h);
      for (index_t i = 0; i < g.where.rows; ++i) backward_row(g, modify, i, h);
    }
  }

private:
  template <class Call>
  using acc = accumulate_t<typename decltype(Call::q)::value_type>;

  template <class Call>
  auto score_mod_of(Call const& c, index_t h) const {
    return this->features_.template for_head<acc<Call>>(c.heads.q_head(h), c.where.id, c.random);
  }
  template <class X, class Y> // sum over the last dimension of x(i, h, :) y(j, g, :)
  static auto dot(X const& x, index_t i, index_t h, Y const& y, index_t j, index_t g) {
    accumulate_t<typename X::value_type> s = 0;
    for (index_t d = 0; d < x.extent(2); ++d) s += to_acc(x(i, h, d)) * to_acc(y(j, g, d));
    return s;
  }
  static index_t q_offset(block const& b, index_t i) { return b.q_pos + b.q_stride * i - b.q_origin; }
  static index_t k_offset(block const& b, index_t j) { return b.k_pos + b.k_stride * j - b.k_origin; }

  template <class Call, class ScoreMod>
  static auto score(Call const& c, ScoreMod const& modify, index_t i, index_t j, index_t h, acc<Call>& derivative) {
    using A = acc<Call>;
    A scaled = dot(c.q, i, h, c.k, j, c.heads.kv_of(h)) * A(c.scale);
    return modify(scaled, A(k_offset(c.where, j) - q_offset(c.where, i)), derivative);
  }

  template <class T, class ScoreMod>
  static void forward_row(block_call<T> const& c, ScoreMod const& modify, index_t i, index_t h) {
    using A = accumulate_t<T>;
    interval seen = c.where.keys_seen_by(i);
    index_t g = c.heads.kv_of(h), last = seen.first + seen.count;
    A most = detail::minus_infinity<A>, sum = 0, derivative = 1;
    for (index_t j = seen.first; j < last; ++j) most = std::fmax(most, score(c, modify, i, j, h, derivative));
    for (index_t e = 0; e < c.out.extent(2); ++e) c.out(i, h, e) = 0;
    c.lse(i, h) = most;
    if (seen.count == 0) return;
    auto dropout_factor = modify.dropout_of_row(q_offset(c.where, i));
    for (index_t j = seen.first; j < last; ++j) {
      A p = std::exp(score(c, modify, i, j, h, derivative) - most);
      sum += p;
      if constexpr (ScoreMod::drops) p *= dropout_factor(k_offset(c.where, j));
      for (index_t e = 0; e < c.out.extent(2); ++e) c.out(i, h, e) += p * to_acc(c.v(j, g, e));
    }
    for (index_t e = 0; e < c.out.extent(2); ++e) c.out(i, h, e) /= sum;
    c.lse(i, h) = most + std::log(sum);
  }

  template <class T, class ScoreMod>
  static void backward_row(block_grad<T> const& c, ScoreMod const& modify, index_t i, index_t h) {
    using A = accumulate_t<T>;
    interval seen = c.where.keys_seen_by(i);
    index_t g = c.heads.kv_of(h);
    A derivative = 1;
    if (detail::is_minus_infinity(c.lse(i, h))) return;
    auto dropout_factor = modify.dropout_of_row(q_offset(c.where, i));
    for (index_t j = seen.first; j < seen.first + seen.count; ++j) {
      A p = std::exp(score(c, modify, i, j, h, derivative) - c.lse(i, h)), keep = 1;
      if constexpr (ScoreMod::drops) keep = dropout_factor(k_offset(c.where, j));
      A ds = p * (keep * dot(c.dout, i, h, c.v, j, g) - c.delta(i, h)) * derivative * A(c.scale);
      for (index_t d = 0; d < c.q.extent(2); ++d) {
        if (c.dq.data) c.dq(i, h, d) += ds * to_acc(c.k(j, g, d));
        if (c.dk.data) c.dk(j, g, d) += ds * to_acc(c.q(i, h, d));
      }
      if (!c.dv.data) continue;
      for (index_t e = 0; e < c.v.extent(2); ++e) c.dv(j, g, e) += p * keep * to_acc(c.dout(i, h, e));
    }
  }
};
template <class... Features>
inline constexpr bool equal_by_features<scalar_kernel<Features...>> = true;

/// The reference backend: sp::reference{}, sp::reference{sp::softcap{30}, sp::alibi{slopes}}.
template <class... Features>
class reference : public blockwise<scalar_kernel<Features...>> {
public:
  constexpr explicit(sizeof...(Features) == 1) reference(Features... features)
      : blockwise<scalar_kernel<Features...>>(scalar_kernel<Features...>(features...)) {}
};
template <class... Features>
inline constexpr bool equal_by_features<reference<Features...>> = true;

static_assert(block_kernel<scalar_kernel<>, float> && attention_backend<reference<>, float> &&
              attention_backend<reference<>, bf16>);
static_assert(attention_backend<reference<softcap, alibi, dropout>, double> && attention_backend<reference<dropout>, fp16>);

} // namespace sp
