// The handle of a block of threads, which kernels are templates over; device_block is its model on devices, from sm_80 on.
// The only place with PTX. Tests run the same kernels over tests/support/emulated_block.hpp, which checks what is said here.
#pragma once

#include <concepts>
#include <type_traits>

#include <sp/core/dtype.hpp>
#include <sp/core/index.hpp>

/// In front of what runs on devices alone: the call operator of a kernel, and what it calls with a block. It changes no meaning.
#ifdef __CUDACC__
#define SP_DEVICE __device__
#else
#define SP_DEVICE
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "sp: device code needs sm_80 or later: compile with -arch=sm_80, sm_90a or newer"
#endif

namespace sp::detail {

/// What a shuffle moves: 4 or 8 bytes.
template <class T>
concept shuffled = std::is_trivially_copyable_v<T> &&(sizeof(T) == 4 || sizeof(T) == 8);

/// What add_to takes.
template <class T>
concept added = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, int>;

/// Two neighbours of a row, 8-byte aligned. Where the four lanes that have a row of sums move 32 neighbouring bytes by them, a warp moves
/// eight whole sectors of memory, and wider words would move no fewer.
using two_floats = elements_together<float, 2>;

/// What multiply_add takes.
template <class T>
concept multiplied = std::same_as<T, bf16> || std::same_as<T, fp16>;

/// A block of threads as one of them sees it. A kernel is a trivially copyable struct, its members are its arguments:
///
///     struct scale_rows {
///       view<float, 2> x;
///       static constexpr int threads = 256;     // per block; a multiple of 32, at most 1024
///       template <class Block>
///       SP_DEVICE void operator()(Block& b) const;
///     };
///
///     thread(), threads()                0 <= thread() < threads()
///     warp(), lane()                     thread() / 32, thread() % 32
///     index(), blocks()                  of this block in its grid
///     barrier()                          all threads of the block meet; what they wrote before is seen by all behind it
///     warp_barrier()                     the same, of the 32 threads of a warp
///
/// Operations of a warp. All 32 threads of a warp take part, at the same place in the code:
///
///     shuffle(x, lane)                   x of that lane, 0 <= lane < 32; 4 or 8 bytes
///     shuffle_xor(x, mask)               x of lane ^ mask, 0 <= mask < 32
///     shuffle_down(x, by)                x of lane + by, one's own beyond the last lane; 0 <= by < 32
///     any(p), all(p), ballot(p)          bit i of a ballot is p of lane i
///     load_matrix(r, row)                four 8x8 matrices of 2-byte elements from shared memory. Lane i gives the address of row i % 8
///                                        of matrix i / 8: 16 bytes, 16-byte aligned. r[m] of lane i: elements 2 (i % 4) and the next of
///                                        row i / 4 of matrix m, the first in the low half
///     load_matrix_transposed(r, row)     the same of the transposed matrices
///     multiply_add<T>(d, a, b)           d (16x8) += a (16x16) b (16x8), elements T, sums float, in no promised order. With g = lane / 4
///                                        and t = 2 (lane % 4), in each register the element of the lower index in the low half:
///                                          a[0]: row g, columns t, t+1     a[1]: row g+8     a[2], a[3]: the same, columns t+8, t+9
///                                          b[0]: rows t, t+1, column g     b[1]: rows t+8, t+9
///                                          d[0], d[1]: row g, columns t, t+1     d[2], d[3]: row g+8
///
/// Shared memory, as many bytes as the launch gave, 16-byte aligned, its contents undefined at the beginning:
///
///     shared<T>(offset)                  its address `offset` bytes behind the beginning; a multiple of alignof(T)
///     copy_async(to, from, valid)        starts to copy 16 bytes of global to shared memory, both 16-byte aligned. Zeros, and nothing is
///                                        read, unless valid
///     copy_async_commit()                makes a group of the copies that this thread has started since its last one
///     copy_async_wait<N>()               all but the last N groups of this thread have arrived, for this thread: others see them behind a
///                                        barrier. A thread waits for all its copies before it ends
///
/// Others:
///
///     exp2(x), log2(x)                   of float, within some 2^-22 relative (log2 near 1: absolute); results below 2^-126 are zero
///     add_to(p, x)                       *p += x as one step whoever else adds to it; returns what was there. float, double, int
///     add_to(p, two)                     the same of two neighbouring floats in global memory, 8-byte aligned: each is a step of its own.
///                                        Returns nothing. From sm_90 on one instruction, so that memory is asked half as often
template <class B>
concept block_handle = requires(B& b, int i, float x, two_floats* t, float* f, double* d, int* n, void* p, void const* c,
                                unsigned (&r)[4], unsigned const (&a)[4], unsigned const (&two)[2], float (&sums)[4]) {
  { b.thread() } -> std::same_as<int>;
  { b.threads() } -> std::same_as<int>;
  { b.lane() } -> std::same_as<int>;
  { b.warp() } -> std::same_as<int>;
  { b.index() } -> std::same_as<index_t>;
  { b.blocks() } -> std::same_as<index_t>;
  b.barrier();
  b.warp_barrier();
  { b.shuffle(x, i) } -> std::same_as<float>;
  { b.shuffle_xor(x, i) } -> std::same_as<float>;
  { b.shuffle_down(x, i) } -> std::same_as<float>;
  { b.any(true) } -> std::same_as<bool>;
  { b.all(true) } -> std::same_as<bool>;
  { b.ballot(true) } -> std::same_as<unsigned>;
  { b.template shared<float>(index_t{}) } -> std::same_as<float*>;
  b.copy_async(p, c, true);
  b.copy_async_commit();
  b.template copy_async_wait<1>();
  b.load_matrix(r, c);
  b.load_matrix_transposed(r, c);
  b.template multiply_add<bf16>(sums, a, two);
  b.template multiply_add<fp16>(sums, a, two);
  { b.exp2(x) } -> std::same_as<float>;
  { b.log2(x) } -> std::same_as<float>;
  { b.add_to(f, x) } -> std::same_as<float>;
  { b.add_to(d, double{}) } -> std::same_as<double>;
  { b.add_to(n, i) } -> std::same_as<int>;
  b.add_to(t, {x, x});
};

/// Two numbers as neighbouring elements, rounded to nearest even, the first in the low half: what products take.
template <multiplied T>
SP_DEVICE unsigned packed(float low, float high) {
#ifdef __CUDA_ARCH__
  unsigned r;
  if constexpr (std::is_same_v<T, bf16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
#else
  return unsigned{T(low).bits} | unsigned{T(high).bits} << 16;
#endif
}

#ifdef __CUDACC__

/// The block that runs: built-in variables and PTX.
class device_block {
public:
  SP_DEVICE static int thread() { return static_cast<int>(threadIdx.x); }
  SP_DEVICE static int threads() { return static_cast<int>(blockDim.x); }
  SP_DEVICE static int lane() { return thread() % 32; }
  SP_DEVICE static int warp() { return thread() / 32; }
  SP_DEVICE static index_t index() { return static_cast<index_t>(blockIdx.x); }
  SP_DEVICE static index_t blocks() { return static_cast<index_t>(gridDim.x); }

  SP_DEVICE static void barrier() { __syncthreads(); }
  SP_DEVICE static void warp_barrier() { __syncwarp(); }

  template <shuffled T>
  SP_DEVICE static T shuffle(T x, int lane) {
    return __builtin_bit_cast(T, __shfl_sync(everybody, __builtin_bit_cast(word<T>, x), lane));
  }
  template <shuffled T>
  SP_DEVICE static T shuffle_xor(T x, int mask) {
    return __builtin_bit_cast(T, __shfl_xor_sync(everybody, __builtin_bit_cast(word<T>, x), mask));
  }
  template <shuffled T>
  SP_DEVICE static T shuffle_down(T x, int by) {
    return __builtin_bit_cast(T, __shfl_down_sync(everybody, __builtin_bit_cast(word<T>, x), static_cast<unsigned>(by)));
  }
  SP_DEVICE static bool any(bool p) { return __any_sync(everybody, p) != 0; }
  SP_DEVICE static bool all(bool p) { return __all_sync(everybody, p) != 0; }
  SP_DEVICE static unsigned ballot(bool p) { return __ballot_sync(everybody, p); }

  template <class T>
  SP_DEVICE static T* shared(index_t offset) {
    extern __shared__ __align__(16) unsigned char sp_shared_memory[];
    return reinterpret_cast<T*>(sp_shared_memory + offset);
  }

  // Everything that touches shared memory says so to the compiler ("memory"): plain accesses stay on their side of it.
  SP_DEVICE static void copy_async(void* to, void const* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(__cvta_generic_to_global(from)),
                 "r"(valid ? 16 : 0)
                 : "memory");
  }
  SP_DEVICE static void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int N>
  SP_DEVICE static void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
  }

  SP_DEVICE static void load_matrix(unsigned (&r)[4], void const* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
  SP_DEVICE static void load_matrix_transposed(unsigned (&r)[4], void const* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
  template <multiplied T>
  SP_DEVICE static void multiply_add(float (&d)[4], unsigned const (&a)[4], unsigned const (&b)[2]) {
    if constexpr (std::is_same_v<T, bf16>)
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }

  SP_DEVICE static float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  SP_DEVICE static float log2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  template <added T>
  SP_DEVICE static T add_to(T* p, std::type_identity_t<T> x) {
    return atomicAdd(p, x);
  }
  SP_DEVICE static void add_to(two_floats* p, two_floats const& x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "f"(x.of[0]), "f"(x.of[1])
                 : "memory");
#else
    atomicAdd(&p->of[0], x.of[0]);
    atomicAdd(&p->of[1], x.of[1]);
#endif
  }

private:
  static constexpr unsigned everybody = ~0u;
  template <class T>
  using word = std::conditional_t<sizeof(T) == 8, unsigned long long, unsigned>;
  SP_DEVICE static unsigned shared_address(void const* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }
};

static_assert(block_handle<device_block>);

#endif

} // namespace sp::detail
