// The rotate schedule: keys travel around the ring, the next ones in flight while a block is computed; gradients follow and come home.
// Deterministic at a fixed number of ranks: contributions are added in the order of the steps.
#pragma once

#include <sp/attention/ring/geometry.hpp>

namespace sp::detail {

/// One message to the next rank and one from the previous, in flight until wait(). Nothing is allocated after construction.
template <class Call>
class hop {
public:
  using memory_type = typename Call::memory_type;

  explicit hop(Call const& c)
      : call_(c), send_(*c.ctx.lists, 1, 2), receive_(*c.ctx.lists, 1, 2), next_((c.comm.rank() + 1) % c.comm.size()),
        previous_((c.comm.rank() + c.comm.size() - 1) % c.comm.size()) {}

  /// Work that the queue was given before may still read what is received into, and write what is sent.
  template <class A, class B>
  void post(char const* primitive, view<A, 3, memory_type> send_k, view<A, 3, memory_type> send_v,
            view<B, 3, memory_type> receive_k, view<B, 3, memory_type> receive_v) {
    send_.clear();
    send_.open(next_);
    send_.add(send_k);
    send_.add(send_v);
    receive_.clear();
    receive_.open(previous_);
    receive_.add(receive_k);
    receive_.add(receive_v);
    flight_.emplace(sp::exchange(call_.comm, traffic{primitive, send_.parcels(), receive_.parcels(), {.same_pieces = true}},
                                 call_.ctx.queue));
  }
  void wait() {
    if (!flight_) return;
    flight_->wait();
    flight_.reset();
  }

private:
  Call const& call_;
  parcel_builder send_, receive_;
  int next_, previous_;
  std::optional<exchange_token<Call>> flight_;
};

template <class T, class Call>
struct rotate_forward_scratch {
  using memory_type = typename Call::memory_type;
  key_buffer<T, memory_type> buffers[2];
  hop<Call> keys;
  rotate_forward_scratch(Call const& c, kv_views<T, memory_type> const& like)
      : buffers{{*c.ctx.scratch, c.geometry.widest(), like}, {*c.ctx.scratch, c.geometry.widest(), like}}, keys(c) {}
};

template <class T, class Call>
struct rotate_backward_scratch : rotate_forward_scratch<T, Call> {
  using typename rotate_forward_scratch<T, Call>::memory_type;
  using A = accumulate_t<T>;
  using grad = key_grad<T, memory_type>;
  typename Call::queue_type const& queue;
  key_buffer<A, memory_type> sums[3];
  hop<Call> gradients;
  int computed = 0, received = 1, sent = 2; ///< which of the sums is what

  rotate_backward_scratch(Call const& c, kv_views<T, memory_type> const& like)
      : rotate_backward_scratch(c, max(c.geometry.widest(), c.geometry.rows_of(c.geometry.rank)), like) {}

  /// Zeroed gradients for keys of another rank.
  grad share_of(kv_views<T, memory_type> const& held, index_t rows) {
    grad share{held.k, held.v, sums[computed].k_rows(rows), sums[computed].v_rows(rows)};
    sp::fill(queue, share.dk, A{});
    sp::fill(queue, share.dv, A{});
    return share;
  }
  /// Adds what the ranks before me found for these keys, and sends the sum after the keys; that of the next keys is on its way.
  void pass_on(int step, grad const& share, index_t rows, index_t next_rows) {
    gradients.wait();
    if (step > 1) {
      add(queue, share.dk, sums[received].k_rows(rows));
      add(queue, share.dv, sums[received].v_rows(rows));
    }
    int free = sent;
    sent = computed, computed = received, received = free;
    gradients.post("ring.backward.gradients", share.dk, share.dv, sums[received].k_rows(next_rows),
                   sums[received].v_rows(next_rows));
  }
  /// The last hop: what everybody found for my own keys.
  void come_home(grad const& own) {
    gradients.wait();
    add(queue, own.dk, sums[received].k_rows(own.dk.extent(0)));
    add(queue, own.dv, sums[received].v_rows(own.dv.extent(0)));
  }

private:
  rotate_backward_scratch(Call const& c, index_t rows, kv_views<T, memory_type> const& like)
      : rotate_forward_scratch<T, Call>(c, like),
        queue(c.ctx.queue), sums{{*c.ctx.scratch, rows, like}, {*c.ctx.scratch, rows, like}, {*c.ctx.scratch, rows, like}},
        gradients(c) {}
};

/// Keys meet queries rank by rank.
struct rotate_schedule : runs_anywhere {
  static constexpr schedule how = schedule::rotate;
  static constexpr char const* name = "rotate";

  template <class Planner, class Backend>
  static void prepare(Planner const& plans, ring_geometry<Backend>& g, ring_layouts const& l) {
    for (int s = 0; s < g.size; ++s) g.add_step(plans, {l.queries(), place(l.k.runs(g.source(s))), l.mask});
  }

  /// Step s: the keys of rank r - s are folded while those of r - s - 1 are in flight.
  template <class T, class Call, class M, class SavedList>
  static void forward(Call const& c, view<T const, 3, M> q, kv_views<T, M> own, attention_state<T, M> state,
                      SavedList& by_backend) {
    auto const& g = c.geometry;
    rotate_forward_scratch<T, Call> here(c, own);
    kv_views<T, M> held = own;
    for (int s = 0; s < g.size; ++s) {
      auto& next = here.buffers[s % 2];
      index_t rows = g.rows_of(g.source(s + 1));
      if (s + 1 < g.size) here.keys.post("ring.forward.keys", held.k, held.v, next.k_rows(rows), next.v_rows(rows));
      by_backend.push(
          c.template forward<T>(g.steps[std::size_t(s)], c.numbers, q, std::span<kv_views<T, M> const>(&held, 1), state));
      here.keys.wait();
      held = {next.k_rows(rows), next.v_rows(rows)};
    }
  }

  /// Keys travel as in forward; their gradients follow one step behind, each rank adding its share, and the last hop brings them
  /// home. The own block's gradients never leave. (P - 1) hops of each.
  template <class T, class Call, class M, class SavedList>
  static void backward(Call const& c, query_grad<T, M> const& queries, key_grad<T, M> const& own, SavedList const& by_backend) {
    auto const& g = c.geometry;
    kv_views<T, M> held{own.k, own.v};
    rotate_backward_scratch<T, Call> here(c, held);
    for (int s = 0; s < g.size; ++s) {
      auto& next = here.buffers[s % 2];
      index_t rows = g.rows_of(g.source(s)), next_rows = g.rows_of(g.source(s + 1));
      if (s + 1 < g.size) here.keys.post("ring.backward.keys", held.k, held.v, next.k_rows(next_rows), next.v_rows(next_rows));
      key_grad<T, M> share = s == 0 ? own : here.share_of(held, rows);
      c.template backward<T>(g.steps[std::size_t(s)], c.numbers, std::span<query_grad<T, M> const>(&queries, 1),
                             std::span<key_grad<T, M> const>(&share, 1), by_backend.at(s));
      if (s > 0) here.pass_on(s, share, rows, next_rows);
      here.keys.wait();
      held = {next.k_rows(next_rows), next.v_rows(next_rows)};
    }
    if (g.size > 1) here.come_home(own);
  }

  template <class T, class Call, class M>
  static void take_scratch(Call const& c, kv_views<T, M> const& own) {
    rotate_backward_scratch<T, Call>(c, own);
  }
};

} // namespace sp::detail
