// A layer of the model with the seat of its attention: where rows of other ranks are needed, whoever sits there gets them.
// The seat begins with attention on one rank; sp::auto_wrap finds it by members() and puts another object into it.
#pragma once

#include "trainer/model/block.hpp"

#include <sp/auto_wrap.hpp>
#include <sp/cpu.hpp>

#include "trainer/model/products.hpp"

namespace multimodal {

using sp::index_t;
using trainer::flat_vector;
using trainer::matrix;
using trainer::matrix_map;

/// The rows of a step that attention is over, and the memory of its calls.
struct attended {
  sp::batch const& batch;
  sp::context<> const& context;
};

template <class Role, class T>
class attention_layer {
public:
  attention_layer(trainer::layer_parameters const& p, sp::attention_seat<Role> const& seat)
      : attend(seat, sp::cpu{}), block_(p, seat.q_heads, seat.heads().kv_heads) {}

  sp::attention_slot<Role, T> attend;

  void forward(flat_vector<T>& weights, matrix<T>& x, trainer::rotary<T> const& rope, attended const& over) {
    block_.forward(products_, weights, x, rope, [&](sp::qkv_views<T> in, sp::view<T, 3> out) {
      in_ = in;
      out_ = out;
      saved_ = attend.forward(over.batch, over.context, {.q = in.q, .k = in.k, .v = in.v, .out = out});
    });
  }
  void backward(flat_vector<T>& weights, flat_vector<T>& gradients, matrix<T>& dx, trainer::rotary<T> const& rope,
                attended const& over) {
    block_.backward(products_, weights, gradients, dx, rope, [&](sp::view<T, 3> dout, sp::qkv_views<T> d) {
      attend.backward(over.batch, over.context, std::move(saved_),
                      {.q = in_.q, .k = in_.k, .v = in_.v, .out = out_, .dout = dout, .dq = d.q, .dk = d.k, .dv = d.v});
    });
  }

private:
  trainer::block<T> block_;
  trainer::eigen_products products_;
  sp::qkv_views<T> in_{}; // of the last forward call
  sp::view<T, 3> out_{};
  typename sp::attention_slot<Role, T>::saved saved_;
};

template <class Role, class T>
auto members(attention_layer<Role, T>& l) {
  return sp::parts("attend", l.attend);
}

} // namespace multimodal
