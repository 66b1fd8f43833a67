// A fake of the few calls of cuBLAS that the trainer makes, for tests: linked in place of the library, over the fake CUDA runtime.
// Products are plain loops, as late as the stream is; numbers that cuBLAS would not take are refused as it does. No device is involved.
#include <cublas_v2.h>

#include "support/fake_cuda.hpp"

struct cublasContext {
  CUstream_st* stream = nullptr;
};

namespace {

template <class T>
T* real(T* p) {
  return reinterpret_cast<T*>(
      support::elsewhere_region::get().real(reinterpret_cast<std::byte*>(const_cast<std::remove_const_t<T>*>(p))));
}

/// c (m, n) = alpha op(a) op(b) + beta c, matrices by columns; sums in double, in order.
template <class T>
cublasStatus_t multiply(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                        T const* alpha, T const* a, int lda, T const* b, int ldb, T const* beta, T* c, int ldc) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  bool const a_as_is = op_a == CUBLAS_OP_N, b_as_is = op_b == CUBLAS_OP_N;
  if (m < 0 || n < 0 || k < 0 || lda < std::max(1, a_as_is ? m : k) || ldb < std::max(1, b_as_is ? k : n) || ldc < std::max(1, m))
    return CUBLAS_STATUS_INVALID_VALUE;
  support::give_to_stream(handle->stream, [=, scale = *alpha, old = *beta, a = real(a), b = real(b), c = real(c)] {
    auto at = [](T const* x, int ld, bool as_is, int row, int column) {
      return double(as_is ? x[row + std::ptrdiff_t(column) * ld] : x[column + std::ptrdiff_t(row) * ld]);
    };
    for (int j = 0; j < n; ++j)
      for (int i = 0; i < m; ++i) {
        double sum = 0;
        for (int l = 0; l < k; ++l) sum += at(a, lda, a_as_is, i, l) * at(b, ldb, b_as_is, l, j);
        T& to = c[i + std::ptrdiff_t(j) * ldc];
        to = T(double(scale) * sum + (old == 0 ? 0 : double(old) * double(to))); // with beta 0 what was there is not read
      }
  });
  return CUBLAS_STATUS_SUCCESS;
}

} // namespace

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) { return *handle = new cublasContext, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) { return delete handle, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  return handle->stream = stream, CUBLAS_STATUS_SUCCESS;
}
char const* cublasGetStatusString(cublasStatus_t) { return "as the fake cuBLAS of the tests says"; }

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                              float const* alpha, float const* a, int lda, float const* b, int ldb, float const* beta, float* c,
                              int ldc) {
  return multiply(handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                              double const* alpha, double const* a, int lda, double const* b, int ldb, double const* beta,
                              double* c, int ldc) {
  return multiply(handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
