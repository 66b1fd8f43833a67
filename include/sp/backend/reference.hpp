// The scalar reference: attention over one block in plain loops, one query row at a time, and the backend made of it.
// It is the specification of a kernel: slow, short, every type, every feature, every memory that a queue works on.
#pragma once

#include <sp/backend/blockwise.hpp>
#include <sp/backend/features.hpp>

namespace sp {

namespace detail {

/// One q head of a call, block_call or block_grad, and how it modifies scores.
template <class Call, class ScoreMod>
struct scalar_head {
  using A = accumulate_t<typename decltype(Call::q)::value_type>;
  Call c;
  ScoreMod modify;
  index_t h;

  template <class X, class Y> // sum over the last dimension of x(i, h, :) y(j, g, :)
  SP_BOTH A dot(X const& x, index_t i, Y const& y, index_t j, index_t g) const {
    A s = 0;
    for (index_t d = 0; d < x.extent(2); ++d) s += to_acc(x(i, h, d)) * to_acc(y(j, g, d));
    return s;
  }
  SP_BOTH index_t q_offset(index_t i) const { return c.where.q_pos + c.where.q_stride * i - c.where.q_origin; }
  SP_BOTH index_t k_offset(index_t j) const { return c.where.k_pos + c.where.k_stride * j - c.where.k_origin; }

  SP_BOTH A score(index_t i, index_t j, A& derivative) const {
    A scaled = dot(c.q, i, c.k, j, c.heads.kv_of(h)) * A(c.scale);
    return modify(scaled, A(k_offset(j) - q_offset(i)), derivative);
  }
  /// The counter of a random key is read here, where the work runs.
  SP_BOTH ScoreMod drawn() const {
    ScoreMod m = modify;
    if constexpr (ScoreMod::drops)
      if (c.random.step) m.site = site_key(c.random, c.where.id, c.heads.q_head(h));
    return m;
  }
};

/// Query row i of the head.
template <class Call, class ScoreMod>
struct scalar_forward : scalar_head<Call, ScoreMod> {
  using head = scalar_head<Call, ScoreMod>;
  using head::c, head::h;
  using typename head::A;

  SP_BOTH void operator()(index_t i) const {
    interval seen = c.where.keys_seen_by(i);
    index_t g = c.heads.kv_of(h), last = seen.first + seen.count;
    A most = minus_infinity<A>, sum = 0, derivative = 1;
    for (index_t j = seen.first; j < last; ++j) most = max_of(most, this->score(i, j, derivative));
    for (index_t e = 0; e < c.out.extent(2); ++e) c.out(i, h, e) = 0;
    c.lse(i, h) = most;
    if (seen.count == 0) return;
    auto const drawn = this->drawn();
    auto dropout_factor = drawn.dropout_of_row(this->q_offset(i));
    for (index_t j = seen.first; j < last; ++j) {
      A p = exp_of(this->score(i, j, derivative) - most);
      sum += p;
      if constexpr (ScoreMod::drops) p *= dropout_factor(this->k_offset(j));
      for (index_t e = 0; e < c.out.extent(2); ++e) c.out(i, h, e) += p * to_acc(c.v(j, g, e));
    }
    for (index_t e = 0; e < c.out.extent(2); ++e) c.out(i, h, e) /= sum;
    c.lse(i, h) = most + log_of(sum);
  }
};

/// All query rows of the head in turn, because they add to the same keys.
template <class Call, class ScoreMod>
struct scalar_backward : scalar_head<Call, ScoreMod> {
  using head = scalar_head<Call, ScoreMod>;
  using head::c, head::h;
  using typename head::A;

