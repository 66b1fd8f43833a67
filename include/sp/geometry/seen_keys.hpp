// Which key rows at least one query row sees, and which query rows see at least one key: what has to be where, and who has to get what.
// Exact, from the blocks alone: a window that steps over keys leaves them out.
#pragma once

#include <sp/geometry/block.hpp>

namespace sp {

namespace detail {

/// Appends rows to a list of intervals, joined to the last one where they overlap it or continue it.
template <class List>
constexpr void append_rows(List& list, interval rows) {
  if (rows.count == 0) return;
  if (!list.empty()) {
    interval& last = list.back();
    if (last.first <= rows.first && rows.first <= last.first + last.count) {
      last.count = max(last.count, rows.first + rows.count - last.first);
      return;
    }
  }
  list.push_back(rows);
}

/// The key rows of a trimmed block that one of its rows sees.
template <class List>
constexpr void append_seen_keys(List& list, block const& b) {
  // the windows of neighbouring rows overlap or touch, so that what trimming left has no hole
  bool const dense = b.lo <= -unbounded || b.hi >= unbounded || b.hi - b.lo + 1 >= b.q_stride || local_band(b).has_value();
  if (dense) return append_rows(list, {b.k, b.keys});
  for (index_t i = 0; i < b.rows; ++i) {
    interval const seen = b.keys_seen_by(i);
    append_rows(list, {b.k + seen.first, seen.count});
  }
}

/// The block with queries and keys exchanged.
constexpr block transposed(block const& b) {
  return {b.k_tensor, b.k, b.keys, b.q_tensor, b.q, b.rows, b.k_pos, b.k_stride, b.q_pos, b.q_stride, -b.hi, -b.lo};
}

/// `count` lists of rows, filled by append(lists, block) for every block: in ascending order, and joined.
template <class Lists, class Append>
constexpr Lists rows_of_blocks(std::span<placed_run const> q, std::span<placed_run const> k, std::span<slice const> mask,
                               int count, Append const& append) {
  Lists seen(static_cast<std::size_t>(count));
  for_each_block(q, k, mask, [&](block const& b) { append(seen, b); });
  for (auto& rows : seen) {
    detail::sort(rows, [](interval const& a, interval const& b) { return a.first < b.first; });
    typename Lists::value_type joined;
    for (interval const& i : rows) detail::append_rows(joined, i);
    std::swap(rows, joined);
  }
  return seen;
}

} // namespace detail

/// For each of `count` tensors, the key rows that at least one query row sees: intervals in ascending order that do not touch each other.
/// by_queries: the tensors are those of the queries (what of my keys does each of them see?), else those of the keys (what of each of
/// them do my queries see?).
template <class Lists = std::vector<std::vector<interval>>>
[[nodiscard]] constexpr Lists seen_keys(std::span<placed_run const> q, std::span<placed_run const> k, std::span<slice const> mask,
                                        int count, bool by_queries) {
  return detail::rows_of_blocks<Lists>(q, k, mask, count, [&](Lists& seen, block const& b) {
    detail::append_seen_keys(seen[static_cast<std::size_t>(by_queries ? b.q_tensor : b.k_tensor)], b);
  });
}

/// For each of `count` tensors, the query rows that see at least one key row, as seen_keys() lists them. by_keys: the tensors are those of
/// the keys (which of my queries see a key of each of them?), else those of the queries (which of each of them see a key of mine?).
template <class Lists = std::vector<std::vector<interval>>>
[[nodiscard]] constexpr Lists seeing_queries(std::span<placed_run const> q, std::span<placed_run const> k,
                                             std::span<slice const> mask, int count, bool by_keys) {
  return detail::rows_of_blocks<Lists>(q, k, mask, count, [&](Lists& seeing, block const& b) {
    detail::append_seen_keys(seeing[static_cast<std::size_t>(by_keys ? b.k_tensor : b.q_tensor)], detail::transposed(b));
  });
}

} // namespace sp
