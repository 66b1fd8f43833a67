// Vectors of the compiler's own kind (vector_size), with the exponential and hyperbolic tangent that attention needs.
// Lanes are computed alike and independently; exp_of is exact at 0 (1) and below float's range (0), its error about 1e-7.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <sp/core/index.hpp>

// What the target computes with. The kernel lives in an inline namespace of that name, so that translation units compiled for different
// processors link without sharing its code or its types. Plans, pools and pieces are ordinary inline functions, as in any header.
#if defined(__AVX512F__)
#define SP_CPU_TARGET avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define SP_CPU_TARGET avx2_fma
#elif defined(__AVX__) && defined(__FMA__)
#define SP_CPU_TARGET avx_fma
#elif defined(__AVX2__)
#define SP_CPU_TARGET avx2
#elif defined(__AVX__)
#define SP_CPU_TARGET avx
#else
#define SP_CPU_TARGET any_cpu
#endif

namespace sp::detail {
inline namespace SP_CPU_TARGET {

#if defined(__AVX512F__)
inline constexpr int simd_bytes = 64;
inline constexpr int micro_rows = 8; // 8 x 2 sums in 32 registers
#elif defined(__AVX__)
inline constexpr int simd_bytes = 32;
inline constexpr int micro_rows = 4; // 4 x 2 sums in 16 registers
#else
inline constexpr int simd_bytes = 16;
inline constexpr int micro_rows = 4;
#endif

template <class A>
struct simd {
  typedef A native __attribute__((vector_size(simd_bytes)));
  static constexpr index_t lanes = simd_bytes / index_t(sizeof(A));
  native v;

  simd() = default;
  explicit simd(A x) : v(x - native{}) {} // x - 0 is x, also for -0: it costs nothing
  static simd of(native n) {              // not a constructor: g++ takes a dependent native for A
    simd r;
    r.v = n;
    return r;
  }
  static simd load(A const* p) {
    simd r;
    std::memcpy(&r.v, p, sizeof(native));
    return r;
  }
  void store(A* p) const { std::memcpy(p, &v, sizeof(native)); }

  /// a, of which the compiler knows nothing more: with -ffast-math it would undo what rounding is asked for.
  friend simd rounded(simd a) {
#if defined(__x86_64__)
    asm("" : "+x"(a.v));
#elif defined(__aarch64__)
    asm("" : "+w"(a.v));
#endif
    return a;
  }
  friend simd operator+(simd a, simd b) { return simd::of(native(a.v + b.v)); }
  friend simd operator-(simd a, simd b) { return simd::of(native(a.v - b.v)); }
  friend simd operator*(simd a, simd b) { return simd::of(native(a.v * b.v)); }
  friend simd operator/(simd a, simd b) { return simd::of(native(a.v / b.v)); }
  /// a b + c in one expression, so that every compiler may fuse it.
  friend simd multiply_add(simd a, simd b, simd c) { return simd::of(native(a.v * b.v + c.v)); }
  friend simd larger(simd a, simd b) { return simd::of(native(b.v > a.v ? b.v : a.v)); }
  /// x where condition < bound, else y.
  friend simd where_less(simd condition, simd bound, simd x, simd y) {
    return simd::of(native(condition.v < bound.v ? x.v : y.v));
  }

  A sum() const {
    A s = 0;
    for (index_t i = 0; i < lanes; ++i) s += v[i];
    return s;
  }
  A largest() const {
    A s = v[0];
    for (index_t i = 1; i < lanes; ++i) s = v[i] > s ? v[i] : s;
    return s;
  }
};

/// e^x (Cephes' expf, Moshier). NaN stays NaN.
inline simd<float> exp_of(simd<float> x) {
  using V = simd<float>;
  typedef std::int32_t ints __attribute__((vector_size(simd_bytes)));
  V least(-87.3f), most(88.3f);
  V y = where_less(x, least, least, where_less(most, x, most, x));
  V shifted = multiply_add(y, V(1.44269504088896341f), V(128.5f)); // positive: truncation rounds down
  ints n = __builtin_convertvector(shifted.v, ints) - 128;
  V f = V::of(__builtin_convertvector(n, V::native));
  V r = multiply_add(f, V(2.12194440e-4f), multiply_add(f, V(-0.693359375f), y)); // y - f ln 2, in two parts
  V p = multiply_add(V(1.9875691500e-4f), r, V(1.3981999507e-3f));
  p = multiply_add(p, r, V(8.3334519073e-3f));
  p = multiply_add(p, r, V(4.1665795894e-2f));
  p = multiply_add(p, r, V(1.6666665459e-1f));
  p = multiply_add(p, r, V(5.0000001201e-1f));
  p = multiply_add(p, r * r, r + V(1.0f));
  ints power = (n + 127) << 23;
  V scale;
  std::memcpy(&scale.v, &power, sizeof power);
  return where_less(x, least, V(0.0f), p * scale);
}

/// tanh x (Cephes' tanhf).
inline simd<float> tanh_of(simd<float> x) {
  using V = simd<float>;
  V zero(0.0f), one(1.0f), a = larger(x, zero - x), z = x * x;
  V t = exp_of(a * V(-2.0f)), far = (one - t) / (one + t);
  V p = multiply_add(V(-5.70498872745e-3f), z, V(2.06390887954e-2f));
  p = multiply_add(p, z, V(-5.37397155531e-2f));
  p = multiply_add(p, z, V(1.33314422036e-1f));
  p = multiply_add(p, z, V(-3.33332819422e-1f));
  V near = multiply_add(p * z, x, x);
  return where_less(a, V(0.625f), near, where_less(x, zero, zero - far, far));
}

template <class F>
simd<double> each_lane(simd<double> x, F&& f) {
  for (index_t i = 0; i < simd<double>::lanes; ++i) x.v[i] = f(x.v[i]);
  return x;
}
inline simd<double> exp_of(simd<double> x) {
  return each_lane(x, [](double e) { return std::exp(e); });
}
inline simd<double> tanh_of(simd<double> x) {
  return each_lane(x, [](double e) { return std::tanh(e); });
}

} // namespace SP_CPU_TARGET
} // namespace sp::detail
