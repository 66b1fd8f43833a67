// The routes of queries that travel: to everybody whose keys they see, and of what is found for them back to their owner.
// Made once per step; pure integers and no communication.
#pragma once

#include <sp/attention/ring/held_keys.hpp>
#include <sp/layout/query_cast.hpp>

namespace sp::detail {

/// How query rows reach those whose keys they see, their own rank among them, and how results come home. Arrived rows stand one behind the
/// other in the order of their owners; results that came home, in the order of who found them.
struct passed_queries {
  route out;  ///< own rows to arrived rows
  route back; ///< its transpose, for sums
  route home; ///< arrived rows to results, which are to be merged

  index_t arrived_rows() const noexcept { return out.to_rows(); }
  index_t result_rows() const noexcept { return home.to_rows(); }
};

/// The routes of a query_cast; this part has `own` query rows.
template <class Cast> // a template costs those who call it, not everybody who includes a ring
passed_queries pass_along(Cast const& cast, index_t own) {
  auto count = [](std::span<interval const> list) {
    index_t n = 0;
    for (interval const& i : list) n += i.count;
    return n;
  };
  auto arrived = [&](int owner) { return count(cast.held(owner)); };
  auto found = [&](int reader) { return count(cast.read_by(reader)); };
  auto each_sent = [&](int reader, auto&& add) {
    for (interval const& i : cast.read_by(reader)) add(i.first, 1, i.count);
  };
  index_t arrives = 0, returns = 0;
  for (int p = 0; p < cast.parts(); ++p) {
    arrives += arrived(p);
    returns += found(p);
  }
  int const me = cast.part(), all = cast.parts();
  passed_queries p{route::of_rows(me, all, own, arrives, each_sent, one_behind_the_other(arrived)), {}, {}};
  p.back = p.out.transposed();
  p.home = route::of_rows(me, all, arrives, returns, one_behind_the_other(arrived), one_behind_the_other(found));
  return p;
}

} // namespace sp::detail
