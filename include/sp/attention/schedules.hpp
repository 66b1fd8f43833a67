// The ring schedules: how a rank's queries meet everybody's keys, and how key gradients come home. Forward and backward.
// Each is deterministic at a fixed number of ranks; gather and pull visit keys in document order, so their bits do not depend on it.
#pragma once

#include <optional>

#include <sp/attention/rows.hpp>
#include <sp/collective/operations.hpp>
#include <sp/collective/parcels.hpp>

namespace sp::detail {

/// What a ring prepared for one batch, one per rank.
template <class Backend>
struct ring_geometry {
  int rank = 0, size = 1;
  sp::schedule how = schedule::rotate;
  index q_rows = 0;
  std::vector<index> key_rows, query_rows;    ///< of every rank
  std::vector<typename Backend::plan> steps;  ///< rotate: step s meets the keys of rank (rank - s) mod size; else one table of all keys
  std::optional<typename Backend::plan> keys; ///< pull, backward: everybody's queries against this rank's keys

  int source(int step) const { return (rank - step + size) % size; }
  index rows_of(int r) const { return key_rows[std::size_t(r)]; }
  index widest() const {
    index n = 0;
    for (int r = 0; r < size; ++r)
      if (r != rank) n = max(n, rows_of(r));
    return n;
  }
};

/// Keys and values with heads and dims of a call, in memory of their own.
template <class T, class E>
struct key_buffer {
  owned<E, 3> k, v; // (rows, kv heads, dim), (rows, kv heads, value dim)
  key_buffer() = default;
  key_buffer(allocator& a, index rows, key_part<T> const& like)
      : k(a, {rows, like.k.extent(1), like.k.extent(2)}), v(a, {rows, like.v.extent(1), like.v.extent(2)}) {}
  view<E, 3> k_rows(index n) const { return k.tensor.rows(0, n); }
  view<E, 3> v_rows(index n) const { return v.tensor.rows(0, n); }
};

/// One message to the next rank and one from the previous, in flight until wait(). Nothing is allocated after construction.
template <class Comm>
class hop {
public:
  hop(Comm const& comm, allocator& scratch)
      : comm_(comm), send_(scratch, 1, 2), receive_(scratch, 1, 2), next_((comm.rank() + 1) % comm.size()),
        previous_((comm.rank() + comm.size() - 1) % comm.size()) {}

