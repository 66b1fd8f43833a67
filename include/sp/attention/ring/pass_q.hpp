// The pass_q schedule, for few queries and many keys: keys stay where they are, queries go to those whose keys they see, and what is found
// for them comes home to be merged. In rank order: while keys stay, out, lse and dq do not depend on who owns a query.
#pragma once

#include <sp/attention/call/head_chunk.hpp>
#include <sp/attention/call/pipeline.hpp>
#include <sp/attention/ring/geometry.hpp>
#include <sp/backend/merge.hpp>
#include <sp/layout/route_exchange.hpp>

namespace sp::detail {

/// What a call of either pass needs to know of its shapes.
struct pass_q_shape {
  passed_queries const& way;
  index_t chunks, heads, dim, value_dim; ///< heads: of the widest chunk

  index_t rows() const { return way.arrived_rows(); }
  index_t results() const { return way.result_rows(); }
};

/// The first heads of a buffer.
template <class E, int R, class M>
view<E, R, M> first_heads(owned<E, R, M> const& all, index_t n) {
  return all.tensor.narrow(1, 0, n);
}

/// Queries that have arrived, what is found for them, and what came home. Two chunks of queries where there is a next one.
template <class T, class M>
class pass_q_forward {
public:
  using A = accumulate_t<T>;
  using state = attention_state<T, M>;

  pass_q_forward(basic_allocator<M>& a, pass_q_shape const& s)
      : way_(s.way), q_{{a, {s.rows(), s.heads, s.dim}}, {a, {s.chunks > 1 ? s.rows() : 0, s.heads, s.dim}}},
        out_(a, {s.rows(), s.heads, s.value_dim}), home_out_(a, {s.results(), s.heads, s.value_dim}),
        lse_(a, {s.rows(), s.heads}), home_lse_(a, {s.results(), s.heads}) {}

  view<T, 3, M> q(index_t chunk, index_t heads) const { return first_heads(q_[chunk % 2], heads); }
  state found(index_t heads) const { return {first_heads(out_, heads), first_heads(lse_, heads)}; }

  /// f(operands of the exchange that brings queries).
  template <class F>
  auto queries(index_t chunk, view<T const, 3, M> const& own, F&& f) const {
    return f(routed(way_.out, own, q(chunk, own.extent(1))));
  }
  /// f(operands of the exchange that brings home what was found).
  template <class F>
  auto results(index_t heads, F&& f) const {
    return f(routed(way_.home, first_heads(out_, heads), first_heads(home_out_, heads)),
             routed(way_.home, first_heads(lse_, heads), first_heads(home_lse_, heads)));
  }
  /// Folds what came home into `own`, rank by rank, whichever came first.
  template <class Queue>
  void merge_into(Queue const& queue, state const& own) const {
    index_t const heads = own.lse.extent(1);
    auto const out = first_heads(home_out_, heads);
    auto const lse = first_heads(home_lse_, heads);
    index_t at = 0;
    for (int r = 0; r < way_.out.size(); ++r)
      for (row_range const& rows : way_.out.sends().of(r)) {
        auto mine = [&](auto const& v) { return v.rows(rows.first, rows.count, rows.step); };
        sp::merge<T>(queue, {mine(own.out), mine(own.lse)}, {out.rows(at, rows.count), lse.rows(at, rows.count)});
        at += rows.count;
      }
  }

private:
  passed_queries const& way_;
  owned<T, 3, M> q_[2];           // (arrived rows, q heads of a chunk, dim)
  owned<A, 3, M> out_, home_out_; // (arrived rows or results, q heads of a chunk, value dim)
  owned<A, 2, M> lse_, home_lse_; // (arrived rows or results, q heads of a chunk)
};

/// Queries that have arrived with what their gradients need, and the shares of dq that are found for them.
template <class T, class M>
class pass_q_backward {
public:
  using A = accumulate_t<T>;

  pass_q_backward(basic_allocator<M>& a, pass_q_shape const& s)
      : way_(s.way), arrived_{{a, s, s.rows()}, {a, s, s.chunks > 1 ? s.rows() : 0}}, dq_(a, {s.rows(), s.heads, s.dim}) {}

  query_grad<T, M> arrived(index_t chunk, index_t heads) const {
    rows const& x = arrived_[chunk % 2];
    return {first_heads(x.q, heads),   first_heads(x.out, heads),   first_heads(x.dout, heads),
            first_heads(x.lse, heads), first_heads(x.delta, heads), first_heads(dq_, heads)};
  }
  /// f(operands of the exchange that brings queries).
  template <class F>
  auto queries(index_t chunk, query_grad<T, M> const& own, F&& f) const {
    rows const& x = arrived_[chunk % 2];
    auto along = [&](auto const& from, auto const& to) { return routed(way_.out, from, first_heads(to, from.extent(1))); };
    return f(along(own.q, x.q), along(own.out, x.out), along(own.dout, x.dout), along(own.lse, x.lse), along(own.delta, x.delta));
  }
  /// f(the operand of the exchange that adds up shares of dq at home).
  template <class F>
  auto gradients(view<A, 3, M> const& dq, F&& f) const {
    return f(routed(way_.back, first_heads(dq_, dq.extent(1)), dq, head_cut{}, landing::sum_to));
  }

private:
  struct rows {
    owned<T, 3, M> q, out, dout; // (arrived rows, q heads of a chunk, dim or value dim)
    owned<A, 2, M> lse, delta;   // (arrived rows, q heads of a chunk)
    rows(basic_allocator<M>& a, pass_q_shape const& s, index_t n)
        : q(a, {n, s.heads, s.dim}), out(a, {n, s.heads, s.value_dim}), dout(a, {n, s.heads, s.value_dim}), lse(a, {n, s.heads}),
          delta(a, {n, s.heads}) {}
  };
  passed_queries const& way_;
  rows arrived_[2];
  owned<A, 3, M> dq_; // (arrived rows, q heads of a chunk, dim)
};

/// Queries go to the keys.
struct pass_q_schedule : runs_anywhere {
  static constexpr schedule how = schedule::pass_q;
  static constexpr char const* name = "pass_q";

