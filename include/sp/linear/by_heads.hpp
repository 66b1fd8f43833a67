// Linear attention by heads: tokens are exchanged for heads as in Ulysses, each rank runs whole documents of its heads, and the way back.
// Any sharding and any heads on any ranks: value heads by the one cut rule, key heads with them; gradients of shared ones are added up.
#pragma once

#include <sp/layout/route_exchange.hpp>
#include <sp/linear/by_heads_memory.hpp>
#include <sp/linear/infer.hpp>
#include <sp/linear/state_bodies.hpp>

namespace sp::detail {

/// Plan, forward and backward pass; see linear_attention.
template <class Comm, class Kernel>
class linear_by_heads {
public:
  using memory_type = typename Comm::memory_type;
  using plan = linear_heads_plan<memory_type>;
  /// The inputs by heads, and what the kernel keeps of each document.
  template <class T>
  struct saved {
    linear_inputs_by_heads<T, int(Kernel::gates), memory_type> in{};
    saved_chunks<linear_saved_t<Kernel, T>> kept{};
  };

  linear_by_heads(Comm comm, Kernel kernel) : comm_(std::move(comm)), kernel_(std::move(kernel)) {}

  template <class Queue>
  void prepare(plan& p, batch const& b, context<Queue> const& ctx) const {
    p.assign(ctx, b.layout(), group_place::in(comm_));
  }

  /// What all ranks together send to each other.
  template <class T>
  [[nodiscard]] linear_bytes bytes(plan const& p, linear_shape const& s) const {
    heads const all = all_of(s);
    return linear_traffic(p.tokens, all, linear_row_bytes::of<Kernel, T>(s, shares_key_heads(all, comm_.size()))).of_all();
  }

  /// `keep`: backward is to follow.
  template <class T, class Queue, class Io>
  [[nodiscard]] saved<T> forward(plan const& p, context<Queue> const& ctx, Io const& io, bool keep) const {
    linear_shape const s = io.in.shape();
    ulysses_heads const h = heads_in(s);
    saved<T> kept = room_to_keep<T>(*ctx.kept, p, h, s, keep);
    by_heads<T, memory_type> const out(*ctx.scratch, room_for::all, h, kind::q, p.rows.group(), s.value_dim);
    states<T> const leaving(*ctx.scratch, state_extents(p, h, s, io.final.data));
    with_inputs(p, h, io.in, kept.in, sending(inputs_name, ctx));
    if (p.slack) sp::fill(ctx.queue, out.all(), T{});
    index_t document = 0;
    for (linear_document const& d : p.documents) {
      for (gqa_range const& g : uniform_gqa(mine(h))) {
        auto const call = call_of<T>(kept.in, d, g);
        auto const initial = state_at(io.initial, document, mine(h).q_begin + g.q_begin, g.q_count);
        auto const outputs = values(d.of(out.all()), g);
        auto const final = state_at(leaving.tensor, document, g.q_begin, g.q_count);
        if (keep)
          kept.kept.push(kernel_.template forward<T>(call, initial, outputs, final, ctx));
        else
          infer_segment<T>(kernel_, call, initial, outputs, final, ctx);
      }
      ++document;
    }
    with_outputs(p, h, out, io.out, leaving, io.final, io.final.data, sending(outputs_name, ctx));
    return kept;
  }

  /// Where ranks share key heads, their shares of dq and dk travel in the type of sums and are rounded once, after the sum.
  template <class T, class Queue, class Io>
  void backward(plan const& p, context<Queue> const& ctx, saved<T> const& s, Io const& io) const {
    if (shares_key_heads(all_of(io.in.shape()), comm_.size()))
      backward_through<T, accumulate_t<T>>(p, ctx, s, io, true);
    else
      backward_through<T, T>(p, ctx, s, io, false);
  }

