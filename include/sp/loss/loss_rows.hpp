// What gather_loss does with a row, as work of any queue: its loss in the sum, its gradient, and whether it may be.
// A row counts unless its label is ignored or its weight is 0; of one that does not, no loss is read and the gradient is 0.
#pragma once

#include <sp/core/elementwise.hpp>

namespace sp::detail {

/// A sum of losses and how many they are.
struct counted_loss {
  double sum = 0, count = 0;
  SP_BOTH friend constexpr counted_loss operator+(counted_loss a, counted_loss b) { return {a.sum + b.sum, a.count + b.count}; }
};
/// The same with what they weigh.
struct weighed_loss {
  double sum = 0, count = 0, weight = 0;
  SP_BOTH friend constexpr weighed_loss operator+(weighed_loss a, weighed_loss b) {
    return {a.sum + b.sum, a.count + b.count, a.weight + b.weight};
  }
};
/// What rows weigh: each 1, or as the caller says. The numbers of the first are those of a program that knows no weights.
struct equal_weights {
  using sum = counted_loss;
  static constexpr bool given = false;
  SP_BOTH static constexpr bool count(index_t) { return true; }
  SP_BOTH static counted_loss times(index_t, double loss) { return {loss, 1}; }
  SP_BOTH static double scaled(index_t, double scale) { return scale; }
};
template <class Weight, class M>
struct given_weights {
  using sum = weighed_loss;
  static constexpr bool given = true;
  view<Weight const, 1, M> weights;
  SP_BOTH double of(index_t t) const { return double(to_acc(weights(t))); }
  SP_BOTH bool count(index_t t) const { return of(t) != 0; }
  SP_BOTH weighed_loss times(index_t t, double loss) const { return {of(t) * loss, 1, of(t)}; }
  SP_BOTH double scaled(index_t t, double scale) const { return scale * of(t); }
};
/// The loss of row t; of a row that does not count only label and weight are read.
template <class T, class Label, class M, class Weights>
struct loss_term {
  view<T, 1, M> losses;
  view<Label, 1, M> labels;
  index_t ignore;
  Weights weights;
  SP_BOTH typename Weights::sum operator()(index_t, index_t t) const {
    if (index_t(labels(t)) == ignore || !weights.count(t)) return {};
    return weights.times(t, double(to_acc(losses(t))));
  }
};
/// Sum and count twice, because one is summed over ranks in place.
template <class M>
struct store_loss {
  view<double, 1, M> to; // the numbers of a queued_loss
  SP_BOTH void operator()(index_t, counted_loss const& x) const { to(0) = to(3) = x.sum, to(1) = to(4) = x.count; }
  SP_BOTH void operator()(index_t i, weighed_loss const& x) const {
    operator()(i, counted_loss{x.sum, x.count});
    to(2) = x.weight;
  }
};
/// The loss and what backward multiplies by, from the sums over ranks.
template <class M>
struct scaled_loss {
  view<double, 1, M> to; // the numbers of a queued_loss
  double contract;
  bool divided, weighted;
  SP_BOTH void operator()(index_t) const {
    double const n = to(weighted ? 2 : 4), inverse = !divided ? 1 : n != 0 ? 1 / n : 0; // nothing counts: loss 0, gradient 0
    to(3) *= inverse;
    to(5) = contract * inverse;
  }
};

/// The gradient of a row that counts and weighs 1: a number, or one that the queue has.
struct known_gradient {
  double scale;
  SP_BOTH double operator()() const { return scale; }
};
template <class M>
struct queued_gradient {
  view<double const, 1, M> scale; // (1)
  double upstream;
  SP_BOTH double operator()() const { return upstream * scale(0); }
};
template <class T, class Label, class M, class Gradient, class Weights>
struct loss_gradient {
  view<T, 1, M> dlosses;
  view<Label, 1, M> labels;
  index_t ignore;
  Gradient gradient;
  Weights weights;
  SP_BOTH void operator()(index_t i) const { operator()(0, i); }
  /// The same as the term of a sum: 1 for a row that counts.
  SP_BOTH index_t operator()(index_t, index_t t) const {
    bool const counts = index_t(labels(t)) != ignore && weights.count(t);
    dlosses(t) = counts ? from_acc<T>(static_cast<accumulate_t<T>>(weights.scaled(t, gradient()))) : T{};
    return counts;
  }
};
/// Where a row that counts has a loss, or a weight, that is not finite.
template <class T, class Label, class M, class Weights>
struct illegal_loss {
  view<T const, 1, M> values;
  view<Label const, 1, M> labels;
  index_t ignore;
  Weights weights;
  SP_BOTH first_place operator()(index_t, index_t t) const {
    return index_t(labels(t)) != ignore && weights.count(t) && !is_finite(values(t)) ? first_place{t} : first_place{};
  }
};

} // namespace sp::detail
