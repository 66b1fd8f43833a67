// Blocks: what a kernel computes. The intersection of owned queries, owned keys and a mask, with exact bounds in positions.
// Every visible (query, key) pair lies in exactly one block and nothing else does; empty blocks vanish.
#pragma once

#include <array>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sp/geometry/concepts.hpp>
#include <sp/geometry/mask.hpp>
#include <sp/geometry/run.hpp>

namespace sp {

/// A run with its place in memory: the token at positions.at(i) is row `row + i` of tensor number `tensor` (one tensor per rank whose
/// rows are at hand).
struct placed_run {
  run positions;
  int tensor = 0;
  index_t row = 0;

  constexpr placed_run sub(interval i) const noexcept { return {positions.sub(i.first, i.count), tensor, row + i.first}; }
  friend constexpr bool operator==(placed_run const&, placed_run const&) = default;
};

/// Rows [q, q + rows) of query tensor q_tensor against rows [k, k + keys) of key tensor k_tensor. Row i sees key j iff
/// lo <= (k_pos + j k_stride) - (q_pos + i q_stride) <= hi. Positions are the stream's; position - origin is the offset in the document.
struct block {
  int q_tensor = 0;
  index_t q = 0, rows = 0;
  int k_tensor = 0;
  index_t k = 0, keys = 0;
  index_t q_pos = 0, q_stride = 1, k_pos = 0, k_stride = 1;
  index_t lo = -unbounded, hi = unbounded;
  index_t document = 0, id = 0; ///< index in the batch, and the caller's name
  index_t q_origin = 0, k_origin = 0;