  template <class A, class B>
  void post(char const* primitive, view<A, 3> send_k, view<A, 3> send_v, view<B, 3> receive_k, view<B, 3> receive_v) {
    send_.clear();
    send_.open(next_);
    send_.add(send_k);
    send_.add(send_v);
    receive_.clear();
    receive_.open(previous_);
    receive_.add(receive_k);
    receive_.add(receive_v);
    flight_.emplace(exchange(comm_, traffic{primitive, send_.parcels(), receive_.parcels()}));
  }
  void wait() {
    if (!flight_) return;
    flight_->wait();
    flight_.reset();
  }

private:
  Comm const& comm_;
  parcel_builder send_, receive_;
  int next_, previous_;
  std::optional<decltype(exchange(std::declval<Comm const&>(), std::declval<traffic const&>()))> flight_;
};

// ---- rotate ---------------------------------------------------------------------------------------------------------------------

template <class T, class Comm>
struct rotate_forward_scratch {
  key_buffer<T, T> buffers[2];
  hop<Comm> keys;
  rotate_forward_scratch(Comm const& comm, allocator& a, index widest, key_part<T> const& like)
      : buffers{{a, widest, like}, {a, widest, like}}, keys(comm, a) {}
};

template <class T, class Comm>
struct rotate_backward_scratch : rotate_forward_scratch<T, Comm> {
  key_buffer<T, accumulate_t<T>> sums[3]; // computed, received, sent
  hop<Comm> gradients;
  rotate_backward_scratch(Comm const& comm, allocator& a, index widest, index own, key_part<T> const& like)
      : rotate_forward_scratch<T, Comm>(comm, a, widest, like),
        sums{{a, max(widest, own), like}, {a, max(widest, own), like}, {a, max(widest, own), like}}, gradients(comm, a) {}
};

/// Step s: the keys of rank r - s are folded while those of r - s - 1 are in flight.
template <class T, class Comm, class Backend, class Extras>
void rotate_forward(Comm const& comm, Backend const& backend, ring_geometry<Backend> const& g, allocator& scratch, call_numbers const& n,
                    view<T const, 3> q, key_part<T> own, fold_state<T> state, Extras& extras) {
  rotate_forward_scratch<T, Comm> here(comm, scratch, g.widest(), own);
  key_part<T> held = own;
  for (int s = 0; s < g.size; ++s) {
    auto& next = here.buffers[s % 2];
    index rows = g.rows_of(g.source(s + 1));
    if (s + 1 < g.size) here.keys.post("ring.forward.keys", held.k, held.v, next.k_rows(rows), next.v_rows(rows));
    extras.push(backend.template forward<T>(g.steps[std::size_t(s)], scratch, n, q, std::span<key_part<T> const>(&held, 1), state));
    here.keys.wait();
    held = {next.k_rows(rows), next.v_rows(rows)};
  }
}

/// Keys travel as in forward; their gradients follow one step behind, each rank adding its share, and the last hop brings them
/// home. The own block's gradients never leave. (P - 1) hops of each.
template <class T, class Comm, class Backend, class Extras>
void rotate_backward(Comm const& comm, Backend const& backend, ring_geometry<Backend> const& g, allocator& scratch, call_numbers const& n,
                     query_grad<T> const& queries, key_grad<T> const& own, Extras const& extras) {
  using A = accumulate_t<T>;
  key_part<T> like{own.k, own.v};
  rotate_backward_scratch<T, Comm> here(comm, scratch, g.widest(), g.rows_of(g.rank), like);
  auto& sums = here.sums;
  key_part<T> held = like;
  int computed = 0, received = 1, sent = 2;
  for (int s = 0; s < g.size; ++s) {
    auto& next = here.buffers[s % 2];
    index rows = g.rows_of(g.source(s)), next_rows = g.rows_of(g.source(s + 1));
    if (s + 1 < g.size) here.keys.post("ring.backward.keys", held.k, held.v, next.k_rows(next_rows), next.v_rows(next_rows));
    key_grad<T> part{held.k, held.v, sums[computed].k_rows(s ? rows : 0), sums[computed].v_rows(s ? rows : 0)};
    if (s == 0) {
      part = own;
    } else {
      fill(part.dk, A{});
      fill(part.dv, A{});
    }
    backend.template backward<T>(g.steps[std::size_t(s)], scratch, n, std::span<query_grad<T> const>(&queries, 1),
                                 std::span<key_grad<T> const>(&part, 1), extras.at(s));
    if (s > 0) {
      here.gradients.wait(); // what the ranks before me found for the keys I hold
      if (s > 1) {
        add(part.dk, sums[received].k_rows(rows));
        add(part.dv, sums[received].v_rows(rows));
      }
      int free = sent;
      sent = computed, computed = received, received = free;
      here.gradients.post("ring.backward.gradients", part.dk, part.dv, sums[received].k_rows(next_rows), sums[received].v_rows(next_rows));
    }
    here.keys.wait();
    held = {next.k_rows(next_rows), next.v_rows(next_rows)};
  }
  here.gradients.wait();
  if (g.size > 1) {
    add(own.dk, sums[received].k_rows(own.dk.extent(0)));
    add(own.dv, sums[received].v_rows(own.dv.extent(0)));
  }
}

// ---- gather ---------------------------------------------------------------------------------------------------------------------

/// kv heads [a, b) of the local ones and the query heads that use them.
struct head_part {
  heads on;
  index q = 0, kv = 0; ///< first local heads

