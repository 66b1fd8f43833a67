// The vision tower: patches of pixels, class tokens before them, layers of attention within a frame.
// A rank has its own patches, and all class tokens as every rank has them. Gradients of class tokens are shares: their sum over ranks counts.
#pragma once

#include "trainer/model/block.hpp"

#include <array>

#include "multimodal/model/seat.hpp"
#include "multimodal/model/table.hpp"
#include "trainer/model/products.hpp"

namespace multimodal {

/// This rank's patches of one step.
template <class T>
struct local_patches {
  matrix<T> pixels;                             // (patches, pixels of one)
  std::vector<std::array<index_t, 2>> places{}; ///< (patches): row and column in the frame
  index_t frames = 0;                           ///< of all ranks
};

template <class T>
class tower {
public:
  tower(model_shape const& m, parameter_table const& table) : shape_(m.tower), table_(&table) {
    for (layer_parameters const& p : table.vision)
      layers.emplace_back(p, sp::attention_seat<sp::vision_role>{.q_heads = m.tower.heads, .prefix = m.tower.prefix});
  }

  std::vector<attention_layer<sp::vision_role, T>> layers;

  /// Calls take(layer, patches (rows, dim)) behind each layer.
  template <class Take>
  void forward(flat_vector<T>& weights, local_patches<T> const& in, attended const& over, Take&& take) {
    index_t const before = in.frames * shape_.prefix, rows = in.pixels.rows();
    rope_ = turns(in, before);
    matrix<T> x(before + rows, shape_.dim); // (class tokens of all frames, then patches; dim)
    for (index_t i = 0; i < before; ++i) x.row(i) = trainer::at(weights, table_->prefix).row(i % shape_.prefix);
    x.bottomRows(rows).noalias() = in.pixels * trainer::at(weights, table_->patch);
    for (index_t i = 0; i < rows && !shape_.rotary; ++i)
      x.row(before + i) += trainer::at(weights, table_->rows).row(in.places[std::size_t(i)][0]) +
                           trainer::at(weights, table_->columns).row(in.places[std::size_t(i)][1]);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      layers[l].forward(weights, x, rope_, over);
      take(index_t(l), matrix<T>(x.bottomRows(rows)));
    }
  }

  /// give(layer, dpatches) adds the gradient of what take was given.
  template <class Give>
  void backward(flat_vector<T>& weights, flat_vector<T>& gradients, local_patches<T> const& in, attended const& over,
                Give&& give) {
    index_t const before = in.frames * shape_.prefix, rows = in.pixels.rows();
    matrix<T> dx = matrix<T>::Zero(before + rows, shape_.dim);
    for (std::size_t l = layers.size(); l-- > 0;) {
      matrix<T> dpatches = dx.bottomRows(rows);
      give(index_t(l), dpatches);
      dx.bottomRows(rows) = dpatches;
      layers[l].backward(weights, gradients, dx, rope_, over);
    }
    trainer::at(gradients, table_->patch).noalias() += in.pixels.transpose() * dx.bottomRows(rows);
    for (index_t i = 0; i < before; ++i) trainer::at(gradients, table_->prefix).row(i % shape_.prefix) += dx.row(i);
    for (index_t i = 0; i < rows && !shape_.rotary; ++i) {
      trainer::at(gradients, table_->rows).row(in.places[std::size_t(i)][0]) += dx.row(before + i);
      trainer::at(gradients, table_->columns).row(in.places[std::size_t(i)][1]) += dx.row(before + i);
    }
  }

private:
  /// Even pairs turn by the row, odd ones by the column; class tokens stay.
  trainer::rotary<T> turns(local_patches<T> const& in, index_t before) const {
    return {before + in.pixels.rows(), shape_.head_dim,
            [&](index_t r, index_t pair) {
              return r < before || !shape_.rotary ? 0.0 : double(in.places[std::size_t(r - before)][std::size_t(pair % 2)]);
            },
            100};
  }

  tower_shape shape_;
  parameter_table const* table_;
  trainer::rotary<T> rope_;
};

template <class T>
auto members(tower<T>& t) {
  return sp::parts("layers", t.layers);
}

} // namespace multimodal
