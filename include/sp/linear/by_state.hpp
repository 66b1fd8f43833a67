// Linear attention by state: each rank computes its own segments; maps of the state go to the ranks with later tokens of their documents.
// Backwards gradients of states go the other way by the transposed maps, which forward kept; bytes do not depend on lengths of runs.
#pragma once

#include <sp/linear/infer.hpp>
#include <sp/linear/state_pass.hpp>

namespace sp::detail {

/// Where kernels add gradients of rows: the caller's tensors, or scratch where these are of another type than sums.
template <class T, class M>
struct row_gradients {
  using A = accumulate_t<T>;
  static constexpr bool direct = std::is_same_v<T, A>;
  owned<A, 3, M> dq_room, dk_room, dv_room;
  view<A, 3, M> dq, dk, dv;

  template <class Io>
  row_gradients(basic_allocator<M>& scratch, Io const& x) : row_gradients(scratch, x.dq, x.dk, x.dv) {}
  row_gradients(basic_allocator<M>& scratch, view<T, 3, M> const& q, view<T, 3, M> const& k, view<T, 3, M> const& v)
      : dq_room(scratch, room(q)), dk_room(scratch, room(k)), dv_room(scratch, room(v)) {
    if constexpr (direct)
      dq = q, dk = k, dv = v;
    else
      dq = dq_room.tensor, dk = dk_room.tensor, dv = dv_room.tensor;
  }
  static std::array<index_t, 3> room(view<T, 3, M> const& x) { return direct ? std::array<index_t, 3>{} : x.extents; }

  template <class Queue>
  void clear(Queue const& q) const {
    sp::fill(q, dq, A(0)), sp::fill(q, dk, A(0)), sp::fill(q, dv, A(0));
  }
  template <class Queue, class Io>
  void finish(Queue const& q, Io const& x) const {
    if constexpr (!direct) sp::assign(q, x.dq, dq), sp::assign(q, x.dk, dk), sp::assign(q, x.dv, dv);
  }
};

template <class Kernel, class T, class Queue>
struct state_forward : state_pass<Kernel, T, Queue> {
  using base = state_pass<Kernel, T, Queue>;
  using M = typename Queue::memory_type;
  using A = accumulate_t<T>;
  using io_type = linear_io<T, int(Kernel::gates), M>;
  io_type const& io;
  kept_list<linear_saved_t<Kernel, T>> const& kept; ///< (chunks x own segments), or empty
  view<A, 4, M> ends;                               ///< (own ends, value heads, key dim, value dim) or null

  state_forward(base&& of, io_type const& x, kept_list<linear_saved_t<Kernel, T>> const& keep, view<A, 4, M> const& final)
      : base(std::move(of)), io(x), kept(keep), ends(final) {}

  index_t document(linear_passage::visit const& v) const { return this->p.own[v.segment].document; }
  view<A const, 3, M> entering(linear_passage::visit const& v, head_span const& h) const {
    if (v.in.of == state_place::outer) return state_at(io.initial, document(v), h.v_first, h.v_count);
    return this->slot(v.in, h);
  }
  view<A, 3, M> leaving(linear_passage::visit const& v, head_span const& h) const {
    if (v.out.of != state_place::outer) return this->slot(v.out, h);
    return state_at(ends, ends.data ? this->p.end_slots[std::size_t(document(v))] : 0, h.v_first, h.v_count);
  }
  void compute(linear_passage::visit const& v, head_span const& h, index_t chunk) const {
    auto const c = this->call(v.segment, h);
    auto const out = this->value_part(io.out, v.segment, h);
    if (kept.size() > 0)
      kept[chunk * index_t(this->p.own.size()) + index_t(v.segment)] =
          this->kernel.template forward<T>(c, entering(v, h), out, leaving(v, h), this->ctx);
    else
      infer_segment<T>(this->kernel, c, entering(v, h), out, leaving(v, h), this->ctx);
  }
  void reduce(linear_passage::reduced const& r, head_span const& h) const {
    this->kernel.template reduce<T>(this->call(r.segment, h),
                                    {this->map_at(this->own_maps, r.map, h), this->slot({state_place::sent, r.sent}, h)},
                                    this->ctx);
  }
  void first(linear_passage::visit const& v, head_span const& h) const {
    auto const to = this->slot(v.out, h);
    auto const initial = entering(v, h);
    owned<A, 2, M> const m(*this->ctx.scratch, {initial.data ? h.v_count : 0, map_width(base::form, io.in.shape().key_dim)});
    this->kernel.template reduce<T>(this->call(v.segment, h), {m.tensor, to}, this->ctx);
    if (initial.data) this->join(m.tensor, initial, to, to);
  }
};

template <class Kernel, class T, class Queue>
struct state_backward : state_pass<Kernel, T, Queue> {
  using base = state_pass<Kernel, T, Queue>;
  using M = typename Queue::memory_type;
  using A = accumulate_t<T>;
  using io_type = linear_gradient_io<T, int(Kernel::gates), M>;
  io_type const& io;
  view<A, 4, M> before; ///< what entered own segments
  kept_list<linear_saved_t<Kernel, T>> const& kept;
  view<A, 4, M> ends;       ///< gradients of what left documents, or null
  view<A, 3, M> dq, dk, dv; ///< (rows, heads, dim), added to

