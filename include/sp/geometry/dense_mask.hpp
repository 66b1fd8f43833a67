// A dense boolean mask as disjoint slices: exact, or refused when it would take more slices than a stated number.
// Causal, full, windows, prefixes and image spans come back as the few slices they are made of; noise is refused.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include <sp/core/view.hpp>
#include <sp/geometry/mask.hpp>

namespace sp {
namespace detail {

struct key_range {
  index_t begin = 0, end = 0;
  friend constexpr bool operator==(key_range const&, key_range const&) = default;
};

/// How the edge of a slice goes on from row to row. A left edge stands still, then moves with the row; a right edge
/// moves, then stands still. One row alone does not tell.
enum class edge { unknown, still, moving };

/// A slice under construction: rows [q0, q1), keys `first` in the first row and `last` in the last one.
struct growing_slice {
  index_t q0 = 0, q1 = 0;
  key_range first, last;
  edge left = edge::unknown, right = edge::unknown;
  bool right_moved = false;

  constexpr void extend(key_range next) {
    left = next.begin == last.begin ? edge::still : edge::moving;
    right = next.end == last.end ? edge::still : edge::moving;
    right_moved = right_moved || right == edge::moving;
    last = next;
    ++q1;
  }
  constexpr slice finished() const {
    slice s{q0, q1, first.begin, last.end};
    if (left == edge::moving) s.lo = last.begin - (q1 - 1);
    if (right_moved) s.hi = first.end - 1 - q0;
    return s;
  }
};

/// How slices go on where rows leave a choice. All ways are exact; the one that needs the fewest slices is taken.
struct growth {
  bool split = false;       ///< a slice may go on with some of the neighbouring keys that a row shows
  bool left_moves = false;  ///< the second row of a slice is first tried with a left edge that moves
  bool right_moves = false; ///< the same for the right edge
};

/// Finds slices row by row: open ones go on as their edges allow, what a row shows besides begins new ones.
class slice_finder {
public:
  constexpr slice_finder(growth choices, index_t limit) : growth_(choices), limit_(limit) {}

  /// The next row and the keys it shows; false once the limit is passed.
  constexpr bool add_row(index_t q, std::vector<key_range> shown) {
    std::vector<growing_slice> open;
    for (growing_slice& s : open_) {
      if (s.q1 == q && extend(s, shown))
        open.push_back(s);
      else
        done_.push_back(s.finished());
    }
    for (key_range const& r : shown) open.push_back({q, q + 1, r, r});
    std::sort(open.begin(), open.end(),
              [](growing_slice const& a, growing_slice const& b) { return a.last.begin < b.last.begin; });
    open_ = std::move(open);
    return index_t(done_.size() + open_.size()) <= limit_;
  }
  constexpr std::vector<slice> finish() {
    for (growing_slice const& s : open_) done_.push_back(s.finished());
    open_.clear();
    return std::move(done_);
  }

private:
  /// Continues s with keys of `shown`, which are taken out there.
  constexpr bool extend(growing_slice& s, std::vector<key_range>& shown) const {
    std::array<index_t, 2> left{s.last.begin, s.last.begin + 1}, right{s.last.end, s.last.end + 1};
    if (s.left == edge::moving || (s.left == edge::unknown && growth_.left_moves)) std::swap(left[0], left[1]);
    if (s.right == edge::moving || (s.right == edge::unknown && growth_.right_moves)) std::swap(right[0], right[1]);
    std::size_t lefts = s.left == edge::moving ? 1 : 2, rights = s.right == edge::still ? 1 : 2; // no way back
    for (bool exact : {true, false})
      for (std::size_t l = 0; l < lefts; ++l)
        for (std::size_t r = 0; r < rights; ++r)
          if ((exact || growth_.split) && take(shown, {left[l], right[r]}, exact)) {
            s.extend({left[l], right[r]});
            return true;
          }
    return false;
  }
  static constexpr bool take(std::vector<key_range>& shown, key_range want, bool exact) {
    if (want.begin >= want.end) return false;
    for (std::size_t i = 0; i < shown.size(); ++i) {
      key_range r = shown[i];
      if (exact ? r != want : want.begin < r.begin || want.end > r.end) continue;
      shown.erase(shown.begin() + std::ptrdiff_t(i));
      if (want.end < r.end) shown.insert(shown.begin() + std::ptrdiff_t(i), {want.end, r.end});
      if (r.begin < want.begin) shown.insert(shown.begin() + std::ptrdiff_t(i), {r.begin, want.begin});
      return true;
    }
    return false;
  }

