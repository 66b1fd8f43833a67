// Ulysses attention: tokens are exchanged for heads, an inner attention sees its heads' whole sequence, and the way back.
// Any q heads x kv heads x ranks: uneven head ranges, kv heads replicated where ranks share them and their gradients summed.
#pragma once

#include <sp/attention/call/pipeline.hpp>
#include <sp/attention/ring.hpp>
#include <sp/attention/ulysses/exchange.hpp>
#include <sp/attention/whole.hpp>
#include <sp/layout/route_exchange.hpp>
#include <sp/mesh/group.hpp>

namespace sp {

/// What stays in memory between forward and backward. Rows below are the group's tokens, heads this rank's share.
enum class keep {
  heads,  ///< q, k, v and out by heads: (2 q heads + 2 kv heads) x dim x tokens; backward exchanges dout in, gradients out
  output, ///< only out by heads: q heads x dim x tokens; backward exchanges q, k, v again
};
namespace detail {
inline constexpr char const* keep_words[] = {"heads", "output"};
}

/// What an ulysses_attention is made with, besides its communicator and what runs inside.
struct ulysses_options {
  sp::keep keep = keep::heads;
  /// Each rank's heads are exchanged in this many chunks: while one is computed, the inputs of the next and the results of the one before
  /// are on their way, in forward and backward. A chunk takes kv heads whole: there are no more chunks than some rank has kv heads. One
  /// around another Ulysses of several ranks exchanges all heads at once; that one has chunks of its own. Scratch holds two chunks at a
  /// time, of dk and dv of kv heads that ranks share all; no bit of a result depends on their number. One value for all ranks.
  index_t head_chunks = 1;
};

namespace detail {
/// Whether an attention object gives all that Ulysses calls; what is no attention object at all has a sentence of its own.
template <class Inner>
constexpr bool accepts_inner() {
  if constexpr (requires { typename Inner::prepared; }) return require_inner_attention<Inner>();
  return true;
}
} // namespace detail

/// Comm: a communicator or mesh group. Inner: what runs on whole sequences: a ring (USP), or a local attention made of a backend.
template <class Comm, class Inner>
class ulysses_attention : public detail::attention_object<ulysses_attention<Comm, Inner>> {
  static_assert(
      communicator<Comm>,
      "sp::ulysses_attention: the first argument must be a communicator: copyable, with memory_type, rank(), size() and "
      "exchange(traffic); sp::threads, sp::solo or a mesh group is one.");
  static_assert(
      requires { typename Inner::prepared; },
      "sp::ulysses_attention: the second argument must be an attention object or a kernel: an attention_backend such as "
      "sp::cpu{}, or a struct "
      "with forward(block_call) that writes lse, or with forward(whole_call) without lse; it also needs memory_type.");
  static_assert(detail::accepts_inner<Inner>());
  static_assert(
      std::is_same_v<detail::memory_of<Comm>, detail::memory_of<Inner>>,
      "sp::ulysses_attention: the communicator moves tensors of one memory and the attention inside computes on those of "
      "another; their memory_type must be the same.");

public:
  using memory_type = typename Comm::memory_type;

  using rows = detail::ulysses_rows;
  using sums = landing_table<memory_type>;
  struct prepared {
    rows queries, keys;
    sums query_sums{}, key_sums{}; ///< on the way back to tokens, where a context was given
    typename Inner::prepared inner;
    detail::checked_geometry checked{};
  };

  template <class T>
  struct saved {
    using element_type = T;
    detail::inputs_by_heads<T, memory_type> in; ///< keep::heads: q, k, v (group's tokens, my heads, dim)
    detail::by_heads<T, memory_type> out;       ///< (group's tokens, my q heads, value dim)
    detail::saved_chunks<typename Inner::template saved<T>> inner;
    detail::saved_token token;
  };

  ulysses_attention(Comm comm, std::type_identity_t<Inner> inner, ulysses_options options = {})
      : comm_(std::move(comm)), inner_(std::move(inner)), options_(options) {
    check_options();
    this->identify_object();
  }
  /// With a kernel inside: local attention under `attention`'s mask and scale.
  template <class Kernel>
    requires(!std::same_as<Kernel, Inner> && std::same_as<detail::local_attention_t<Kernel>, Inner>)
  ulysses_attention(Comm comm, Kernel kernel, attention_options attention = {}, ulysses_options options = {})
      : comm_(std::move(comm)), inner_(detail::local_attention(std::move(kernel), std::move(attention))), options_(options) {
    check_options();
    this->identify_object();
  }

