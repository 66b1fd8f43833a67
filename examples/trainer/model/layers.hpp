// The layers around attention, each with its hand-written backward pass. Rows are tokens; matrices are row-major.
// Matrix products are elsewhere (products.hpp). Backward functions add to parameter gradients and return input gradients.
#pragma once

#include "model/eigen.hpp"

#include <cmath>
#include <span>
#include <vector>

#include <sp/core/view.hpp>

#include "config.hpp"

namespace trainer {

template <class T>
using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using matrix_map = Eigen::Map<matrix<T>>;
template <class T>
using column = Eigen::Array<T, Eigen::Dynamic, 1>;

/// A matrix (rows, heads * dim) as the view (rows, heads, dim) that attention takes.
template <class T>
sp::view<T, 3> as_heads(matrix<T>& m, index_t heads) {
  return {m.data(), {m.rows(), heads, m.cols() / heads}};
}

/// y = x / rms(x) * gain, row by row.
template <class T>
struct rms_norm {
  T epsilon = T(1e-5);
  matrix<T> unit{};    // (rows, dim): x / rms(x)
  column<T> inverse{}; // (rows): 1 / rms(x)

  void forward(matrix<T> const& x, matrix_map<T> gain, matrix<T>& y) {
    inverse = (x.array().square().rowwise().sum() / T(x.cols()) + epsilon).rsqrt();
    unit = x.array().colwise() * inverse;
    y = unit.array().rowwise() * gain.row(0).array();
  }

  /// dx (rows, dim) is added to: the residual path has written its part before.
  void backward(matrix<T> const& dy, matrix_map<T> gain, matrix_map<T> dgain, matrix<T>& dx) const {
    dgain.row(0) += dy.cwiseProduct(unit).colwise().sum();
    matrix<T> dunit = dy.array().rowwise() * gain.row(0).array();
    column<T> along = dunit.cwiseProduct(unit).rowwise().sum().array() / T(dy.cols());
    dx.array() += (dunit.array() - unit.array().colwise() * along).colwise() * inverse;
  }
};

/// Rotary positions: pair (i, i + dim / 2) of a head turns by position * base^(-2 i / dim).
template <class T>
class rotary {
public:
  rotary() = default;
  rotary(std::span<std::int64_t const> positions, index_t dim)
      : rotary(index_t(positions.size()), dim, [&](index_t r, index_t) { return double(positions[std::size_t(r)]); }) {}
  /// Positions with several axes: position(row, i) is the one that pair i turns by.
  template <class Position>
  rotary(index_t rows, index_t dim, Position const& position, double base = 10000) : cos_(rows, dim / 2), sin_(rows, dim / 2) {
    for (index_t i = 0; i < dim / 2; ++i) {
      double speed = std::pow(base, -2.0 * double(i) / double(dim));
      for (index_t r = 0; r < rows; ++r) {
        double angle = position(r, i) * speed;
        cos_(r, i) = T(std::cos(angle));
        sin_(r, i) = T(std::sin(angle));
      }
    }
  }

  /// x (rows, heads, dim), in place. Turning back is the gradient.
  void turn(sp::view<T, 3> x) const { turn(x, T(1)); }
  void turn_back(sp::view<T, 3> x) const { turn(x, T(-1)); }

private:
  void turn(sp::view<T, 3> x, T sign) const {
    index_t half = cos_.cols();
    for (index_t r = 0; r < x.extent(0); ++r)
      for (index_t h = 0; h < x.extent(1); ++h) {
        T* low = &x(r, h, 0);
        T* high = low + half;
        for (index_t i = 0; i < half; ++i) {
          T c = cos_(r, i), s = sign * sin_(r, i), a = low[i], b = high[i];
          low[i] = a * c - b * s;
          high[i] = a * s + b * c;
        }
      }
  }

  matrix<T> cos_, sin_; // (rows, dim / 2)
};

/// gate_up (rows, 2 hidden) = [gate, up]; out (rows, hidden) = silu(gate) * up.
template <class T>
struct swiglu {
  static void forward(matrix<T> const& gate_up, matrix<T>& out) {
    index_t hidden = gate_up.cols() / 2;
    auto gate = gate_up.leftCols(hidden).array(), up = gate_up.rightCols(hidden).array();
    out = gate / (T(1) + (-gate).exp()) * up;
  }

  static void backward(matrix<T> const& gate_up, matrix<T> const& dout, matrix<T>& dgate_up) {
    index_t hidden = dout.cols();
    auto gate = gate_up.leftCols(hidden).array(), up = gate_up.rightCols(hidden).array();
    matrix<T> open = T(1) / (T(1) + (-gate).exp()); // sigmoid(gate)
    dgate_up.resize(dout.rows(), 2 * hidden);
    dgate_up.leftCols(hidden) = dout.array() * up * open.array() * (T(1) + gate * (T(1) - open.array()));
    dgate_up.rightCols(hidden) = dout.array() * gate * open.array();
  }
};

/// Per-token cross-entropy; ignored labels lose nothing. `logits` becomes the probabilities, which backward needs.
template <class T>
void cross_entropy(matrix<T>& logits, std::span<std::int64_t const> labels, std::span<T> losses) {
  for (index_t r = 0; r < logits.rows(); ++r) {
    std::int64_t label = labels[std::size_t(r)];
    auto row = logits.row(r).array();
    T top = row.maxCoeff(), wanted = label == ignored ? T(0) : row(label);
    row = (row - top).exp();
    T sum = row.sum();
    row /= sum;
    losses[std::size_t(r)] = label == ignored ? T(0) : std::log(sum) + top - wanted;
  }
}

/// Turns probabilities (rows, vocabulary) into the gradient of the logits; dlosses (rows) is the loss object's gradient.
template <class T>
void cross_entropy_backward(matrix<T>& probabilities, std::span<std::int64_t const> labels, std::span<T const> dlosses) {
  for (index_t r = 0; r < probabilities.rows(); ++r) {
    std::int64_t label = labels[std::size_t(r)];
    T weight = label == ignored ? T(0) : dlosses[std::size_t(r)];
    probabilities.row(r) *= weight;
    if (label != ignored) probabilities(r, label) -= weight;
  }
}

} // namespace trainer