  static head_part of(heads whole, index part, index parts) {
    index a = cut(whole.kv_count, part, parts), b = cut(whole.kv_count, part + 1, parts);
    index q0 = max(whole.q_begin, (whole.kv_begin + a) * whole.group);
    index q1 = max(q0, min(whole.q_begin + whole.q_count, (whole.kv_begin + b) * whole.group));
    head_part r{whole, q0 - whole.q_begin, a};
    r.on.q_begin = q0;
    r.on.q_count = q1 - q0;
    r.on.kv_begin = whole.kv_begin + a;
    r.on.kv_count = b - a;
    return r;
  }
  template <class E, int R>
  view<E, R> queries(view<E, R> const& v) const {
    return v.slice(1, q, on.q_count);
  }
  template <class E>
  view<E, 3> keys(view<E, 3> const& v) const {
    return v.slice(1, kv, on.kv_count);
  }
};

/// Everybody's keys of one group of heads, gathered while the group before is computed.
template <class T, class Comm>
class gathered_keys {
public:
  gathered_keys(Comm const& comm, allocator& scratch, std::span<index const> rows, key_part<T> like)
      : comm_(comm), scratch_(scratch), rows_(rows), send_(scratch, 1, 2), receive_(scratch, index(rows.size()), 2 * index(rows.size())), parts_(scratch, {index(rows.size())}) {
    index total = 0;
    for (std::size_t r = 0; r < rows.size(); ++r) total += int(r) == comm.rank() ? 0 : rows[r];
    all_ = key_buffer<T, T>(scratch, total, like);
  }

  void post(char const* primitive, key_part<T> own) {
    send_.clear();
    receive_.clear();
    send_.open(comm_.rank());
    send_.add(own.k);
    send_.add(own.v);
    index at = 0;
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      receive_.open(int(r));
      if (int(r) == comm_.rank()) {
        parts_.tensor(index(r)) = own; // stays where it is
        continue;
      }
      // buffers are dense in (rows, heads of this group, dim)
      view<T, 3> k(all_.k.tensor.data, {rows_[r], own.k.extent(1), own.k.extent(2)}), v(all_.v.tensor.data, {rows_[r], own.v.extent(1), own.v.extent(2)});
      k.data += at * own.k.extent(1) * own.k.extent(2);
      v.data += at * own.v.extent(1) * own.v.extent(2);
      receive_.add(k);
      receive_.add(v);
      parts_.tensor(index(r)) = {k, v};
      at += rows_[r];
    }
    flight_.emplace(all_gather_v(comm_, primitive, send_.parcels()[0].pieces, receive_.parcels(), scratch_));
  }
  std::span<key_part<T> const> wait() {
    flight_->wait();
    flight_.reset();
    return {parts_.tensor.data, rows_.size()};
  }

private:
  Comm const& comm_;
  allocator& scratch_;
  std::span<index const> rows_;
  parcel_builder send_, receive_;
  owned<key_part<T>, 1> parts_;
  key_buffer<T, T> all_;
  std::optional<decltype(all_gather_v(std::declval<Comm const&>(), "", std::span<piece const>(), std::span<parcel const>(), std::declval<allocator&>()))> flight_;
};

template <class T, class Comm>
struct gather_buffers {
  index groups;
  key_part<T> widest; ///< the cut rule gives the last group the most heads
  gathered_keys<T, Comm> keys[2];

  gather_buffers(Comm const& comm, allocator& scratch, std::span<index const> rows, heads on, index wanted, key_part<T> own)
      : groups(max(1, min(wanted, on.kv_count))), widest(of(head_part::of(on, groups - 1, groups), own)),
        keys{{comm, scratch, rows, widest}, {comm, scratch, rows, widest}} {}

  static key_part<T> of(head_part const& p, key_part<T> own) { return {p.keys(own.k), p.keys(own.v)}; }
};

/// Runs f(head part, everybody's keys, index of the group) for each group of heads, with the next group in flight.
template <class T, class Comm, class F>
void for_each_gathered(char const* primitive, gather_buffers<T, Comm>& b, heads on, key_part<T> own, F&& f) {
  auto part = [&](index i) { return head_part::of(on, i, b.groups); };
  b.keys[0].post(primitive, b.of(part(0), own));
  for (index i = 0; i < b.groups; ++i) {
    auto all = b.keys[i % 2].wait();
    if (i + 1 < b.groups) b.keys[(i + 1) % 2].post(primitive, b.of(part(i + 1), own));
    f(part(i), all, i);
  }
}

/// Key gradients of everybody's rows, dk then dv per rank, dense, and the sum this rank gets back.
template <class T>
struct gather_sums {
  using A = accumulate_t<T>;
  std::span<index const> rows;
  owned<A, 1> all, mine;
  owned<key_grad<T>, 1> parts;
  owned<view<A, 1>, 1> flat;

