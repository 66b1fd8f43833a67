// The matrix products of the model by cuBLAS, on the stream of a rank: model/products.hpp has the same four functions by Eigen.
// Matrices live on the host: each product copies its factors to the device and its result back, and waits. It shows where products plug in; a
// trainer that cares for speed keeps matrices on the device.
#pragma once

#include <stdexcept>
#include <string>

#include <cublas_v2.h>

#include <sp/cuda.hpp>

namespace trainer {

inline void cublas_check(cublasStatus_t status, char const* call) {
  if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(std::string(call) + ": " + cublasGetStatusString(status));
}

class cublas_products {
public:
  explicit cublas_products(cudaStream_t stream) : stream_(stream) {
    cublas_check(cublasCreate(&handle_), "cublasCreate");
    cublas_check(cublasSetStream(handle_, stream), "cublasSetStream");
  }
  cublas_products(cublas_products&& o) noexcept : stream_(o.stream_), handle_(std::exchange(o.handle_, nullptr)) {}
  cublas_products& operator=(cublas_products&&) = delete;
  ~cublas_products() {
    if (handle_) static_cast<void>(cublasDestroy(handle_));
  }

  template <class To, class A, class B>
  void multiply(To& to, A const& a, B const& b) const {
    to.resize(a.rows(), b.cols());
    product(factor{a.data(), a.rows(), a.cols(), false}, factor{b.data(), b.rows(), b.cols(), false}, to.data(), 0);
  }
  template <class To, class A, class B>
  void add_product(To&& to, A const& a, B const& b) const {
    product(factor{a.data(), a.rows(), a.cols(), false}, factor{b.data(), b.rows(), b.cols(), false}, to.data(), 1);
  }
  template <class To, class A, class B>
  void multiply_transposed(To& to, A const& a, B const& b) const {
    to.resize(a.rows(), b.rows());
    product(factor{a.data(), a.rows(), a.cols(), false}, factor{b.data(), b.rows(), b.cols(), true}, to.data(), 0);
  }
  template <class To, class A, class B>
  void add_transposed_product(To&& to, A const& a, B const& b) const {
    product(factor{a.data(), a.rows(), a.cols(), true}, factor{b.data(), b.rows(), b.cols(), false}, to.data(), 1);
  }

private:
  using index = std::ptrdiff_t;
  /// A row-major matrix on the host, or its transpose.
  template <class T>
  struct factor {
    T const* data;
    index rows, cols;
    bool transposed;
    factor(T const* d, index r, index c, bool t) : data(d), rows(r), cols(c), transposed(t) {}
    [[nodiscard]] index result_rows() const { return transposed ? cols : rows; }
    [[nodiscard]] index result_cols() const { return transposed ? rows : cols; }
    [[nodiscard]] cublasOperation_t operation() const { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; }
  };

  /// Numbers on the device, in the order of a stream.
  template <class T>
  class on_device {
  public:
    on_device(cudaStream_t stream, index n) : stream_(stream), bytes_(std::size_t(n) * sizeof(T)) {
      void* p = nullptr;
      check(cudaMallocAsync(&p, bytes_, stream), "cudaMallocAsync");
      data_ = static_cast<T*>(p);
    }
    on_device(on_device const&) = delete;
    ~on_device() { static_cast<void>(cudaFreeAsync(data_, stream_)); }
    void take(T const* from) { check(cudaMemcpyAsync(data_, from, bytes_, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync"); }
    void give(T* to) const {
      check(cudaMemcpyAsync(to, data_, bytes_, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
      check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    }
    [[nodiscard]] T* data() const { return data_; }

  private:
    cudaStream_t stream_;
    std::size_t bytes_;
    T* data_;
  };
  static void check(cudaError_t e, char const* call) { sp::detail::cuda_check(e, call, "cublas_products"); }

  /// to (a's rows, b's columns) = a b + beta to. cuBLAS takes matrices by columns: what it sees is the transpose of each, so it is asked
  /// for b^T a^T.
  template <class T>
  void product(factor<T> a, factor<T> b, T* to, std::type_identity_t<T> beta) const {
    index const m = a.result_rows(), k = a.result_cols(), n = b.result_cols();
    if (m == 0 || n == 0 || k == 0) return; // ranks without tokens; weights have no empty side
    on_device<T> x(stream_, a.rows * a.cols), y(stream_, b.rows * b.cols), z(stream_, m * n);
    x.take(a.data);
    y.take(b.data);
    if (beta != 0) z.take(to);
    T const one = 1;
    cublas_check(gemm(handle_, b.operation(), a.operation(), int(n), int(m), int(k), &one, y.data(), int(b.cols), x.data(),
                      int(a.cols), &beta, z.data(), int(n)),
                 "cublasSgemm or cublasDgemm");
    z.give(to);
  }
  template <class... More>
  static cublasStatus_t gemm(cublasHandle_t h, cublasOperation_t a, cublasOperation_t b, int m, int n, int k, float const* one,
                             More... more) {
    return cublasSgemm(h, a, b, m, n, k, one, more...);
  }
  template <class... More>
  static cublasStatus_t gemm(cublasHandle_t h, cublasOperation_t a, cublasOperation_t b, int m, int n, int k, double const* one,
                             More... more) {
    return cublasDgemm(h, a, b, m, n, k, one, more...);
  }

  cudaStream_t stream_;
  cublasHandle_t handle_ = nullptr;
};

} // namespace trainer
