// A route: which rows of mine go to which peer, and where the rows of each peer land. Made once per step, for any number of tensors.
// Rows only, pure integers and no communication; both ends of every pair enumerate the same rows in the same order.
#pragma once

#include <sp/core/group_place.hpp>
#include <sp/core/piece.hpp>
#include <sp/core/serial.hpp>
#include <sp/core/shared.hpp>
#include <sp/layout/layout.hpp>
#include <sp/layout/row_match.hpp>

namespace sp {

namespace detail {

/// A list of rows for every peer, as ranges that are joined where they continue each other. Peers may share one list.
class row_lists {
public:
  /// Opens the list of the next peer.
  void open() { lists_.push_back({ranges_.size(), ranges_.size(), 0, new_serial()}); }
  /// The next peer has the list of the peer before it.
  void repeat() {
    lists_.push_back(lists_.back());
    lists_.back().repeats = true;
  }
  /// One row several times (step 0) becomes ranges of one row each: passes over a range may take its rows in any order.
  void add(index_t first, index_t step, index_t count) {
    if (count == 0) return;
    if (count > 1 && step == 0) {
      for (index_t i = 0; i < count; ++i) add(first, 1, 1);
      return;
    }
    list& l = lists_.back();
    row_range const next{first, count == 1 ? 1 : step, count};
    if (l.end == l.begin || !join(ranges_.back(), next)) {
      if (l.end > l.begin) l.rises = l.rises && last(ranges_.back()) < first;
      ranges_.push_back(next);
    }
    l.rises = l.rises && ranges_.back().step > 0;
    l.end = ranges_.size();
    l.rows += count;
  }

  [[nodiscard]] int peers() const noexcept { return int(lists_.size()); }
  [[nodiscard]] row_list of(int peer) const noexcept {
    list const& l = at(peer);
    return {std::span(ranges_.data() + l.begin, l.end - l.begin), l.serial};
  }
  [[nodiscard]] index_t rows(int peer) const noexcept { return at(peer).rows; }
  /// No row is in one peer's list twice. Told from lists whose rows rise; others may say no although it is so.
  [[nodiscard]] bool distinct() const noexcept {
    for (list const& l : lists_)
      if (!l.rises) return false;
    return true;
  }
  /// Tells these lists from all others of the program.
  [[nodiscard]] std::uint64_t serial() const noexcept { return lists_.empty() ? 0 : lists_.front().serial; }
  /// All peers have the same list.
  [[nodiscard]] bool alike() const noexcept {
    for (std::size_t p = 1; p < lists_.size(); ++p)
      if (!lists_[p].repeats) return false;
    return true;
  }
  /// Ranges of all peers together, a list that peers share counted for each.
  [[nodiscard]] index_t ranges() const noexcept {
    index_t n = 0;
    for (list const& l : lists_) n += index_t(l.end - l.begin);
    return n;
  }

private:
  struct list {
    std::size_t begin = 0, end = 0;
    index_t rows = 0;
    std::uint64_t serial = 0; ///< lists that are equal because one repeats the other share it
    bool repeats = false, rises = true;
  };
  list const& at(int peer) const noexcept { return lists_[std::size_t(peer)]; }
  static index_t last(row_range const& r) { return r.first + (r.count - 1) * r.step; }
  /// Makes `next` part of `r` if it continues it.
  static bool join(row_range& r, row_range const& next) {
    index_t const step = next.first - last(r);
    if (step <= 0 || (r.count > 1 && step != r.step) || (next.count > 1 && step != next.step)) return false;
    r.step = step;
    r.count += next.count;
    return true;
  }

  std::vector<row_range> ranges_;
  std::vector<list> lists_;
};

} // namespace detail

/// A prepared movement of rows between the ranks of a group, seen from one of them. A handle: copies share their lists.
class route {
public:
  route() = default;