  template <class T>
  [[nodiscard]] index_t saved_bytes(plan const& p, linear_shape const& s) const {
    ulysses_heads const h = heads_in(s);
    basic_byte_counter<memory_type> c;
    static_cast<void>(room_to_keep<T>(c, p, h, s));
    index_t of_documents = 0;
    each_call(p, h, s, [&](linear_shape const& one) { of_documents += kernel_.template saved_bytes<T>(one); });
    return c.bytes() + of_documents;
  }
  /// The most of either pass with all operands; forwards that of infer, which has in scratch what forward keeps: inputs by heads, and,
  /// unless it has an infer, what the kernel keeps of one call.
  template <class T, class Queue>
  [[nodiscard]] index_t scratch_bytes(plan const& p, linear_shape const& s, Queue const& queue) const {
    index_t there = 0, back = 0;
    each_call(p, heads_in(s), s, [&](linear_shape const& one) {
      there = max(there, infer_bytes<T>(kernel_, one, queue)), back = max(back, kernel_.template scratch_bytes<T>(one, queue));
    });
    bool const shared = shares_key_heads(all_of(s), comm_.size());
    return max(forward_scratch<T>(p, s, there),
               shared ? backward_scratch<T, accumulate_t<T>>(p, s, back, true) : backward_scratch<T, T>(p, s, back, false));
  }

private:
  using kind = head_cut::kind;
  using side = head_cut::side;
  template <class T>
  using states = owned<accumulate_t<T>, 4, memory_type>; // (documents, my value heads, key dim, value dim)
  template <class T, int R = 3>
  using tensor = view<T, R, memory_type>;
  static constexpr char const *inputs_name = "linear_attention.heads.inputs", *outputs_name = "linear_attention.heads.outputs",
                              *gradients_name = "linear_attention.heads.gradients";
  static index_t gate_width(int gate, index_t key_dim) { return Kernel::gate_width(gate, key_dim); }
  /// f(constants 0, 1, ... of the gates)
  template <class F>
  static decltype(auto) with_gates(F&& f) {
    return [&]<std::size_t... G>(std::index_sequence<G...>)->decltype(auto) {
      return f(std::integral_constant<std::size_t, G>{}...);
    }
    (std::make_index_sequence<std::size_t(Kernel::gates)>{});
  }

  static heads all_of(linear_shape const& s) { return all_heads(s.v_heads, s.k_heads); }
  ulysses_heads heads_in(linear_shape const& s) const { return {all_of(s), comm_.rank(), comm_.size(), 1}; }
  static heads const& mine(ulysses_heads const& h) { return h.my_chunks.whole; }

  // ---- what a kernel is called with: whole documents, and as many value heads for each key head ----------------------------------

  /// f(shape) for each call of a pass.
  template <class F>
  static void each_call(plan const& p, ulysses_heads const& h, linear_shape const& s, F&& f) {
    for (linear_document const& d : p.documents)
      for (gqa_range const& g : uniform_gqa(mine(h))) f({d.count, g.kv_count, g.q_count, s.key_dim, s.value_dim});
  }
  static index_t calls(plan const& p, ulysses_heads const& h) {
    return index_t(p.documents.size() * uniform_gqa(mine(h)).size());
  }
  template <class View>
  static View keys(View const& v, gqa_range const& g) {
    return v.narrow(1, g.kv_begin, g.kv_count);
  }
  template <class View>
  static View values(View const& v, gqa_range const& g) {
    return v.narrow(1, g.q_begin, g.q_count);
  }
  template <class T, class In>
  static linear_call_t<Kernel, T> call_of(In const& in, linear_document const& d, gqa_range const& g) {
    linear_call_t<Kernel, T> c{keys(d.of(in.q.all()), g), keys(d.of(in.k.all()), g), values(d.of(in.v.all()), g), {}};
    for (std::size_t i = 0; i < c.gates.size(); ++i) c.gates[i] = values(d.of(in.gates[i].all()), g);
    return c;
  }
  /// Of states by heads, none where they are not wanted: (documents, my value heads, key dim, value dim).
  static std::array<index_t, 4> state_extents(plan const& p, ulysses_heads const& h, linear_shape const& s, bool wanted) {
    return {wanted ? index_t(p.documents.size()) : 0, h.count(kind::q), s.key_dim, s.value_dim};
  }