  state_backward(base&& of, io_type const& x, view<A, 4, M> const& entered_before,
                 kept_list<linear_saved_t<Kernel, T>> const& keep, view<A, 4, M> const& dfinal, row_gradients<T, M> const& rows)
      : base(std::move(of)), io(x), before(entered_before), kept(keep), ends(dfinal), dq(rows.dq), dk(rows.dk), dv(rows.dv) {}

  index_t document(linear_passage::visit const& v) const { return this->p.own[v.segment].document; }
  view<A const, 3, M> dleaving(linear_passage::visit const& v, head_span const& h) const {
    if (v.in.of != state_place::outer) return this->slot(v.in, h);
    return state_at(ends, ends.data ? this->p.end_slots[std::size_t(document(v))] : 0, h.v_first, h.v_count);
  }
  view<A, 3, M> dentering(linear_passage::visit const& v, head_span const& h) const {
    if (v.out.of == state_place::outer) return state_at(io.dinitial, document(v), h.v_first, h.v_count);
    return this->slot(v.out, h);
  }
  view<A const, 3, M> entered(std::size_t segment, head_span const& h) const {
    state_place const& at = this->p.there.visits[this->p.own[segment].visit].in;
    if (at.of == state_place::outer) return state_at(io.initial, this->p.own[segment].document, h.v_first, h.v_count);
    return state_at(view<A const, 4, M>(before), at.slot, h.v_first, h.v_count);
  }
  void compute(linear_passage::visit const& v, head_span const& h, index_t chunk) const {
    std::size_t const s = v.segment;
    linear_grad_t<Kernel, T> g;
    g.dout = this->value_part(io.dout, s, h);
    g.dleaving = dleaving(v, h), g.dentering = dentering(v, h);
    g.dq = this->part(dq, s, h.k_first, h.k_count), g.dk = this->part(dk, s, h.k_first, h.k_count);
    g.dv = this->value_part(dv, s, h);
    for (std::size_t i = 0; i < g.dgates.size(); ++i) g.dgates[i] = this->value_part(io.dgates[i], s, h);
    this->kernel.template backward<T>(this->call(s, h), entered(s, h), kept[chunk * index_t(this->p.own.size()) + index_t(s)], g,
                                      this->ctx);
  }
  void reduce(linear_passage::reduced const& r, head_span const& h) const {
    this->kernel.template backward_reduce<T>(this->call(r.segment, h), this->value_part(io.dout, r.segment, h),
                                             this->slot({state_place::sent, r.sent}, h), this->ctx);
  }
  void first(linear_passage::visit const& v, head_span const& h) const {
    auto const to = this->slot(v.out, h);
    auto const c = this->call(v.segment, h);
    this->kernel.template backward_reduce<T>(c, this->value_part(io.dout, v.segment, h), to, this->ctx);
    auto const from = dleaving(v, h);
    if (!from.data) return;
    owned<A, 2, M> const m(*this->ctx.scratch, {h.v_count, map_width(base::form, io.in.shape().key_dim)});
    this->kernel.template reduce<T>(c, {m.tensor, {}}, this->ctx);
    this->join(m.tensor, from, to, to);
  }
};

template <class Comm, class Kernel>
class linear_by_state {
public:
  using memory_type = typename Comm::memory_type;
  static constexpr int gates = int(Kernel::gates);
  using plan = linear_state_plan<memory_type>;
  /// What entered own segments, the maps that others are sent backwards too, and what the kernel keeps of each segment and chunk.
  template <class T>
  struct saved {
    owned<accumulate_t<T>, 4, memory_type> held;
    owned<accumulate_t<T>, 3, memory_type> maps;
    kept_list<linear_saved_t<Kernel, T>> kept;
  };

  linear_by_state(Comm comm, Kernel kernel, index_t chunks)
      : comm_(std::move(comm)), kernel_(std::move(kernel)), chunks_(chunks) {}

