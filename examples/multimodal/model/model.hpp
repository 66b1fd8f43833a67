// The whole model: tower, mergers, decoder; forward and backward over one rank's rows.
// Where rows of other ranks are needed stands a seat: attention of each layer, the splice, deepstack.
#pragma once

#include "multimodal/model/merger.hpp"
#include "multimodal/model/tower.hpp"

#include <sp/fusion.hpp>

namespace multimodal {

/// This rank's rows of one step.
template <class T>
struct local_rows {
  local_patches<T> patches{};
  std::vector<index_t> tokens{};                   ///< token ids of the text, before the splice
  std::vector<std::int64_t> labels{};              ///< (fused rows)
  std::vector<std::array<index_t, 3>> positions{}; ///< (fused rows): time, row, column; the first alone without three axes
};

/// Where text and pictures meet in a step; rows go to and come from other ranks there. Tensors as sp::fusion and sp::deepstack have them.
template <class T>
class joints {
public:
  virtual ~joints() = default;
  virtual attended patches() const = 0;
  virtual attended fused() const = 0;
  virtual void fuse(sp::fusion_forward<T> const& rows) const = 0;
  virtual void fuse_backward(sp::fusion_backward<T> const& rows) const = 0;
  virtual void add(sp::view<T const, 2> features, sp::view<T, 2> hidden) const = 0;
  virtual void add_backward(sp::view<T const, 2> dhidden, sp::view<T, 2> dfeatures) const = 0;
};

template <class M>
auto rows_of(M& m) {
  return sp::view<std::remove_reference_t<decltype(*m.data())>, 2>(m.data(), {m.rows(), m.cols()});
}

template <class T>
class model {
public:
  model(model_shape const& m, std::uint64_t seed)
      : shape_(m), table_(std::make_unique<parameter_table>(m)), weights(std::size_t(table_->size())), gradients(weights.size()),
        vision(m, *table_), projection_(table_->projection, m.grain()) {
    for (merger_parameters const& p : table_->deepstack) deepstack_.emplace_back(p, m.grain());
    for (layer_parameters const& p : table_->text)
      layers.emplace_back(p, sp::attention_seat<sp::text_role>{.q_heads = m.q_heads, .kv_heads = m.kv_heads});
    trainer::set_initial_weights<T>(*table_, seed, weights);
  }

private:
  model_shape shape_;
  std::unique_ptr<parameter_table> table_;

public:
  flat_vector<T> weights, gradients; ///< in the order of table()
  tower<T> vision;
  std::vector<attention_layer<sp::text_role, T>> layers;

  parameter_table const& table() const { return *table_; }

  /// Losses of this rank's fused rows; answers() says what the model would have written.
  std::vector<T> forward(local_rows<T> const& in, joints<T> const& at) {
    matrix<T> x = enter(in, at); // (fused rows, dim): the residual stream
    rope_ = turns(in.positions);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      layers[l].forward(weights, x, rope_, at.fused());
      if (l < features_.size()) at.add(rows_of(std::as_const(features_[l])), rows_of(x));
    }
    norm_.forward(x, weight(table_->norm), h_);
    logits_.noalias() = h_ * weight(table_->head); // (fused rows, vocabulary)
    std::vector<T> losses(in.labels.size());
    trainer::cross_entropy<T>(logits_, in.labels, losses);
    return losses;
  }

  /// The likeliest next token of each fused row; after forward.
  std::vector<index_t> answers() const {
    std::vector<index_t> best(std::size_t(logits_.rows()));
    for (index_t r = 0; r < logits_.rows(); ++r) logits_.row(r).maxCoeff(&best[std::size_t(r)]);
    return best;
  }

