// Ulysses attention: tokens are exchanged for heads, an inner attention sees its heads' whole sequence, and the way back.
// Any q heads x kv heads x ranks: uneven head ranges, kv heads replicated where ranks share them and their gradients summed.
#pragma once

#include <sp/attention/ring.hpp>
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

  /// Rows of the group's ranks, and the group's rows in stream order: the way to heads, and the way back to tokens.
  struct rows {
    route to_heads, to_tokens;
    rows() = default;
    explicit rows(route r) : to_heads(std::move(r)), to_tokens(to_heads.transposed()) {}
    index_t mine() const noexcept { return to_heads.from_rows(); }
    index_t group() const noexcept { return to_heads.to_rows(); }
  };
  struct prepared {
    rows queries, keys;
    typename Inner::prepared inner;
    detail::checked_geometry checked{};
  };

  template <class T>
  struct saved {
    using element_type = T;
    owned<T, 3> q, k, v; ///< keep::heads: (group's tokens, my heads, dim)
    owned<T, 3> out;     ///< (group's tokens, my q heads, value dim)
    typename Inner::template saved<T> inner;
    detail::saved_token token;
  };

  ulysses_attention(Comm comm, std::type_identity_t<Inner> inner, ulysses_options options = {})
      : comm_(std::move(comm)), inner_(std::move(inner)), options_(options) {
    this->identify_object();
  }
  /// With a kernel inside: local attention under `attention`'s mask and scale.
  template <class Kernel>
    requires(!std::same_as<Kernel, Inner> && std::same_as<detail::local_attention_t<Kernel>, Inner>)
  ulysses_attention(Comm comm, Kernel kernel, attention_options attention = {}, ulysses_options options = {})
      : comm_(std::move(comm)), inner_(detail::local_attention(std::move(kernel), std::move(attention))), options_(options) {
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
  heads local_heads_of(heads whole) const { return inner_.local_heads_of(share(whole, comm_.rank())); }
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
      mapping const all = identity_map(unbounded);
      return rows(route::to_everybody(members, first, stride, size, comm_.rank(), whole.runs(at), {&all, 1}));
    };
    layout const q_whole = q.grouped(size, stride);
    out.queries = rows_between(q, q_whole);
    if (&q == &k) {
      out.keys = out.queries;
      return detail::prepare_layouts(inner_, out.inner, q_whole, q_whole, at, slices, mask, context);
    }
    layout const k_whole = k.grouped(size, stride);
    out.keys = rows_between(k, k_whole);
    detail::prepare_layouts(inner_, out.inner, q_whole, k_whole, at, slices, mask, context);
  }
  void identify(digest& d) const { inner_.identify(d); }

  template <class T, class Queue>
  saved<T> run_forward(prepared const& p, context<Queue> const& ctx, detail::forward_io<T> const& io) const {
    static_assert(detail::require_done_on_return<Queue>() && detail::require_inner_attention_of<Inner, T>());
    heads mine = share(io.on, comm_.rank());
    bool keep_all = options_.keep == keep::heads;
    allocator& inputs = keep_all ? *ctx.kept : *ctx.scratch;
    saved<T> s{by_heads(inputs, p.queries, io.q, mine.q_count),
               by_heads(inputs, p.keys, io.k, mine.kv_count),
               by_heads(inputs, p.keys, io.v, mine.kv_count),
               by_heads(*ctx.kept, p.queries, io.out, mine.q_count),
               {},
               detail::saved_token(true)};
    sp::exchange(comm_, "ulysses.forward.inputs", *ctx.scratch, to_heads(p.queries, io.q, s.q.tensor, q_of(io.on)),
                 to_heads(p.keys, io.k, s.k.tensor, kv_of(io.on)), to_heads(p.keys, io.v, s.v.tensor, kv_of(io.on)))
        .wait();
    s.inner = inner_.template run_forward<T>(p.inner, ctx, {mine, s.q.tensor, s.k.tensor, s.v.tensor, s.out.tensor, io.sinks});
    sp::exchange(comm_, "ulysses.forward.output", *ctx.scratch,
                 routed(p.queries.to_tokens, s.out.tensor, io.out, arriving(q_of(io.on))))
        .wait();
    if (!keep_all) s.q = {}, s.k = {}, s.v = {};
    return s;
  }

  /// Where ranks share kv heads, their shares of dk and dv travel in the type of sums and are rounded once, after the sum.
  template <class T, class Queue, class G>
  void run_backward(prepared const& p, context<Queue> const& ctx, saved<T> const& s, detail::backward_io<T, G> const& io) const {
    if (kv_of(io.on).copies(comm_.size()) > io.on.kv_count)
      backward_through<accumulate_t<T>>(p, ctx, s, io);
    else
      backward_through<G>(p, ctx, s, io);
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
  }
  template <class T, class F>
  void each_lse(saved<T> const& s, F&& f) const {
    inner_.each_lse(s.inner, f);
  }

  template <class T>
  index_t saved_for(prepared const& p, heads on, attention_shape const& s) const {
    heads mine = share(on, comm_.rank());
    byte_counter c;
    owned<T, 3> out(c, {p.queries.group(), mine.q_count, s.value_dim});
    if (options_.keep == keep::heads) buffers<T>(c, p, mine, s);
    return c.bytes() + inner_.template saved_for<T>(p.inner, mine, s);
  }
  template <class T, class... Queue>
  index_t scratch_for(prepared const& p, heads on, attention_shape const& s, Queue const&... queue) const {
    heads mine = share(on, comm_.rank());
    using A = accumulate_t<T>; // as which dk and dv may be exchanged: of shared kv heads here or in an enclosing object
    byte_counter c;            // the backward pass: inputs by heads once more, and gradients
    buffers<T, T>(c, p, mine, s);
    buffers<T, A>(c, p, mine, s);
    owned<T, 3> dout(c, {p.queries.group(), mine.q_count, s.value_dim});
    index_t const out = gradients_scratch<T, A>(p, on, mine, s);
    return c.bytes() + max(out, max(inputs_scratch<T>(p, on, mine, s), inner_scratch<T>(p, mine, s, queue...)));
  }

