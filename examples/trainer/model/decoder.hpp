// The decoder: byte embedding, layers of grouped-query attention or gated delta nets and of SwiGLU, tied together by residuals; forward and
// backward. It sees one rank's tokens only. Where tokens meet, somebody else's objects compute.
#pragma once

#include "model/delta_mixer.hpp"

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
    for (auto const& p : table_.layers) std::visit([&](auto const& of_layer) { add(of_layer); }, p);
    set_initial_weights<T>(table_, seed, weights);
  }

  flat_vector<T> weights, gradients; ///< in the order of table()

  parameter_table const& table() const { return table_; }

  /// Per-token losses of this rank's tokens.
  std::vector<T> forward(local_tokens const& in, meeting<T> const& with) {
    rope_ = rotary<T>(in.positions, shape_.head_dim);
    x_.resize(in.size(), shape_.dim); // (tokens, dim): the residual stream
    for (index_t r = 0; r < in.size(); ++r) x_.row(r) = weight(table_.embedding).row(in.tokens[std::size_t(r)]);
    for (index_t l = 0; l < shape_.layers; ++l)
      std::visit([&](auto& layer) { forward(layer, l, with); }, layers_[std::size_t(l)]);
    norm_.forward(x_, weight(table_.norm), h_);
    products_.multiply(logits_, h_, weight(table_.head)); // (tokens, vocabulary)
    std::vector<T> losses(std::size_t(in.size()));
    cross_entropy<T>(logits_, in.labels, losses);
    return losses;
  }

  /// Gradients of sum_i dlosses[i] * losses[i] of the last forward, written to `gradients`.
  void backward(local_tokens const& in, std::vector<T> const& dlosses, meeting<T> const& with) {
    std::fill(gradients.begin(), gradients.end(), T(0));
    cross_entropy_backward<T>(logits_, in.labels, dlosses);
    products_.add_transposed_product(gradient(table_.head), h_, logits_);
    matrix<T> dh;
    products_.multiply_transposed(dh, logits_, weight(table_.head));
    matrix<T> dx = matrix<T>::Zero(x_.rows(), x_.cols()); // (tokens, dim)
    norm_.backward(dh, weight(table_.norm), gradient(table_.norm), dx);
    for (index_t l = shape_.layers; l-- > 0;)
      std::visit([&](auto& layer) { backward(layer, l, dx, with); }, layers_[std::size_t(l)]);
    auto dembedding = gradient(table_.embedding);
    for (index_t r = 0; r < in.size(); ++r) dembedding.row(in.tokens[std::size_t(r)]) += dx.row(r);
  }

private:
  matrix_map<T> weight(parameter const& p) { return at(weights, p); }
  matrix_map<T> gradient(parameter const& p) { return at(gradients, p); }

  void add(layer_parameters const& p) { layers_.emplace_back(block<T>(p, shape_.q_heads, shape_.kv_heads)); }
  void add(delta_layer_parameters const& p) { layers_.emplace_back(delta_block<T>(p, shape_.delta)); }

  void forward(block<T>& layer, index_t l, meeting<T> const& with) {
    layer.forward(products_, weights, x_, rope_,
                  [&](sp::qkv_views<T> qkv, sp::view<T, 3> out) { with.softmax->forward(l, qkv, out); });
  }
  void forward(delta_block<T>& layer, index_t l, meeting<T> const& with) {
    layer.forward(products_, weights, x_, *with.delta, l);
  }
  void backward(block<T>& layer, index_t l, matrix<T>& dx, meeting<T> const& with) {
    layer.backward(products_, weights, gradients, dx, rope_,
                   [&](sp::view<T, 3> dout, sp::qkv_views<T> gradient_of) { with.softmax->backward(l, dout, gradient_of); });
  }
  void backward(delta_block<T>& layer, index_t l, matrix<T>& dx, meeting<T> const& with) {
    layer.backward(products_, weights, gradients, dx, *with.delta, l);
  }

  Products products_;
  shape shape_;
  parameter_table table_;
  std::vector<std::variant<block<T>, delta_block<T>>> layers_;
  rotary<T> rope_;
  rms_norm<T> norm_;
  matrix<T> x_, h_, logits_;
};

} // namespace trainer
