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

} // namespace detail

/// Who lands where along one route, in memory M. Nothing until it is assigned; of another route afterwards if it is assigned again, at the
/// same addresses (sp::table).
template <class M>
class landing_table {
public:
  template <class Queue>
  void assign(context<Queue> const& c, route const& along) {
    detail::row_lists const& lands = along.lands();
    bool const alike = along.size() > 0 && lands.alike(); // then one list stands for all
    repeats_ = alike ? along.size() : 1;
    rows_of_one_ = alike ? lands.rows(0) : 0;
    std::vector<index_t> first(std::size_t(along.to_rows()) + 1);
    each_arrival(lands, alike, [&](index_t to, detail::arrival const&) { ++first[std::size_t(to) + 1]; });
    for (std::size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
    std::vector<detail::arrival> sorted(std::size_t(first.back()));
    auto next = first;
    each_arrival(lands, alike, [&](index_t to, detail::arrival const& a) { sorted[std::size_t(next[std::size_t(to)]++)] = a; });
    first_.assign(c, std::move(first));
    arrivals_.assign(c, std::move(sorted));
  }
  [[nodiscard]] bool made() const noexcept { return first_.made(); }

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

  table<index_t, M> first_;
  table<detail::arrival, M> arrivals_;
  index_t repeats_ = 1, rows_of_one_ = 0;
};

/// The host adds rows up range by range, which is faster there: it needs no table.
template <>
class landing_table<host_memory> {
public:
  template <class Queue>
  void assign(context<Queue> const&, route const&) const noexcept {}
  [[nodiscard]] static constexpr bool made() noexcept { return false; }
};

} // namespace sp
