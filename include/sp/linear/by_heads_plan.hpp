// What linear attention by heads knows of a batch: the group's rows by heads and back, whole documents in them, and bytes that move.
// Integers only. Bytes are closed forms of rows and heads, the same on every rank, so that all choose alike.
#pragma once

#include <sp/attention/ulysses/exchange.hpp>
#include <sp/linear/linear_saved.hpp>

namespace sp::detail {

/// What one row and one state of a call are made of, in bytes for each head.
struct linear_row_bytes {
  index_t key = 0;   ///< q and k of a key head
  index_t dkey = 0;  ///< their gradients, as they travel
  index_t value = 0; ///< v of a value head, out, and the gradients of both
  index_t gates = 0; ///< of a value head, in the type of sums, as their gradients

  /// `shared`: ranks share key heads, so that their gradients travel in the type of sums.
  template <class Kernel, class T>
  static linear_row_bytes of(linear_shape const& s, bool shared) {
    index_t const t = index_t(sizeof(T)), a = index_t(sizeof(accumulate_t<T>));
    linear_row_bytes b{2 * s.key_dim * t, 2 * s.key_dim * (shared ? a : t), s.value_dim * t, 0};
    for (int g = 0; g < int(Kernel::gates); ++g) b.gates += Kernel::gate_width(g, s.key_dim) * a;
    return b;
  }
};

/// Key heads of all ranks together: more than there are where ranks share some.
inline index_t key_head_copies(heads const& all, int ranks) {
  return head_cut{head_cut::side::to, all, head_cut::kind::kv}.copies(ranks);
}
inline bool shares_key_heads(heads const& all, int ranks) { return key_head_copies(all, ranks) > all.kv_count; }

/// What ranks send to each other by heads, states that are given or asked for aside. `tokens` are the rows of each.
class linear_traffic {
public:
  linear_traffic(std::span<index_t const> tokens, heads const& all, linear_row_bytes const& b)
      : tokens_(tokens), all_(all), bytes_(b), keys_(key_head_copies(all, ranks())) {
    for (index_t n : tokens) rows_ += n;
  }
  [[nodiscard]] linear_bytes of_rank(int part) const {
    heads const mine = heads_of(all_, part, ranks());
    index_t const rows = tokens_[std::size_t(part)], rows_of_others = rows_ - rows;
    index_t const keys_of_others = keys_ - mine.kv_count, values_of_others = all_.q_count - mine.q_count;
    index_t const value = bytes_.value, with_gates = value + bytes_.gates;
    return {rows * (keys_of_others * bytes_.key + values_of_others * with_gates) + mine.q_count * rows_of_others * value,
            values_of_others * rows * value + rows_of_others * (mine.kv_count * bytes_.dkey + mine.q_count * with_gates)};
  }
  [[nodiscard]] linear_bytes of_all() const {
    linear_bytes sum;
    for (int p = 0; p < ranks(); ++p) {
      linear_bytes const one = of_rank(p);
      sum.forward += one.forward, sum.backward += one.backward;
    }
    return sum;
  }

private:
  [[nodiscard]] int ranks() const noexcept { return int(tokens_.size()); }
  std::span<index_t const> tokens_;
  heads all_;
  linear_row_bytes bytes_;
  index_t keys_, rows_ = 0;
};

/// The tokens of a document among the group's rows; slack may stand behind them.
struct linear_document {
  index_t first = 0, count = 0;
  template <class T, int R, class M>
  [[nodiscard]] view<T, R, M> of(view<T, R, M> const& rows) const {
    return rows.rows(first, count);
  }
};

/// The plan of one batch.
template <class M>
struct linear_heads_plan {
  ulysses_rows rows{};           ///< of tokens
  route states{}, states_home{}; ///< of documents: every rank's to everybody, and back
  landing_table<M> row_sums{};   ///< of the way back to tokens
  landing_table<M> state_sums{}; ///< of gradients of final states
  std::vector<linear_document> documents{};
  std::vector<index_t> tokens{}; ///< rows of each rank
  index_t longest = 0;           ///< tokens of a document
  bool slack = false;            ///< some row is none

  template <class Queue>
  void assign(context<Queue> const& ctx, layout const& l, group_place here) {
    *this = {};
    layout const whole = l.grouped(here.size, 1);
    rows = ulysses_rows::of_group(l, 0, 1, here, whole.runs(0));
    for (int p = 0; p < l.parts(); ++p) tokens.push_back(l.tokens(p));
    index_t first = 0;
    for (document const& d : l.docs()) {
      documents.push_back({first, d.count});
      first += d.room, longest = max(longest, d.count), slack = slack || d.count < d.room;
    }
    index_t const n = index_t(documents.size());
    auto all = [&](int, auto&& add) { add(0, 1, n); };
    states = route::of_rows(here.rank, here.size, n, n, all, all);
    states_home = states.transposed();
    if constexpr (!std::is_same_v<M, host_memory>) // the host adds up by ranges of rows
      row_sums.assign(ctx, rows.to_tokens), state_sums.assign(ctx, states_home);
  }
};

} // namespace sp::detail
