// A block of threads on the host, for kernels that are templates over sp::detail::block_handle: every thread is a fiber.
// What a device leaves undefined fails here, or gives wrong numbers: the failure names the seed that repeats it, block, thread and line.
//
//     support::run_grid(kernel, blocks, shared_bytes, {.seed = 7});   // all blocks; throws support::emulation_failure
//     support::run_independent(kernel, blocks, {.seed = 7});          // threads that never meet: plain calls, cheap for large grids
//     sp::detail::launch(stream, kernel, blocks, shared_bytes);       // hands the same to the stream of a fake runtime, see below
//
// What is checked, beyond what the address sanitizer sees (it is told of every switch):
// - Threads run one at a time, from one meeting point to the next, in random order; a few blocks are under way at the same time. A barrier
//   that is missing shows as a wrong number.
// - Shared memory is full of 0xff at the beginning (NaN in every element type) and so is what lies beyond it, which must not change.
// - The bytes of copy_async arrive at once, at a random moment, or when copy_async_wait returns and never before, as is drawn for a launch or
//   for each group of copies of a thread; until then 0xff is there. Its addresses, and those of load_matrix, must be aligned, inside of shared
//   memory, and not on their way.
// - All threads of a block, or of a warp, meet at the same place in the code; a meeting that not all can come to is a failure.
// - multiply_add sums its products in an order drawn by `emulation::arithmetic`, in float; exp2 and log2 are off by less than 2^-22.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <source_location>
#include <span>
#include <string>

#include <sp/cuda/block.hpp>
#include <sp/cuda/launch.hpp>

#include "support/elsewhere.hpp"
#include "support/emulated_grid.hpp"

struct CUstream_st;

namespace support {

/// Runs `blocks` blocks of a kernel, each with `shared_bytes` of shared memory.
/// Throws emulation_failure, or what the kernel throws, once every thread has been left.
template <class Kernel>
emulated_work run_grid(Kernel const& kernel, sp::index_t blocks, sp::index_t shared_bytes, emulation const& how = {});

/// Runs the threads of a kernel that never meet as plain calls, in random order; whatever brings threads together fails.
template <class Kernel>
void run_independent(Kernel const& kernel, sp::index_t blocks, emulation const& how = {});

/// The handle that a kernel gets, of one thread. Sites are filled in by the compiler.
class emulated_block {
  using place = std::source_location;

public:
  int thread() const noexcept { return number_; }
  int threads() const noexcept { return threads_; }
  int lane() const noexcept { return number_ % 32; }
  int warp() const noexcept { return number_ / 32; }
  sp::index_t index() const noexcept { return index_; }
  sp::index_t blocks() const noexcept { return blocks_; }

  void barrier(place site = place::current());
  void warp_barrier(place site = place::current());

  template <sp::detail::shuffled T>
  T shuffle(T x, int lane, place site = place::current()) {
    return shuffled("shuffle", x, within_warp(lane, site), site);
  }
  template <sp::detail::shuffled T>
  T shuffle_xor(T x, int mask, place site = place::current()) {
    return shuffled("shuffle_xor", x, lane() ^ within_warp(mask, site), site);
  }
  template <sp::detail::shuffled T>
  T shuffle_down(T x, int by, place site = place::current()) {
    int const from = lane() + within_warp(by, site);
    return shuffled("shuffle_down", x, from < 32 ? from : lane(), site);
  }
  bool any(bool p, place site = place::current()) { return vote("any", p, site) != 0; }
  bool all(bool p, place site = place::current()) { return vote("all", p, site) == ~0u; }
  unsigned ballot(bool p, place site = place::current()) { return vote("ballot", p, site); }

  template <class T>
  T* shared(sp::index_t offset, place site = place::current()) {
    return reinterpret_cast<T*>(shared_at(offset, alignof(T), site));
  }
  void copy_async(void* to, void const* from, bool valid, place site = place::current());
  void copy_async_commit(place site = place::current());
  template <int N>
  void copy_async_wait(place site = place::current()) {
    static_assert(N >= 0);
    wait_for_copies(N, site);
  }

  void load_matrix(unsigned (&r)[4], void const* row, place site = place::current()) { load("load_matrix", r, row, false, site); }
  void load_matrix_transposed(unsigned (&r)[4], void const* row, place site = place::current()) {
    load("load_matrix_transposed", r, row, true, site);
  }
  template <sp::detail::multiplied T>
  void multiply_add(float (&d)[4], unsigned const (&a)[4], unsigned const (&b)[2], place site = place::current()) {
    multiply(
        "multiply_add", d, a, b, [](std::uint16_t bits) -> float { return T::from_bits(bits); }, site);
  }