  /// Integers and tables of one batch.
  template <class Queue>
  void prepare(plan& p, batch const& b, context<Queue> const& ctx) const {
    p.assign(ctx, b);
  }

  /// `keep`: backward is to follow.
  template <class T, class Queue>
  saved<T> forward(plan const& p, context<Queue> const& ctx, linear_io<T, gates, memory_type> const& x, bool keep) const {
    linear_shape const s = x.in.shape();
    index_t const n = chunks(p, s);
    saved<T> result{states<T>(*ctx.kept, p.there.held, s),
                    maps<T>(*ctx.kept, p, s),
                    {kept_on_host(*ctx.kept), keep ? n * index_t(p.own.size()) : 0}};
    auto const ends = states<T>(*ctx.scratch, x.final.data ? p.own_ends : 0, s);
    for (auto const& r : p.slack) sp::fill(ctx.queue, x.out.rows(r.first, r.count), from_acc<T>(accumulate_t<T>(0)));
    {
      state_forward<Kernel, T, Queue> const pass({p, p.there, ctx, kernel_, x.in, false, result.held.tensor, result.maps.tensor},
                                                 x, result.kept, x.final.data ? ends.tensor : view_of_states<T>{});
      run_passage(comm_, maps_name, n, pass);
    }
    if (x.final.data) {
      sp::exchange(comm_, ends_name, ctx, routed(p.ends, ends.tensor, x.final)).wait();
      copy_states(ctx.queue, p, x.final, x.initial);
    }
    return result;
  }

  template <class T, class Queue>
  void backward(plan const& p, context<Queue> const& ctx, saved<T> const& kept,
                linear_gradient_io<T, gates, memory_type> const& x) const {
    using A = accumulate_t<T>;
    linear_shape const s = x.in.shape();
    row_gradients<T, memory_type> const rows(*ctx.scratch, x);
    auto const held = states<T>(*ctx.scratch, p.back.held, s), ends = states<T>(*ctx.scratch, x.dfinal.data ? p.own_ends : 0, s);
    rows.clear(ctx.queue);
    for (auto const& g : x.dgates) sp::fill(ctx.queue, g, A(0));
    if (x.dinitial.data) {
      sp::fill(ctx.queue, x.dinitial, A(0));
      copy_states(ctx.queue, p, x.dinitial, x.dfinal);
    }
    if (x.dfinal.data) sp::exchange(comm_, ends_name, ctx, sum_of_ends<T>(p, x.dfinal, ends.tensor)).wait();
    state_backward<Kernel, T, Queue> const pass({p, p.back, ctx, kernel_, x.in, true, held.tensor, kept.maps.tensor}, x,
                                                kept.held.tensor, kept.kept, x.dfinal.data ? ends.tensor : view_of_states<T>{},
                                                rows);
    run_passage(comm_, maps_name, chunks(p, s), pass);
    rows.finish(ctx.queue, x);
  }

