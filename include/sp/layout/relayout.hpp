// Relayout: one ragged exchange that moves rows along a map between two layouts, and its transpose, which sums.
// Split, gather, label shift and Ulysses' tokens-for-heads are the same enumeration of matching rows: row_match.hpp.
#pragma once

#include <limits>

#include <sp/collective/check/agreement.hpp>
#include <sp/core/footprint.hpp>
#include <sp/core/group_place.hpp>
#include <sp/core/sort.hpp>
#include <sp/layout/digests.hpp>
#include <sp/layout/route_exchange.hpp>

namespace sp {

/// What a relayout is made with. One value for all ranks.
struct relayout_options {
  int checks = 1; ///< 0 and 1: shapes, always. 2, 3: also, ranks compare layouts, map, types and shapes before each movement
};

/// A prepared movement of rows: who sends which rows to whom. Made once per step, used for any number of tensors.
class relayout {
public:
  /// From layout `from` to layout `to` (same number of parts) along `map`, seen from `part`.
  relayout(layout const& from, layout const& to, std::span<mapping const> map, int part, relayout_options options = {})
      : place_{part, from.parts()}, checks_(detail::check_level(options.checks, "relayout", part, from.parts())) {
    if (from.parts() != to.parts())
      fail({errc::invalid_shape,
            "relayout between " + std::to_string(from.parts()) + " and " + std::to_string(to.parts()) + " ranks",
            "Make both layouts over the same ranks", "relayout"});
    if (part < 0 || part >= from.parts())
      fail({errc::invalid_shape, "part " + std::to_string(part) + " of " + std::to_string(from.parts()), "Give 0 <= part < parts",
            "relayout"});
    refuse_conflicts(map);
    there_ = route::between(from, to, map, part);
    back_ = there_.transposed();
    if (checks_ < 2) return;
    from_ = detail::digest_of(from);
    to_ = detail::digest_of(to);
    digest all;
    for (mapping const& m : map) all.add(m.from).add(m.to).add(m.count);
    map_ = all.value();
  }

  /// out (rows of `to`, ...) = in (rows of `from`, ...) along the map; rows nobody maps to get `value`. Ordered before all later work of
  /// the context's queue when the call returns.
  template <communicator C, class Queue, class From, class T, int R>
  void apply(C const& comm, context<Queue> const& ctx, detail::view_on<Queue, From, R> in, detail::view_on<Queue, T, R> out,
             std::type_identity_t<T> value = T{}) const {
    static_assert(detail::require_rows_move<From, T>());
    auto const range = detail::named_work(ctx.queue, "relayout", ".apply");
    check_all(".apply", comm, in, out, there_, ctx);
    sp::fill(ctx.queue, out, value);
    sp::exchange(comm, "relayout", ctx, routed(there_, in, out)).wait();
  }
  template <communicator C, class From, class T, int R>
  void apply(C const& comm, view<From, R> in, view<T, R> out, allocator& scratch, std::type_identity_t<T> value = T{}) const {
    apply(comm, context(scratch, scratch), in, out, value);
  }

