// A layer of a transformer: a mixer of tokens, then SwiGLU, each behind a norm and beside a residual path; forward and backward.
// It sees one rank's rows. Who computes attention comes with each call; what backward needs is kept from forward to backward.
#pragma once

#include "model/layers.hpp"

#include <sp/core/adapt.hpp>
#include <sp/core/adapt/packed_qkv.hpp>

#include "model/parameters.hpp"

namespace trainer {

/// One parameter of a flat vector as a matrix.
template <class T>
matrix_map<T> at(flat_vector<T>& flat, parameter const& p) {
  return {flat.data() + p.offset, p.rows, p.cols};
}

/// y = SwiGLU of rows, two matrices wide.
template <class T>
class feed_forward {
public:
  feed_forward(parameter const& gate_up, parameter const& down) : gate_up_(gate_up), down_(down) {}

  /// to (rows, outputs) += of h (rows, inputs), which stays as it is until backward.
  template <class Products>
  void forward(Products const& products, flat_vector<T>& weights, matrix<T> const& h, matrix<T>& to) {
    products.multiply(both_, h, at(weights, gate_up_));
    swiglu<T>::forward(both_, activated_);
    products.add_product(to, activated_, at(weights, down_));
  }
  /// dh (rows, inputs), written; dto (rows, outputs).
  template <class Products>
  void backward(Products const& products, flat_vector<T>& weights, flat_vector<T>& gradients, matrix<T> const& h,
                matrix<T> const& dto, matrix<T>& dh) {
    products.add_transposed_product(at(gradients, down_), activated_, dto);
    matrix<T> dactivated, dboth;
    products.multiply_transposed(dactivated, dto, at(weights, down_));
    swiglu<T>::backward(both_, dactivated, dboth);
    products.add_transposed_product(at(gradients, gate_up_), h, dboth);
    products.multiply_transposed(dh, dboth, at(weights, gate_up_));
  }

private:
  parameter gate_up_, down_;
  matrix<T> both_, activated_; // (rows, 2 hidden), (rows, hidden)
};

/// Softmax attention of rows: q, k and v by one matrix, rotary positions, the projection of what attention gives.
template <class T>
class attention_mixer {
public:
  using parameters = attention_parameters;
  attention_mixer(parameters const& p, index_t q_heads, index_t kv_heads) : p_(p), q_heads_(q_heads), kv_heads_(kv_heads) {}

  /// to (rows, dim) += of h (rows, dim), which stays as it is until backward. attend(q, k and v, out) is attention; its tensors stay
  /// as they are until backward, too.
  template <class Products, class Attend>
  void forward(Products const& products, flat_vector<T>& weights, matrix<T> const& h, matrix<T>& to, rotary<T> const& rope,
               Attend&& attend) {
    products.multiply(qkv_, h, at(weights, p_.qkv));
    auto views = split(qkv_); // three strided views of one matrix: nothing is copied
    rope.turn(views.q);
    rope.turn(views.k);
    mixed_.resize(h.rows(), p_.out.rows);
    attend(views, as_heads(mixed_, q_heads_));
    products.add_product(to, mixed_, at(weights, p_.out));
  }
  /// dh (rows, dim), written; dto (rows, dim). attend(dout, gradients of q, k and v).
  template <class Products, class Attend>
  void backward(Products const& products, flat_vector<T>& weights, flat_vector<T>& gradients, matrix<T> const& h,
                matrix<T> const& dto, matrix<T>& dh, rotary<T> const& rope, Attend&& attend) {
    products.add_transposed_product(at(gradients, p_.out), mixed_, dto);
    matrix<T> dmixed, dqkv(qkv_.rows(), qkv_.cols());
    products.multiply_transposed(dmixed, dto, at(weights, p_.out));
    auto views = split(dqkv);
    attend(as_heads(dmixed, q_heads_), views);
    rope.turn_back(views.q);
    rope.turn_back(views.k);
    products.add_transposed_product(at(gradients, p_.qkv), h, dqkv);
    products.multiply_transposed(dh, dqkv, at(weights, p_.qkv));
  }

private:
  sp::qkv_views<T> split(matrix<T>& qkv) const {
    return sp::split_qkv(sp::view<T, 2>(qkv.data(), {qkv.rows(), qkv.cols()}), q_heads_, kv_heads_);
  }

  parameters p_;
  index_t q_heads_, kv_heads_;
  matrix<T> qkv_, mixed_; // (rows, (q + 2 kv heads) head_dim), (rows, q heads head_dim)
};

/// A layer with any mixer of tokens. What the mixer needs of a step, its positions and who computes attention, comes with each call.
template <class T, class Mixer>
class layer {
public:
  template <class... Of>
  explicit layer(parameters_of_layer<typename Mixer::parameters> const& p, Of const&... of)
      : p_(p), mixer_(p.mixer, of...), feed_(p.gate_up, p.down) {}

  /// x (rows, dim), the residual stream, is added to.
  template <class Products, class... With>
  void forward(Products const& products, flat_vector<T>& weights, matrix<T>& x, With&&... with) {
    norm1_.forward(x, at(weights, p_.norm1), h1_);
    mixer_.forward(products, weights, h1_, x, with...);
    norm2_.forward(x, at(weights, p_.norm2), h2_);
    feed_.forward(products, weights, h2_, x);
  }

  /// dx (rows, dim) becomes the gradient of what forward was given.
  template <class Products, class... With>
  void backward(Products const& products, flat_vector<T>& weights, flat_vector<T>& gradients, matrix<T>& dx, With&&... with) {
    matrix<T> dh;
    feed_.backward(products, weights, gradients, h2_, dx, dh);
    norm2_.backward(dh, at(weights, p_.norm2), at(gradients, p_.norm2), dx);
    mixer_.backward(products, weights, gradients, h1_, dx, dh, with...);
    norm1_.backward(dh, at(weights, p_.norm1), at(gradients, p_.norm1), dx);
  }

private:
  parameters_of_layer<typename Mixer::parameters> p_;
  Mixer mixer_;
  rms_norm<T> norm1_, norm2_;
  matrix<T> h1_, h2_; // (rows, dim)
  feed_forward<T> feed_;
};

template <class T>
using block = layer<T, attention_mixer<T>>;

} // namespace trainer
