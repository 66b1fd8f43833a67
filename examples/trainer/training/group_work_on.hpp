// A rank's work together with the others, by objects of the library: mesh, attention, loss, all-reduce, over any communicator and queue.
// A place says where tensors lie and how they get there; nothing here knows whether that is the host or a device.
#pragma once

#include <optional>

#include <sp/counting.hpp>
#include <sp/gather_loss.hpp>
#include <sp/mesh.hpp>
#include <sp/ulysses.hpp>

#include "training/delta_nets.hpp"
#include "training/group_work.hpp"
#include "training/plans.hpp"

namespace trainer {

// A place of a rank, `Place` below, has
//
//     communicator                      its type, and world(): this rank's
//     context(layer)                    of attention's calls: sp::context, its memory counted by peak()
//     context()                         of all other calls
//     kernel<E>()                       attention kernel for tensors of type E
//     copy_of<E>(host view)             the same numbers as type E, where the context's memory is; .tensor is the view of it
//     room_for<E>(host view)            likewise, to be written
//     finish(copy, host view)           what was written there is in the host's tensor when it returns
//     delta_nets_over<T>(group, how, model)   the gated delta nets of a run over the ranks of a sequence; nothing where they have no kernel
//
// On the host a tensor is its own copy.

/// The model's attention through an attention object, for one step. E: the type of attention's tensors.
template <class T, class E, class Object, class Place>
class prepared_attention final : public attention<T> {
public:
  prepared_attention(Object const& object, sp::batch const& batch, Place& place, index_t layers)
      : object_(object), place_(place), prepared_(object.prepare(batch, place.context(0))), layers_(std::size_t(layers)) {}

  void forward(index_t layer, sp::qkv_views<T> x, sp::view<T, 3> out) override {
    kept& k = layers_[std::size_t(layer)];
    k = {place_.template copy_of<E>(x.q), place_.template copy_of<E>(x.k), place_.template copy_of<E>(x.v),
         place_.template room_for<E>(out), std::nullopt};
    k.saved = object_.forward(prepared_, place_.context(layer), k.q.tensor, k.k.tensor, k.v.tensor, k.out.tensor);
    place_.finish(k.out, out);
  }
  void backward(index_t layer, sp::view<T, 3> given, sp::qkv_views<T> gradient) override {
    kept& k = layers_[std::size_t(layer)];
    tensor dout = place_.template copy_of<E>(given);
    tensor dq = place_.template room_for<E>(gradient.q), dk = place_.template room_for<E>(gradient.k),
           dv = place_.template room_for<E>(gradient.v);
    object_.backward(prepared_, place_.context(layer), std::move(*k.saved), k.q.tensor, k.k.tensor, k.v.tensor, k.out.tensor,
                     dout.tensor, dq.tensor, dk.tensor, dv.tensor);
    place_.finish(dq, gradient.q);
    place_.finish(dk, gradient.k);
    place_.finish(dv, gradient.v);
    k = {};
  }

private:
  using tensor = decltype(std::declval<Place&>().template room_for<E>(sp::view<T, 3>()));
  /// From forward to backward of a layer.
  struct kept {
    tensor q, k, v, out;
    std::optional<typename Object::template saved<E>> saved;
  };

  Object const& object_;
  Place& place_;
  typename Object::prepared prepared_;
  std::vector<kept> layers_;
};

template <class T, class E, class Place>
class group_work_on final : public group_work<T> {
public:
  /// Arguments after the model's shape make the place.
  template <class... PlaceArguments>
  group_work_on(plan const& how, shape const& model, PlaceArguments&&... place)
      : place_(std::forward<PlaceArguments>(place)...), layers_(model.layers), counted_(place_.world(), sent_),
        loss_(place_.world(), sp::summed{}, sp::loss_options{.reduce = sp::reduction::mean, .ignore_index = ignored}) {
    // attention sends through `counted_`, so the ledger holds attention's bytes only
    sp::mesh const mesh(sp::axis::data{how.data}, sp::axis::ring{how.ring}, sp::axis::ulysses{how.ulysses});
    auto ring = mesh.ring(counted_);
    auto ulysses = mesh.ulysses(counted_);
    auto const kernel = place_.template kernel<E>();
    sp::attention_options const options{.mask = sp::causal(), .schedule = how.schedule};
    if (how.ulysses == 1)
      use(sp::ring_attention{ring, kernel, options});
    else if (how.ring == 1)
      use(sp::ulysses_attention{ulysses, kernel, options});
    else // Ulysses outside, ring inside
      use(sp::ulysses_attention{ulysses, sp::ring_attention{ring, kernel, options}});
    if (model.delta_layers() > 0) delta_ = place_.template delta_nets_over<T>(mesh.sequence(counted_), how.delta, model);
  }

  meeting<T> meet(sp::batch const& batch) override {
    return {object_->attend(batch, place_, layers_), delta_ ? delta_->prepare(batch) : nullptr};
  }

  double loss(std::span<T> losses, std::span<std::int64_t> labels, std::span<T> dlosses) override {
    auto const context = place_.context();
    auto const x = place_.template copy_of<T>(view_of(losses));
    auto const wanted = place_.template copy_of<std::int64_t>(view_of(labels));
    auto const gradients = place_.template room_for<T>(view_of(dlosses));
    sp::loss_result const result = sp::read(context.queue, loss_.forward(context, x.tensor, wanted.tensor));
    loss_.backward(context, result, wanted.tensor, gradients.tensor);
    place_.finish(gradients, view_of(dlosses));
    return result.loss;
  }

  void sum(std::span<T> gradients) override {
    auto const all = place_.template copy_of<T>(view_of(gradients));
    sp::all_reduce(place_.world(), all.tensor, place_.context())
        .wait(); // `summed`: one sum over data and sequence ranks, no factor
    place_.finish(all, view_of(gradients));
  }

  usage used() const override { return {sent_.total().bytes_sent, place_.peak()}; }

private:
  template <class X>
  static sp::view<X, 1> view_of(std::span<X> x) {
    return {x.data(), {index_t(x.size())}};
  }

  /// An attention object of any type.
  struct any_object {
    virtual ~any_object() = default;
    virtual std::unique_ptr<attention<T>> attend(sp::batch const& batch, Place& place, index_t layers) const = 0;
  };
  template <class Object>
  void use(Object object) {
    struct holder final : any_object {
      Object object;
      explicit holder(Object o) : object(std::move(o)) {}
      std::unique_ptr<attention<T>> attend(sp::batch const& batch, Place& place, index_t layers) const override {
        return std::make_unique<prepared_attention<T, E, Object, Place>>(object, batch, place, layers);
      }
    };
    object_ = std::make_unique<holder>(std::move(object));
  }

  using communicator = typename Place::communicator;
  Place place_;
  index_t layers_;
  sp::ledger sent_;
  sp::counting<communicator> counted_;
  sp::gather_loss<communicator, sp::summed> loss_;
  std::unique_ptr<any_object> object_;
  std::unique_ptr<delta_nets<T>> delta_;
};

} // namespace trainer