  static float exp2(float x) {
    double const y = std::exp2(static_cast<double>(x));
    return y < 0x1p-126 ? 0.0F : x == 0.0F ? 1.0F : static_cast<float>(y * (1 + off_by(x)));
  }
  static float log2(float x) {
    if (std::fpclassify(x) == FP_SUBNORMAL) x = std::copysign(0.0F, x);
    double const y = std::log2(static_cast<double>(x));
    return x == 1.0F ? 0.0F : static_cast<float>(x > 0.5F && x < 2.0F ? y + off_by(x) : y * (1 + off_by(x)));
  }
  template <sp::detail::added T>
  T add_to(T* p, std::type_identity_t<T> x) {
    let_others_go_on();
    T const before = *p;
    *p = before + x;
    return before;
  }
  void add_to(sp::detail::two_floats* p, sp::detail::two_floats const& x, place site = place::current()) {
    if (reinterpret_cast<std::uintptr_t>(p) % alignof(sp::detail::two_floats) != 0)
      fail("add_to: two floats at an address that is not 8-byte aligned", site);
    for (std::size_t i = 0; i < 2; ++i) add_to(&p->of[i], x.of[i]); // others come between
  }

private:
  template <class Kernel>
  friend emulated_work run_grid(Kernel const&, sp::index_t, sp::index_t, emulation const&);
  template <class Kernel>
  friend void run_independent(Kernel const&, sp::index_t, emulation const&);

  emulated_block(emulation const& how, int number, int threads, sp::index_t index, sp::index_t blocks) noexcept
      : how_(&how), number_(number), threads_(threads), index_(index), blocks_(blocks) {}
  explicit emulated_block(emulator::thread& t) noexcept
      : grid_(t.block->of), me_(&t), how_(&grid_->how), number_(t.number), threads_(grid_->threads), index_(t.block->index),
        blocks_(grid_->blocks) {}

  struct shuffle_argument {
    void const* x;
    int from;
    void* result;
  };
  struct vote_argument {
    bool p;
    unsigned result;
  };
  struct load_argument {
    std::byte const* row;
    unsigned* r;
  };
  struct multiply_argument {
    float* d;
    unsigned const *a, *b;
  };

  [[noreturn]] void fail(std::string const& problem, place const& site) const;
  void meets_others(char const* operation, place const& site) const;
  int within_warp(int lane, place const& site) const {
    if (lane < 0 || lane > 31) fail("lane, mask or distance " + std::to_string(lane) + " is not in 0 ... 31", site);
    return lane;
  }
  /// An error of up to 2^-22, rounding to float included, which depends on x alone.
  static double off_by(float x) noexcept {
    return static_cast<double>(static_cast<std::int32_t>(__builtin_bit_cast(std::uint32_t, x) * 0x9E3779B9u)) * 0x1.8p-54;
  }

  /// Waits for the other threads of the warp at the same place; the last one calls complete(team): the 32 threads with their arguments.
  template <class Complete>
  void meet_warp(char const* operation, void* argument, Complete const& complete, place const& site);
  template <class T>
  T shuffled(char const* operation, T x, int from, place const& site);
  unsigned vote(char const* operation, bool p, place const& site);
  void load(char const* operation, unsigned (&r)[4], void const* row, bool transposed, place const& site);
  template <class Value>
  void multiply(char const* operation, float (&d)[4], unsigned const (&a)[4], unsigned const (&b)[2], Value value,
                place const& site);
  std::byte* shared_at(sp::index_t offset, std::size_t alignment, place const& site);
  std::byte* sixteen_bytes(char const* operation, void const* p, place const& site);
  void wait_for_copies(std::int64_t groups_left, place const& site);
  void let_others_go_on();

