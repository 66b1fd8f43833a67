// Kernels that try every operation of a block and count what is right and what is wrong: over an emulated block and on a device.
// Numbers are small integers wherever sums are taken, so that every order of summing gives the same.
#pragma once

#include <cmath>

#include <sp/cuda/launch.hpp>

namespace block_proofs {

using sp::index_t;

/// The number of an element, row + rows * column, that value v of lane l of a fragment holds: CuTe's MMA_Traits of SM80_16x8x16.
SP_BOTH constexpr int element_of_a(int l, int v) {
  return l % 4 * 32 + l / 4 + v % 2 * 16 + v / 2 % 2 * 8 + v / 4 * 128;
} // 16 rows
SP_BOTH constexpr int element_of_b(int l, int v) { return l % 4 * 16 + l / 4 + v % 2 * 8 + v / 2 * 64; } // n + 8 k
SP_BOTH constexpr int element_of_d(int l, int v) { return l % 4 * 32 + l / 4 + v % 2 * 16 + v / 2 * 8; } // 16 rows

template <class T>
SP_BOTH constexpr unsigned two_of(T const& low, T const& high) {
  return unsigned{low.bits} | unsigned{high.bits} << 16;
}

struct counts {
  int *right, *wrong;
  template <class Block>
  SP_DEVICE void expect(Block& b, bool so) const {
    b.add_to(so ? right : wrong, 1);
  }
};

struct pair_of_floats {
  float a, b;
};

/// Barriers, and operations of a warp.
struct meetings : counts {
  static constexpr int threads = 128;
  static constexpr index_t blocks = 3, shared_bytes = 1024, checks = blocks * threads * 19;
  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    int* const s = b.template shared<int>(512);
    int const t = b.thread(), lane = b.lane(), warp = 32 * b.warp();
    for (int round = 0; round < 5; ++round) { // everybody reads what another thread of the block wrote
      s[t] = 1000 * round + t;
      b.barrier();
      expect(b, s[(t + 37) % threads] == 1000 * round + (t + 37) % threads);
      b.barrier();
    }
    s[t] = t; // of the warp
    b.warp_barrier();
    expect(b, s[t ^ 31] == (t ^ 31));
    expect(b, b.threads() == threads && b.blocks() == blocks && lane == t % 32 && warp == t / 32 * 32);
    expect(b, b.shuffle(t, (lane + 5) % 32) == warp + (lane + 5) % 32);
    expect(b, b.shuffle(float(t), 7) == float(warp + 7));
    expect(b, b.shuffle(index_t{t} << 40, 9) == index_t{warp + 9} << 40);
    expect(b, b.shuffle_xor(double(lane) / 3, 21) == double(lane ^ 21) / 3);
    expect(b, b.shuffle_xor(t, 0) == t);
    expect(b, b.shuffle_down(pair_of_floats{float(lane), 2}, 9).a == float(lane + 9 < 32 ? lane + 9 : lane));
    expect(b, b.shuffle_down(t, 0) == t);
    expect(b, b.ballot(lane % 3 == 0) == 0x49249249u);
    bool const one = b.any(lane == 31), none = b.any(lane > 31), every = b.all(lane < 32), most = b.all(lane != 4);
    expect(b, one);
    expect(b, !none);
    expect(b, every);
    expect(b, !most);
  }
};

struct alignas(16) sixteen {
  int x[4];
};

/// Copies in groups, from numbers[i] == i.
struct copies : counts {
  sixteen const* numbers; // 128 of them
  static constexpr int threads = 64;
  static constexpr index_t blocks = 2, shared_bytes = 3 * threads * 16, checks = blocks * threads * 4;
  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    sixteen* const s = b.template shared<sixteen>(0);
    int const t = b.thread();
    b.copy_async(s + t, numbers + t, true);
    b.copy_async_commit();
    b.copy_async(s + 64 + t, t % 2 ? numbers + 64 + t : nullptr, t % 2 != 0);
    b.copy_async_commit();
    b.copy_async(s + 128 + t, numbers + t, true); // of a group that is not complete
    b.template copy_async_wait<1>();
    expect(b, s[t].x[3] == 4 * t + 3);
    b.template copy_async_wait<0>();
    expect(b, s[64 + t].x[1] == (t % 2 ? 4 * (64 + t) + 1 : 0));
    b.barrier();
    expect(b, s[64 + (t ^ 1)].x[2] == (t % 2 ? 0 : 4 * (64 + (t ^ 1)) + 2));
    b.copy_async_commit();
    b.template copy_async_wait<0>();
    expect(b, s[128 + t].x[0] == 4 * t);
  }
};