  growth growth_;
  index_t limit_;
  std::vector<growing_slice> open_;
  std::vector<slice> done_;
};

template <class Flag>
constexpr std::vector<key_range> shown_keys(view<Flag, 2> const& visible, index_t q, document const& keys) {
  std::vector<key_range> out;
  for (index_t k = keys.begin; k < keys.end(); ++k) {
    if (!visible(q, k)) continue;
    if (!out.empty() && out.back().end == k)
      ++out.back().end;
    else
      out.push_back({k, k + 1});
  }
  return out;
}

/// Appends the slices of one document pair; false if it takes more than `limit`.
template <class Flag>
constexpr bool dense_slices(view<Flag, 2> const& visible, document const& q, document const& k, index_t limit,
                            std::vector<slice>& out) {
  constexpr growth all_choices[] = {{}, {true, false, true}, {true, false, false}, {true, true, true}, {true, true, false}};
  std::vector<slice> best;
  bool found = false;
  for (growth const& choices : all_choices) {
    slice_finder finder(choices, found ? index_t(best.size()) - 1 : limit); // later choices must do better
    bool fits = true;
    for (index_t row = q.begin; fits && row < q.end(); ++row) fits = finder.add_row(row, shown_keys(visible, row, k));
    if (fits) best = finder.finish();
    found = found || fits;
    if (found && best.size() <= 1) break;
  }
  out.insert(out.end(), best.begin(), best.end());
  return found;
}

/// Nothing may be visible outside the document pairs.
template <class Flag>
constexpr void refuse_crossings(view<Flag, 2> const& visible, documents const& q, documents const& k) {
  std::size_t d = 0;
  for (index_t row = 0; row < q.length(); ++row) {
    while (d < q.size() && q[d].end() <= row) ++d;
    bool owned = d < q.size() && q[d].begin <= row;
    for (index_t key = 0; key < k.length(); ++key) {
      if (owned && key == k[d].begin) key = k[d].end();
      if (key < k.length() && visible(row, key))
        fail({errc::bad_mask,
              "query " + std::to_string(row) + " sees key " + std::to_string(key) + ", which is not in " +
                  (owned ? "its document " + std::to_string(d) : "any document, as the query"),
              "Clear cells between documents and in slack, or make the documents one"});
    }
  }
}

} // namespace detail

/// The most slices per document that a dense mask may need unless the caller says otherwise.
inline constexpr index_t dense_slice_limit = 64;

/// visible (queries, keys) of the whole stream, true where the query sees the key, as a mask. A cell that is visible across
/// two documents or in slack is bad_mask, and so is a document that needs more than `limit` slices.
template <class Flag>
[[nodiscard]] constexpr mask dense_mask(view<Flag, 2> const& visible, documents const& q, documents const& k,
                                        index_t limit = dense_slice_limit) {
  if (q.size() != k.size())
    fail({errc::bad_documents, std::to_string(q.size()) + " query documents, " + std::to_string(k.size()) + " key documents",
          "Queries and keys need the same number of documents; empty ones are allowed"});
  if (visible.extent(0) != q.length() || visible.extent(1) != k.length())
    fail({errc::invalid_shape,
          "the dense mask is " + shape(visible) + ", the streams have " + std::to_string(q.length()) + " queries and " +
              std::to_string(k.length()) + " keys",
          "Pass one cell per query and key of the stream"});
  if (limit <= 0)
    fail({errc::bad_mask, "a limit of " + std::to_string(limit) + " slices", "Allow at least one slice per document"});
  detail::refuse_crossings(visible, q, k);
  std::vector<slice> list;
  for (std::size_t d = 0; d < q.size(); ++d) {
    if (!detail::dense_slices(visible, q[d], k[d], limit, list))
      fail({errc::bad_mask,
            "the dense mask of document " + std::to_string(d) + " needs more than " + std::to_string(limit) + " slices",
            "Raise the limit, or use attention that takes dense masks: this one has no structure to split work by"});
  }
  return user_slices(std::move(list));
}

/// The same for a single document: visible (queries, keys).
template <class Flag>
[[nodiscard]] constexpr mask dense_mask(view<Flag, 2> const& visible, index_t limit = dense_slice_limit) {
  index_t nq = visible.extent(0), nk = visible.extent(1);
  return dense_mask(visible, documents({document{0, nq, nq, 0}}, nq), documents({document{0, nk, nk, 0}}, nk), limit);
}

} // namespace sp
