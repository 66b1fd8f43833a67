// Copies between lists of pieces on a device: the bytes of one list into those of another, however the two are cut.
// Where each byte lies is computed from a table that goes with the kernel's arguments, so a captured graph replays what it saw.
#pragma once

#include <bit>

#include <sp/cuda/block.hpp>
#include <sp/cuda/blocks.hpp>
#include <sp/cuda/divider.hpp>

namespace sp::detail {

/// What the rows of a block hold: runs in up to three dimensions, the last one fastest.
struct row_shape {
  divider run;        ///< stretches of a run
  divider inner[3];   ///< runs of a row
  index_t strides[3]; ///< in bytes
  friend constexpr bool operator==(row_shape const& a, row_shape const& b) {
    bool same = a.run.divisor == b.run.divisor;
    for (int d = 0; d < 3; ++d) same = same && a.inner[d].divisor == b.inner[d].divisor && a.strides[d] == b.strides[d];
    return same;
  }
};
/// Rows of one shape.
struct row_block {
  std::byte* first;
  index_t stride;           ///< from row to row, in bytes
  std::uint32_t end, shape; ///< the stretch of the list that comes behind it; its shape
};

/// One side of a copy: where each stretch of a list lies, bytes that are neighbours on both sides.
template <std::size_t Blocks, std::size_t Shapes>
struct stretch_table {
  row_shape shapes[Shapes];
  row_block blocks[Blocks];
  std::int32_t count;        ///< of blocks
  std::uint32_t skip, shift; ///< stretches of the first block that come before the list; a stretch has 2^shift bytes

  /// The address of stretch p.
  [[nodiscard]] SP_BOTH constexpr std::byte* at(std::uint32_t p) const {
    p += skip;
    std::int32_t low = 0;
    for (std::int32_t high = count - 1; low < high;) { // the first block that ends behind p
      std::int32_t const middle = (low + high) / 2;
      if (blocks[middle].end > p)
        high = middle;
      else
        low = middle + 1;
    }
    row_block const& b = blocks[low];
    row_shape const& s = shapes[b.shape];
    if (low > 0) p -= blocks[low - 1].end;
    std::uint32_t rest = s.run.quotient(p);
    index_t offset = index_t(p - rest * s.run.divisor) << shift;
    for (int d = 2; d >= 0; --d) {
      std::uint32_t const q = s.inner[d].quotient(rest);
      offset += index_t(rest - q * s.inner[d].divisor) * s.strides[d];
      rest = q;
    }
    return b.first + offset + index_t(rest) * b.stride;
  }
};

/// Fills a stretch_table, first counting in bytes, then in stretches of the size that both sides allow.
template <std::size_t Blocks, std::size_t Shapes>
class stretch_table_maker {
public:
  constexpr explicit stretch_table_maker(stretch_table<Blocks, Shapes>& table) : table_(table) { table_.count = 0; }

  /// Takes as many blocks as there is room for, and returns their bytes from the cursor's place on.
  constexpr index_t fill(block_cursor from) {
    index_t before = 0;
    while (!from.done() && end_ < block_cursor::most && std::size_t(table_.count) < Blocks) {
      run_block const b = from.block(before);
      if (!add(b)) break;
      if (table_.count == 1) skip_ = before;
      from.advance(b.bytes() - before);
    }
    lengths_ |= std::uint64_t(skip_);
    return end_ - skip_;
  }
  /// Bits of runs and of where the list begins: a stretch divides what they have in common.
  [[nodiscard]] constexpr std::uint64_t lengths() const { return lengths_; }
  /// Bits of addresses and strides: a word, which moves at once, divides what these have in common too.
  [[nodiscard]] constexpr std::uint64_t places() const { return places_; }

  constexpr void count_in_stretches(std::uint32_t shift) {
    for (int i = 0; i < shapes_; ++i) table_.shapes[i].run = divider(table_.shapes[i].run.divisor >> shift);
    for (int i = 0; i < table_.count; ++i) table_.blocks[i].end >>= shift;
    table_.skip = std::uint32_t(skip_) >> shift;
    table_.shift = shift;
  }

private:
  constexpr bool add(run_block const& b) {
    row_shape s{};
    s.run = divider(std::uint32_t(b.run));
    for (int d = 1; d < b.dims; ++d) {
      s.inner[d - 1 + 4 - b.dims] = divider(std::uint32_t(b.extents[d]));
      s.strides[d - 1 + 4 - b.dims] = b.strides[d];
      places_ |= std::uint64_t(b.strides[d]);
    }
    if (shapes_ == 0 || !(table_.shapes[shapes_ - 1] == s)) {
      if (std::size_t(shapes_) == Shapes) return false;
      table_.shapes[shapes_++] = s;
    }
    index_t const stride = b.dims ? b.strides[0] : 0;
    places_ |= address(b.first) | std::uint64_t(stride);
    lengths_ |= std::uint64_t(b.run);
    end_ += b.bytes();
    table_.blocks[table_.count++] = {b.first, stride, std::uint32_t(end_), std::uint32_t(shapes_ - 1)};
    return true;
  }
  static constexpr std::uint64_t address(std::byte const* p) { return std::uint64_t(reinterpret_cast<std::uintptr_t>(p)); }