  /// From layout `from` to layout `to` of as many parts, along `map`, seen from `part`.
  [[nodiscard]] static route between(layout const& from, layout const& to, std::span<mapping const> map, int part) {
    detail::row_lists sends, lands;
    for (int p = 0; p < from.parts(); ++p) {
      sends.open();
      lands.open();
      for_each_match(from.runs(part), to.runs(p), map, [&](row_match const& m) { sends.add(m.from_row, m.from_step, m.count); });
      for_each_match(from.runs(p), to.runs(part), map, [&](row_match const& m) { lands.add(m.to_row, m.to_step, m.count); });
    }
    return {{part, from.parts()}, from.tokens(part), to.tokens(part), lists(std::move(sends)), lists(std::move(lands))};
  }

  /// The rows of every member, to every member: part first + i stride of `from` is member i, and `to` lists what all of them hold
  /// afterwards, along `map`. Seen from member `self`.
  [[nodiscard]] static route to_everybody(layout const& from, int first, int stride, int members, int self,
                                          std::span<run const> to, std::span<mapping const> map) {
    detail::row_lists sends, lands;
    sends.open();
    for (int i = 0; i < members; ++i) {
      lands.open();
      for_each_match(from.runs(first + i * stride), to, map, [&](row_match const& m) {
        lands.add(m.to_row, m.to_step, m.count);
        if (i == self) sends.add(m.from_row, m.from_step, m.count);
      });
    }
    for (int i = 1; i < members; ++i) sends.repeat();
    return {{self, members}, from.tokens(first + self * stride), count_of(to), lists(std::move(sends)), lists(std::move(lands))};
  }

  /// Of lists of rows, seen from `part`: sends(p, add) calls add(first, step, count) for those of my `from_rows` that go to part p, and
  /// lands(p, add) for those of my `to_rows` in which what p sends lands. Both ends of a pair list as many rows, in one order. A step of
  /// 0 names one row `count` times: sent, its copies; landed in, the sum of what comes, in its order, where a landing sums.
  /// invalid_shape for rows that are not there.
  template <class Sends, class Lands>
  [[nodiscard]] static route of_rows(int part, int parts, index_t from_rows, index_t to_rows, Sends&& sends, Lands&& lands) {
    auto listed = [&](index_t rows, auto& of_part) {
      detail::row_lists all;
      for (int p = 0; p < parts; ++p) {
        all.open();
        of_part(p, [&](index_t first, index_t step, index_t count) {
          check_rows(first, step, count, rows);
          all.add(first, step, count);
        });
      }
      return lists(std::move(all));
    };
    return {{part, parts}, from_rows, to_rows, listed(from_rows, sends), listed(to_rows, lands)};
  }

  /// The way back: what landed is sent to where it came from. Shares the lists.
  [[nodiscard]] route transposed() const { return {place_, to_rows_, from_rows_, lands_, sends_}; }

  /// Of whom it is seen from.
  [[nodiscard]] detail::group_place place() const noexcept { return place_; }
  [[nodiscard]] int size() const noexcept { return place_.size; }
  /// Rows of the tensor that is sent, and of the tensor in which rows land.
  [[nodiscard]] index_t from_rows() const noexcept { return from_rows_; }
  [[nodiscard]] index_t to_rows() const noexcept { return to_rows_; }
  /// My rows that go to a peer, and the rows in which its rows land: as many as it sends, in the order in which it sends them.
  [[nodiscard]] detail::row_lists const& sends() const noexcept { return *sends_; }
  [[nodiscard]] detail::row_lists const& lands() const noexcept { return *lands_; }

private:
  using lists = detail::shared<detail::row_lists>;
  static void check_rows(index_t first, index_t step, index_t count, index_t rows) {
    index_t const last = first + (max(count, 1) - 1) * step;
    if (count < 0 || (count > 0 && (min(first, last) < 0 || max(first, last) >= rows)))
      fail({errc::invalid_shape,
            std::to_string(count) + " rows from row " + std::to_string(first) + " on, " + std::to_string(step) +
                " apart, are listed of " + std::to_string(rows),
            "List rows of the tensor that is sent, or that is written"});
  }
  route(detail::group_place place, index_t from_rows, index_t to_rows, lists sends, lists lands)
      : place_(place), from_rows_(from_rows), to_rows_(to_rows), sends_(std::move(sends)), lands_(std::move(lands)) {}

  detail::group_place place_{};
  index_t from_rows_ = 0, to_rows_ = 0;
  lists sends_, lands_;
};

} // namespace sp
