// Heads of an Ulysses call in chunks, each of which is exchanged by itself.
// Every rank has the same number of chunks, so that ranks make the same exchanges; where a rank has fewer kv heads, some are empty.
#pragma once

#include <sp/attention/call/head_chunk.hpp>
#include <sp/layout/routed.hpp>

namespace sp::detail {

/// The heads of a call: of all ranks, and the chunks of this one's: in no more than some rank has kv heads, because a chunk takes kv heads
/// whole.
struct ulysses_heads {
  heads all;
  chunks_of_heads my_chunks;

  ulysses_heads(heads of_all_ranks, int rank, int ranks, index_t wanted)
      : all(of_all_ranks), my_chunks{heads_of(all, rank, ranks)} {
    if (wanted <= 1) return;
    index_t most = 1;
    for (int r = 0; r < ranks; ++r) most = max(most, heads_of(all, r, ranks).kv_count);
    my_chunks.count = min(wanted, most);
  }
  [[nodiscard]] index_t chunks() const noexcept { return my_chunks.count; }
  [[nodiscard]] head_chunk chunk(index_t i) const { return my_chunks.at(i); }
  /// Of all chunks.
  [[nodiscard]] index_t count(head_cut::kind kind) const noexcept { return head_chunk{my_chunks.whole}.range(kind).count; }
  /// The tensor that holds all heads is `side`: chunk i of each peer's moves.
  [[nodiscard]] head_cut cut(head_cut::side side, head_cut::kind kind, index_t i) const { return {side, all, kind, i, chunks()}; }
  /// The same for all chunks at once.
  [[nodiscard]] head_cut uncut(head_cut::side side, head_cut::kind kind) const { return {side, all, kind}; }
};

} // namespace sp::detail
