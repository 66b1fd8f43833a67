// From patches to rows of the text: a norm, the patches of a square side by side, SwiGLU.
// Squares lie in neighbouring rows on one rank, so it is the same memory read with other extents: nobody is asked.
#pragma once

#include "trainer/model/block.hpp"

#include "multimodal/model/table.hpp"
#include "trainer/model/products.hpp"

namespace multimodal {

using trainer::flat_vector;
using trainer::matrix;
using trainer::matrix_map;

template <class T>
class merger {
public:
  merger(merger_parameters const& p, index_t grain) : p_(p), grain_(grain), feed_(p.gate_up, p.down) {}

  /// Rows of the text (patches / grain, dim) from patches (rows, tower dim).
  matrix<T> forward(flat_vector<T>& weights, matrix<T> const& patches) {
    matrix<T> unit;
    norm_.forward(patches, trainer::at(weights, p_.norm), unit);
    squares_ = matrix_map<T>(unit.data(), unit.rows() / grain_, unit.cols() * grain_);
    matrix<T> merged = matrix<T>::Zero(squares_.rows(), p_.down.cols);
    feed_.forward(products_, weights, squares_, merged);
    return merged;
  }

  /// dpatches (rows, tower dim) is added to.
  void backward(flat_vector<T>& weights, flat_vector<T>& gradients, matrix<T> const& dmerged, matrix<T>& dpatches) {
    matrix<T> dsquares;
    feed_.backward(products_, weights, gradients, squares_, dmerged, dsquares);
    matrix<T> const dunit = matrix_map<T>(dsquares.data(), dpatches.rows(), dpatches.cols());
    norm_.backward(dunit, trainer::at(weights, p_.norm), trainer::at(gradients, p_.norm), dpatches);
  }

private:
  merger_parameters p_;
  index_t grain_;
  trainer::rms_norm<T> norm_;
  trainer::feed_forward<T> feed_;
  trainer::eigen_products products_;
  matrix<T> squares_; // (patches / grain, grain tower dim)
};

} // namespace multimodal
