// A view with its element type erased: what transports move. A message is a list of pieces, read end to end as bytes.
// copy() moves one list into another bitwise; lists may be cut differently as long as their byte counts agree.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include <sp/core/view.hpp>

namespace sp {

/// Rows first, first + step, ...: `count` of them.
struct row_range {
  index_t first = 0, step = 1, count = 0;
  friend constexpr bool operator==(row_range const&, row_range const&) = default;
};

/// Rows in the order in which they move.
struct row_list : std::span<row_range const> {
  constexpr row_list() = default;
  template <class Ranges>
    requires(std::is_convertible_v<Ranges const&, std::span<row_range const>>)
  constexpr row_list(Ranges const& ranges, std::uint64_t number = 0) : std::span<row_range const>(ranges), serial(number) {}

  /// Lists of one serial are equal, as long as the process lives: a transport may keep what it makes of one. 0: it may not.
  std::uint64_t serial = 0;
};

/// A strided block of up to four dimensions; strides count bytes. One that lists its rows holds those of the first dimension that the
/// list names, in its order; extents[0] is then their number, and the list stays alive as long as the piece is used.
struct piece {
  static constexpr int max_rank = 4;

  std::byte* data = nullptr;
  index_t element = 1; ///< bytes of one element
  int rank = 0;
  std::array<index_t, max_rank> extents{};
  std::array<index_t, max_rank> strides{};
  row_list rows{}; ///< empty: rows 0, 1, 2, ...

  [[nodiscard]] constexpr index_t elements() const noexcept {
    index_t n = 1;
    for (int d = 0; d < rank; ++d) n *= extents[std::size_t(d)];
    return n;
  }
  [[nodiscard]] constexpr index_t bytes() const noexcept { return elements() * element; }
};

/// The bytes behind a view; a piece that is only read may come from a view of const values.
template <class T, int Rank, class M>
  requires(Rank <= piece::max_rank)
[[nodiscard]] piece as_piece(view<T, Rank, M> const& v) {
  piece p;
  p.data = reinterpret_cast<std::byte*>(const_cast<std::remove_const_t<T>*>(v.data));
  p.element = index_t(sizeof(T));
  p.rank = Rank;
  for (int d = 0; d < Rank; ++d) {
    p.extents[std::size_t(d)] = v.extent(d);
    p.strides[std::size_t(d)] = checked_mul(v.stride(d), index_t(sizeof(T)));
  }
  checked_mul(v.elements(), index_t(sizeof(T)));
  return p;
}

/// A piece as a typed view again; the inverse of as_piece.
template <class T, int Rank, class M = host_memory>
[[nodiscard]] view<T, Rank, M> as_view(piece const& p) {
  if (!p.rows.empty())
    fail({errc::bad_state, "a piece that lists its rows was published",
          "Publish whole tensors: a view has one stride for all rows"});
  if (p.rank != Rank || p.element != index_t(sizeof(T)))
    fail({errc::rank_mismatch, "a peer published a tensor of another rank or element size", "Pass the same types on every rank"});
  view<T, Rank, M> v;
  v.data = reinterpret_cast<T*>(p.data);
  for (int d = 0; d < Rank; ++d) {
    v.extents[std::size_t(d)] = p.extents[std::size_t(d)];
    v.strides[std::size_t(d)] = p.strides[std::size_t(d)] / p.element;
  }
  return v;
}

/// Calls f(piece) with the same bytes in the same order, as pieces that list no rows.
template <class F>
constexpr void for_each_plain(piece const& p, F&& f) {
  if (p.rows.empty()) return f(p);
  piece part = p;
  part.rows = {};
  for (row_range const& r : p.rows) {
    part.data = p.data + r.first * p.strides[0];
    part.extents[0] = r.count;
    part.strides[0] = p.strides[0] * r.step;
    f(part);
  }
}

/// Whether its bytes lie side by side, in order.
[[nodiscard]] constexpr bool in_one_block(piece const& p) {
  if (p.bytes() == 0) return true;
  if (p.rows.size() > 1) return false;
  index_t next = p.element;
  for (int i = p.rank; i-- > 0;) {
    auto const d = std::size_t(i);
    index_t const stride = p.strides[d] * (i == 0 && !p.rows.empty() ? p.rows[0].step : 1);
    if (p.extents[d] != 1 && stride != next) return false;
    next *= p.extents[d];
  }
  return true;
}

/// Bytes of all pieces together.
[[nodiscard]] constexpr index_t total_bytes(std::span<piece const> list) {
  index_t n = 0;
  for (piece const& p : list) n += p.bytes();
  return n;
}

namespace detail {

/// Walks a list of pieces as a sequence of contiguous segments.
class segment_cursor {
public:
  explicit segment_cursor(std::span<piece const> list) : list_(list) { enter(); }
  /// From byte `first` on.
  segment_cursor(std::span<piece const> list, index_t first) : list_(list) {
    while (at_ < list_.size() && list_[at_].bytes() <= first) first -= list_[at_++].bytes();
    if (done()) return;
    piece const& p = list_[at_];
    for (index_t bytes; range_ < p.rows.size(); ++range_, first -= bytes)
      if (bytes = p.bytes() / p.extents[0] * p.rows[range_].count; bytes > first) break;
    enter();
    used_ = first % length_;
    index_t segment = first / length_;
    for (int i = outer_; i-- > 0;) {
      auto const d = std::size_t(i);
      count_[d] = segment % extents_[d];
      base_ += strides_[d] * count_[d];
      segment /= extents_[d];
    }
  }

