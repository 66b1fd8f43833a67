// The gates of a gated delta net, each with its hand-written backward pass: of what is written and forgotten, and of the output.
// They see one token and value head at a time. Formulas: Yang et al., arXiv 2412.06464, as Qwen3-Next has them.
#pragma once

#include "model/layers.hpp"

namespace trainer {

/// 1 / (1 + e^-x), element by element.
template <class X>
auto sigmoid(X const& x) {
  return (typename X::Scalar(1) + (-x).exp()).inverse();
}

/// beta = sigmoid(b) and g = -exp(a_log) softplus(a + dt_bias), in float or double as the model is. b, a: blocks (rows, value heads).
template <class T>
struct delta_gates {
  matrix<T> g, beta; // (rows, value heads)

  template <class Block>
  void forward(Block const& b, Block const& a, matrix_map<T> a_log, matrix_map<T> dt_bias) {
    beta = sigmoid(b.array());
    shifted_ = a.rowwise() + dt_bias.row(0);
    auto const x = shifted_.array();
    matrix<T> const softplus = x.max(T(0)) + (-x.abs()).exp().log1p(); // without overflow
    g = softplus.array().rowwise() * -a_log.row(0).array().exp();
  }
  /// db, da: blocks that are written; gradients of a_log and dt_bias are added to.
  template <class Block>
  void backward(matrix<T> const& dg, matrix<T> const& dbeta, matrix_map<T> a_log, Block&& db, Block&& da, matrix_map<T> da_log,
                matrix_map<T> ddt_bias) const {
    db = dbeta.array() * beta.array() * (T(1) - beta.array());
    da = (dg.array() * sigmoid(shifted_.array())).rowwise() * -a_log.row(0).array().exp();
    da_log.row(0) += dg.cwiseProduct(g).colwise().sum();
    ddt_bias.row(0) += da.colwise().sum();
  }

private:
  matrix<T> shifted_; // (rows, value heads): a + dt_bias
};

/// y = gain * o / rms(o) * silu(z), head by head. o: (rows * heads, dim); z: a block (rows, heads * dim).
template <class T>
class gated_norm {
public:
  template <class Block>
  void forward(matrix<T> const& o, matrix_map<T> gain, Block const& z, matrix<T>& y) {
    norm_.forward(o, gain, normed_);
    y = by_token(normed_, z).array() * z.array() * sigmoid(z.array());
  }
  /// dz: a block that is written; d_o like o, written.
  template <class Block, class Gradient>
  void backward(matrix<T> const& dy, matrix_map<T> gain, matrix_map<T> dgain, Block const& z, Gradient&& dz, matrix<T>& d_o) {
    matrix<T> const open = sigmoid(z.array());
    dz = dy.array() * by_token(normed_, z).array() * open.array() * (T(1) + z.array() * (T(1) - open.array()));
    by_token(normed_, z).array() = dy.array() * z.array() * open.array(); // from here on its gradient
    d_o = matrix<T>::Zero(normed_.rows(), normed_.cols());
    norm_.backward(normed_, gain, dgain, d_o);
  }

private:
  /// (rows * heads, dim) as (rows, heads * dim)
  template <class Block>
  static matrix_map<T> by_token(matrix<T>& m, Block const& like) {
    return {m.data(), like.rows(), like.cols()};
  }

  rms_norm<T> norm_{T(1e-6)};
  matrix<T> normed_; // (rows * heads, dim)
};

} // namespace trainer