  SP_BOTH constexpr bool sees(index_t i, index_t j) const noexcept {
    index_t d = (k_pos + k_stride * j) - (q_pos + q_stride * i);
    return lo <= d && d <= hi;
  }
  /// Smallest and largest k position - q position in the rectangle, bounds aside.
  constexpr index_t min_distance() const noexcept { return k_pos - (q_pos + q_stride * (rows - 1)); }
  constexpr index_t max_distance() const noexcept { return k_pos + k_stride * (keys - 1) - q_pos; }
  constexpr bool empty() const noexcept { return rows <= 0 || keys <= 0 || max_distance() < lo || min_distance() > hi; }
  /// Every row sees every key.
  constexpr bool is_full() const noexcept { return lo <= min_distance() && max_distance() <= hi; }
  /// Keys [first, first + count) that row i sees: one range, as positions ascend.
  SP_BOTH constexpr interval keys_seen_by(index_t i) const {
    index_t q_at = q_pos + q_stride * i;
    return clip({k_pos, keys, k_stride}, lo <= -unbounded ? k_pos : q_at + lo,
                hi >= unbounded ? k_pos + k_stride * keys : q_at + hi + 1);
  }
  /// Rows [first, first + count) that see key j.
  SP_BOTH constexpr interval rows_seeing(index_t j) const {
    index_t k_at = k_pos + k_stride * j;
    return clip({q_pos, rows, q_stride}, hi >= unbounded ? q_pos : k_at - hi,
                lo <= -unbounded ? q_pos + q_stride * rows : k_at - lo + 1);
  }
  friend constexpr bool operator==(block const&, block const&) = default;
};

/// Bounds in local indices, lo <= j - i <= hi, where the strides of rows and keys agree; what most kernels call a band.
struct band {
  index_t lo = -unbounded, hi = unbounded;
  friend constexpr bool operator==(band const&, band const&) = default;
};

/// The band of a block in its own rows and keys; nothing where their strides differ.
[[nodiscard]] constexpr std::optional<band> local_band(block const& b) {
  if (b.q_stride != b.k_stride && b.rows > 1 && b.keys > 1) return std::nullopt;
  index_t s = b.rows > 1 ? b.q_stride : b.k_stride, shift = b.k_pos - b.q_pos;
  if (b.is_full()) return band{};
  // lo <= shift + s (j - i) <= hi; with one row or one key any common stride says the same
  band r;
  if (b.lo > b.min_distance()) r.lo = ceil_div(b.lo - shift, s);
  if (b.hi < b.max_distance()) r.hi = floor_div(b.hi - shift, s);
  return r;
}

/// How many (query, key) pairs of a block see each other, exactly.
[[nodiscard]] constexpr index_t pair_count(block const& b) {
  if (b.is_full()) return checked_mul(b.rows, b.keys);
  index_t n = 0;
  for (index_t i = 0; i < b.rows; ++i) n += b.keys_seen_by(i).count;
  return n;
}

[[nodiscard]] constexpr index_t pair_count(std::span<block const> list) {
  index_t n = 0;
  for (block const& b : list) n = checked_add(n, pair_count(b));
  return n;
}

namespace detail {

inline std::string describe(block const& b) {
  auto side = [](index_t first, index_t count, int tensor, index_t position, index_t stride) {
    return "[" + std::to_string(first) + ", " + std::to_string(first + count) + ") of tensor " + std::to_string(tensor) + " at " +
           std::to_string(position) + " step " + std::to_string(stride);
  };
  return "block {rows " + side(b.q, b.rows, b.q_tensor, b.q_pos, b.q_stride) + ", keys " +
         side(b.k, b.keys, b.k_tensor, b.k_pos, b.k_stride) + ", " + bound_text(b.lo) + " <= k - q <= " + bound_text(b.hi) + "}";
}

constexpr block intersect(placed_run const& q, placed_run const& k, slice const& s) {
  placed_run a = q.sub(clip(q.positions, s.q0, s.q1));
  placed_run b = k.sub(clip(k.positions, s.k0, s.k1));
  return {a.tensor,
          a.row,
          a.positions.count,
          b.tensor,
          b.row,
          b.positions.count,
          a.positions.begin,
          a.positions.stride,
          b.positions.begin,
          b.positions.stride,
          s.lo,
          s.hi,
          s.document,
          s.id,
          s.q_origin,
          s.k_origin};
}

/// What b holds of rows [r.first, ...) and keys [c.first, ...).
constexpr block sub_block(block b, interval r, interval c) {
  b.q += r.first;
  b.q_pos += r.first * b.q_stride;
  b.rows = r.count;
  b.k += c.first;
  b.k_pos += c.first * b.k_stride;
  b.keys = c.count;
  return b;
}

/// Cuts away rows and keys at the edges that see nothing or are not seen, so that kernels and peers are not asked for them.
constexpr block trimmed(block b) {
  if (b.empty() || b.is_full()) return b;
  if (auto band = local_band(b); band && band->lo > band->hi) return sub_block(b, {}, {}); // stripes apart from a narrow window
  // a row sees something only if the window of its position meets the keys' range; both ends of the window grow with the row
  index_t k_last = b.k_pos + b.k_stride * (b.keys - 1);
  b = sub_block(b,
                clip({b.q_pos, b.rows, b.q_stride}, b.hi >= unbounded ? b.q_pos : b.k_pos - b.hi,
                     b.lo <= -unbounded ? b.q_pos + b.q_stride * b.rows : k_last - b.lo + 1),
                {0, b.keys});
  // where strides differ, a window between two keys may still see none of them
  interval r{0, b.rows};
  while (r.count > 0 && b.keys_seen_by(r.first).count == 0) ++r.first, --r.count;
  while (r.count > 0 && b.keys_seen_by(r.first + r.count - 1).count == 0) --r.count;
  b = sub_block(b, r, {0, b.keys});
  interval c{0, b.rows > 0 ? b.keys : 0};
  if (b.rows > 0) {
    index_t q_last = b.q_pos + b.q_stride * (b.rows - 1);
    c = clip({b.k_pos, b.keys, b.k_stride}, b.lo <= -unbounded ? b.k_pos : b.q_pos + b.lo,
             b.hi >= unbounded ? b.k_pos + b.k_stride * b.keys : q_last + b.hi + 1);
  }
  while (c.count > 0 && b.rows_seeing(c.first).count == 0) ++c.first, --c.count;
  while (c.count > 0 && b.rows_seeing(c.first + c.count - 1).count == 0) --c.count;
  return sub_block(b, {0, b.rows}, c);
}

/// The placed runs that may meet a range, where slices come document by document: in a list sorted by position, runs that end before
/// a document are passed once, and a search stops at the first run behind it. Any other list is searched as a whole.
class run_cursor {
public:
  explicit constexpr run_cursor(std::span<placed_run const> list) : list_(list) {
    for (std::size_t i = 1; i < list.size() && sorted_; ++i) sorted_ = list[i - 1].positions.begin <= list[i].positions.begin;
  }
  /// From now on (until the next call) only positions >= at are asked for.
  constexpr void move_to(index_t at) {
    if (!sorted_) return;
    if (at < at_) first_ = 0;
    at_ = at;
    while (first_ < list_.size() && list_[first_].positions.end() <= at) ++first_;
  }
  /// Calls f for the runs whose range meets [begin, end), in the order of the list.
  template <class F>
  constexpr void for_each(index_t begin, index_t end, F&& f) const {
    for (std::size_t i = first_; i < list_.size(); ++i) {
      run const& r = list_[i].positions;
      if (r.begin < end && begin < r.end())
        f(list_[i]);
      else if (sorted_ && r.begin >= end)
        return;
    }
  }

private:
  std::span<placed_run const> list_;
  std::size_t first_ = 0; // every run before it ends at at_ or earlier
  index_t at_ = std::numeric_limits<index_t>::min();
  bool sorted_ = true;
};

} // namespace detail

/// The one intersection: calls f(block) for every non-empty intersection of a query run, a key run and a slice, slices outermost.
/// Lists sorted by position (place, table_of) cost a step per run, slice and block; in any other order each slice tries every run.
template <class F>
constexpr void for_each_block(std::span<placed_run const> q, std::span<placed_run const> k, std::span<slice const> mask, F&& f) {
  detail::run_cursor queries(q), keys(k);
  for (std::size_t i = 0; i < mask.size();) {
    std::size_t end = i;
    index_t q0 = mask[i].q0, k0 = mask[i].k0; // where the document of these slices begins, as far as they say
    for (; end < mask.size() && mask[end].document == mask[i].document; ++end) {
      q0 = min(q0, mask[end].q0);
      k0 = min(k0, mask[end].k0);
    }
    queries.move_to(q0);
    keys.move_to(k0);
    for (; i < end; ++i) {
      slice const& s = mask[i];
      queries.for_each(s.q0, s.q1, [&](placed_run const& a) {
        keys.for_each(s.k0, s.k1, [&](placed_run const& b) {
          block x = detail::intersect(a, b, s);
          if (x.empty()) return;
          x = detail::trimmed(x);
          if (!x.empty()) f(x);
        });
      });
    }
  }
}

// Functions that make a list leave its type to the caller, any list_of its entries and a vector by itself: as templates they cost
// those who call them, not everybody who includes a batch.

/// The blocks of for_each_block as a list.
template <class List = std::vector<block>>
[[nodiscard]] constexpr List blocks(std::span<placed_run const> q, std::span<placed_run const> k, std::span<slice const> mask) {
  static_assert(detail::require_list<List, block>());
  List out;
  for_each_block(q, k, mask, [&](block const& b) { out.push_back(b); });
  return out;
}

/// The runs of one rank as rows of a tensor: rows count up from 0 in the order of the runs.
template <class List = std::vector<placed_run>>
[[nodiscard]] constexpr List place(std::span<run const> runs, int tensor = 0) {
  static_assert(detail::require_list<List, placed_run>());
  List out;
  index_t row = 0;
  for (run const& r : runs) {
    if (r.count) out.push_back({r, tensor, row});
    row += r.count;
  }
  return out;
}

namespace detail {

/// b goes on where a ends, along keys (or rows), with positions that continue affinely and all else the same.
constexpr bool continues(block const& a, block const& b, bool keys) {
  if (a.q_tensor != b.q_tensor || a.k_tensor != b.k_tensor || a.lo != b.lo || a.hi != b.hi || a.document != b.document)
    return false;
  if (keys)
    return a.q == b.q && a.rows == b.rows && a.q_pos == b.q_pos && a.q_stride == b.q_stride && a.k + a.keys == b.k &&
           (a.k_stride == b.k_stride || b.keys == 1) && a.k_pos + a.keys * a.k_stride == b.k_pos;
  return a.k == b.k && a.keys == b.keys && a.k_pos == b.k_pos && a.k_stride == b.k_stride && a.q + a.rows == b.q &&
         (a.q_stride == b.q_stride || b.rows == 1) && a.q_pos + a.rows * a.q_stride == b.q_pos;
}

/// An order in which blocks that continue each other along keys (or rows) stand side by side.
constexpr bool comes_before(block const& a, block const& b, bool keys) {
  auto key_of = [keys](block const& x) {
    std::array<index_t, 5> same{x.q_tensor, x.k_tensor, x.document, x.lo, x.hi};
    std::array<index_t, 4> q{x.q, x.rows, x.q_pos, x.q_stride}, k{x.k, x.keys, x.k_pos, x.k_stride};
    std::array<index_t, 13> key{};
    std::size_t at = 0;
    for (index_t n : same) key[at++] = n;
    for (index_t n : keys ? q : k) key[at++] = n;
    for (index_t n : keys ? k : q) key[at++] = n;
    return key;
  };
  auto x = key_of(a), y = key_of(b);
  std::size_t i = 0;
  while (i + 1 < x.size() && x[i] == y[i]) ++i;
  return x[i] < y[i];
}

/// Joins along keys (or rows) what can be joined; false if nothing could.
template <class List>
constexpr bool join_blocks(List& list, bool keys) {
  std::vector<std::size_t> order(list.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  detail::sort(order, [&](std::size_t a, std::size_t b) { return comes_before(list[a], list[b], keys); });
  bool changed = false;
  for (std::size_t i = 0, j = 1; j < order.size(); ++j) {
    block &a = list[order[i]], &b = list[order[j]];
    if (continues(a, b, keys)) {
      (keys ? a.keys : a.rows) += std::exchange(keys ? b.keys : b.rows, 0);
      changed = true;
    } else {
      i = j;
    }
  }
  if (!changed) return false;
  List kept;
  for (block const& b : list)
    if (b.rows > 0 && b.keys > 0) kept.push_back(b);
  std::swap(list, kept);
  return true;
}

} // namespace detail

/// Joins blocks that differ only by adjacent keys (or rows) whose positions continue affinely; the pairs stay the same.
template <class List = std::vector<block>>
[[nodiscard]] constexpr List coalesce(List list) {
  static_assert(detail::require_list<List, block>());
  for (int idle = 0, round = 0; idle < 2; ++round) // along keys and rows in turn, until neither finds anything
    idle = detail::join_blocks(list, round % 2 == 0) ? 0 : idle + 1;
  return list;
}

} // namespace sp
