// The decoder: byte embedding, layers of grouped-query attention and SwiGLU, tied together by residuals; forward and backward.
// It sees one rank's tokens only. Attention is the single place where tokens meet, and it is somebody else's object.
#pragma once

#include "model/layers.hpp"

#include <sp/core/adapt.hpp>

#include "model/attention.hpp"
#include "model/parameters.hpp"

namespace trainer {

/// One parameter of a flat vector as a matrix.
template <class T>
matrix_map<T> at(flat_vector<T>& flat, parameter const& p) {
  return {flat.data() + p.offset, p.rows, p.cols};
}

/// This rank's tokens of one step.
struct local_tokens {
  std::vector<std::int64_t> tokens;    ///< bytes
  std::vector<std::int64_t> labels;    ///< next bytes, `ignored` at a document's end
  std::vector<std::int64_t> positions; ///< inside the document

  index_t size() const { return index_t(tokens.size()); }
};

/// Products: who multiplies matrices, see model/products.hpp.
template <class T, class Products>
class decoder {
public:
  decoder(shape const& s, std::uint64_t seed, Products products)
      : weights(std::size_t(parameter_table(s).size())), gradients(weights.size()), products_(std::move(products)), shape_(s),
        table_(s), layers_(table_.layers.size()) {
    set_initial_weights<T>(table_, seed, weights);
  }

  flat_vector<T> weights, gradients; ///< in the order of table()

  parameter_table const& table() const { return table_; }

  /// Per-token losses of this rank's tokens.
  std::vector<T> forward(local_tokens const& in, attention<T>& attend) {
    rope_ = rotary<T>(in.positions, shape_.head_dim);
    x_.resize(in.size(), shape_.dim); // (tokens, dim): the residual stream
    for (index_t r = 0; r < in.size(); ++r) x_.row(r) = weight(table_.embedding).row(in.tokens[std::size_t(r)]);
    for (index_t l = 0; l < shape_.layers; ++l) {
      attention_forward(l, attend);
      feed_forward(l);
    }
    norm_.forward(x_, weight(table_.norm), h_);
    products_.multiply(logits_, h_, weight(table_.head)); // (tokens, vocabulary)
    std::vector<T> losses(std::size_t(in.size()));
    cross_entropy<T>(logits_, in.labels, losses);
    return losses;
  }

  /// Gradients of sum_i dlosses[i] * losses[i] of the last forward, written to `gradients`.
  void backward(local_tokens const& in, std::vector<T> const& dlosses, attention<T>& attend) {
    std::fill(gradients.begin(), gradients.end(), T(0));
    cross_entropy_backward<T>(logits_, in.labels, dlosses);
    products_.add_transposed_product(gradient(table_.head), h_, logits_);
    matrix<T> dh;
    products_.multiply_transposed(dh, logits_, weight(table_.head));
    matrix<T> dx = matrix<T>::Zero(x_.rows(), x_.cols()); // (tokens, dim)
    norm_.backward(dh, weight(table_.norm), gradient(table_.norm), dx);
    for (index_t l = shape_.layers; l-- > 0;) {
      feed_backward(l, dx);
      attention_backward(l, attend, dx);
    }
    auto dembedding = gradient(table_.embedding);
    for (index_t r = 0; r < in.size(); ++r) dembedding.row(in.tokens[std::size_t(r)]) += dx.row(r);
  }

private:
  /// What a layer keeps for its backward pass.
  struct kept {
    rms_norm<T> norm1, norm2;
    matrix<T> h1, qkv, mixed;         // (tokens, dim), (tokens, (q + 2 kv heads) head_dim), (tokens, q heads head_dim)
    matrix<T> h2, gate_up, activated; // (tokens, dim), (tokens, 2 hidden), (tokens, hidden)
  };

  matrix_map<T> weight(parameter const& p) { return at(weights, p); }
  matrix_map<T> gradient(parameter const& p) { return at(gradients, p); }
  sp::qkv_views<T> split(matrix<T>& qkv) const {
    return sp::split_qkv(sp::view<T, 2>(qkv.data(), {qkv.rows(), qkv.cols()}), shape_.q_heads, shape_.kv_heads);
  }

  void attention_forward(index_t l, attention<T>& attend) {
    kept& k = layers_[std::size_t(l)];
    layer_parameters const& p = table_.layers[std::size_t(l)];
    k.norm1.forward(x_, weight(p.norm1), k.h1);
    products_.multiply(k.qkv, k.h1, weight(p.qkv));
    auto views = split(k.qkv); // three strided views of one matrix: nothing is copied
    rope_.turn(views.q);
    rope_.turn(views.k);
    k.mixed.resize(x_.rows(), shape_.q_heads * shape_.head_dim);
    attend.forward(l, views, as_heads(k.mixed, shape_.q_heads));
    products_.add_product(x_, k.mixed, weight(p.out));
  }

  void attention_backward(index_t l, attention<T>& attend, matrix<T>& dx) {
    kept& k = layers_[std::size_t(l)];
    layer_parameters const& p = table_.layers[std::size_t(l)];
    products_.add_transposed_product(gradient(p.out), k.mixed, dx);
    matrix<T> dmixed;
    products_.multiply_transposed(dmixed, dx, weight(p.out));
    matrix<T> dqkv(k.qkv.rows(), k.qkv.cols());
    auto gradients_of = split(dqkv);
    attend.backward(l, as_heads(dmixed, shape_.q_heads), gradients_of);
    rope_.turn_back(gradients_of.q);
    rope_.turn_back(gradients_of.k);
    products_.add_transposed_product(gradient(p.qkv), k.h1, dqkv);
    matrix<T> dh;
    products_.multiply_transposed(dh, dqkv, weight(p.qkv));
    k.norm1.backward(dh, weight(p.norm1), gradient(p.norm1), dx);
  }

  void feed_forward(index_t l) {
    kept& k = layers_[std::size_t(l)];
    layer_parameters const& p = table_.layers[std::size_t(l)];
    k.norm2.forward(x_, weight(p.norm2), k.h2);
    products_.multiply(k.gate_up, k.h2, weight(p.gate_up));
    swiglu<T>::forward(k.gate_up, k.activated);
    products_.add_product(x_, k.activated, weight(p.down));
  }

  void feed_backward(index_t l, matrix<T>& dx) {
    kept& k = layers_[std::size_t(l)];
    layer_parameters const& p = table_.layers[std::size_t(l)];
    products_.add_transposed_product(gradient(p.down), k.activated, dx);
    matrix<T> dactivated, dgate_up;
    products_.multiply_transposed(dactivated, dx, weight(p.down));
    swiglu<T>::backward(k.gate_up, dactivated, dgate_up);
    products_.add_transposed_product(gradient(p.gate_up), k.h2, dgate_up);
    matrix<T> dh;
    products_.multiply_transposed(dh, dgate_up, weight(p.gate_up));
    k.norm2.backward(dh, weight(p.norm2), gradient(p.norm2), dx);
  }

  Products products_;
  shape shape_;
  parameter_table table_;
  std::vector<kept> layers_;
  rotary<T> rope_;
  rms_norm<T> norm_;
  matrix<T> x_, h_, logits_;
};

} // namespace trainer