  emulator::grid* grid_ = nullptr; ///< null: independent threads
  emulator::thread* me_ = nullptr;
  emulation const* how_;
  int number_, threads_;
  sp::index_t index_, blocks_;
};

inline void emulated_block::fail(std::string const& problem, place const& site) const {
  throw emulation_failure(emulator::described(problem, index_, number_, site, *how_));
}
/// Refused where threads run as plain calls.
inline void emulated_block::meets_others(char const* operation, place const& site) const {
  if (!grid_) fail(std::string(operation) + " in a kernel of independent threads", site);
}

inline void emulated_block::barrier(place site) {
  meets_others("barrier", site);
  me_->operation = "barrier";
  me_->site = site;
  grid_->meet(me_->block->all, *me_, 0, threads_, [](emulator::thread*) {});
}
inline void emulated_block::warp_barrier(place site) {
  meet_warp(
      "warp_barrier", nullptr, [](emulator::thread*) {}, site);
}
template <class Complete>
void emulated_block::meet_warp(char const* operation, void* argument, Complete const& complete, place const& site) {
  meets_others(operation, site);
  me_->operation = operation;
  me_->site = site;
  me_->argument = argument;
  grid_->meet(me_->block->warps[static_cast<std::size_t>(warp())], *me_, warp() * 32, 32, complete);
}

template <class T>
T emulated_block::shuffled(char const* operation, T x, int from, place const& site) {
  T result{};
  shuffle_argument argument{&x, from, &result};
  auto const complete = [](emulator::thread* team) {
    for (int lane = 0; lane < 32; ++lane) {
      auto const& to = *static_cast<shuffle_argument*>(team[lane].argument);
      std::memcpy(to.result, static_cast<shuffle_argument*>(team[to.from].argument)->x, sizeof(T));
    }
  };
  meet_warp(operation, &argument, complete, site);
  return result;
}

inline unsigned emulated_block::vote(char const* operation, bool p, place const& site) {
  vote_argument argument{p, 0};
  auto const complete = [](emulator::thread* team) {
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane) bits |= unsigned{static_cast<vote_argument*>(team[lane].argument)->p} << lane;
    for (unsigned lane = 0; lane < 32; ++lane) static_cast<vote_argument*>(team[lane].argument)->result = bits;
  };
  meet_warp(operation, &argument, complete, site);
  return argument.result;
}

inline std::byte* emulated_block::shared_at(sp::index_t offset, std::size_t alignment, place const& site) {
  meets_others("shared", site);
  emulator::shared_memory& s = me_->block->shared;
  if (offset < 0 || static_cast<std::size_t>(offset) > s.bytes())
    fail("offset " + std::to_string(offset) + " in " + std::to_string(s.bytes()) + " bytes of shared memory", site);
  if (alignment > 16 || static_cast<std::size_t>(offset) % alignment != 0)
    fail("offset " + std::to_string(offset) + " of shared memory for a type that is aligned to " + std::to_string(alignment) +
             " bytes",
         site);
  return s.begin() + offset;
}

/// The 16 bytes of shared memory that an operation names.
inline std::byte* emulated_block::sixteen_bytes(char const* operation, void const* p, place const& site) {
  meets_others(operation, site);
  emulator::shared_memory& s = me_->block->shared;
  auto const offset = reinterpret_cast<std::intptr_t>(p) - reinterpret_cast<std::intptr_t>(s.begin());
  auto const what = [&] { return std::string(operation) + ": byte " + std::to_string(offset) + " of shared memory"; };
  if (!s.holds(p, 16)) fail(what() + ", which has " + std::to_string(s.bytes()) + " bytes, and 16 are needed", site);
  if (offset % 16 != 0) fail(what() + " is not 16-byte aligned", site);
  if (s.under_way(p) > 0) fail(what() + ": a copy is on its way there", site);
  return s.begin() + offset;
}

inline void emulated_block::copy_async(void* to, void const* from, bool valid, place site) {
  std::byte* const there = sixteen_bytes("copy_async", to, site);
  if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0)
    fail("copy_async: the address in global memory is not 16-byte aligned", site);
  if (valid) { // what cannot be read shows at this call
    std::byte bytes[16];
    std::memcpy(bytes, from, 16);
    asm volatile("" ::"m"(bytes));
  }
  me_->site = site;
  grid_->copy_starts(*me_, there, valid ? static_cast<std::byte const*>(from) : nullptr);
}
inline void emulated_block::copy_async_commit(place site) {
  meets_others("copy_async_commit", site);
  grid_->group_ends(*me_);
}
inline void emulated_block::wait_for_copies(std::int64_t groups_left, place const& site) {
  meets_others("copy_async_wait", site);
  auto& copies = me_->copies;
  for (std::size_t i = copies.size(); i-- > 0;)
    if (copies[i].group < me_->groups - groups_left || (copies[i].when == arrival::any && grid_->random() % 4 == 0))
      grid_->copy_arrives(*me_, i);
}

inline void emulated_block::load(char const* operation, unsigned (&r)[4], void const* row, bool transposed, place const& site) {
  load_argument argument{sixteen_bytes(operation, row, site), r};
  auto const complete = [this, transposed](emulator::thread* team) SP_TEST_UNCHECKED {
    auto const element = [&](int matrix, int i, int j) SP_TEST_UNCHECKED -> unsigned { // row i, column j
      std::uint16_t bits = 0;
      std::memcpy(&bits, static_cast<load_argument*>(team[8 * matrix + i].argument)->row + 2 * j, 2);
      return bits;
    };
    ++grid_->done.matrix_loads;
    for (int m = 0; m < 4; ++m) {
      std::byte const* rows[8];
      for (int i = 0; i < 8; ++i) rows[i] = static_cast<load_argument*>(team[8 * m + i].argument)->row;
      grid_->done.conflicts += me_->block->shared.waits(rows);
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int m = 0; m < 4; ++m) {
        int const i = lane / 4, j = lane % 4 * 2;
        unsigned const low = transposed ? element(m, j, i) : element(m, i, j);
        unsigned const high = transposed ? element(m, j + 1, i) : element(m, i, j + 1);
        static_cast<load_argument*>(team[lane].argument)->r[m] = low | high << 16;
      }
  };
  meet_warp(operation, &argument, complete, site);
}