  gather_sums(allocator& a, std::span<index const> rows_of, int rank, key_part<T> const& widest) : rows(rows_of) {
    index total = 0, per_row = widest.k.extent(1) * (widest.k.extent(2) + widest.v.extent(2));
    for (index n : rows) total += n;
    all = owned<A, 1>(a, {total * per_row});
    mine = owned<A, 1>(a, {rows[std::size_t(rank)] * per_row});
    parts = owned<key_grad<T>, 1>(a, {index(rows.size())});
    flat = owned<view<A, 1>, 1>(a, {index(rows.size())});
  }
  /// dk and dv of n rows that start at `at`.
  static key_grad<T> split(A* at, index n, key_part<T> const& like) {
    view<A, 3> dk(at, {n, like.k.extent(1), like.k.extent(2)});
    return {like.k, like.v, dk, view<A, 3>(at + dk.elements(), {n, like.v.extent(1), like.v.extent(2)})};
  }
  /// Zeroed gradients beside everybody's gathered keys.
  std::span<key_grad<T> const> begin(std::span<key_part<T> const> keys) {
    fill(all.tensor, A{});
    A* at = all.tensor.data;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      auto const& g = parts.tensor(index(r)) = split(at, rows[r], keys[r]);
      flat.tensor(index(r)) = view<A, 1>(at, {g.dk.elements() + g.dv.elements()});
      at += flat.tensor(index(r)).extent(0);
    }
    return {parts.tensor.data, rows.size()};
  }
};

template <class T, class Comm, class Backend, class Extras>
void gather_forward(Comm const& comm, Backend const& backend, ring_geometry<Backend> const& g, allocator& scratch, call_numbers n, index groups,
                    view<T const, 3> q, key_part<T> own, fold_state<T> state, Extras& extras) {
  gather_buffers<T, Comm> buffers(comm, scratch, std::span(g.key_rows), n.heads, groups, own);
  for_each_gathered("ring.forward.gather", buffers, n.heads, own, [&](head_part const& p, std::span<key_part<T> const> all, index) {
    call_numbers part = n;
    part.heads = p.on;
    fold_state<T> s{p.queries(state.out), p.queries(state.lse)};
    extras.push(backend.template forward<T>(g.steps[0], scratch, part, p.queries(q), all, s));
  });
}

/// dk and dv of everybody's rows are summed in rank order by their owners.
template <class T, class Comm, class Backend, class Extras>
void gather_backward(Comm const& comm, Backend const& backend, ring_geometry<Backend> const& g, allocator& scratch, call_numbers n, index groups,
                     query_grad<T> const& qg, key_grad<T> const& own, Extras const& extras) {
  using A = accumulate_t<T>;
  key_part<T> own_keys{own.k, own.v};
  gather_buffers<T, Comm> buffers(comm, scratch, std::span(g.key_rows), n.heads, groups, own_keys);
  gather_sums<T> sums(scratch, g.key_rows, g.rank, buffers.widest);
  for_each_gathered("ring.backward.gather", buffers, n.heads, own_keys, [&](head_part const& p, std::span<key_part<T> const> all, index i) {
    call_numbers part = n;
    part.heads = p.on;
    query_grad<T> queries{p.queries(qg.q), p.queries(qg.out), p.queries(qg.dout), p.queries(qg.lse), p.queries(qg.delta), p.queries(qg.dq)};
    backend.template backward<T>(g.steps[0], scratch, part, std::span<query_grad<T> const>(&queries, 1), sums.begin(all), extras.at(int(i)));
    view<A, 1> mine = sums.mine.tensor.rows(0, sums.flat.tensor(g.rank).extent(0));
    reduce_scatter(comm, {sums.flat.tensor.data, std::size_t(g.size)}, mine, scratch, "ring.backward.reduce_scatter");
    key_grad<T> found = sums.split(mine.data, g.rows_of(g.rank), all[std::size_t(g.rank)]);
    add(p.keys(own.dk), found.dk);
    add(p.keys(own.dv), found.dv);
  });
}

// ---- pull -----------------------------------------------------------------------------------------------------------------------

