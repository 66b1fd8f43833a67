// Rows of an exchange that are added up where they land: where they arrive, and the sums, as work of a queue.
// In order of rank, then of the route, in the type of sums, rounded once: range by range, or in one pass where a table lists who lands.
#pragma once

#include <sp/layout/routed.hpp>

namespace sp::detail {

/// A tensor as one of rank 4: (rows, heads, ..., entries of the last dimension).
template <class T, int R, class M>
view<T, 4, M> of_rank_4(view<T, R, M> const& v) {
  view<T, 4, M> w(v.data, {1, 1, 1, 1}, {0, 0, 0, 0});
  for (int d = 0; d < R; ++d) {
    auto const at = std::size_t(d >= 2 && d == R - 1 ? 3 : d);
    w.extents[at] = v.extent(d);
    w.strides[at] = v.stride(d);
  }
  return w;
}

/// The sums of some neighbouring entries: all that arrives for them.
template <class From, class To, class M>
struct sum_arrivals {
  using A = accumulate_t<To>;
  static constexpr index_t together = 8; ///< entries of one call: who lands is looked up once for them

  view<To, 4, M> to;
  From const* arrived; ///< peer by peer, (rows, its heads, ...) each, in room for `widest` heads
  typename landing_table<M>::lists table;
  head_cut cut;
  index_t widest, peers;
  bool from_old;   ///< sums begin with what `to` holds
  bool behind_old; ///< what `to` holds is added to the sum

  SP_BOTH void operator()(index_t i, index_t h, index_t a, index_t part) const {
    index_t const begin = part * together, n = min(together, to.extent(3) - begin);
    A sum[std::size_t(together)];
    bool lands = !from_old; // what nothing lands in stays as it is
    for (index_t d = 0; d < n; ++d) sum[d] = from_old ? to_acc(to(i, h, a, begin + d)) : A{};
    for (index_t repeat = 0; repeat < table.repeats; ++repeat)
      for (index_t e = table.first(i); e < table.first(i + 1); ++e)
        if (From const* const x = place(table.arrivals(e), repeat, h, a)) {
          lands = true;
          for (index_t d = 0; d < n; ++d) sum[d] = sum[d] + static_cast<A>(to_acc(x[begin + d]));
        }
    for (index_t d = 0; lands && d < n; ++d) {
      To& x = to(i, h, a, begin + d);
      x = from_acc<To>(behind_old ? to_acc(x) + sum[d] : sum[d]);
    }
  }

private:
  /// Where the entries begin in a row that lands; null if its peer does not have that head.
  SP_BOTH From const* place(arrival const& x, index_t repeat, index_t h, index_t a) const {
    auto const part = cut.of == head_cut::side::to ? cut.of_peer(x.peer + repeat, peers) : head_cut::range{0, to.extent(1)};
    if (h < part.first || h >= part.first + part.count) return nullptr;
    index_t const rows = (x.before + repeat * table.rows_of_one) * widest + x.row * part.count + h - part.first;
    return arrived + (rows * to.extent(2) + a) * to.extent(3);
  }
};

/// What an operand keeps until its rows have landed: nothing where they are only stored.
template <class Operand>
struct arrivals {
  template <class M>
  arrivals(basic_allocator<M>&, Operand const&) {}
  piece place(Operand const& o, int) { return as_piece(o.to); }
  template <class Queue>
  void finish(Queue const&, Operand const&) const {}
};

/// Rows that have arrived and are to be added up, as they were sent, and the sums of those whose type is not the one of sums.
template <class From, class To, int R, class M>
class arrivals<routed<From, To, R, true, M>> {
public:
  using A = accumulate_t<To>;
  using move = routed<From, To, R, true, M>;

  arrivals(basic_allocator<M>& scratch, move const& o) {
    if (o.lands == landing::store) return;
    index_t n = 0;
    for (int p = 0; p < o.along->size(); ++p) n += room_of(o, p);
    rows_ = owned<From, 1, M>(scratch, {n});
    if constexpr (!std::is_same_v<To, A>)
      if (!by_table(o) && !once(o)) sums_ = owned<A, R, M>(scratch, o.to.extents);
  }

