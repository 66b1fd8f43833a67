// Who sends which query rows to whom where each rank gets exactly those that see some key of its own: a key cast with its sides exchanged.
// Pure integers and no communication; both ends of a message find the same rows.
#pragma once

#include <sp/layout/key_cast.hpp>

namespace sp {

/// The query rows that move to and from one part: an owner of keys holds, and is sent, those that see one of them, and sends home what it
/// finds for them. With h = q heads, e bytes per element and a bytes of the accumulate type, `part` sends rows_sent() h dim e bytes of
/// queries and rows_received() h (value dim + 1) a of partial results in a forward pass; in a backward pass, rows_sent() h
/// ((dim + 2 value dim) e + 2 a) of queries with what belongs to them and rows_received() h dim a of gradients.
class query_cast : public detail::cast_rows {
public:
  query_cast() = default;
  /// Queries cut by q, keys by k (over the same parts), seen from `part`.
  template <class Layout> // sp::layout: a template costs those who make one, not everybody who includes a ring
  query_cast(Layout const& q, Layout const& k, std::span<slice const> mask, int part)
      : cast_rows(part, seeing_queries(table_of(q), place(k.runs(part)), mask, q.parts(), false),
                  seeing_queries(place(q.runs(part), part), table_of(k), mask, q.parts(), true)) {}

  /// Own rows that `reader` works on, this part itself included.
  [[nodiscard]] std::span<interval const> read_by(int reader) const noexcept {
    return reader == part() ? held(reader) : sent(reader);
  }
  /// Everything at hand as rows of one tensor, in document order: rows of all owners, this part among them, stand one behind the other in the
  /// order of their numbers.
  [[nodiscard]] std::vector<placed_run> table(layout const& q) const {
    std::vector<placed_run> out;
    index_t rows = 0;
    for_each_run(q, [&](placed_run piece, index_t) {
      out.push_back({piece.positions, 0, rows});
      rows += piece.positions.count;
    });
    sort_by_position(out);
    return out;
  }
};

} // namespace sp
