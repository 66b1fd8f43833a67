// What a rank prepares to hold the keys that its queries see, and to add up what others find for its own.
// Tables are in document order, and tiles of a kernel are whole: keys that are not at hand change no bits.
#pragma once

#include <sp/layout/key_cast.hpp>
#include <sp/layout/route.hpp>

namespace sp::detail {

/// Own rows [first, first + count) whose gradients come from the same readers.
struct shared_rows {
  index_t first = 0, count = 0;
  std::size_t begin = 0, end = 0; ///< of their sources, in the order of readers
  std::size_t own = 0;            ///< the source before which the own share comes
};

/// A cast and the order of its sums.
struct held_keys {
  key_cast rows;
  route to_readers; ///< own rows, and what is received: owner by owner
  route to_owners;  ///< what was found for the rows received, and what readers found for own rows: reader by reader
  std::vector<shared_rows> shared;
  std::vector<index_t> sources; ///< first row that a reader found of each, by shared_rows
  index_t absent_rows = 0;      ///< rows of the table that nobody holds
};

/// For route::of_rows: count(part) rows for each part, one behind the other. Parts are asked for in their order.
template <class Count>
auto one_behind_the_other(Count const& count) {
  return [&count, at = index_t{0}](int part, auto&& add) mutable {
    add(at, 1, count(part));
    at += count(part);
  };
}

/// Fills in the ways of keys and of their gradients; this part has `own` key rows.
inline void prepare_routes(held_keys& held, index_t own) {
  key_cast const& rows = held.rows;
  auto each_sent = [&](int reader, auto&& add) {
    for (interval const& i : rows.sent(reader)) add(i.first, 1, i.count);
  };
  auto received = [&](int owner) { return rows.rows_received(owner); };
  auto sent = [&](int reader) { return rows.rows_sent(reader); };
  int const me = rows.part(), all = rows.parts();
  held.to_readers = route::of_rows(me, all, own, rows.rows_received(), each_sent, one_behind_the_other(received));
  held.to_owners =
      route::of_rows(me, all, rows.rows_received(), rows.rows_sent(), one_behind_the_other(received), one_behind_the_other(sent));
}

/// Reads the intervals that one reader is sent, row after row.
struct sent_cursor {
  std::span<interval const> list;
  index_t arrived = 0; ///< first arrived row of the interval at hand
  std::size_t at = 0;

  /// The arrived row of own row `row`, where the reader has it; -1 where not. Rows are asked for in ascending order.
  index_t find(index_t row) {
    while (at < list.size() && list[at].first + list[at].count <= row) arrived += list[at++].count;
    return at < list.size() && list[at].first <= row ? arrived + row - list[at].first : -1;
  }
};

/// Fills in who finds gradients for which own rows.
template <class Held> // held_keys: a template costs those who make one, not everybody who includes a ring
void prepare_sums(Held& held) {
  key_cast const& rows = held.rows;
  std::vector<index_t> edges; // between them, no reader's rows begin or end
  std::vector<sent_cursor> readers;
  index_t arrived = 0;
  for (int r = 0; r < rows.parts(); ++r) {
    readers.push_back({rows.sent(r), arrived});
    arrived += rows.rows_sent(r);
    for (interval const& i : rows.sent(r)) {
      edges.push_back(i.first);
      edges.push_back(i.first + i.count);
    }
  }
  detail::sort(edges, [](index_t a, index_t b) { return a < b; });
  for (std::size_t e = 1; e < edges.size(); ++e) {
    if (edges[e - 1] == edges[e]) continue;
    auto& sources = held.sources;
    shared_rows next{edges[e - 1], edges[e] - edges[e - 1], sources.size(), 0, 0};
    for (int r = 0; r < rows.parts(); ++r) {
      if (r == rows.part()) next.own = sources.size();
      if (index_t const at = readers[std::size_t(r)].find(next.first); at >= 0) sources.push_back(at);
    }
    next.end = sources.size();
    if (next.end > next.begin) held.shared.push_back(next);
  }
}

/// The tiles of a table: `size` positions of a document each, counted from its begin.
class table_tiles {
public:
  table_tiles(std::span<placed_run const> table, index_t size) : runs_(table), size_(size) {}

  /// Calls f(position, count) for all stretches of [begin, end), a document, that are not at hand, in tiles of which something is.
  template <class F>
  void each_gap(index_t begin, index_t end, F&& f) {
    runs_.move_to(begin);
    at_hand_.assign(std::size_t(ceil_div(end - begin, size_)), 0);
    each_row(begin, end, [&](run const& r, interval in) {
      while (in.count > 0) {
        index_t const tile = (r.at(in.first) - begin) / size_;
        index_t const n = clip(r.sub(in.first, in.count), begin, begin + (tile + 1) * size_).count;
        at_hand_[std::size_t(tile)] += n;
        in = {in.first + n, in.count - n};
      }
    });
    for (index_t t = 0; t < index_t(at_hand_.size()); ++t) {
      index_t const first = begin + t * size_, last = min(first + size_, end), n = at_hand_[std::size_t(t)];
      if (n > 0 && n < last - first) each_gap_of_tile(first, last, f);
    }
  }

private:
  template <class F>
  void each_row(index_t begin, index_t end, F&& f) const {
    runs_.for_each(begin, end, [&](placed_run const& p) { f(p.positions, clip(p.positions, begin, end)); });
  }
  template <class F>
  void each_gap_of_tile(index_t begin, index_t end, F& f) {
    std::vector<bool> here(std::size_t(end - begin));
    each_row(begin, end, [&](run const& r, interval in) {
      for (index_t i = 0; i < in.count; ++i) here[std::size_t(r.at(in.first + i) - begin)] = true;
    });
    for (index_t a = begin, b; a < end; a = b) {
      for (b = a + 1; b < end && here[std::size_t(b - begin)] == here[std::size_t(a - begin)];) ++b;
      if (!here[std::size_t(a - begin)]) f(a, b - a);
    }
  }

  run_cursor runs_;
  index_t size_;
  std::vector<index_t> at_hand_; ///< by tile of the document
};

/// The table of a cast for a kernel that works on tiles of `size` positions of a document, and whose sums depend on where a key stands in
/// its tile: what is not at hand of a tile stands in it all the same, as rows 0, 1, ... of tensor `absent`. Returns how many these are.
template <class Table> // a vector of placed_run, as in prepare_sums
index_t complete_tiles(Table& table, std::span<slice const> mask, index_t size, int absent) {
  table_tiles tiles(table, size);
  Table added;
  index_t rows = 0;
  for (std::size_t i = 0; i < mask.size();) {
    slice const& s = mask[i];
    index_t end = s.k1; // behind the last key of the document that somebody may see
    for (; i < mask.size() && mask[i].document == s.document; ++i) end = max(end, mask[i].k1);
    tiles.each_gap(s.k_origin, end, [&](index_t position, index_t count) {
      added.push_back({{position, count, 1}, absent, rows});
      rows += count;
    });
  }
  table.insert(table.end(), added.begin(), added.end());
  detail::sort(table, [](placed_run const& a, placed_run const& b) { return a.positions.begin < b.positions.begin; });
  return rows;
}

} // namespace sp::detail
