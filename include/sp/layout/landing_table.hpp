// A route read backwards: for each row in which others land, those that do, in the order in which they are added up.
// Made with the route for queues of other memory than the host's: a sum is then one pass over its tensor, not one for each range of rows.
#pragma once

#include <sp/core/table.hpp>
#include <sp/layout/route.hpp>

namespace sp {

namespace detail {

/// A row that lands.
struct arrival {
  index_t peer = 0;
  index_t before = 0; ///< rows of the peers before that one
  index_t row = 0;    ///< among the rows of its peer
};

/// The route that a table was assigned last: by what tells its lists apart, which copies of the route share.
class assigned_route {
public:
  static void refuse_empty(route const& along) {
    if (along.size() == 0)
      fail({errc::bad_state, "a table is to be made of a route without ranks", "Assign it a route that was made of something"});
  }
  /// Until end() it is of no route at all: an upload may fail.
  void begin() noexcept { lists_ = none; }
  void end(route const& along) noexcept { lists_ = along.lands().serial(); }
  void require(route const& along, char const* primitive) const {
    if (lists_ != never && lists_ != along.lands().serial())
      fail({errc::bad_state, "the table of who lands where is of another route: its rows may not be there",
            "Assign it this route first; what was made for another batch is another route", primitive, along.place().rank,
            along.size()});
  }

private:
  static constexpr std::uint64_t never = 0, none = ~std::uint64_t{0};
  std::uint64_t lists_ = never;
};

} // namespace detail

/// Who lands where along one route, in memory M. Nothing until it is assigned; of another route afterwards if it is assigned again, at the
/// same addresses (sp::table).
template <class M>
class landing_table {
public:
  /// workspace_too_small if this route needs more room than there is (context.room), bad_state for a route made of nothing: then the
  /// table stays as it was.
  template <class Queue>
  void assign(context<Queue> const& c, route const& along) {
    detail::assigned_route::refuse_empty(along);
    detail::row_lists const& lands = along.lands();
    bool const alike = lands.alike(); // then one list stands for all
    std::vector<index_t> first(std::size_t(along.to_rows()) + 1);
    each_arrival(lands, alike, [&](index_t to, detail::arrival const&) { ++first[std::size_t(to) + 1]; });
    for (std::size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
    std::vector<detail::arrival> sorted(std::size_t(first.back()));
    auto next = first;
    each_arrival(lands, alike, [&](index_t to, detail::arrival const& a) { sorted[std::size_t(next[std::size_t(to)]++)] = a; });
    require_room(index_t(first.size()), index_t(sorted.size()));
    of_.begin();
    first_.assign(c, std::move(first));
    arrivals_.assign(c, std::move(sorted));
    repeats_ = alike ? along.size() : 1;
    rows_of_one_ = alike ? lands.rows(0) : 0;
    of_.end(along);
  }
  [[nodiscard]] bool made() const noexcept { return first_.made(); }
  /// bad_state if another route was assigned last; a table that is not assigned yet serves any route.
  void require_route(route const& along, char const* primitive) const { of_.require(along, primitive); }

  /// What work of a queue reads.
  struct lists {
    view<index_t const, 1, M> first;            ///< (rows + 1): what lands in row i is [first(i), first(i + 1)) of
    view<detail::arrival const, 1, M> arrivals; ///< in order of rank, then of the route
    index_t repeats = 1;                        ///< so many peers send what is listed, one behind the other,
    index_t rows_of_one = 0;                    ///< so many rows each
  };
  [[nodiscard]] lists read() const noexcept { return {first_.values(), arrivals_.values(), repeats_, rows_of_one_}; }

private:
  template <class F>
  static void each_arrival(detail::row_lists const& lands, bool alike, F&& f) {
    index_t before = 0;
    for (int p = 0; p < (alike ? 1 : lands.peers()); ++p) {
      index_t row = 0;
      for (row_range const& r : lands.of(p))
        for (index_t i = 0; i < r.count; ++i) f(r.first + i * r.step, detail::arrival{p, before, row++});
      before += row;
    }
  }
  /// Both lists or none: one that does not fit must not leave the other one written.
  void require_room(index_t first, index_t arrivals) const {
    if (made() && (first > first_.capacity() || arrivals > arrivals_.capacity()))
      fail({errc::workspace_too_small,
            "this route needs tables of " + std::to_string(first) + " and " + std::to_string(arrivals) +
                " entries, there is room for " + std::to_string(first_.capacity()) + " and " +
                std::to_string(arrivals_.capacity()),
            "Prepare it anew, or leave more room when preparing the first batch: context.room"});
  }

  table<index_t, M> first_;
  table<detail::arrival, M> arrivals_;
  index_t repeats_ = 1, rows_of_one_ = 0;
  detail::assigned_route of_;
};

/// The host adds rows up range by range, which is faster there: it needs no table, and only knows which route it would be of.
template <>
class landing_table<host_memory> {
public:
  template <class Queue>
  void assign(context<Queue> const&, route const& along) {
    detail::assigned_route::refuse_empty(along);
    of_.end(along);
  }
  [[nodiscard]] static constexpr bool made() noexcept { return false; }
  void require_route(route const& along, char const* primitive) const { of_.require(along, primitive); }

private:
  detail::assigned_route of_;
};

} // namespace sp