  Comm const& group() const noexcept { return comm_; }
  Inner const& inner() const noexcept { return inner_; }
  ulysses_options const& options() const noexcept { return options_; }
  /// The heads this rank computes, in global numbers: cut whatever is per head (slopes, sinks, gates) by the same ranges.
  [[nodiscard]] heads local_heads(index_t q_heads, index_t kv_heads) const {
    return local_heads_of(all_heads(q_heads, kv_heads));
  }

  // ---- what attention_object and an enclosing object call ------------------------------------------------------------------------

  static constexpr char const* name = "ulysses_attention";
  static constexpr bool draws_random_numbers = detail::draws_random_numbers<Inner>;
  sp::mask const& mask() const { return inner_.mask(); }
  int checks() const { return inner_.checks(); }
  heads local_heads_of(heads whole) const { return inner_.local_heads_of(heads_of(whole, comm_.rank(), comm_.size())); }
  index_t q_rows(prepared const& p) const noexcept { return p.queries.mine(); }
  index_t k_rows(prepared const& p) const noexcept { return p.keys.mine(); }
  void check_call(heads whole, bool sinks) const { inner_.check_call(whole, sinks); }

  template <class Context>
  void prepare_layouts(prepared& out, layout const& q, layout const& k, int part, std::vector<slice> const& slices,
                       sp::mask const& mask, Context const& context) const {
    int size = comm_.size(), stride = int(sp::group_stride(comm_));
    if (q.parts() % (size * stride) != 0 || q.parts() != k.parts() || part / stride % size != comm_.rank())
      fail({errc::invalid_shape,
            "the batch is cut for " + std::to_string(q.parts()) + " ranks and this is part " + std::to_string(part) +
                "; the ulysses group has " + std::to_string(size) + " ranks at distance " + std::to_string(stride) +
                " and this is its rank " + std::to_string(comm_.rank()),
            "Make the batch over the ring x ulysses ranks in mesh order"});
    int at = layout::group_of(part, size, stride), first = layout::first_member(at, size, stride);
    auto rows_between = [&](layout const& members, layout const& whole) {
      return rows::of_group(members, first, stride, detail::group_place::in(comm_), whole.runs(at));
    };
    layout const q_whole = q.grouped(size, stride);
    auto inside = [&](layout const& of_keys) {
      if constexpr (!std::is_same_v<Context, detail::no_context>) {
        out.query_sums.assign(context, out.queries.to_tokens);
        out.key_sums.assign(context, out.keys.to_tokens);
      }
      detail::prepare_layouts(inner_, out.inner, q_whole, of_keys, at, slices, mask, context);
    };
    out.queries = rows_between(q, q_whole);
    if (&q == &k) {
      out.keys = out.queries;
      return inside(q_whole);
    }
    layout const k_whole = k.grouped(size, stride);
    out.keys = rows_between(k, k_whole);
    inside(k_whole);
  }
  void identify(digest& d) const { inner_.identify(d); }

  template <class T, class Queue>
  saved<T> run_forward(prepared const& p, context<Queue> const& ctx, detail::forward_io<T, memory_type> const& io) const {
    static_assert(detail::require_inner_attention_of<Inner, T>());
    heads_of_call const h = heads_in(io.on);
    attention_shape const shape{0, 0, io.q.extent(2), io.v.extent(2)};
    bool const keep_all = options_.keep == keep::heads;
    saved<T> s{{*ctx.kept, keep_all ? room::all : room::nothing, h, p.queries, p.keys, shape},
               {*ctx.kept, room::all, h, kind::q, p.queries.group(), shape.value_dim},
               {*ctx.kept, h.chunks()},
               detail::saved_token(true)};
    inputs<T> const passing(*ctx.scratch, keep_all ? room::nothing : room::two_chunks, h, p.queries, p.keys, shape);
    inputs<T> const& in = keep_all ? s.in : passing;
    auto send_inputs = [&](index_t i) {
      return sp::exchange(comm_, "ulysses.forward.inputs", ctx, to_heads(p.queries, io.q, in.q, h, kind::q, i),
                          to_heads(p.keys, io.k, in.k, h, kind::kv, i), to_heads(p.keys, io.v, in.v, h, kind::kv, i));
    };
    auto compute = [&](index_t i) {
      s.inner.push(inner_.template run_forward<T>(
          p.inner, ctx, {h.chunk(i).on, in.q.chunk(h, i), in.k.chunk(h, i), in.v.chunk(h, i), s.out.chunk(h, i), io.sinks}));
    };
    auto send_output = [&](index_t i) {
      return sp::exchange(comm_, "ulysses.forward.output", ctx,
                          routed(p.queries.to_tokens, s.out.chunk(h, i), io.out, h.cut(side::to, kind::q, i)));
    };
    detail::pipelined(h.chunks(), send_inputs, compute, send_output);
    return s;
  }

