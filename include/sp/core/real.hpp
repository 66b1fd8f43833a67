// The functions of real numbers that sp needs, by the compiler's builtins: spares every includer what <cmath> costs to compile.
// Each gives the bits of its namesake in <cmath>, by the same library call.
#pragma once

namespace sp::detail {

inline double sqrt_of(double x) { return __builtin_sqrt(x); }
inline float exp_of(float x) { return __builtin_expf(x); }
inline double exp_of(double x) { return __builtin_exp(x); }
inline float log_of(float x) { return __builtin_logf(x); }
inline double log_of(double x) { return __builtin_log(x); }
inline float log1p_of(float x) { return __builtin_log1pf(x); } ///< log(1 + x)
inline double log1p_of(double x) { return __builtin_log1p(x); }
inline float abs_of(float x) { return __builtin_fabsf(x); }
inline double abs_of(double x) { return __builtin_fabs(x); }
inline float fma_of(float a, float b, float c) { return __builtin_fmaf(a, b, c); } ///< a * b + c, rounded once
inline double fma_of(double a, double b, double c) { return __builtin_fma(a, b, c); }

} // namespace sp::detail