  template <class T>
  static saved<T> room_to_keep(basic_allocator<memory_type>& from, plan const& p, ulysses_heads const& h, linear_shape const& s,
                               bool keep = true) {
    return {{from, h, p.rows.group(), s, gate_width}, {from, keep ? max(calls(p, h), 1) : 1}};
  }

  // ---- exchanges -----------------------------------------------------------------------------------------------------------------

  /// f(operands) of what goes to heads before the forward pass.
  template <class Call, class In, class F>
  static auto with_inputs(plan const& p, ulysses_heads const& h, Call const& from, In const& to, F const& f) {
    return with_gates([&](auto... g) {
      return f(to_heads(p.rows, from.q, to.q, h, kind::kv), to_heads(p.rows, from.k, to.k, h, kind::kv),
               to_heads(p.rows, from.v, to.v, h, kind::q), to_heads(p.rows, from.gates[g], to.gates[g], h, kind::q)...);
    });
  }
  /// f(operands) of what comes back to tokens: the outputs, and where they are wanted all states to everybody.
  template <class T, class States, class Whole, class F>
  static auto with_outputs(plan const& p, ulysses_heads const& h, by_heads<T, memory_type> const& from, tensor<T> const& to,
                           States const& leaving, Whole const& whole, bool wanted, F const& f) {
    auto const home = routed(p.rows.to_tokens, from.all(), to, h.uncut(side::to, kind::q));
    return wanted ? f(home, routed(p.states, leaving.tensor, whole, h.uncut(side::to, kind::q))) : f(home);
  }
  /// f(operands) of what goes to heads before the backward pass: dout, and shares of the gradients of states, added up.
  template <class T, class States, class Whole, class F>
  static auto with_dout(plan const& p, ulysses_heads const& h, tensor<T const> const& from, by_heads<T, memory_type> const& to,
                        States const& dleaving, Whole const& whole, bool given, F const& f) {
    auto const there = to_heads(p.rows, from, to, h, kind::q);
    return given ? f(there,
                     routed(p.states_home, whole, dleaving.tensor, h.uncut(side::from, kind::q), landing::sum, &p.state_sums))
                 : f(there);
  }
  /// f(operands) of gradients that come home, those of key heads that ranks share added up.
  template <class From, class Io, class F>
  static auto with_gradients(plan const& p, ulysses_heads const& h, From const& from, Io const& to, bool shared, F const& f) {
    auto home = [&](auto const& of, auto const& where, kind which, bool sums) {
      return to_tokens(p.rows, p.row_sums, of.all(), where, h.uncut(side::to, which), false, sums);
    };
    return with_gates([&](auto... g) {
      return f(home(from.q, to.dq, kind::kv, shared), home(from.k, to.dk, kind::kv, shared), home(from.v, to.dv, kind::q, false),
               home(from.gates[g], to.dgates[g], kind::q, false)...);
    });
  }
  template <class Queue>
  auto sending(char const* primitive, context<Queue> const& ctx) const {
    return [this, primitive, &ctx](auto const&... operands) { sp::exchange(comm_, primitive, ctx, operands...).wait(); };
  }