  /// Gradients of sum_i dlosses[i] * losses[i] of the last forward, written to `gradients`.
  void backward(local_rows<T> const& in, std::vector<T> const& dlosses, joints<T> const& at) {
    std::fill(gradients.begin(), gradients.end(), T(0));
    trainer::cross_entropy_backward<T>(logits_, in.labels, dlosses);
    gradient(table_->head).noalias() += h_.transpose() * logits_;
    matrix<T> const dh = logits_ * weight(table_->head).transpose();
    matrix<T> dx = matrix<T>::Zero(h_.rows(), h_.cols());
    norm_.backward(dh, weight(table_->norm), gradient(table_->norm), dx);
    std::vector<matrix<T>> dfeatures(features_.size());
    for (std::size_t l = layers.size(); l-- > 0;) {
      if (l < features_.size()) {
        dfeatures[l].resize(features_[l].rows(), features_[l].cols());
        at.add_backward(rows_of(std::as_const(dx)), rows_of(dfeatures[l]));
      }
      layers[l].backward(weights, gradients, dx, rope_, at.fused());
    }
    leave(in, dx, dfeatures, at);
  }

private:
  matrix_map<T> weight(parameter const& p) { return trainer::at(weights, p); }
  matrix_map<T> gradient(parameter const& p) { return trainer::at(gradients, p); }

  matrix<T> enter(local_rows<T> const& in, joints<T> const& at) {
    features_.clear();
    matrix<T> visual;
    vision.forward(weights, in.patches, at.patches(), [&](index_t l, matrix<T> const& patches) {
      if (l < shape_.deepstack) features_.push_back(deepstack_[std::size_t(l)].forward(weights, patches));
      if (l + 1 == shape_.tower.layers) visual = projection_.forward(weights, patches);
    });
    matrix<T> text(index_t(in.tokens.size()), shape_.dim), hidden(index_t(in.labels.size()), shape_.dim);
    for (index_t r = 0; r < text.rows(); ++r) text.row(r) = weight(table_->embedding).row(in.tokens[std::size_t(r)]);
    matrix_map<T> const learned = weight(table_->learned);
    at.fuse({.text = rows_of(text), .visual = rows_of(visual), .learned = rows_of(learned), .hidden = rows_of(hidden)});
    return hidden;
  }

  void leave(local_rows<T> const& in, matrix<T>& dx, std::vector<matrix<T>> const& dfeatures, joints<T> const& at) {
    matrix<T> dtext(index_t(in.tokens.size()), shape_.dim), dvisual(in.patches.pixels.rows() / shape_.grain(), shape_.dim);
    matrix_map<T> dlearned = gradient(table_->learned);
    at.fuse_backward(
        {.dhidden = rows_of(dx), .dtext = rows_of(dtext), .dvisual = rows_of(dvisual), .dlearned = rows_of(dlearned)});
    for (index_t r = 0; r < dtext.rows(); ++r) gradient(table_->embedding).row(in.tokens[std::size_t(r)]) += dtext.row(r);
    vision.backward(weights, gradients, in.patches, at.patches(), [&](index_t l, matrix<T>& dpatches) {
      if (l + 1 == shape_.tower.layers) projection_.backward(weights, gradients, dvisual, dpatches);
      if (l < shape_.deepstack) deepstack_[std::size_t(l)].backward(weights, gradients, dfeatures[std::size_t(l)], dpatches);
    });
  }

  /// With three axes pairs turn by time, row and column in turn, as in Qwen3-VL.
  trainer::rotary<T> turns(std::vector<std::array<index_t, 3>> const& positions) const {
    return {index_t(positions.size()), shape_.head_dim, [&](index_t r, index_t pair) {
              return double(positions[std::size_t(r)][shape_.three_axes ? std::size_t(pair % 3) : 0]);
            }};
  }

  merger<T> projection_;
  std::vector<merger<T>> deepstack_;
  std::vector<matrix<T>> features_; ///< of the tower's first layers, (merged rows, dim)
  trainer::rotary<T> rope_;
  trainer::rms_norm<T> norm_;
  matrix<T> h_, logits_;
};

template <class T>
auto members(model<T>& m) {
  return sp::parts("vision", m.vision, "text", m.layers);
}

} // namespace multimodal
