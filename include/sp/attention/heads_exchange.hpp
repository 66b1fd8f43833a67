// The rows of a tokens-for-heads exchange: which of a group's rows each member sends and where they land in stream order.
// Made once per step; the same enumeration of matching rows that relayout uses, with heads cut at call time.
#pragma once

#include <sp/collective/operations.hpp>
#include <sp/layout/layout.hpp>
#include <sp/layout/match_lists.hpp>
#include <sp/mesh/group.hpp>

namespace sp {

namespace detail {

/// Sends and receives of one exchange over a communicator, in scratch memory.
template <class Comm>
class exchange_plan {
public:
  exchange_plan(allocator& scratch, Comm const& comm, index_t pieces)
      : sends(scratch, comm.size(), pieces), receives(scratch, comm.size(), pieces), comm_(comm) {}
  void clear() {
    sends.clear();
    receives.clear();
  }
  void open(int peer) {
    sends.open(peer);
    receives.open(peer);
  }
  void run(char const* primitive) { sp::all_to_all_v(comm_, traffic{primitive, sends.parcels(), receives.parcels()}).wait(); }

  parcel_builder sends, receives;

private:
  Comm const& comm_;
};

/// Rows of the members of a group against the group's own rows in stream order.
struct token_exchange {
  match_lists members; ///< from: rows of member i; to: rows of the group
  int self = 0;        ///< my place among the members
  int parts = 1, stride = 1;
  index_t rows = 0;       ///< of mine
  index_t group_rows = 0; ///< of the whole group
  index_t pieces = 0;     ///< most pieces one tensor needs in one exchange, in either direction

  token_exchange() = default;
  /// Layout is sp::layout; as a template this costs the time to compile it only where it is used.
  template <class Layout>
  token_exchange(Layout const& fine, Layout const& coarse, int part, int first, int stride_of, int size, int group)
      : self(part / stride_of % size), parts(fine.parts()), stride(stride_of), rows(fine.tokens(part)),
        group_rows(coarse.tokens(group)) {
    mapping all = identity_map(unbounded);
    members = match_lists::of(
        size, [&](int i, auto f) { for_each_match(fine.runs(first + i * stride), coarse.runs(group), std::span(&all, 1), f); });
    pieces = max(members.total, index_t(mine().size()) * size);
  }

  int peers() const { return int(members.per_peer.size()); }
  std::span<row_match const> mine() const { return members.per_peer[std::size_t(self)]; }
  std::span<row_match const> of(int r) const { return members.per_peer[std::size_t(r)]; }

  // tokens -> heads: my rows go out; member r's rows arrive in the group's order
  template <class Plan, class T>
  void send_own_rows(Plan& plan, view<T, 3> const& v) const {
    add_rows(plan.sends, v, mine(), side::from);
  }
  template <class Plan, class T>
  void receive_group_rows(Plan& plan, int r, view<T, 3> const& v) const {
    add_rows(plan.receives, v, of(r), side::to);
  }
  // heads -> tokens: member r's rows go out of the group's; my rows arrive
  template <class Plan, class T>
  void send_rows(Plan& plan, int r, view<T, 3> const& v) const {
    add_rows(plan.sends, v, of(r), side::to);
  }
  template <class Plan, class T>
  void receive_rows(Plan& plan, int, view<T, 3> const& v) const {
    add_rows(plan.receives, v, mine(), side::from);
  }
};

} // namespace detail
} // namespace sp