  template <class T, class Share, class Queue, class Io>
  void backward_through(plan const& p, context<Queue> const& ctx, saved<T> const& s, Io const& io, bool shared) const {
    linear_shape const shape = io.in.shape();
    ulysses_heads const h = heads_in(shape);
    by_heads<T, memory_type> const dout(*ctx.scratch, room_for::all, h, kind::q, p.rows.group(), shape.value_dim);
    states<T> const dleaving(*ctx.scratch, state_extents(p, h, shape, io.dfinal.data));
    gradients<T, Share> const d(*ctx.scratch, h, p, shape, gate_width);
    with_dout(p, h, io.dout, dout, dleaving, io.dfinal, io.dfinal.data, sending(inputs_name, ctx));
    d.clear(ctx.queue, p.slack);
    if (io.dinitial.data) sp::fill(ctx.queue, io.dinitial, accumulate_t<T>{});
    index_t call = 0, document = 0;
    for (linear_document const& x : p.documents) {
      linear_grad_t<Kernel, T> const all = d.open(ctx.queue, x);
      for (gqa_range const& g : uniform_gqa(mine(h))) {
        index_t const head = mine(h).q_begin + g.q_begin;
        linear_grad_t<Kernel, T> part = all;
        part.dout = values(x.of(dout.all()), g), part.dleaving = state_at(dleaving.tensor, document, g.q_begin, g.q_count);
        part.dq = keys(all.dq, g), part.dk = keys(all.dk, g), part.dv = values(all.dv, g);
        for (auto& gate : part.dgates) gate = values(gate, g);
        part.dentering = state_at(io.dinitial, document, head, g.q_count);
        kernel_.template backward<T>(call_of<T>(s.in, x, g), state_at(io.initial, document, head, g.q_count), s.kept.at(call++),
                                     part, ctx);
      }
      d.close(ctx.queue, x, all);
      ++document;
    }
    with_gradients(p, h, d, io, shared, sending(gradients_name, ctx));
  }
  template <class T, class Share>
  using gradients = linear_gradients_by_heads<T, Share, int(Kernel::gates), memory_type>;

  // ---- bytes of scratch ----------------------------------------------------------------------------------------------------------

  /// Tensors of a call of which only the extents matter.
  template <class T>
  static linear_gradient_io<T, int(Kernel::gates), memory_type> extents_of(plan const& p, linear_shape const& s) {
    using A = accumulate_t<T>;
    linear_gradient_io<T, int(Kernel::gates), memory_type> io;
    std::array const key{p.rows.mine(), s.k_heads, s.key_dim}, value{p.rows.mine(), s.v_heads, s.value_dim};
    io.in.q = io.in.k = tensor<T const>(nullptr, key), io.in.v = io.dout = tensor<T const>(nullptr, value);
    io.dq = io.dk = tensor<T>(nullptr, key), io.dv = tensor<T>(nullptr, value);
    for (std::size_t g = 0; g < io.dgates.size(); ++g)
      io.in.gates[g] = io.dgates[g] = tensor<A>(nullptr, {key[0], s.v_heads, gate_width(int(g), s.key_dim)});
    io.dinitial = tensor<A, 4>(nullptr, {index_t(p.documents.size()), s.v_heads, s.key_dim, s.value_dim});
    io.dfinal = io.dinitial;
    return io;
  }
  auto counting() const {
    return [this](auto const&... operands) { return sp::exchange_scratch(comm_, some_queue<memory_type>{}, operands...); };
  }
  template <class T>
  index_t forward_scratch(plan const& p, linear_shape const& s, index_t kernel) const {
    ulysses_heads const h = heads_in(s);
    auto const io = extents_of<T>(p, s);
    basic_byte_counter<memory_type> c;
    auto const in = room_to_keep<T>(c, p, h, s, false);
    by_heads<T, memory_type> const out(c, room_for::all, h, kind::q, p.rows.group(), s.value_dim);
    states<T> const leaving(c, state_extents(p, h, s, true));
    index_t const there = with_inputs(p, h, io.in, in.in, counting());
    return c.bytes() + max(kernel, max(there, with_outputs(p, h, out, io.dv, leaving, io.dinitial, true, counting())));
  }
  template <class T, class Share>
  index_t backward_scratch(plan const& p, linear_shape const& s, index_t kernel, bool shared) const {
    ulysses_heads const h = heads_in(s);
    auto const io = extents_of<T>(p, s);
    basic_byte_counter<memory_type> c;
    by_heads<T, memory_type> const dout(c, room_for::all, h, kind::q, p.rows.group(), s.value_dim);
    states<T> const dleaving(c, state_extents(p, h, s, true));
    gradients<T, Share> const d(c, h, p, s, gate_width);
    index_t const there = with_dout(p, h, io.dout, dout, dleaving, io.dfinal, true, counting());
    return c.bytes() + max(kernel, max(there, with_gradients(p, h, d, io, shared, counting())));
  }

  Comm comm_;
  Kernel kernel_;
};

} // namespace sp::detail
