// The functions of real numbers that sp needs, by the compiler's builtins: spares every includer what <cmath> costs to compile.
// Each gives the bits of its namesake in <cmath>, by the same library call; on a device those of the device's library.
#pragma once

#include <sp/core/compiler.hpp>

#ifdef __CUDA_ARCH__
#define SP_REAL(name) ::name
#else
#define SP_REAL(name) __builtin_##name
#endif

namespace sp::detail {

SP_BOTH inline double sqrt_of(double x) { return SP_REAL(sqrt)(x); }
SP_BOTH inline float exp_of(float x) { return SP_REAL(expf)(x); }
SP_BOTH inline double exp_of(double x) { return SP_REAL(exp)(x); }
SP_BOTH inline float log_of(float x) { return SP_REAL(logf)(x); }
SP_BOTH inline double log_of(double x) { return SP_REAL(log)(x); }
SP_BOTH inline float log1p_of(float x) { return SP_REAL(log1pf)(x); } ///< log(1 + x)
SP_BOTH inline double log1p_of(double x) { return SP_REAL(log1p)(x); }
SP_BOTH inline float tanh_of(float x) { return SP_REAL(tanhf)(x); }
SP_BOTH inline double tanh_of(double x) { return SP_REAL(tanh)(x); }
SP_BOTH inline float abs_of(float x) { return SP_REAL(fabsf)(x); }
SP_BOTH inline double abs_of(double x) { return SP_REAL(fabs)(x); }
SP_BOTH inline float max_of(float a, float b) { return SP_REAL(fmaxf)(a, b); } ///< the other one where one is NaN
SP_BOTH inline double max_of(double a, double b) { return SP_REAL(fmax)(a, b); }
SP_BOTH inline float fma_of(float a, float b, float c) { return SP_REAL(fmaf)(a, b, c); } ///< a * b + c, rounded once
SP_BOTH inline double fma_of(double a, double b, double c) { return SP_REAL(fma)(a, b, c); }

} // namespace sp::detail

#undef SP_REAL