  SP_BOTH void operator()(index_t) const {
    for (index_t i = 0; i < c.where.rows; ++i) row(i);
  }
  SP_BOTH void row(index_t i) const {
    interval seen = c.where.keys_seen_by(i);
    index_t g = c.heads.kv_of(h);
    A derivative = 1;
    if (is_minus_infinity(c.lse(i, h))) return;
    auto const drawn = this->drawn();
    auto dropout_factor = drawn.dropout_of_row(this->q_offset(i));
    for (index_t j = seen.first; j < seen.first + seen.count; ++j) {
      A p = exp_of(this->score(i, j, derivative) - c.lse(i, h)), keep = 1;
      if constexpr (ScoreMod::drops) keep = dropout_factor(this->k_offset(j));
      A ds = p * (keep * this->dot(c.dout, i, c.v, j, g) - c.delta(i, h)) * derivative * A(c.scale);
      for (index_t d = 0; d < c.q.extent(2); ++d) {
        if (c.dq.data) c.dq(i, h, d) += ds * to_acc(c.k(j, g, d));
        if (c.dk.data) c.dk(j, g, d) += ds * to_acc(c.q(i, h, d));
      }
      if (!c.dv.data) continue;
      for (index_t e = 0; e < c.v.extent(2); ++e) c.dv(j, g, e) += p * keep * to_acc(c.dout(i, h, e));
    }
  }
};

} // namespace detail

/// A block_kernel for tensors in memory M, on any queue of it. Sums run in accumulate_t.
template <class M, class... Features>
class basic_scalar_kernel : public detail::with_features<Features...> {
public:
  using memory_type = M;
  constexpr explicit(sizeof...(Features) == 1) basic_scalar_kernel(Features... features)
      : detail::with_features<Features...>(features...) {}

  template <class T, queue Queue = inline_queue>
    requires(std::same_as<typename Queue::memory_type, M>)
  void forward(block_call<T, M> const& c, Queue const& queue = {}) const {
    for (index_t h = 0; h < c.heads.q_count; ++h) queue.for_each(std::array{c.where.rows}, on_head<detail::scalar_forward>(c, h));
  }
  template <class T, queue Queue = inline_queue>
    requires(std::same_as<typename Queue::memory_type, M>)
  void backward(block_grad<T, M> const& g, Queue const& queue = {}) const {
    for (index_t h = 0; h < g.heads.q_count; ++h) queue.for_each(std::array{index_t{1}}, on_head<detail::scalar_backward>(g, h));
  }

private:
  template <template <class, class> class Body, class Call>
  auto on_head(Call const& c, index_t h) const {
    using A = accumulate_t<typename decltype(Call::q)::value_type>;
    random_key const value{c.random.seed, c.random.layer}; // a counter may be in memory that the host cannot read
    auto modify = this->features_.template for_head<A>(c.heads.q_head(h), c.where.id, value);
    return Body<Call, decltype(modify)>{{c, modify, h}};
  }
};

/// The same for tensors of the host.
template <class... Features>
class scalar_kernel : public basic_scalar_kernel<host_memory, Features...> {
public:
  constexpr explicit(sizeof...(Features) == 1) scalar_kernel(Features... features)
      : basic_scalar_kernel<host_memory, Features...>(features...) {}
};

/// The reference backend for tensors in memory M.
template <class M, class... Features>
class basic_reference : public blockwise<basic_scalar_kernel<M, Features...>> {
public:
  constexpr explicit(sizeof...(Features) == 1) basic_reference(Features... features)
      : blockwise<basic_scalar_kernel<M, Features...>>(basic_scalar_kernel<M, Features...>(features...)) {}
};

/// The reference backend: sp::reference{}, sp::reference{sp::softcap{30}, sp::alibi{slopes}}.
template <class... Features>
class reference : public blockwise<scalar_kernel<Features...>> {
public:
  constexpr explicit(sizeof...(Features) == 1) reference(Features... features)
      : blockwise<scalar_kernel<Features...>>(scalar_kernel<Features...>(features...)) {}
};

template <class M, class... Features>
inline constexpr bool equal_by_features<basic_scalar_kernel<M, Features...>> = true;
template <class... Features>
inline constexpr bool equal_by_features<scalar_kernel<Features...>> = true;
template <class M, class... Features>
inline constexpr bool equal_by_features<basic_reference<M, Features...>> = true;
template <class... Features>
inline constexpr bool equal_by_features<reference<Features...>> = true;

static_assert(block_kernel<scalar_kernel<>, float> && attention_backend<reference<>, float> &&
              attention_backend<reference<>, bf16>);
static_assert(attention_backend<reference<softcap, alibi, dropout>, double> && attention_backend<reference<dropout>, fp16>);

} // namespace sp
