// Who sends which key rows to whom where each rank gets exactly those that some query of its own sees.
// Pure integers and no communication; both ends of a message find the same rows.
#pragma once

#include <sp/geometry/seen_keys.hpp>
#include <sp/layout/layout.hpp>

namespace sp {

/// The key rows that move to and from one part, a reader of everybody's keys and the owner of its own. With w = kv heads x (dim + value
/// dim), e bytes per element and a bytes of the accumulate type, `part` sends rows_sent() w e bytes of keys in a forward pass, and
/// rows_sent() w e + rows_received() w a of keys and gradients in a backward pass.
class key_cast {
public:
  key_cast() = default;
  /// Queries cut by q, keys by k (over the same parts), seen from `part`.
  template <class Layout> // a template costs those who make one, not everybody who includes a ring
  key_cast(Layout const& q, Layout const& k, std::span<slice const> mask, int part) : part_(part) {
    auto held = seen_keys(place(q.runs(part)), table_of(k), mask, k.parts(), false);
    auto sent = seen_keys(table_of(q), place(k.runs(part), part), mask, q.parts(), true);
    sent[static_cast<std::size_t>(part)].clear();
    for (auto const& rows : held) append(held_, rows);
    for (auto const& rows : sent) append(sent_, rows);
  }

  [[nodiscard]] int part() const noexcept { return part_; }
  [[nodiscard]] int parts() const noexcept { return int(sent_.size()); }
  /// Rows of `owner` that a query of this part sees; those of this part itself do not move.
  [[nodiscard]] std::span<interval const> held(int owner) const noexcept { return of(held_, owner); }
  /// Own rows that a query of `reader` sees; none for this part itself.
  [[nodiscard]] std::span<interval const> sent(int reader) const noexcept { return of(sent_, reader); }
  [[nodiscard]] index_t rows_received(int owner) const noexcept { return owner == part_ ? 0 : rows(held_, owner); }
  [[nodiscard]] index_t rows_sent(int reader) const noexcept { return rows(sent_, reader); }
  [[nodiscard]] index_t rows_received() const noexcept {
    index_t n = 0;
    for (int p = 0; p < parts(); ++p) n += rows_received(p);
    return n;
  }
  /// Copies of own rows, over all readers.
  [[nodiscard]] index_t rows_sent() const noexcept {
    index_t n = 0;
    for (int p = 0; p < parts(); ++p) n += rows_sent(p);
    return n;
  }

  /// Everything at hand as a key table in document order: own rows where they stand, in tensor part(); the rows of another owner one
  /// behind the other, in the tensor of its number.
  template <class List = std::vector<placed_run>>
  [[nodiscard]] List table(layout const& k) const {
    List out;
    for (int owner = 0; owner < parts(); ++owner) {
      auto const runs = place(k.runs(owner), owner);
      index_t packed = 0;
      auto run = runs.begin();
      for (interval const& rows : held(owner))
        for (index_t row = rows.first, end = rows.first + rows.count; row < end;) {
          while (run->row + run->positions.count <= row) ++run;
          placed_run piece = run->sub({row - run->row, min(end, run->row + run->positions.count) - row});
          row += piece.positions.count;
          if (owner != part_) piece.row = packed;
          packed += piece.positions.count;
          out.push_back(piece);
        }
    }
    detail::sort(out, [](placed_run const& a, placed_run const& b) { return a.positions.begin < b.positions.begin; });
    return out;
  }

private:
  /// Intervals of one part, and how many rows they are.
  struct list {
    std::size_t begin = 0, end = 0;
    index_t rows = 0;
  };
  std::span<interval const> of(std::vector<list> const& lists, int p) const noexcept {
    list const& l = lists[static_cast<std::size_t>(p)];
    return {intervals_.data() + l.begin, l.end - l.begin};
  }
  static index_t rows(std::vector<list> const& lists, int p) noexcept { return lists[static_cast<std::size_t>(p)].rows; }
  template <class Intervals>
  void append(std::vector<list>& lists, Intervals const& rows) {
    list next{intervals_.size(), intervals_.size() + rows.size(), 0};
    for (interval const& i : rows) {
      intervals_.push_back(i);
      next.rows += i.count;
    }
    lists.push_back(next);
  }

  int part_ = 0;
  std::vector<interval> intervals_;
  std::vector<list> held_, sent_; ///< by part
};

} // namespace sp
