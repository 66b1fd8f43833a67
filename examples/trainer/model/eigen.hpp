// Eigen, single-threaded: a rank is one thread. Include it before headers that may use intrinsics.
// g++ 12 warns about its own AVX-512 headers once Eigen's kernels are inlined (GCC bug 105593); only that is silenced.
#pragma once

#define EIGEN_DONT_PARALLELIZE
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <Eigen/Dense>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <vector>

namespace trainer {

/// Numbers that matrices are mapped on. Eigen's sums depend on where in a vector register a row begins: with aligned memory that is
/// the same in every run, and so are the bits.
template <class T>
using flat_vector = std::vector<T, Eigen::aligned_allocator<T>>;

} // namespace trainer
