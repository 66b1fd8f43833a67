// How blocks of cuda_flash share their work, and the loop of its passes: tiles of columns one after the other, a part of a tile at a time.
// While a part is computed on, the copies of the next are on their way, in the shared memory of one tile.
#pragma once

#include <sp/backend/cuda/flash_matrix.hpp>

namespace sp::detail {

/// Units of work 0 ... are given out in rounds, to each block one of a round, in turn from the first block and from the last. In the order of
/// falling weight, sums of two blocks differ by no more than the heaviest unit, and those of a causal document by none in every two rounds.
struct flash_share {
  index_t block, blocks;
  SP_BOTH constexpr index_t unit(index_t round) const { return round * blocks + (round % 2 == 0 ? block : blocks - 1 - block); }
};

/// Calls run(unit) for each unit of this block.
template <class Block, class Run>
SP_DEVICE void share_units(Block& b, index_t units, Run const& run) {
  flash_share const share{b.index(), b.blocks()};
  for (index_t round = 0; round * b.blocks() < units; ++round) {
    index_t const unit = share.unit(round);
    if (unit >= units) return;  // of the last round
    if (round > 0) b.barrier(); // nobody reads shared memory of the unit before
    run(unit);
  }
}

/// The tiles of columns that an item meets, in order. Its range is read where it is needed: registers are scarce.
struct flash_cursor {
  int range, tile;

  SP_DEVICE flash_cursor(flash_lists const& lists, flash_item const& item)
      : range(item.first_range), tile(lists.range(item.first_range).first) {}
  SP_DEVICE bool more(flash_item const& item) const { return range < item.first_range + item.ranges; }
  SP_DEVICE void next(flash_lists const& lists, flash_item const& item) {
    if (++tile < lists.range(range).last) return;
    if (++range < item.first_range + item.ranges) tile = lists.range(range).first;
  }
};

/// The loop of a pass over its tiles of columns, from `at` on, whose places are known and whose first part is on its way:
///
///     pass.more(at), pass.next(at)        whether there is a tile, and the one behind it
///     pass.find(at, slot)                 writes the places of a tile; slot 0 or 1 in turn
///     pass.copy(at, slot, first)          starts copies of columns [first, first + at_once), and makes a group of them
///     pass.compute(at, slot, first)       these columns are here
///     pass.finish(at, slot)               all of the tile has been computed; pass.meets: by every warp
///
/// A part is copied over the one before the part that is computed on: one barrier a part is enough, and a copy has the products of a whole
/// part to arrive. At head dim 128 these are 2 x 2 x 128 x 32 x 128 floating point operations of the forward pass, 1000 cycles of a
/// multiprocessor that does 2048 in one, for 16 KiB to come. Tiles that are one part are copied when nobody reads them any more.
template <class Block, class Pass>
SP_DEVICE void meet_columns(Block& b, Pass& pass, typename Pass::cursor at) {
  constexpr int columns = Pass::columns, at_once = Pass::at_once;
  constexpr bool ahead = columns > at_once;
  for (int slot = 0; pass.more(at); slot = 1 - slot) {
    auto const next = pass.next(at);
    bool const more = pass.more(next);
    SP_ROLLED
    for (int first = 0; first < columns; first += at_once) {
      b.template copy_async_wait<0>();
      b.barrier(); // the part is here, with its places, and nobody reads the one before it
      bool const last = first + at_once == columns;
      auto ahead_of = at; // a copy: what is named in two ways cannot be in registers
      if (last) ahead_of = next;
      if (ahead && (!last || more)) pass.copy(ahead_of, last ? 1 - slot : slot, last ? 0 : first + at_once);
      if (first == 0 && more) pass.find(next, 1 - slot);
      pass.compute(at, slot, first);
    }
    if constexpr (!ahead || Pass::meets) b.barrier(); // all warps are through with the tile
    if (!ahead && more) pass.copy(next, 1 - slot, 0);
    pass.finish(at, slot);
    at = next;
  }
}

} // namespace sp::detail