  /// Where the rows of peer `p` arrive; peers in order.
  piece place(move const& o, int p) {
    view<From, R, M> const v(rows_.tensor.data + used_, arriving(o, p));
    used_ += room_of(o, p);
    return as_piece(v);
  }
  /// Behind the exchange, as work of `q`.
  template <class Queue>
  void finish(Queue const& q, move const& o) const {
    if (o.lands == landing::store) return;
    if constexpr (!std::is_same_v<M, host_memory>)
      if (by_table(o)) return one_pass(q, o);
    bool const onto = o.lands == landing::sum_to;
    if constexpr (!std::is_same_v<To, A>)
      if (!once(o)) {
        sp::fill(q, sums_.tensor, A{});
        add_up(q, o, sums_.tensor);
        return onto ? detail::add(q, o.to, sums_.tensor) : sp::assign(q, o.to, sums_.tensor);
      }
    if (!onto) sp::fill(q, o.to, To{});
    add_up(q, o, o.to);
  }

private:
  using extents_type = std::array<index_t, std::size_t(R)>;
  static head_cut::range heads(move const& o, int p) {
    return heads_with(p, o.along->size(), o.cut, head_cut::side::to, R > 1 ? o.to.extents[R > 1] : 1);
  }
  static extents_type arriving(move const& o, int p) {
    extents_type e = o.to.extents;
    if constexpr (R > 1) e[1] = heads(o, p).count;
    e[0] = o.along->lands().rows(p);
    return e;
  }
  static index_t elements(extents_type const& e) { return view<From, R, M>(nullptr, e).elements(); }
  /// Each element arrives once at most, so that adding it rounds once.
  static bool once(move const& o) {
    return o.cut.of == head_cut::side::to && o.cut.copies(o.along->size()) == o.cut.count() && o.along->lands().distinct();
  }
  /// Whether sums are one pass over `to`.
  static bool by_table(move const& o) { return o.table && o.table->made(); }
  /// Elements between the rows of a peer and those of the next one. A table counts rows, so each has room for the most heads.
  static index_t room_of(move const& o, int p) {
    extents_type e = arriving(o, p);
    if constexpr (R > 1)
      if (by_table(o)) e[1] = widest(o);
    return elements(e);
  }
  static index_t widest(move const& o) {
    index_t n = 0;
    for (int p = 0; p < o.along->size(); ++p) n = max(n, heads(o, p).count);
    return n;
  }
  template <class Queue>
  void one_pass(Queue const& q, move const& o) const {
    using body = sum_arrivals<From, To, M>;
    bool const onto = o.lands == landing::sum_to, at_once = std::is_same_v<To, A> || once(o);
    body const b{of_rank_4(o.to), rows_.tensor.data,        o.table->read(), o.cut,
                 widest(o),       index_t(o.along->size()), onto && at_once, onto && !at_once};
    q.for_each(std::array{b.to.extent(0), b.to.extent(1), b.to.extent(2), ceil_div(b.to.extent(3), body::together)}, b);
  }
  template <class Queue, class X>
  void add_up(Queue const& q, move const& o, view<X, R, M> sums) const {
    From const* at = rows_.tensor.data;
    for (int p = 0; p < o.along->size(); ++p) {
      extents_type extents = arriving(o, p);
      head_cut::range const part = heads(o, p);
      for (row_range const& r : o.along->lands().of(p)) {
        extents[0] = r.count;
        view<From const, R, M> const arrived(at, extents);
        at += arrived.elements();
        view<X, R, M> into = sums.rows(r.first, r.count, r.step);
        if constexpr (R > 1) into = into.narrow(1, part.first, part.count);
        detail::add(q, into, arrived);
      }
    }
  }

  owned<From, 1, M> rows_;
  owned<A, R, M> sums_;
  index_t used_ = 0;
};

} // namespace sp::detail