  template <class Planner, class Backend>
  static void prepare(Planner const& plans, ring_geometry<Backend>& g, ring_layouts const& l) {
    query_cast const cast(l.q, l.k, l.mask, l.part);
    g.passed = pass_along(cast, g.q_rows);
    g.add_step(plans, {cast.table(l.q), place(l.k.runs(l.part)), l.mask});
  }

  template <class T, class Call, class M, class SavedList>
  static void forward(Call const& c, view<T const, 3, M> q, kv_views<T, M> own, attention_state<T, M> state,
                      SavedList& by_backend) {
    auto const& queue = c.ctx.queue;
    auto const chunks = chunks_of_heads::at_most(c.numbers.heads, c.head_chunks);
    pass_q_forward<T, M> const here(*c.ctx.scratch, shape_of(c, chunks, own));
    auto send = [&](index_t i) { return here.queries(i, chunks.at(i).queries(q), exchange_named(c, "ring.forward.queries")); };
    pipelined(chunks.count, send, [&](index_t i) {
      head_chunk const p = chunks.at(i);
      attention_state<T, M> const found = here.found(p.on.q_count);
      sp::fill(queue, found.out, accumulate_t<T>{});
      sp::fill(queue, found.lse, minus_infinity<accumulate_t<T>>);
      kv_views<T, M> const keys = p.keys(own);
      by_backend.push(c.template forward<T>(c.geometry.steps[0], p.numbers(c.numbers), here.q(i, p.on.q_count),
                                            std::span<kv_views<T, M> const>(&keys, 1), found));
      here.results(p.on.q_count, exchange_named(c, "ring.forward.partials")).wait();
      here.merge_into(queue, p.queries(state));
    });
  }

  /// Shares of dq come home in the type of sums, where they are added to what is there; dk and dv are complete where they are.
  template <class T, class Call, class M, class SavedList>
  static void backward(Call const& c, query_grad<T, M> const& qg, key_grad<T, M> const& own, SavedList const& by_backend) {
    auto const chunks = chunks_of_heads::at_most(c.numbers.heads, c.head_chunks);
    pass_q_backward<T, M> const here(*c.ctx.scratch, shape_of(c, chunks, kv_views<T, M>{own.k, own.v}));
    auto send = [&](index_t i) { return here.queries(i, chunks.at(i).queries(qg), exchange_named(c, "ring.backward.queries")); };
    pipelined(chunks.count, send, [&](index_t i) {
      head_chunk const p = chunks.at(i);
      query_grad<T, M> const arrived = here.arrived(i, p.on.q_count);
      sp::fill(c.ctx.queue, arrived.dq, accumulate_t<T>{});
      key_grad<T, M> const keys = p.keys(own);
      c.template backward<T>(c.geometry.steps[0], p.numbers(c.numbers), std::span<query_grad<T, M> const>(&arrived, 1),
                             std::span<key_grad<T, M> const>(&keys, 1), by_backend.at(int(i)));
      here.gradients(p.queries(qg.dq), exchange_named(c, "ring.backward.gradients")).wait();
    });
  }

  /// That of the pass that takes more.
  template <class T, class Call, class M>
  static void take_scratch(Call const& c, kv_views<T, M> const& own) {
    using A = accumulate_t<T>;
    auto const chunks = chunks_of_heads::at_most(c.numbers.heads, c.head_chunks);
    pass_q_shape const s = shape_of(c, chunks, own);
    view<T const, 3, M> const q(nullptr, {c.geometry.q_rows, s.heads, s.dim}),
        out(nullptr, {c.geometry.q_rows, s.heads, s.value_dim});
    view<A, 2, M> const lse(nullptr, {c.geometry.q_rows, s.heads});
    view<A, 3, M> const dq(nullptr, q.extents);
    auto taken = [&](auto const&... operands) { return sp::exchange_scratch(c.comm, c.ctx.queue, operands...); };
    basic_byte_counter<M> first, second;
    pass_q_forward<T, M> const f(first, s);
    pass_q_backward<T, M> const b(second, s);
    index_t const forward = first.bytes() + f.queries(0, q, taken) + f.results(s.heads, taken);
    index_t const backward = second.bytes() + b.queries(0, {q, out, out, lse, lse, dq}, taken) + b.gradients(dq, taken);
    basic_buffer<M>(*c.ctx.scratch, max(forward, backward));
  }

private:
  template <class T, class Call, class M>
  static pass_q_shape shape_of(Call const& c, chunks_of_heads const& chunks, kv_views<T, M> const& own) {
    return {c.geometry.passed, chunks.count, chunks.widest(head_cut::kind::q), own.k.extent(2), own.v.extent(2)};
  }
  template <class Call>
  static auto exchange_named(Call const& c, char const* primitive) {
    return [&c, primitive](auto const&... operands) { return sp::exchange(c.comm, primitive, c.ctx, operands...); };
  }
};

} // namespace sp::detail