/// The ways in which kernels bring matrices to products: a by rows; b by columns, as the keys of attention, and b by rows transposed, as
/// its values.
template <class T>
struct products : counts {
  static constexpr int threads = 32;
  static constexpr index_t blocks = 2, shared_bytes = 3 * 512, checks = blocks * threads * (4 + 4 + 4 + 4);
  SP_BOTH static T a(int row, int k) { return T(float((row * 7 + k * 5) % 17 - 8)); }
  SP_BOTH static T b(int k, int n) { return T(float((k * 3 + n * 11 + k * n) % 13 - 6)); }

  template <class Block>
  SP_DEVICE void operator()(Block& block) const {
    T* const rows_of_a = block.template shared<T>(0);      // (16 rows, 16 k)
    T* const columns_of_b = block.template shared<T>(512); // (8 n, 16 k), twice
    T* const rows_of_b = block.template shared<T>(1024);   // (16 k, 8 n), twice beside each other
    int const l = block.lane();
    for (int i = l; i < 256; i += 32) {
      rows_of_a[i] = a(i / 16, i % 16);
      columns_of_b[i] = b(i % 16, i / 16 % 8);
      rows_of_b[i] = b(i / 16, i % 8);
    }
    block.warp_barrier();
    unsigned left[4], keys[4], values[4];
    block.load_matrix(left, rows_of_a + l % 16 * 16 + l / 16 * 8);
    block.load_matrix(keys, columns_of_b + (l / 16 * 8 + l % 8) * 16 + l / 8 % 2 * 8);
    block.load_matrix_transposed(values, rows_of_b + l % 16 * 16 + l / 16 * 8);
    for (int i = 0; i < 4; ++i) {
      auto const of_a = [&](int v) { return a(element_of_a(l, v) % 16, element_of_a(l, v) / 16); };
      auto const of_b = [&](int v) { return b(element_of_b(l, v) / 8, element_of_b(l, v) % 8); };
      this->expect(block, left[i] == two_of(of_a(2 * i), of_a(2 * i + 1)));
      this->expect(block, keys[i] == two_of(of_b(2 * (i % 2)), of_b(2 * (i % 2) + 1)));
      this->expect(block, values[i] == keys[i]);
    }
    unsigned const two[2] = {values[0], values[1]};
    float d[4] = {1, 2, 3, 4};
    block.template multiply_add<T>(d, left, two);
    for (int v = 0; v < 4; ++v) {
      int const row = element_of_d(l, v) % 16, n = element_of_d(l, v) / 16;
      float sum = float(v + 1);
      for (int k = 0; k < 16; ++k) sum += float(a(row, k)) * float(b(k, n));
      this->expect(block, d[v] == sum);
    }
  }
};

/// Functions of numbers.
struct functions : counts {
  static constexpr int threads = 256;
  static constexpr index_t blocks = 16, shared_bytes = 0, checks = blocks * threads * 2 + 8;
  static constexpr bool independent_threads = true;
  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    int const i = int(b.index()) * threads + b.thread();
    float const x = float(i - 2000) / 17, y = float(i + 1) / 700;
    double const power = ::exp2(double(x)), logarithm = ::log2(double(y));
    double const room = 0x1.2p-22; // and a rounding
    expect(b, ::fabs(double(b.exp2(x)) - power) <= room * power);
    expect(b, ::fabs(double(b.log2(y)) - logarithm) <= room * (y > 0.5F && y < 2 ? 1 : ::fabs(logarithm)));
    if (i > 0) return;
    float const zero = 0, infinity = -sp::detail::minus_infinity<float>, nan = infinity - infinity;
    expect(b, b.exp2(zero) == 1 && b.exp2(-zero) == 1);
    expect(b, b.exp2(-infinity) == 0);
    expect(b, b.exp2(-127.0F) == 0);
    expect(b, b.exp2(infinity) == infinity);
    expect(b, b.exp2(nan) != b.exp2(nan));
    expect(b, b.log2(1.0F) == 0);
    expect(b, b.log2(zero) == -infinity && b.log2(1e-40F) == -infinity);
    expect(b, b.log2(-1.0F) != b.log2(-1.0F));
  }
};

/// Sums of all threads. Afterwards *tickets is the number of threads, *sum half and *wide a quarter of it, drawn[i] is 1; *two are the number
/// and three times as much.
struct totals : counts {
  int *tickets, *drawn;
  float* sum;
  double* wide;
  sp::detail::two_floats* two;
  static constexpr int threads = 96;
  static constexpr index_t blocks = 6, shared_bytes = 0, checks = 0, all = blocks * threads;
  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    b.add_to(drawn + b.add_to(tickets, 1), 1);
    b.add_to(sum, 0.5F);
    b.add_to(wide, 0.25);
    b.add_to(two, {1, 3});
  }
};

} // namespace block_proofs