  /// The transpose, for gradients: din (rows of `from`, ...) = sum over everything a row was mapped to, in order of rank and rounded
  /// once. With a table from transposed_table() it is one pass over din; it stays alive until that pass has run. bad_state for the table
  /// of another relayout.
  template <communicator C, class Queue, class From, class T, int R>
  void apply_transposed(C const& comm, context<Queue> const& ctx, detail::view_on<Queue, From, R> dout,
                        detail::view_on<Queue, T, R> din,
                        landing_table<typename Queue::memory_type> const* table = nullptr) const {
    static_assert(detail::require_rows_move<From, T>());
    auto const range = detail::named_work(ctx.queue, "relayout", ".apply_transposed");
    check_all(".apply_transposed", comm, dout, din, back_, ctx, table);
    sp::exchange(comm, "relayout", ctx, routed(back_, dout, din, head_cut{}, landing::sum, table)).wait();
  }
  template <communicator C, class From, class T, int R>
  void apply_transposed(C const& comm, view<From, R> dout, view<T, R> din, allocator& scratch) const {
    apply_transposed(comm, context(scratch, scratch), dout, din);
  }
  /// What every apply_transposed() on queues of this memory may be given; nothing over the host's. In memory of context.kept.
  template <class Queue>
  [[nodiscard]] landing_table<typename Queue::memory_type> transposed_table(context<Queue> const& ctx) const {
    landing_table<typename Queue::memory_type> table;
    assign_transposed_table(table, ctx);
    return table;
  }
  /// The same into a table that another relayout filled, say that of the batch before: at the same addresses, behind all work that the
  /// queue was given. workspace_too_small, and the table as it was, if it has not the room: context.room when it was made.
  template <class Queue>
  void assign_transposed_table(landing_table<typename Queue::memory_type>& table, context<Queue> const& ctx) const {
    located({"relayout", ".assign_transposed_table", place_.rank, place_.size}, [&] { table.assign(ctx, back_); });
  }

private:
  /// Two rows for one place would race; sums are what the transpose of the reversed map is for.
  static void refuse_conflicts(std::span<mapping const> map) {
    std::vector<mapping> sorted(map.begin(), map.end());
    detail::sort(sorted, [](mapping const& a, mapping const& b) { return a.to < b.to; });
    index_t end = std::numeric_limits<index_t>::min();
    for (mapping const& m : sorted) {
      if (m.count > 0 && m.to < end)
        fail({errc::invalid_shape, "two positions are mapped to position " + std::to_string(m.to),
              "Map one to many, and use apply_transposed for sums", "relayout"});
      if (m.count > 0) end = m.to + m.count;
    }
  }

  template <class C, class A, class B, int R, class M, class Queue>
  void check_all(char const* call, C const& comm, view<A, R, M> const& in, view<B, R, M> const& out, route const& rows,
                 context<Queue> const& ctx, landing_table<M> const* table = nullptr) const {
    auto local = [&] { check(comm, in, out, rows, table); };
    if (checks_ < 2) return local();
    fingerprint f("relayout", call, comm.rank());
    digest row(R);
    for (int d = 1; d < R; ++d) row.add(in.extent(d));
    f.number("check level", checks_).element<B>("element type").hash("sharding", from_).hash("row shape", row.value());
    f.hash("sharding moved to", to_).hash("map", map_);
    located({"relayout", "", comm.rank(), comm.size()},
            [&] { detail::check_together(ctx.queue, f, local, [&](fingerprint const& mine) { sp::agree(comm, mine, ctx); }); });
  }

  template <class C, class A, class B, int R, class M>
  void check(C const& comm, view<A, R, M> const& in, view<B, R, M> const& out, route const& rows,
             landing_table<M> const* table) const {
    if (auto const here = detail::group_place::in(comm); place_ != here)
      fail({errc::bad_state, "the relayout was made for " + place_.text() + ", this is " + here.text() + " of its group",
            "Make the relayout over the ranks of the same group", "relayout", comm.rank(), comm.size()});
    if (in.extent(0) != rows.from_rows() || out.extent(0) != rows.to_rows())
      fail({errc::invalid_shape,
            "rows given " + std::to_string(in.extent(0)) + " and " + std::to_string(out.extent(0)) + ", the layouts hold " +
                std::to_string(rows.from_rows()) + " and " + std::to_string(rows.to_rows()),
            "Pass (rows of the layout, ...) tensors", "relayout", comm.rank(), comm.size()});
    for (int d = 1; d < R; ++d)
      if (in.extent(d) != out.extent(d))
        fail({errc::invalid_shape, "tensors " + shape(in) + " and " + shape(out) + " differ behind the rows",
              "Give equal trailing extents", "relayout", comm.rank(), comm.size()});
    if (table) table->require_route(rows, "relayout");
    located({"relayout", "", comm.rank(), comm.size()}, [&] { detail::refuse_aliasing({{"out", out}}, {{"in", in}}); });
  }

  detail::group_place place_{};
  int checks_ = 1;
  std::uint64_t from_ = 0, to_ = 0, map_ = 0; ///< digests, from level 2 on
  route there_, back_;
};

} // namespace sp