/// A published tensor as this rank's own looks like, with the peer's rows; short_message if it does not.
template <class E, int R>
view<E, R> pulled(std::span<piece const> from, std::size_t i, int peer, index rows, std::type_identity_t<view<E, R>> const& own) {
  bool same = i < from.size() && from[i].rank == R && from[i].element == index(sizeof(E)) && from[i].extents[0] == rows;
  for (int d = 1; same && d < R; ++d) same = from[i].extents[std::size_t(d)] == own.extent(d);
  if (!same) {
    error_info e{errc::short_message, "tensor " + std::to_string(i) + " of rank " + std::to_string(peer) + " is not as expected: " + std::to_string(rows) +
                                          " rows, otherwise " + shape(own), "Pass the same heads, dims and types on every rank"};
    e.peer = peer;
    fail(std::move(e));
  }
  return as_view<E, R>(from[i]);
}

template <class T, class Comm, class Backend, class Extras>
void pull_forward(Comm const& comm, Backend const& backend, ring_geometry<Backend> const& g, allocator& scratch, call_numbers const& n,
                  view<T const, 3> q, key_part<T> own, fold_state<T> state, Extras& extras) {
  owned<key_part<T>, 1> parts(scratch, {g.size});
  piece mine[] = {as_piece(own.k), as_piece(own.v)};
  auto published = comm.publish("ring.forward.publish", mine);
  for (int r = 0; r < g.size; ++r) {
    std::span<piece const> p = published.of(r);
    parts.tensor(r) = {pulled<T const, 3>(p, 0, r, g.rows_of(r), own.k), pulled<T const, 3>(p, 1, r, g.rows_of(r), own.v)};
  }
  extras.push(backend.template forward<T>(g.steps[0], scratch, n, q, std::span<key_part<T> const>(parts.tensor.data, std::size_t(g.size)), state));
  published.release();
}

template <class T>
struct pull_backward_scratch {
  owned<key_grad<T>, 1> keys;
  owned<query_grad<T>, 1> rows;
  pull_backward_scratch(allocator& a, int size) : keys(a, {size}), rows(a, {size}) {}
};

/// Two reads, no writes to peers: dq of my rows from everybody's keys; dk, dv of my keys from everybody's rows.
template <class T, class Comm, class Backend, class Extras>
void pull_backward(Comm const& comm, Backend const& backend, ring_geometry<Backend> const& g, allocator& scratch, call_numbers const& n,
                   query_grad<T> const& queries, key_grad<T> const& own, Extras const& extras) {
  using A = accumulate_t<T>;
  pull_backward_scratch<T> here(scratch, g.size);
  auto &keys = here.keys;
  auto &rows = here.rows;
  piece mine[] = {as_piece(own.k),        as_piece(own.v),       as_piece(queries.q),    as_piece(queries.out),
                  as_piece(queries.dout), as_piece(queries.lse), as_piece(queries.delta)};
  auto published = comm.publish("ring.backward.publish", mine);
  for (int r = 0; r < g.size; ++r) {
    std::span<piece const> p = published.of(r);
    index n_keys = g.rows_of(r), n_rows = g.query_rows[std::size_t(r)];
    keys.tensor(r) = {pulled<T const, 3>(p, 0, r, n_keys, own.k), pulled<T const, 3>(p, 1, r, n_keys, own.v), {}, {}};
    rows.tensor(r) = {pulled<T const, 3>(p, 2, r, n_rows, queries.q),       pulled<T const, 3>(p, 3, r, n_rows, queries.out),
                      pulled<T const, 3>(p, 4, r, n_rows, queries.dout),    pulled<A const, 2>(p, 5, r, n_rows, queries.lse),
                      pulled<A const, 2>(p, 6, r, n_rows, queries.delta), {}};
  }
  std::span<key_grad<T> const> all_keys(keys.tensor.data, std::size_t(g.size));
  std::span<query_grad<T> const> all_rows(rows.tensor.data, std::size_t(g.size));
  backend.template backward<T>(g.steps[0], scratch, n, std::span<query_grad<T> const>(&queries, 1), all_keys, extras.at(0));
  backend.template backward<T>(*g.keys, scratch, n, all_rows, std::span<key_grad<T> const>(&own, 1), extras.at(0));
  published.release();
}

} // namespace sp::detail