  /// Where ranks share kv heads, their shares of dk and dv travel in the type of sums and are rounded once, after the sum.
  template <class T, class Queue, class G>
  void run_backward(prepared const& p, context<Queue> const& ctx, saved<T> const& s,
                    detail::backward_io<T, G, memory_type> const& io) const {
    if (shared_kv(io.on))
      backward_through<accumulate_t<T>>(p, ctx, s, io, true);
    else
      backward_through<G>(p, ctx, s, io, false);
  }

  // for check levels 2 and 3
  template <class F>
  void each_group(F&& f) const {
    f(comm_);
    inner_.each_group(f);
  }
  int sequence_rank() const {
    int const size = comm_.size(), stride = int(sp::group_stride(comm_));
    return layout::first_member(inner_.sequence_rank(), size, stride) + comm_.rank() * stride;
  }
  void describe(fingerprint& f, prepared const& p, index_t dim, random_key key) const {
    inner_.describe(f, p.inner, dim, key);
    f.next_word("keep", options_.keep, detail::keep_words); // from the inside out, where Ulysses runs inside Ulysses
    f.next_number("head chunks of ulysses", max(1, options_.head_chunks));
  }
  template <class T, class F>
  void each_lse(saved<T> const& s, F&& f) const {
    for (index_t i = 0; i < s.inner.count(); ++i) inner_.each_lse(s.inner.at(i), f);
  }

  template <class T>
  index_t saved_for(prepared const& p, heads on, attention_shape const& s) const {
    heads_of_call const h = heads_in(on);
    basic_byte_counter<memory_type> c;
    if (options_.keep == keep::heads) inputs<T> const in(c, room::all, h, p.queries, p.keys, s);
    by_heads<T> const out(c, room::all, h, kind::q, p.queries.group(), s.value_dim);
    index_t of_chunks = 0;
    for (index_t i = 0; i < h.chunks(); ++i) of_chunks += inner_.template saved_for<T>(p.inner, h.chunk(i).on, s);
    if constexpr (std::is_same_v<memory_type, host_memory>)
      detail::saved_chunks<typename Inner::template saved<T>> const list(c, h.chunks());
    return c.bytes() + of_chunks;
  }
  /// What both passes take, and either the exchanges or, while none is on its way, what runs inside; of several chunks all of these.
  template <class T, class... Queue>
  index_t scratch_for(prepared const& p, heads on, attention_shape const& s, Queue const&... queue) const {
    using A = accumulate_t<T>; // as which dk and dv may be exchanged: of shared kv heads here or in an enclosing object
    heads_of_call const h = heads_in(on);
    basic_byte_counter<memory_type> c;
    backward_memory<T, A> const memory(c, options_.keep == keep::output, shared_kv(on), h, p.queries, p.keys, s);
    auto home = [&](index_t i, bool add) { // dk and dv of T, or of A for an enclosing object
      return max(gradients_scratch<T>(p, h, s, memory, i, add), gradients_scratch<A>(p, h, s, memory, i, add));
    };
    index_t in = 0, out = 0, inner = 0;
    for (index_t i = 0; i < h.chunks(); ++i) {
      in += inputs_scratch<T>(p, h, s, i);
      out += max(output_scratch<T>(p, h, s, i), max(home(i, false), home(i, true)));
      inner = max(inner, detail::scratch_of<T>(inner_, p.inner, h.chunk(i).on, s, queue...));
    }
    return c.bytes() + (h.chunks() == 1 ? max(out, max(in, inner)) : in + out + inner);
  }

private:
  using heads_of_call = detail::ulysses_heads;
  using kind = head_cut::kind;
  using side = head_cut::side;
  using room = detail::room_for;
  template <class T>
  using by_heads = detail::by_heads<T, memory_type>;
  template <class T>
  using inputs = detail::inputs_by_heads<T, memory_type>;
  template <class T, class Share>
  using backward_memory = detail::backward_by_heads<T, Share, memory_type>;