  stretch_table<Blocks, Shapes>& table_;
  int shapes_ = 0;
  index_t end_ = 0, skip_ = 0; ///< in bytes
  std::uint64_t lengths_ = 0, places_ = 0;
};

/// Copies stretches from place to place. To find a place takes some hundred instructions, as much as a thread may spend on 64 bytes
/// where copies are to be limited by memory; so a thread moves up to four words of 16 bytes of one stretch. Stretches of 128 bytes belong
/// to two threads, which take words in turn: at each step the two move 32 bytes, as much as memory reads or writes at once.
template <std::size_t Blocks, std::size_t Shapes>
struct copy_words {
  static constexpr int threads = 256;
  static constexpr bool independent_threads = true;
  stretch_table<Blocks, Shapes> to, from;
  std::uint32_t stretches;

  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    using sixteen = elements_together<std::uint32_t, 4>;
    switch (to.shift) {
    case 7:
      return move<sixteen, 4, 2>(b);
    case 6:
      return move<sixteen, 4>(b);
    case 5:
      return move<sixteen, 2>(b);
    case 4:
      return move<sixteen, 1>(b);
    case 3:
      return move<elements_together<std::uint64_t, 1>, 1>(b);
    case 2:
      return move<elements_together<std::uint32_t, 1>, 1>(b);
    case 1:
      return move<elements_together<std::uint16_t, 1>, 1>(b);
    default:
      return move<elements_together<std::byte, 1>, 1>(b);
    }
  }

  /// As much of two lists as one launch moves, from the places of both cursors on; returns its bytes.
  constexpr index_t plan(block_cursor const& to_at, block_cursor const& from_at) {
    stretch_table_maker<Blocks, Shapes> t(to), f(from);
    index_t const bytes = min(t.fill(to_at), f.fill(from_at));
    std::uint64_t const lengths = t.lengths() | f.lengths() | std::uint64_t(bytes), places = t.places() | f.places();
    auto const word = std::uint32_t(std::countr_zero(lengths | places | 16));
    std::uint32_t const shift = word < 4 ? word : std::uint32_t(std::countr_zero(lengths | 128));
    t.count_in_stretches(shift);
    f.count_in_stretches(shift);
    stretches = std::uint32_t(bytes) >> shift;
    return bytes;
  }
  /// How many blocks of threads move them.
  [[nodiscard]] constexpr index_t blocks() const {
    index_t const movers = index_t(stretches) * (to.shift == 7 ? 2 : 1);
    return (movers + threads - 1) / threads;
  }

private:
  /// The stretch of a thread, or every other word of it where two share it.
  template <class Word, int Words, std::uint32_t Sharers = 1, class Block>
  SP_DEVICE void move(Block& b) const {
    std::uint32_t const mover = std::uint32_t(b.index()) * std::uint32_t(threads) + std::uint32_t(b.thread());
    std::uint32_t const i = mover / Sharers, mine = mover % Sharers;
    constexpr index_t step = index_t(Sharers);
    if (i >= stretches) return;
    auto const* const source = reinterpret_cast<Word const*>(from.at(i)) + mine;
    auto* const target = reinterpret_cast<Word*>(to.at(i)) + mine;
    Word words[std::size_t(Words)]; // all are on their way before the first is stored
    for (int n = 0; n < Words; ++n) words[n] = source[n * step];
    for (int n = 0; n < Words; ++n) target[n * step] = words[n];
  }
};

/// Kernels take up to 4,096 bytes of arguments anywhere, and 32,764 with what this library compiles with (nvcc 13, sm_75 on). Most copies
/// have a few blocks, and arguments are copied at each launch; packed documents have thousands, and each launch costs microseconds.
using copy_few = copy_words<72, 4>;
using copy_many = copy_words<640, 8>;
static_assert(sizeof(copy_few) <= 4096 && sizeof(copy_many) <= 32764);

/// Calls launch(kernel) until every byte of the shorter list is planned.
template <class Kernel, class Launch>
void plan_copies(block_cursor to, block_cursor from, Launch const& launch) {
  auto go_on = [](block_cursor& c, index_t bytes) {
    for (index_t before = 0, n = 0; bytes > 0; bytes -= n) {
      index_t const left = c.block(before).bytes();
      c.advance(n = min(bytes, left - before));
    }
  };
  while (!to.done() && !from.done()) {
    Kernel k; // its tables are as long as they are filled
    index_t const bytes = k.plan(to, from);
    launch(k);
    go_on(to, bytes);
    go_on(from, bytes);
  }
}

} // namespace sp::detail
