// The decoder: byte embedding, layers of grouped-query attention and SwiGLU, tied together by residuals; forward and backward.
// It sees one rank's tokens only. Attention is the single place where tokens meet, and it is somebody else's object.
#pragma once

#include "model/block.hpp"

#include "model/attention.hpp"

namespace trainer {

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
        table_(s) {
    for (layer_parameters const& p : table_.layers) layers_.emplace_back(p, s.q_heads, s.kv_heads);
    set_initial_weights<T>(table_, seed, weights);
  }

  flat_vector<T> weights, gradients; ///< in the order of table()

  parameter_table const& table() const { return table_; }

  /// Per-token losses of this rank's tokens.
  std::vector<T> forward(local_tokens const& in, attention<T>& attend) {
    rope_ = rotary<T>(in.positions, shape_.head_dim);
    x_.resize(in.size(), shape_.dim); // (tokens, dim): the residual stream
    for (index_t r = 0; r < in.size(); ++r) x_.row(r) = weight(table_.embedding).row(in.tokens[std::size_t(r)]);
    for (index_t l = 0; l < shape_.layers; ++l)
      layers_[std::size_t(l)].forward(products_, weights, x_, rope_,
                                      [&](sp::qkv_views<T> qkv, sp::view<T, 3> out) { attend.forward(l, qkv, out); });
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
    for (index_t l = shape_.layers; l-- > 0;)
      layers_[std::size_t(l)].backward(
          products_, weights, gradients, dx, rope_,
          [&](sp::view<T, 3> dout, sp::qkv_views<T> gradient_of) { attend.backward(l, dout, gradient_of); });
    auto dembedding = gradient(table_.embedding);
    for (index_t r = 0; r < in.size(); ++r) dembedding.row(in.tokens[std::size_t(r)]) += dx.row(r);
  }

private:
  matrix_map<T> weight(parameter const& p) { return at(weights, p); }
  matrix_map<T> gradient(parameter const& p) { return at(gradients, p); }

  Products products_;
  shape shape_;
  parameter_table table_;
  std::vector<block<T>> layers_;
  rotary<T> rope_;
  rms_norm<T> norm_;
  matrix<T> x_, h_, logits_;
};

} // namespace trainer
