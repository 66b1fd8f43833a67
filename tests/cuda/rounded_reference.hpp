// The reference kernel with the roundings that tensor cores ask for: probabilities and gradients of scores become elements before they are
// multiplied. What another kernel of this precision may be off by is measured with it.
#pragma once

#include <sp/reference.hpp>

namespace backend_tests {

template <class Call, class ScoreMod>
struct rounded_forward : sp::detail::scalar_head<Call, ScoreMod> {
  using head = sp::detail::scalar_head<Call, ScoreMod>;
  using head::c, head::h, head::modify;
  using typename head::A;
  using T = typename decltype(Call::q)::value_type;

  void operator()(sp::index_t i) const {
    auto const seen = c.where.keys_seen_by(i);
    sp::index_t const g = c.heads.kv_of(h), last = seen.first + seen.count;
    A most = sp::detail::minus_infinity<A>, sum = 0, unused = 1;
    for (sp::index_t j = seen.first; j < last; ++j) most = std::max(most, this->score(i, j, unused));
    for (sp::index_t e = 0; e < c.out.extent(2); ++e) c.out(i, h, e) = 0;
    c.lse(i, h) = most;
    if (seen.count == 0) return;
    auto factor = modify.dropout_of_row(this->q_offset(i));
    for (sp::index_t j = seen.first; j < last; ++j) {
      A p = std::exp(this->score(i, j, unused) - most);
      sum += p;
      if constexpr (ScoreMod::drops) p *= factor(this->k_offset(j));
      for (sp::index_t e = 0; e < c.out.extent(2); ++e) c.out(i, h, e) += A(T(p)) * A(c.v(j, g, e));
    }
    for (sp::index_t e = 0; e < c.out.extent(2); ++e) c.out(i, h, e) /= sum;
    c.lse(i, h) = most + std::log(sum);
  }
};

template <class Call, class ScoreMod>
struct rounded_backward : sp::detail::scalar_head<Call, ScoreMod> {
  using head = sp::detail::scalar_head<Call, ScoreMod>;
  using head::c, head::h, head::modify;
  using typename head::A;
  using T = typename decltype(Call::q)::value_type;

  void operator()(sp::index_t) const {
    for (sp::index_t i = 0; i < c.where.rows; ++i) row(i);
  }
  void row(sp::index_t i) const {
    auto const seen = c.where.keys_seen_by(i);
    sp::index_t const g = c.heads.kv_of(h);
    A derivative = 1;
    if (sp::detail::is_minus_infinity(c.lse(i, h))) return;
    auto factor = modify.dropout_of_row(this->q_offset(i));
    for (sp::index_t j = seen.first; j < seen.first + seen.count; ++j) {
      A const p = std::exp(this->score(i, j, derivative) - c.lse(i, h));
      A keep = 1;
      if constexpr (ScoreMod::drops) keep = factor(this->k_offset(j));
      A const ds = A(T(p * (keep * this->dot(c.dout, i, c.v, j, g) - c.delta(i, h)) * derivative)) * A(c.scale);
      for (sp::index_t d = 0; d < c.q.extent(2); ++d) {
        if (c.dq.data) c.dq(i, h, d) += ds * A(c.k(j, g, d));
        if (c.dk.data) c.dk(j, g, d) += ds * A(c.q(i, h, d));
      }
      for (sp::index_t e = 0; c.dv.data && e < c.v.extent(2); ++e) c.dv(j, g, e) += A(T(p * keep)) * A(c.dout(i, h, e));
    }
  }
};

template <class... Features>
class rounded_kernel : public sp::detail::with_features<Features...> {
public:
  using memory_type = sp::host_memory;
  explicit rounded_kernel(Features... features) : sp::detail::with_features<Features...>(features...) {}

  template <class T>
  void forward(sp::block_call<T> const& c) const {
    for (sp::index_t h = 0; h < c.heads.q_count; ++h)
      sp::inline_queue().for_each(std::array{c.where.rows}, on<rounded_forward>(c, h));
  }
  template <class T>
  void backward(sp::block_grad<T> const& g) const {
    for (sp::index_t h = 0; h < g.heads.q_count; ++h) on<rounded_backward>(g, h)(0);
  }

private:
  template <template <class, class> class Body, class Call>
  auto on(Call const& c, sp::index_t h) const {
    auto modify = this->features_.template for_head<float>(c.heads.q_head(h), c.where.id, c.random);
    return Body<Call, decltype(modify)>{{c, modify, h}};
  }
};

template <class... Features>
class rounded_reference : public sp::blockwise<rounded_kernel<Features...>> {
public:
  explicit rounded_reference(Features... features)
      : sp::blockwise<rounded_kernel<Features...>>(rounded_kernel<Features...>(features...)) {}
};

} // namespace backend_tests
