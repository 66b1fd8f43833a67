// Gated delta nets of a model by objects of the library: causal_conv1d, then linear_attention, over the ranks of a sequence.
// One batch and one group, those of softmax attention: no rows move between layers of one kind and those of the other.
#pragma once

#include <optional>

#include <sp/conv1d.hpp>
#include <sp/linear.hpp>

#include "training/delta_nets.hpp"
#include "training/plans.hpp"

namespace trainer {

/// Place: see group_work_on.hpp. Group: the communicator of a sequence.
template <class T, class Group, class Place>
class delta_nets_on final : public delta_nets<T> {
public:
  delta_nets_on(Group const& group, delta_by how, shape const& model, Place& place)
      : place_(place), convolution_(group, {.width = model.delta.taps, .activation = sp::activation::silu}),
        rule_(group, sp::gated_delta({.normalise = true}), {.strategy = strategy_of(how)}), layers_(model.layers) {}

  std::unique_ptr<delta_net<T>> prepare(sp::batch const& batch) override { return std::make_unique<step>(*this, batch); }

private:
  using convolution = sp::causal_conv1d<Group>;
  using rule = sp::linear_attention<Group, sp::gated_delta>;
  static sp::linear_strategy strategy_of(delta_by how) {
    return how == delta_by::heads ? sp::linear_strategy::heads : sp::linear_strategy::state;
  }

  class step final : public delta_net<T> {
  public:
    step(delta_nets_on& nets, sp::batch const& batch)
        : nets_(nets), convolved_(nets.convolution_.prepare(batch, nets.place_.delta_context(0))),
          ruled_(nets.rule_.prepare(batch, nets.place_.delta_context(0))), layers_(std::size_t(nets.layers_)) {}

    void convolve(index_t layer, sp::view<T, 2> x, sp::view<T, 2> weights, sp::view<T, 2> out) override {
      kept& k = layers_[std::size_t(layer)];
      k.x = x, k.weights = weights;
      k.convolved.emplace(nets_.convolution_.forward(convolved_, nets_.place_.delta_context(layer),
                                                     sp::conv1d_operands<T>{.x = x, .weights = weights, .out = out}));
    }
    void convolve_backward(index_t layer, sp::view<T, 2> dout, sp::view<T, 2> dx, sp::view<T, 2> dweights) override {
      kept& k = layers_[std::size_t(layer)];
      nets_.convolution_.backward(
          convolved_, nets_.place_.delta_context(layer), std::move(*k.convolved),
          sp::conv1d_gradients<T>{.x = k.x, .weights = k.weights, .dout = dout, .dx = dx, .dweights = dweights});
      k = {};
    }
    void recur(index_t layer, delta_rows<T> const& x, sp::view<T, 3> out) override {
      kept& k = layers_[std::size_t(layer)];
      k.rows = x;
      k.ruled.emplace(
          nets_.rule_.forward(ruled_, nets_.place_.delta_context(layer),
                              sp::linear_operands<T, 2>{.q = x.q, .k = x.k, .v = x.v, .gates = {x.g, x.beta}, .out = out}));
    }
    void recur_backward(index_t layer, sp::view<T, 3> dout, delta_rows<T> const& d) override {
      kept& k = layers_[std::size_t(layer)];
      nets_.rule_.backward(ruled_, nets_.place_.delta_context(layer), std::move(*k.ruled),
                           sp::linear_gradients<T, 2>{.q = k.rows.q,
                                                      .k = k.rows.k,
                                                      .v = k.rows.v,
                                                      .gates = {k.rows.g, k.rows.beta},
                                                      .dout = dout,
                                                      .dq = d.q,
                                                      .dk = d.k,
                                                      .dv = d.v,
                                                      .dgates = {d.g, d.beta}});
    }

  private:
    /// From forward to backward of a layer.
    struct kept {
      sp::view<T, 2> x{}, weights{};
      delta_rows<T> rows{};
      std::optional<typename convolution::template saved<T>> convolved{};
      std::optional<typename rule::template saved<T>> ruled{};
    };

    delta_nets_on& nets_;
    typename convolution::prepared convolved_;
    typename rule::prepared ruled_;
    std::vector<kept> layers_;
  };

  Place& place_;
  convolution convolution_;
  rule rule_;
  index_t layers_;
};

} // namespace trainer
