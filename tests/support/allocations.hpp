// Counts what a test program takes from operator new: tests that promise "no allocation" compare the counts before and after. Lets
// memory run out, for tests of what must go on without.
// Replaces the global operators, so sources of one compilation include it, outside of their namespaces; sanitizers bring their own.
#pragma once

#include <atomic>
#include <cstdlib>
#include <new>

namespace support {

inline thread_local long allocations_of_thread = 0, bytes_of_thread = 0;
inline thread_local bool out_of_memory = false; ///< allocations of this thread throw
inline thread_local long failing_allocation =
    -1; ///< the allocation of this thread that throws: 0 is the next one, negative: none
inline std::atomic<long> allocations_of_program{0};

[[gnu::noinline]] inline void* counted_memory(std::size_t n, std::size_t alignment) {
  if (out_of_memory || (failing_allocation >= 0 && failing_allocation-- == 0)) throw std::bad_alloc();
  ++allocations_of_thread;
  bytes_of_thread += long(n);
  ++allocations_of_program;
  void* p = alignment ? std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment) : std::malloc(n ? n : 1);
  if (!p) throw std::bad_alloc();
  return p;
}

} // namespace support

// not inlined: g++ would see free() of a pointer from operator new, and warn
[[gnu::noinline]] void* operator new(std::size_t n) { return support::counted_memory(n, 0); }
[[gnu::noinline]] void* operator new[](std::size_t n) { return support::counted_memory(n, 0); }
[[gnu::noinline]] void* operator new(std::size_t n, std::align_val_t a) { return support::counted_memory(n, std::size_t(a)); }
[[gnu::noinline]] void* operator new[](std::size_t n, std::align_val_t a) { return support::counted_memory(n, std::size_t(a)); }
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