  void check_options() const {
    detail::check_head_chunks(options_.head_chunks, name, comm_.rank(), comm_.size());
    detail::check_choice(options_.keep, int(std::size(detail::keep_words)), "way to keep", "sp::keep", name, comm_.rank(),
                         comm_.size());
  }
  /// An attention inside that cuts heads again would cut those of a chunk otherwise than all of them: it is given all at once.
  heads_of_call heads_in(heads whole) const {
    bool const cut_again = options_.head_chunks > 1 && inner_.local_heads_of(whole) != whole;
    return {whole, comm_.rank(), comm_.size(), cut_again ? 1 : options_.head_chunks};
  }
  bool shared_kv(heads on) const { return head_cut{side::to, on, kind::kv}.copies(comm_.size()) > on.kv_count; }

  template <class Share, class Queue, class T, class G>
  void backward_through(prepared const& p, context<Queue> const& ctx, saved<T> const& s,
                        detail::backward_io<T, G, memory_type> const& io, bool shared) const {
    heads_of_call const h = heads_in(io.on);
    attention_shape const shape{0, 0, io.q.extent(2), io.v.extent(2)};
    backward_memory<T, Share> const m(*ctx.scratch, options_.keep == keep::output, shared, h, p.queries, p.keys, shape);
    inputs<T> const& in = m.resend ? m.in : s.in;
    auto compute = [&](index_t i) {
      attention_extras<T, memory_type> const extras{io.extras.sinks, io.extras.dsinks, {}, false};
      inner_.template run_backward<T>(p.inner, ctx, s.inner.at(i),
                                      detail::backward_io<T, Share, memory_type>{
                                          h.chunk(i).on, in.q.chunk(h, i), in.k.chunk(h, i), in.v.chunk(h, i), s.out.chunk(h, i),
                                          m.dout.chunk(h, i), m.dq.chunk(h, i), m.dk.chunk(h, i), m.dv.chunk(h, i), extras});
    };
    auto send_dout = [&](index_t i) { return send_dout_chunk(p, ctx, m, h, io, i); };
    auto send_inputs = [&](index_t i) { return send_inputs_chunk(p, ctx, m, h, io, i); };
    auto send_dq = [&](index_t i) { return send_dq_chunk(p, ctx, m, h, io, i); };
    auto send_gradients = [&](index_t i) { return send_gradients_chunk(p, ctx, m, h, io, i); };
    detail::either_in_flight<decltype(send_dout(0)), decltype(send_inputs(0))> arriving;
    detail::either_in_flight<decltype(send_dq(0)), decltype(send_gradients(0))> leaving;
    auto arrive = [&](index_t i) {
      if (m.resend)
        arriving.second.start([&] { return send_inputs(i); });
      else
        arriving.first.start([&] { return send_dout(i); });
    };
    auto leave = [&](index_t i) {
      if (m.shared && i + 1 < h.chunks()) // dk and dv go home together, with the last chunk
        leaving.first.start([&] { return send_dq(i); });
      else
        leaving.second.start([&] { return send_gradients(i); });
    };
    detail::one_ahead(h.chunks(), arriving, leaving, arrive, compute, leave);
  }