  bool done() const { return at_ == list_.size(); }
  std::byte* data() const { return base_ + used_; }
  index_t left() const { return length_ - used_; }

  void advance(index_t n) {
    used_ += n;
    if (used_ < length_) return;
    used_ = 0;
    for (int d = outer_; d-- > 0;) { // odometer over the dimensions outside a segment
      base_ += strides_[std::size_t(d)];
      if (++count_[std::size_t(d)] < extents_[std::size_t(d)]) return;
      base_ -= strides_[std::size_t(d)] * extents_[std::size_t(d)];
      count_[std::size_t(d)] = 0;
    }
    ++range_;
    enter();
  }

private:
  /// Finds the next piece, or range of rows of a piece, that holds bytes.
  void enter() {
    for (; at_ < list_.size(); ++at_, range_ = 0) {
      piece const& p = list_[at_];
      if (p.rows.empty() ? range_ > 0 : range_ >= p.rows.size()) continue;
      if (p.bytes() == 0) continue;
      while (range_ < p.rows.size() && p.rows[range_].count == 0) ++range_;
      if (p.rows.empty() || range_ < p.rows.size()) return begin(p);
    }
  }
  /// How much of it is contiguous.
  void begin(piece const& p) {
    base_ = p.data;
    extents_ = p.extents;
    strides_ = p.strides;
    if (!p.rows.empty()) {
      row_range const& r = p.rows[range_];
      base_ += r.first * strides_[0];
      extents_[0] = r.count;
      strides_[0] *= r.step;
    }
    count_ = {};
    length_ = p.element;
    outer_ = p.rank;
    while (outer_ > 0) {
      auto d = std::size_t(outer_ - 1);
      if (extents_[d] != 1 && strides_[d] != length_) break;
      length_ *= extents_[d];
      --outer_;
    }
  }

  std::span<piece const> list_;
  std::size_t at_ = 0, range_ = 0; ///< piece, and range of its list of rows
  std::byte* base_ = nullptr;
  index_t length_ = 0, used_ = 0;
  int outer_ = 0;
  std::array<index_t, piece::max_rank> extents_{}, strides_{}, count_{};
};

/// Copies up to `most` bytes and returns how many there were.
inline index_t copy_segments(segment_cursor& to, segment_cursor& from, index_t most) {
  index_t moved = 0;
  while (!to.done() && !from.done() && moved < most) {
    index_t n = min(min(to.left(), from.left()), most - moved);
    std::memcpy(to.data(), from.data(), std::size_t(n));
    moved += n;
    to.advance(n);
    from.advance(n);
  }
  return moved;
}

} // namespace detail

/// Copies the bytes of `from` into `to`, both read end to end. Returns the bytes copied: the smaller total.
inline index_t copy(std::span<piece const> to, std::span<piece const> from) {
  detail::segment_cursor t(to), f(from);
  return detail::copy_segments(t, f, std::numeric_limits<index_t>::max());
}

} // namespace sp
