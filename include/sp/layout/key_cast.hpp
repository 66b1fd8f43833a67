// Who sends which key rows to whom where each rank gets exactly those that some query of its own sees.
// Pure integers and no communication; both ends of a message find the same rows. Queries on the same terms: query_cast.hpp.
#pragma once

#include <sp/geometry/seen_keys.hpp>
#include <sp/layout/layout.hpp>

namespace sp {

namespace detail {

/// The rows that one part, a reader of everybody's and the owner of its own, holds of each owner and sends to each reader.
class cast_rows {
public:
  cast_rows() = default;

  [[nodiscard]] int part() const noexcept { return part_; }
  [[nodiscard]] int parts() const noexcept { return parts_; }
  /// Rows of `owner` that this part reads; those of this part itself do not move.
  [[nodiscard]] std::span<interval const> held(int owner) const noexcept { return list(owner); }
  /// Own rows that `reader` reads; none for this part itself.
  [[nodiscard]] std::span<interval const> sent(int reader) const noexcept { return list(parts_ + reader); }
  [[nodiscard]] index_t rows_received(int owner) const noexcept { return owner == part_ ? 0 : rows(owner); }
  [[nodiscard]] index_t rows_sent(int reader) const noexcept { return rows(parts_ + reader); }
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

protected:
  /// held and sent: a list of intervals for each part.
  template <class Lists>
  cast_rows(int part, Lists const& held, Lists sent) : part_(part), parts_(static_cast<int>(held.size())) {
    append(held);
    sent[static_cast<std::size_t>(part)].clear();
    append(sent);
  }

  /// Calls f(run, packed) for the runs of everything at hand, owner by owner: tensor and row are those of its owner, `packed` is its first
  /// row where the rows that are held of its owner stand one behind the other.
  template <class F>
  void for_each_run(layout const& l, F&& f) const {
    for (int owner = 0; owner < parts(); ++owner) {
      auto const runs = place(l.runs(owner), owner);
      index_t packed = 0;
      auto run = runs.begin();
      for (interval const& rows : held(owner))
        for (index_t row = rows.first, end = rows.first + rows.count; row < end;) {
          while (run->row + run->positions.count <= row) ++run;
          placed_run piece = run->sub({row - run->row, min(end, run->row + run->positions.count) - row});
          row += piece.positions.count;
          f(piece, packed);
          packed += piece.positions.count;
        }
    }
  }
  static void sort_by_position(std::vector<placed_run>& list) {
    detail::sort(list, [](placed_run const& a, placed_run const& b) { return a.positions.begin < b.positions.begin; });
  }

private:
  std::span<interval const> list(int i) const noexcept {
    auto const at = static_cast<std::size_t>(i);
    return {intervals_.data() + first_[at], first_[at + 1] - first_[at]};
  }
  index_t rows(int i) const noexcept { return rows_[static_cast<std::size_t>(i)]; }
  template <class Lists>
  void append(Lists const& lists) {
    for (auto const& rows : lists) {
      index_t n = 0;
      for (interval const& i : rows) {
        intervals_.push_back(i);
        n += i.count;
      }
      first_.push_back(intervals_.size());
      rows_.push_back(n);
    }
  }

  int part_ = 0, parts_ = 0;
  std::vector<interval> intervals_; ///< what is held of each part, then what is sent to each
  std::vector<std::size_t> first_{0};
  std::vector<index_t> rows_;
};

} // namespace detail

/// The key rows that move to and from one part: a reader holds, and is sent, those that a query of its own sees. With w = kv heads x (dim +
/// value dim), e bytes per element and a bytes of the accumulate type, `part` sends rows_sent() w e bytes of keys in a forward pass, and
/// rows_sent() w e + rows_received() w a of keys and gradients in a backward pass.
class key_cast : public detail::cast_rows {
public:
  key_cast() = default;
  /// Queries cut by q, keys by k (over the same parts), seen from `part`.
  template <class Layout> // sp::layout: a template costs those who make one, not everybody who includes a ring
  key_cast(Layout const& q, Layout const& k, std::span<slice const> mask, int part)
      : cast_rows(part, seen_keys(place(q.runs(part)), table_of(k), mask, k.parts(), false),
                  seen_keys(table_of(q), place(k.runs(part), part), mask, k.parts(), true)) {}

  /// Everything at hand as a key table in document order: own rows where they stand, in tensor part(); the rows of another owner one
  /// behind the other, in the tensor of its number.
  [[nodiscard]] std::vector<placed_run> table(layout const& k) const {
    std::vector<placed_run> out;
    for_each_run(k, [&](placed_run piece, index_t packed) {
      if (piece.tensor != part()) piece.row = packed;
      out.push_back(piece);
    });
    sort_by_position(out);
    return out;
  }
};

} // namespace sp
