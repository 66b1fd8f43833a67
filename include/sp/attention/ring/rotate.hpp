// The rotate schedule: keys travel around the ring, the next ones in flight while a block is computed; gradients follow and come home.
// Deterministic at a fixed number of ranks: contributions are added in the order of the steps.
#pragma once

#include <sp/attention/ring/geometry.hpp>

namespace sp::detail {

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
    flight_.emplace(sp::exchange(comm_, traffic{primitive, send_.parcels(), receive_.parcels()}));
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
  std::optional<decltype(sp::exchange(std::declval<Comm const&>(), std::declval<traffic const&>()))> flight_;
};

template <class T, class Comm>
struct rotate_forward_scratch {
  key_buffer<T, T> buffers[2];
  hop<Comm> keys;
  rotate_forward_scratch(Comm const& comm, allocator& a, index_t widest, kv_views<T> const& like)
      : buffers{{a, widest, like}, {a, widest, like}}, keys(comm, a) {}
};

template <class T, class Comm>
struct rotate_backward_scratch : rotate_forward_scratch<T, Comm> {
  key_buffer<T, accumulate_t<T>> sums[3];
  hop<Comm> gradients;
  int computed = 0, received = 1, sent = 2; ///< which of the sums is what
  rotate_backward_scratch(Comm const& comm, allocator& a, index_t widest, index_t own, kv_views<T> const& like)
      : rotate_forward_scratch<T, Comm>(comm, a, widest, like), sums{{a, max(widest, own), like},
                                                                     {a, max(widest, own), like},
                                                                     {a, max(widest, own), like}},
        gradients(comm, a) {}

  /// Zeroed gradients for keys of another rank.
  key_grad<T> share_of(kv_views<T> const& held, index_t rows) {
    key_grad<T> share{held.k, held.v, sums[computed].k_rows(rows), sums[computed].v_rows(rows)};
    fill(share.dk, accumulate_t<T>{});
    fill(share.dv, accumulate_t<T>{});
    return share;
  }
  /// Adds what the ranks before me found for these keys, and sends the sum after the keys; that of the next keys is on its way.
  void pass_on(int step, key_grad<T> const& share, index_t rows, index_t next_rows) {
    gradients.wait();
    if (step > 1) {
      add(share.dk, sums[received].k_rows(rows));
      add(share.dv, sums[received].v_rows(rows));
    }
    int free = sent;
    sent = computed, computed = received, received = free;
    gradients.post("ring.backward.gradients", share.dk, share.dv, sums[received].k_rows(next_rows),
                   sums[received].v_rows(next_rows));
  }
  /// The last hop: what everybody found for my own keys.
  void come_home(key_grad<T> const& own) {
    gradients.wait();
    add(own.dk, sums[received].k_rows(own.dk.extent(0)));
    add(own.dv, sums[received].v_rows(own.dv.extent(0)));
  }
};

/// Keys meet queries rank by rank.
struct rotate_schedule : runs_anywhere {
  static constexpr schedule how = schedule::rotate;
  static constexpr char const* name = "rotate";

  template <class Backend>
  static void prepare(Backend const& backend, ring_geometry<Backend>& g, ring_layouts const& l) {
    for (int s = 0; s < g.size; ++s) g.steps.push_back(backend.prepare({l.queries(), place(l.k.runs(g.source(s))), l.mask}));
  }

  /// Step s: the keys of rank r - s are folded while those of r - s - 1 are in flight.
  template <class T, class Comm, class Backend, class SavedList>
  static void forward(ring_call<Comm, Backend> const& c, view<T const, 3> q, kv_views<T> own, attention_state<T> state,
                      SavedList& by_backend) {
    auto const& g = c.geometry;
    rotate_forward_scratch<T, Comm> here(c.comm, c.scratch, g.widest(), own);
    kv_views<T> held = own;
    for (int s = 0; s < g.size; ++s) {
      auto& next = here.buffers[s % 2];
      index_t rows = g.rows_of(g.source(s + 1));
      if (s + 1 < g.size) here.keys.post("ring.forward.keys", held.k, held.v, next.k_rows(rows), next.v_rows(rows));
      by_backend.push(c.backend.template forward<T>(g.steps[std::size_t(s)], c.scratch, c.numbers, q,
                                                    std::span<kv_views<T> const>(&held, 1), state));
      here.keys.wait();
      held = {next.k_rows(rows), next.v_rows(rows)};
    }
  }

  /// Keys travel as in forward; their gradients follow one step behind, each rank adding its share, and the last hop brings them
  /// home. The own block's gradients never leave. (P - 1) hops of each.
  template <class T, class Comm, class Backend, class SavedList>
  static void backward(ring_call<Comm, Backend> const& c, query_grad<T> const& queries, key_grad<T> const& own,
                       SavedList const& by_backend) {
    auto const& g = c.geometry;
    kv_views<T> held{own.k, own.v};
    rotate_backward_scratch<T, Comm> here(c.comm, c.scratch, g.widest(), g.rows_of(g.rank), held);
    for (int s = 0; s < g.size; ++s) {
      auto& next = here.buffers[s % 2];
      index_t rows = g.rows_of(g.source(s)), next_rows = g.rows_of(g.source(s + 1));
      if (s + 1 < g.size) here.keys.post("ring.backward.keys", held.k, held.v, next.k_rows(next_rows), next.v_rows(next_rows));
      key_grad<T> share = s == 0 ? own : here.share_of(held, rows);
      c.backend.template backward<T>(g.steps[std::size_t(s)], c.scratch, c.numbers, std::span<query_grad<T> const>(&queries, 1),
                                     std::span<key_grad<T> const>(&share, 1), by_backend.at(s));
      if (s > 0) here.pass_on(s, share, rows, next_rows);
      here.keys.wait();
      held = {next.k_rows(next_rows), next.v_rows(next_rows)};
    }
    if (g.size > 1) here.come_home(own);
  }

  template <class T, class Comm, class Backend>
  static void take_scratch(ring_call<Comm, Backend> const& c, kv_views<T> const& own) {
    rotate_backward_scratch<T, Comm>(c.comm, c.scratch, c.geometry.widest(), c.geometry.rows_of(c.geometry.rank), own);
  }
};

} // namespace sp::detail
