// The matrix products of the model by Eigen, on the thread of the rank: what every program but that of CUDA devices computes with.
// Another class with these four functions may stand in its place: ranks/cuda/products.hpp has them by cuBLAS.
#pragma once

namespace trainer {

/// Matrices are row-major. A matrix that is written, not added to, gets the size of the product.
struct eigen_products {
  /// to (m, n) = a (m, k) b (k, n)
  template <class To, class A, class B>
  void multiply(To&& to, A const& a, B const& b) const {
    to.noalias() = a * b;
  }
  /// to (m, n) += a (m, k) b (k, n)
  template <class To, class A, class B>
  void add_product(To&& to, A const& a, B const& b) const {
    to.noalias() += a * b;
  }
  /// to (m, n) = a (m, k) b^T, where b is (n, k): the gradient of inputs
  template <class To, class A, class B>
  void multiply_transposed(To&& to, A const& a, B const& b) const {
    to.noalias() = a * b.transpose();
  }
  /// to (m, n) += a^T b, where a is (k, m) and b (k, n): the gradient of weights
  template <class To, class A, class B>
  void add_transposed_product(To&& to, A const& a, B const& b) const {
    to.noalias() += a.transpose() * b;
  }
};

} // namespace trainer
