// The heads of a linear layer that a rank computes where heads are cut over ranks, and the slices of per-head parameters that go with them.
// Value heads by the one cut rule, key heads as these need them: one may be on several ranks, whose gradients are then shares of one sum.
#pragma once

#include <sp/attention/ulysses/memory.hpp>
#include <sp/layout/batch.hpp>
#include <sp/layout/routed.hpp>

namespace sp {

/// Entries [first, first + count) of the first dimension of a parameter that every rank holds whole.
struct parameter_slice {
  index_t first = 0, count = 0;

  /// (entries, ...) -> (count, ...), of the parameter or of its gradient.
  template <class T, int R, class M>
  [[nodiscard]] constexpr view<T, R, M> of(view<T, R, M> const& whole) const {
    return whole.rows(first, count);
  }
  friend constexpr bool operator==(parameter_slice const&, parameter_slice const&) = default;
};

/// Channels of a depthwise convolution over [q | k | v].
struct conv_slices {
  parameter_slice q, k, v;
};

/// One rank's share of a layer's heads, in global numbers: its value heads are those of `mine.q_*`, its key heads those of `mine.kv_*`.
///
/// linear_attention exchanges by itself what it is given. Where the exchange comes before the convolution, a caller makes it
/// (<sp/route.hpp>), and each rank convolves the whole stream of its heads, q, k and v each with its slice of the weights:
///
///     sp::route const there = sp::rows_to_heads(batch), home = there.transposed();
///     sp::batch const whole = sp::whole_stream(batch);                    // for sp::causal_conv1d{sp::solo{}}
///     sp::exchange(group, "qkv", ctx, sp::routed(there, q, my_q, share.keys(sp::head_cut::side::from)), ...).wait();
///     conv.forward(whole, {.x = my_q, .weights = share.channels(dim, value_dim).q.of(weights), .out = ...});
///     ...
///     sp::exchange(group, "dqkv", ctx, sp::routed(home, my_dq, dq, share.keys(sp::head_cut::side::to), sp::landing::sum), ...).wait();
///
/// Gradients of parameters: a rank sets its copy of the whole gradient to zero, has backward write the slices, and adds up over all
/// ranks as it does with every parameter. That counts a key head on several ranks rightly: each of them has what comes from its
/// own value heads, and the convolution's gradients are linear in it.
struct head_share {
  heads all{}, mine{};

  /// How (rows, key heads, ...) and (rows, value heads, ...) are cut in an exchange; `side`: which of the two tensors holds all heads.
  [[nodiscard]] constexpr head_cut keys(head_cut::side side) const { return {side, all, head_cut::kind::kv}; }
  [[nodiscard]] constexpr head_cut values(head_cut::side side) const { return {side, all, head_cut::kind::q}; }

  /// Of parameters with an entry for each value head: A_log and dt_bias, (value heads).
  [[nodiscard]] constexpr parameter_slice value_heads() const { return {mine.q_begin, mine.q_count}; }
  /// Of parameters with an entry for each key head.
  [[nodiscard]] constexpr parameter_slice key_heads() const { return {mine.kv_begin, mine.kv_count}; }
  /// Of the weights (channels, width) and the bias (channels) of a convolution over (tokens, key heads x key dim | key heads x key dim |
  /// value heads x value dim).
  [[nodiscard]] constexpr conv_slices channels(index_t key_dim, index_t value_dim) const {
    index_t const keys = checked_mul(all.kv_count, key_dim), first = mine.kv_begin * key_dim, count = mine.kv_count * key_dim;
    return {{first, count},
            {keys + first, count},
            {checked_add(checked_mul(2, keys), mine.q_begin * value_dim), mine.q_count * value_dim}};
  }
};

/// The share of rank `rank` of `ranks`: what linear_attention computes there by heads. Ranks beyond the value heads have none.
/// invalid_shape unless value heads are a multiple of key heads.
[[nodiscard]] constexpr head_share share_of_heads(index_t key_heads, index_t value_heads, index_t rank, index_t ranks) {
  heads const all = all_heads(value_heads, key_heads);
  return {all, heads_of(all, rank, ranks)};
}

/// The way of a batch's rows to ranks that have whole documents of some heads: every rank's rows to everybody, where they stand in stream
/// order. Its transpose is the way back.
[[nodiscard]] inline route rows_to_heads(batch const& b) {
  layout const whole = b.layout().grouped(b.parts(), 1);
  return detail::ulysses_rows::of_group(b.layout(), 0, 1, {b.part(), b.parts()}, whole.runs(0)).to_heads;
}
/// The batch of these rows: all documents on one rank.
[[nodiscard]] inline batch whole_stream(batch const& b) { return batch(b.source(), b.layout().grouped(b.parts(), 1), 0); }

} // namespace sp