template <class Value>
void emulated_block::multiply(char const* operation, float (&d)[4], unsigned const (&a)[4], unsigned const (&b)[2], Value value,
                              place const& site) {
  multiply_argument argument{d, a, b};
  auto const complete = [this, value](emulator::thread* team) SP_TEST_UNCHECKED {
    float left[16][16], right[16][8]; // as the manual of PTX lays out the fragments of mma.m16n8k16
    for (int lane = 0; lane < 32; ++lane) {
      auto const& of = *static_cast<multiply_argument*>(team[lane].argument);
      int const g = lane / 4, t = lane % 4 * 2;
      for (int i = 0; i < 4; ++i)
        for (int part = 0; part < 2; ++part)
          left[g + i % 2 * 8][t + i / 2 * 8 + part] = value(static_cast<std::uint16_t>(of.a[i] >> 16 * part));
      for (int i = 0; i < 2; ++i)
        for (int part = 0; part < 2; ++part) right[t + i * 8 + part][g] = value(static_cast<std::uint16_t>(of.b[i] >> 16 * part));
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        float& sum_of = static_cast<multiply_argument*>(team[lane].argument)->d[i];
        int const row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = 0;
        for (int k : grid_->terms) sum += k == 16 ? sum_of : left[row][k] * right[k][column];
        sum_of = sum;
      }
  };
  meet_warp(operation, &argument, complete, site);
}

inline void emulated_block::let_others_go_on() {
  if (grid_ && grid_->random() % 4 == 0) grid_->leave(*me_);
}

template <class Kernel>
emulated_work run_grid(Kernel const& kernel, sp::index_t blocks, sp::index_t shared_bytes, emulation const& how) {
  static_assert(sp::detail::block_handle<emulated_block>);
  sp::detail::require_kernel<Kernel>();
  emulator::grid grid(Kernel::threads, blocks, shared_bytes, how, [&kernel](emulator::thread& t) {
    emulated_block b(t);
    kernel(b);
  });
  return grid.run();
}

template <class Kernel>
void run_independent(Kernel const& kernel, sp::index_t blocks, emulation const& how) {
  sp::detail::require_kernel<Kernel>();
  emulator::random_numbers random(how.seed);
  emulator::shuffled_numbers const order(blocks, random);
  for (sp::index_t i = 0; i < blocks; ++i) {
    emulator::shuffled_numbers const team(Kernel::threads, random);
    for (int t = 0; t < Kernel::threads; ++t) {
      emulated_block b(how, static_cast<int>(team[t]), Kernel::threads, order[i], blocks);
      kernel(b);
    }
  }
}

/// How a thread of the host runs the next kernel that it launches; counts up, so that every launch has an order of its own.
inline std::uint64_t& next_launch_seed() {
  static thread_local std::uint64_t seed = 1;
  return seed;
}

/// What a launch gives to a stream. It owns the kernel and may be done several times: a graph is replayed. Addresses of a device memory that
/// the host cannot touch become those of its bytes.
template <class Kernel>
std::function<void()> launched_work(Kernel const& kernel, sp::index_t blocks, sp::index_t shared_bytes) {
  return [=, there = relocated(kernel), seed = next_launch_seed()++] {
    if constexpr (sp::detail::independent_threads<Kernel>)
      run_independent(there, blocks, {.seed = seed});
    else
      run_grid(there, blocks, shared_bytes, {.seed = seed});
  };
}

/// Queues a kernel on a stream: defined by a fake of the runtime. Without one, work is done when it is launched.
[[gnu::weak]] void launch_on_stream(CUstream_st* stream, std::function<void()> work, std::span<std::byte const> arguments);

} // namespace support

/// Kernels that a program launches without a device run here.
template <>
struct sp::detail::emulated_device<void> {
  template <class Kernel>
  static void launch(CUstream_st* stream, Kernel const& kernel, index_t blocks, index_t shared_bytes) {
    std::function<void()> work = support::launched_work(support::relocated(kernel), blocks, shared_bytes);
    if (support::launch_on_stream)
      support::launch_on_stream(stream, std::move(work), std::as_bytes(std::span(&kernel, 1)));
    else
      work();
  }
};