  // ---- exchanges of chunk i of a backward pass -----------------------------------------------------------------------------------
  template <class Queue, class M, class Io>
  auto send_dout_chunk(prepared const& p, context<Queue> const& ctx, M const& m, heads_of_call const& h, Io const& io,
                       index_t i) const {
    return sp::exchange(comm_, inputs_name, ctx, to_heads(p.queries, io.dout, m.dout, h, kind::q, i));
  }
  /// dout, and what was not kept.
  template <class Queue, class M, class Io>
  auto send_inputs_chunk(prepared const& p, context<Queue> const& ctx, M const& m, heads_of_call const& h, Io const& io,
                         index_t i) const {
    return sp::exchange(comm_, inputs_name, ctx, to_heads(p.queries, io.dout, m.dout, h, kind::q, i),
                        to_heads(p.queries, io.q, m.in.q, h, kind::q, i), to_heads(p.keys, io.k, m.in.k, h, kind::kv, i),
                        to_heads(p.keys, io.v, m.in.v, h, kind::kv, i));
  }
  template <class Queue, class M, class Io>
  auto send_dq_chunk(prepared const& p, context<Queue> const& ctx, M const& m, heads_of_call const& h, Io const& io,
                     index_t i) const {
    return sp::exchange(comm_, gradients_name, ctx, dq_home(p, m, h, io, i));
  }
  /// dq, and dk and dv: of kv heads that ranks share all chunks.
  template <class Queue, class M, class Io>
  auto send_gradients_chunk(prepared const& p, context<Queue> const& ctx, M const& m, heads_of_call const& h, Io const& io,
                            index_t i) const {
    auto of_keys = [&](auto const& from, auto const& to) {
      bool const add = io.extras.accumulate;
      return m.shared ? to_tokens(p.keys, p.key_sums, from.all(), to, h.uncut(side::to, kind::kv), add, true)
                      : to_tokens(p.keys, p.key_sums, from.chunk(h, i), to, h.cut(side::to, kind::kv, i), add, false);
    };
    return sp::exchange(comm_, gradients_name, ctx, dq_home(p, m, h, io, i), of_keys(m.dk, io.dk), of_keys(m.dv, io.dv));
  }
  template <class M, class Io>
  static auto dq_home(prepared const& p, M const& m, heads_of_call const& h, Io const& io, index_t i) {
    return to_tokens(p.queries, p.query_sums, m.dq.chunk(h, i), io.dq, h.cut(side::to, kind::q, i), io.extras.accumulate, false);
  }
  static constexpr char const *inputs_name = "ulysses.backward.inputs", *gradients_name = "ulysses.backward.gradients";
  // ---- bytes of scratch --------------------------------------------------------------------------------------------------------
  /// The exchange of all inputs of a chunk: of dout, q, k, v.
  template <class T>
  index_t inputs_scratch(prepared const& p, heads_of_call const& h, attention_shape const& s, index_t i) const {
    auto in = [&](rows const& x, kind of, index_t dim) {
      head_cut const by = h.cut(side::from, of, i);
      return routed(x.to_heads, shaped<T>(x.mine(), by.count(), dim), shaped<T>(x.group(), h.chunk(i).range(of).count, dim), by);
    };
    return exchange_bytes(in(p.queries, kind::q, s.value_dim), in(p.queries, kind::q, s.dim), in(p.keys, kind::kv, s.dim),
                          in(p.keys, kind::kv, s.value_dim));
  }
  template <class T>
  index_t output_scratch(prepared const& p, heads_of_call const& h, attention_shape const& s, index_t i) const {
    auto const from = shaped<T>(p.queries.group(), h.chunk(i).range(kind::q).count, s.value_dim);
    auto const to = shaped<T>(p.queries.mine(), h.all.q_count, s.value_dim);
    return exchange_bytes(routed(p.queries.to_tokens, from, to, h.cut(side::to, kind::q, i)));
  }
  /// The way back of the gradients of a chunk, added to what is there or not, with dk and dv of G.
  template <class G, class T, class A>
  index_t gradients_scratch(prepared const& p, heads_of_call const& h, attention_shape const& s, backward_memory<T, A> const& m,
                            index_t i, bool add) const {
    auto out = [&]<class From, class To>(rows const& x, sums const& who_lands, by_heads<From> const&, To, kind of, index_t dim) {
      bool const shared = of == kind::kv && m.shared;
      head_cut const by = shared ? h.uncut(side::to, of) : h.cut(side::to, of, i);
      auto const here = shaped<From>(x.group(), shared ? h.count(of) : h.chunk(i).range(of).count, dim);
      return to_tokens(x, who_lands, here, shaped<To>(x.mine(), by.count(), dim), by, add, shared);
    };
    auto const dq = out(p.queries, p.query_sums, m.dq, T{}, kind::q, s.dim);
    if (m.shared && i + 1 < h.chunks()) return exchange_bytes(dq);
    return exchange_bytes(dq, out(p.keys, p.key_sums, m.dk, G{}, kind::kv, s.dim),
                          out(p.keys, p.key_sums, m.dv, G{}, kind::kv, s.value_dim));
  }
  /// A tensor of which only the extents matter.
  template <class T>
  static view<T, 3, memory_type> shaped(index_t rows, index_t head_count, index_t dim) {
    return {nullptr, {rows, head_count, dim}};
  }
  template <class... Operands>
  index_t exchange_bytes(Operands const&... o) const {
    return sp::exchange_scratch(comm_, detail::some_queue<memory_type>{}, o...);
  }

  Comm comm_;
  Inner inner_;
  ulysses_options options_;
};

template <class Comm, class Inner>
ulysses_attention(Comm, Inner, ulysses_options = {}) -> ulysses_attention<Comm, detail::local_attention_t<Inner>>;
template <class Comm, class Kernel>
  requires(!requires { typename Kernel::prepared; })
ulysses_attention(Comm, Kernel, attention_options, ulysses_options = {})
->ulysses_attention<Comm, detail::local_attention_t<Kernel>>;

// A model of inner_attention, so that it nests: asserted in tests/attention/test_concepts.cpp, as for the others.

} // namespace sp
