// Refuses what cannot compile sp with one sentence, in place of a page of messages about concepts, and names what compilers spell apart.
// Every header reaches this one through index.hpp, error.hpp or dtype.hpp. docs/versioning.md lists the supported compilers; lint may
// run an older clang than compiles.
#pragma once

#if __cplusplus < 202002L
#error "sp needs C++20: compile with -std=c++20 (g++ 12, clang 16, nvcc 13 or later)."
#elif defined(__clang__) && !defined(__apple_build_version__) && __clang_major__ < 16 && !defined(__clang_analyzer__)
#error "sp needs clang 16 or later: concepts of earlier ones are incomplete. Use a newer clang, or g++ 12 or later."
#elif !defined(__clang__) && defined(__GNUC__) && __GNUC__ < 12
#error "sp needs g++ 12 or later: its sources use C++20 that earlier ones lack. Use a newer g++, or clang 16 or later."
#elif !defined(__GNUC__) // clang, nvcc's host compiler and nvc++ define it too
#error "sp knows g++ and clang only: it uses their builtins for atomics and vectors. Use g++ 12 or clang 16, or later."
#endif

/// In front of what runs on the host and on devices: bodies that queues are given, and what these call. It changes no meaning.
#ifdef __CUDACC__
#define SP_BOTH __host__ __device__
#else
#define SP_BOTH
#endif

/// The entries of a std::array, to be read, in what runs on both: its members do not run on devices.
#ifdef __CUDA_ARCH__
#define SP_ENTRIES(array) reinterpret_cast<typename std::remove_cvref_t<decltype(array)>::value_type const*>(&(array))
#else
#define SP_ENTRIES(array) (array)
#endif