  /// What either pass takes from context.scratch at most, states given and asked for.
  template <class T, class Queue>
  [[nodiscard]] index_t scratch_bytes(plan const& p, linear_shape const& s, Queue const& queue) const {
    basic_byte_counter<memory_type> both, forwards, backwards, of_one;
    states<T>(both, p.own_ends, s);
    passage_room<accumulate_t<T>, memory_type>(forwards, p.there, s, Kernel::form);
    states<T>(forwards, p.there.held, s), maps<T>(forwards, p, s); // of infer
    passage_room<accumulate_t<T>, memory_type>(backwards, p.back, s, Kernel::form);
    states<T>(backwards, p.back.held, s);
    auto const rows = [&](index_t heads, index_t dim) { return view<T, 3, memory_type>(nullptr, {p.tokens, heads, dim}); };
    row_gradients<T, memory_type>(backwards, rows(s.k_heads, s.key_dim), rows(s.k_heads, s.key_dim),
                                  rows(s.v_heads, s.value_dim));
    head_span const h = head_span::widest(s, chunks(p, s));
    owned<accumulate_t<T>, 2, memory_type>(of_one, {h.v_count, map_width(Kernel::form, s.key_dim)});
    index_t there = 0, back = 0; // of the kernel
    for (auto const& x : p.own) {
      linear_shape const part{x.count, h.k_count, h.v_count, s.key_dim, s.value_dim};
      there = max(there, infer_bytes<T>(kernel_, part, queue)), back = max(back, kernel_.template scratch_bytes<T>(part, queue));
    }
    auto const outer = view_of_states<T>(nullptr, {p.documents(), s.v_heads, s.key_dim, s.value_dim});
    auto const slots = view_of_states<T>(nullptr, {p.own_ends, s.v_heads, s.key_dim, s.value_dim});
    index_t const ends = max(sp::exchange_scratch(comm_, queue, routed(p.ends, slots, outer)),
                             sp::exchange_scratch(comm_, queue, sum_of_ends<T>(p, outer, slots)));
    auto pass = [&](index_t bytes, linear_passage const& way, index_t kernel) {
      return bytes + max(ends, chunks(p, s) * exchange_bytes<T>(way, s, h, queue) + of_one.bytes() + kernel);
    };
    return both.bytes() + max(pass(forwards.bytes(), p.there, there), pass(backwards.bytes(), p.back, back));
  }
  template <class T>
  [[nodiscard]] index_t saved_bytes(plan const& p, linear_shape const& s) const {
    basic_byte_counter<memory_type> c;
    states<T>(c, p.there.held, s), maps<T>(c, p, s);
    index_t const n = chunks(p, s);
    if constexpr (std::is_same_v<memory_type, host_memory>) kept_list<linear_saved_t<Kernel, T>>(c, n * index_t(p.own.size()));
    index_t kernel = 0;
    for (auto const& x : p.own)
      for (index_t i = 0; i < n; ++i) {
        head_span const h = head_span::of(s, i, n);
        kernel += kernel_.template saved_bytes<T>({x.count, h.k_count, h.v_count, s.key_dim, s.value_dim});
      }
    return c.bytes() + kernel;
  }
  /// Of all ranks together.
  template <class T>
  [[nodiscard]] linear_bytes bytes(plan const& p, linear_shape const& s) const {
    auto of = [&](linear_passage const& way) {
      return s.v_heads * index_t(sizeof(accumulate_t<T>)) *
             (way.all_states * s.key_dim * s.value_dim + way.all_maps * map_width(Kernel::form, s.key_dim));
    };
    return {of(p.there), of(p.back)};
  }

private:
  static constexpr char const *maps_name = "linear_attention.maps", *ends_name = "linear_attention.states";
  template <class T>
  using view_of_states = view<accumulate_t<T>, 4, memory_type>;

  /// Where nothing travels nothing is to be overlapped.
  index_t chunks(plan const& p, linear_shape const& s) const {
    return p.there.all_states == 0 ? 1 : max(1, min(chunks_, s.k_heads));
  }
  template <class T>
  static owned<accumulate_t<T>, 4, memory_type> states(basic_allocator<memory_type>& from, index_t n, linear_shape const& s) {
    return {from, {n, s.v_heads, s.key_dim, s.value_dim}};
  }
  template <class T>
  static owned<accumulate_t<T>, 3, memory_type> maps(basic_allocator<memory_type>& from, plan const& p, linear_shape const& s) {
    return {from, {p.there.own_maps, s.v_heads, map_width(Kernel::form, s.key_dim)}};
  }
  template <class T, class From>
  static auto sum_of_ends(plan const& p, view<From, 4, memory_type> const& from, view_of_states<T> const& to) {
    return routed(p.from_ends, from, to, head_cut{}, landing::sum, &p.sums_of_ends);
  }
  /// Documents without a token: to = from, or zeros.
  template <class Queue, class A, class From>
  static void copy_states(Queue const& q, plan const& p, view<A, 4, memory_type> const& to,
                          view<From, 4, memory_type> const& from) {
    for (index_t d : p.empty) {
      auto const there = to.rows(d, 1);
      if (from.data)
        sp::assign(q, there, from.rows(d, 1));
      else
        sp::fill(q, there, A(0));
    }
  }
  /// Of one chunk.
  template <class T, class Queue>
  index_t exchange_bytes(linear_passage const& way, linear_shape const& s, head_span const& h, Queue const& queue) const {
    using A = accumulate_t<T>;
    auto of_states = [&](index_t n) { return view_of_states<T>(nullptr, {n, h.v_count, s.key_dim, s.value_dim}); };
    auto of_maps = [&](index_t n) {
      return view<A, 3, memory_type>(nullptr, {n, h.v_count, map_width(Kernel::form, s.key_dim)});
    };
    return sp::exchange_scratch(comm_, queue, routed(way.states, of_states(way.sent), of_states(way.arrived)),
                                routed(way.to_joins, of_maps(way.own_maps), of_maps(way.arrived_maps)));
  }

  Comm comm_;
  Kernel kernel_;
  index_t chunks_;
};

} // namespace sp::detail