private:
  template <class T, class... Queue>
  index_t inner_scratch(prepared const& p, heads mine, attention_shape const& s, [[maybe_unused]] Queue const&... queue) const {
    if constexpr (requires { inner_.template scratch_for<T>(p.inner, mine, s, queue...); })
      return inner_.template scratch_for<T>(p.inner, mine, s, queue...);
    else
      return inner_.template scratch_for<T>(p.inner, mine, s);
  }

  /// Share: element type of dk and dv by heads, as they are exchanged.
  template <class Share, class Queue, class T, class G>
  void backward_through(prepared const& p, context<Queue> const& ctx, saved<T> const& s,
                        detail::backward_io<T, G> const& io) const {
    heads mine = share(io.on, comm_.rank());
    allocator& scratch = *ctx.scratch;
    bool const add = io.extras.accumulate;
    bool const resend = options_.keep == keep::output; // inputs by heads were not kept
    auto dout = by_heads(scratch, p.queries, io.dout, mine.q_count);
    owned<T, 3> q, k, v;
    if (resend) {
      q = by_heads(scratch, p.queries, io.q, mine.q_count);
      k = by_heads(scratch, p.keys, io.k, mine.kv_count);
      v = by_heads(scratch, p.keys, io.v, mine.kv_count);
    }
    auto dq = by_heads(scratch, p.queries, io.q, mine.q_count);
    auto dk = by_heads<Share>(scratch, p.keys, io.k, mine.kv_count), dv = by_heads<Share>(scratch, p.keys, io.v, mine.kv_count);
    auto const in = to_heads(p.queries, io.dout, dout.tensor, q_of(io.on));
    char const* const primitive = "ulysses.backward.inputs";
    if (resend)
      sp::exchange(comm_, primitive, scratch, in, to_heads(p.queries, io.q, q.tensor, q_of(io.on)),
                   to_heads(p.keys, io.k, k.tensor, kv_of(io.on)), to_heads(p.keys, io.v, v.tensor, kv_of(io.on)))
          .wait();
    else
      sp::exchange(comm_, primitive, scratch, in).wait();
    attention_extras<T> extras{io.extras.sinks, io.extras.dsinks, {}, false};
    auto const &by_q = resend ? q : s.q, &by_k = resend ? k : s.k, &by_v = resend ? v : s.v;
    detail::backward_io<T, Share> whole{mine,        by_q.tensor, by_k.tensor, by_v.tensor, s.out.tensor,
                                        dout.tensor, dq.tensor,   dk.tensor,   dv.tensor,   extras};
    inner_.template run_backward<T>(p.inner, ctx, s.inner, whole);
    sp::exchange(comm_, "ulysses.backward.gradients", scratch, to_tokens(p.queries, dq.tensor, io.dq, q_of(io.on), add),
                 to_tokens(p.keys, dk.tensor, io.dk, kv_of(io.on), add), to_tokens(p.keys, dv.tensor, io.dv, kv_of(io.on), add))
        .wait();
  }

  heads share(heads whole, int r) const { return heads_of(whole, r, comm_.size()); }

  /// The tensor that holds all heads is the one that is sent: each peer is sent its own.
  static head_cut q_of(heads on) { return {head_cut::side::from, on, head_cut::kind::q}; }
  static head_cut kv_of(heads on) { return {head_cut::side::from, on, head_cut::kind::kv}; }
  /// It is the one that is received: each peer sends its own.
  static head_cut arriving(head_cut cut) {
    cut.of = head_cut::side::to;
    return cut;
  }
  /// (tokens, heads, dim) -> (group's tokens, my heads, dim)
  template <class E, class T>
  static auto to_heads(rows const& x, view<E, 3> const& from, view<T, 3> const& to, head_cut cut) {
    return routed(x.to_heads, from, to, cut);
  }
  /// The way back of gradients, which are added up where ranks share kv heads, or to what is there.
  template <class E, class T>
  auto to_tokens(rows const& x, view<E, 3> const& from, view<T, 3> const& to, head_cut cut, bool add) const {
    bool const once = cut.copies(comm_.size()) == cut.count();
    return routed(x.to_tokens, from, to, arriving(cut), add ? landing::sum_to : once ? landing::store : landing::sum);
  }

  template <class To = void, class E>
  static auto by_heads(allocator& a, rows const& x, view<E, 3> const& like, index_t head_count) {
    using element = std::conditional_t<std::is_void_v<To>, std::remove_const_t<E>, To>;
    return owned<element, 3>(a, {x.group(), head_count, like.extent(2)}); // (group's tokens, my heads, dim)
  }

  template <class T, class KV = T>
  struct buffers { // q, k, v by heads
    owned<T, 3> q;
    owned<KV, 3> k, v;
    buffers(allocator& a, prepared const& p, heads mine, attention_shape const& s)
        : q(a, {p.queries.group(), mine.q_count, s.dim}), k(a, {p.keys.group(), mine.kv_count, s.dim}),
          v(a, {p.keys.group(), mine.kv_count, s.value_dim}) {}
  };

  /// A tensor of which only the extents matter.
  template <class T>
  static view<T, 3> shaped(index_t rows, index_t head_count, index_t dim) {
    return {nullptr, {rows, head_count, dim}};
  }
  /// What the exchange of all inputs takes.
  template <class T>
  index_t inputs_scratch(prepared const& p, heads on, heads mine, attention_shape const& s) const {
    auto in = [&](rows const& x, index_t all, index_t here, index_t dim, head_cut cut) {
      return to_heads(x, shaped<T>(x.mine(), all, dim), shaped<T>(x.group(), here, dim), cut);
    };
    auto const q = in(p.queries, on.q_count, mine.q_count, s.dim, q_of(on));
    auto const k = in(p.keys, on.kv_count, mine.kv_count, s.dim, kv_of(on));
    return sp::exchange_scratch(comm_, q, q, k, k); // dout, q, k, v: the same lists whatever the dim
  }
  /// What the way back of gradients takes, if they are added to what is there.
  template <class T, class Share>
  index_t gradients_scratch(prepared const& p, heads on, heads mine, attention_shape const& s) const {
    auto out = [&](rows const& x, auto from, index_t all, head_cut cut) {
      return to_tokens(x, from, shaped<T>(x.mine(), all, from.extent(2)), cut, true);
    };
    return sp::exchange_scratch(comm_, out(p.queries, shaped<T>(p.queries.group(), mine.q_count, s.dim), on.q_count, q_of(on)),
                                out(p.keys, shaped<Share>(p.keys.group(), mine.kv_count, s.dim), on.kv_count, kv_of(on)),
                                out(p.keys, shaped<Share>(p.keys.group(), mine.kv_count, s.value_dim), on.kv_count, kv_of(on)));
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
