// A gated delta net as the mixer of a layer, in the order of Qwen3-Next: projection, convolution and silu over [q | k | v], gates, delta
// rule, norm gated by z, projection; forward and backward. z and what else a token needs for itself never leave its rank.
#pragma once

#include "model/block.hpp"

#include "model/delta_net.hpp"
#include "model/gates.hpp"

namespace trainer {

template <class T>
class delta_mixer {
public:
  using parameters = delta_parameters;
  delta_mixer(parameters const& p, delta_shape const& s) : p_(p), s_(s) {}

  /// to (rows, dim) += of h (rows, dim), which stays as it is until backward; layer: this one's number.
  template <class Products>
  void forward(Products const& products, flat_vector<T>& weights, matrix<T> const& h, matrix<T>& to, delta_net<T>& net,
               index_t layer) {
    products.multiply(projected_, h, at(weights, p_.in));
    mixed_.resize(h.rows(), s_.mixed_width());
    net.convolve(layer, columns(projected_, s_.mixed_width()), all(at(weights, p_.conv)), columns(mixed_, s_.mixed_width()));
    gates_.forward(b(projected_), a(projected_), at(weights, p_.a_log), at(weights, p_.dt_bias));
    out_.resize(h.rows() * s_.v_heads, s_.value_dim);
    net.recur(layer, split(mixed_, gates_.g, gates_.beta), by_heads(out_));
    norm_.forward(out_, at(weights, p_.norm), z(projected_), gated_);
    products.add_product(to, gated_, at(weights, p_.out));
  }

  /// dh (rows, dim), written; dto (rows, dim).
  template <class Products>
  void backward(Products const& products, flat_vector<T>& weights, flat_vector<T>& gradients, matrix<T> const& h,
                matrix<T> const& dto, matrix<T>& dh, delta_net<T>& net, index_t layer) {
    index_t const rows = h.rows();
    products.add_transposed_product(at(gradients, p_.out), gated_, dto);
    matrix<T> dgated, dout, dprojected(rows, projected_.cols()), dmixed(rows, mixed_.cols()), dg(rows, s_.v_heads), dbeta = dg;
    products.multiply_transposed(dgated, dto, at(weights, p_.out));
    norm_.backward(dgated, at(weights, p_.norm), at(gradients, p_.norm), z(projected_), z(dprojected), dout);
    net.recur_backward(layer, by_heads(dout), split(dmixed, dg, dbeta));
    gates_.backward(dg, dbeta, at(weights, p_.a_log), b(dprojected), a(dprojected), at(gradients, p_.a_log),
                    at(gradients, p_.dt_bias));
    net.convolve_backward(layer, columns(dmixed, s_.mixed_width()), columns(dprojected, s_.mixed_width()),
                          all(at(gradients, p_.conv)));
    products.add_transposed_product(at(gradients, p_.in), h, dprojected);
    products.multiply_transposed(dh, dprojected, at(weights, p_.in));
  }

private:
  // The projection's columns: [q | k | v | z | b | a].
  auto z(matrix<T>& projected) const { return projected.middleCols(s_.mixed_width(), s_.value_width()); }
  auto b(matrix<T>& projected) const { return projected.middleCols(s_.mixed_width() + s_.value_width(), s_.v_heads); }
  auto a(matrix<T>& projected) const { return projected.rightCols(s_.v_heads); }

  /// The first columns of a matrix: (rows, n).
  static sp::view<T, 2> columns(matrix<T>& m, index_t n) { return {m.data(), {m.rows(), n}, {m.cols(), 1}}; }
  static sp::view<T, 2> all(matrix_map<T> m) { return {m.data(), {m.rows(), m.cols()}}; }
  /// (rows * value heads, value dim) as (rows, value heads, value dim).
  sp::view<T, 3> by_heads(matrix<T>& m) const { return {m.data(), {m.rows() / s_.v_heads, s_.v_heads, s_.value_dim}}; }
  delta_rows<T> split(matrix<T>& mixed, matrix<T>& g, matrix<T>& beta) const {
    auto part = [&](index_t at, index_t heads, index_t dim) {
      return sp::view<T, 3>(mixed.data() + at, {mixed.rows(), heads, dim}, {mixed.cols(), dim, 1});
    };
    return {part(0, s_.k_heads, s_.key_dim), part(s_.key_width(), s_.k_heads, s_.key_dim),
            part(2 * s_.key_width(), s_.v_heads, s_.value_dim), as_heads(g, s_.v_heads), as_heads(beta, s_.v_heads)};
  }

  parameters p_;
  delta_shape s_;
  matrix<T> projected_, mixed_, out_,
      gated_; // (rows, 2 keys + 2 values + 2 value heads), (rows, 2 keys + values), see by_heads, (rows, values)
  delta_gates<T> gates_;
  gated_norm<T> norm_;
};

template <class T>
using delta_block = layer<T, delta_mixer<T>>;

} // namespace trainer
