// Ulysses attention: tokens are exchanged for heads, an inner attention sees its heads' whole sequence, and the way back.
// Any q heads x kv heads x ranks: uneven head ranges, kv heads replicated where ranks share them and their gradients summed.
#pragma once

#include <sp/attention/heads_exchange.hpp>
#include <sp/attention/ring.hpp>
#include <sp/attention/whole.hpp>

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

public:
  using memory_type = typename Comm::memory_type;

  struct prepared {
    detail::token_exchange queries, keys;
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
  index_t q_rows(prepared const& p) const noexcept { return p.queries.rows; }
  index_t k_rows(prepared const& p) const noexcept { return p.keys.rows; }
  void check_call(heads whole, bool sinks) const { inner_.check_call(whole, sinks); }

  prepared prepare_layouts(layout const& q, layout const& k, int part, std::vector<slice> const& slices,
                           sp::mask const& mask) const {
    int size = comm_.size(), stride = int(sp::group_stride(comm_));
    if (q.parts() % (size * stride) != 0 || q.parts() != k.parts() || part / stride % size != comm_.rank())
      fail({errc::invalid_shape,
            "the batch is cut for " + std::to_string(q.parts()) + " ranks and this is part " + std::to_string(part) +
                "; the ulysses group has " + std::to_string(size) + " ranks at distance " + std::to_string(stride) +
                " and this is its rank " + std::to_string(comm_.rank()),
            "Make the batch over the ring x ulysses ranks in mesh order"});
    layout q_whole = q.grouped(size, stride), k_whole = k.grouped(size, stride);
    int at = layout::group_of(part, size, stride), first = layout::first_member(at, size, stride);
    return {detail::token_exchange(q, q_whole, part, first, stride, size, at),
            detail::token_exchange(k, k_whole, part, first, stride, size, at),
            inner_.prepare_layouts(q_whole, k_whole, at, slices, mask),
            {}};
  }
  void identify(digest& d) const { inner_.identify(d); }

  template <class T>
  saved<T> run_forward(prepared const& p, context const& ctx, detail::forward_io<T> const& io) const {
    static_assert(detail::require_inner_attention_of<Inner, T>());
    heads mine = share(io.on, comm_.rank());
    bool keep_all = options_.keep == keep::heads;
    allocator& inputs = keep_all ? *ctx.kept : *ctx.scratch;
    saved<T> s{by_heads(inputs, p.queries, io.q, mine.q_count),
               by_heads(inputs, p.keys, io.k, mine.kv_count),
               by_heads(inputs, p.keys, io.v, mine.kv_count),
               by_heads(*ctx.kept, p.queries, io.out, mine.q_count),
               {},
               detail::saved_token(true)};
    detail::exchange_plan plan(*ctx.scratch, comm_, 3 * (p.queries.pieces + p.keys.pieces));
    to_heads<T>(plan, "ulysses.forward.inputs", io.on,
                {{&p.queries, io.q, s.q.tensor, true}, {&p.keys, io.k, s.k.tensor, false}, {&p.keys, io.v, s.v.tensor, false}});
    s.inner = inner_.template run_forward<T>(p.inner, ctx, {mine, s.q.tensor, s.k.tensor, s.v.tensor, s.out.tensor, io.sinks});
    plan.clear();
    for (int r = 0; r < comm_.size(); ++r) {
      plan.open(r);
      p.queries.send_rows(plan, r, s.out.tensor);
      p.queries.receive_rows(plan, r, cut_heads(io.out, io.on, share(io.on, r), true));
    }
    plan.run("ulysses.forward.output");
    if (!keep_all) s.q = {}, s.k = {}, s.v = {};
    return s;
  }

  /// Where ranks share kv heads, their shares of dk and dv travel in the type of sums and are rounded once, after the sum.
  template <class T, class G>
  void run_backward(prepared const& p, context const& ctx, saved<T> const& s, detail::backward_io<T, G> const& io) const {
    if (kv_copies(io.on) > io.on.kv_count)
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
    owned<T, 3> out(c, {p.queries.group_rows, mine.q_count, s.value_dim});
    if (options_.keep == keep::heads) buffers<T>(c, p, mine, s);
    return c.bytes() + inner_.template saved_for<T>(p.inner, mine, s);
  }
  template <class T>
  index_t scratch_for(prepared const& p, heads on, attention_shape const& s) const {
    heads mine = share(on, comm_.rank());
    byte_counter c; // the backward pass: inputs exchanged again, gradients by heads, and staging for shared kv heads
    buffers<T>(c, p, mine, s);
    buffers<T>(c, p, mine, s);
    owned<T, 3> dout(c, {p.queries.group_rows, mine.q_count, s.value_dim});
    detail::exchange_plan plan(c, comm_, 3 * (p.queries.pieces + p.keys.pieces));
    using A = accumulate_t<T>;
    index_t copies = kv_copies(on);
    staging<T, A>(c, p, on.q_count, copies, s.dim, s.value_dim);
    owned<A, 3> sum(c, {p.keys.rows, on.kv_count, max(s.dim, s.value_dim)});
    if (copies > on.kv_count)
      owned<A, 3>(c, {p.keys.group_rows, mine.kv_count, s.dim + s.value_dim}); // dk, dv by heads in the type of sums
    return c.bytes() + inner_.template scratch_for<T>(p.inner, mine, s);
  }

private:
  /// Share: element type of dk and dv by heads, as they are exchanged.
  template <class Share, class T, class G>
  void backward_through(prepared const& p, context const& ctx, saved<T> const& s, detail::backward_io<T, G> const& io) const {
    heads mine = share(io.on, comm_.rank());
    allocator& scratch = *ctx.scratch;
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
    detail::exchange_plan plan(scratch, comm_, 3 * (p.queries.pieces + p.keys.pieces));
    if (resend)
      to_heads<T>(plan, "ulysses.backward.inputs", io.on,
                  {{&p.queries, io.dout, dout.tensor, true},
                   {&p.queries, io.q, q.tensor, true},
                   {&p.keys, io.k, k.tensor, false},
                   {&p.keys, io.v, v.tensor, false}});
    else
      to_heads<T>(plan, "ulysses.backward.inputs", io.on, {{&p.queries, io.dout, dout.tensor, true}});
    attention_extras<T> extras{io.extras.sinks, io.extras.dsinks, {}, false};
    auto const &by_q = resend ? q : s.q, &by_k = resend ? k : s.k, &by_v = resend ? v : s.v;
    detail::backward_io<T, Share> whole{mine,        by_q.tensor, by_k.tensor, by_v.tensor, s.out.tensor,
                                        dout.tensor, dq.tensor,   dk.tensor,   dv.tensor,   extras};
    inner_.template run_backward<T>(p.inner, ctx, s.inner, whole);
    return_gradients(p, plan, scratch, io, dq.tensor, dk.tensor, dv.tensor);
  }

  heads share(heads whole, int r) const { return heads_of(whole, r, comm_.size()); }

  /// kv heads over all ranks, each as often as ranks use it.
  index_t kv_copies(heads whole) const {
    index_t n = 0;
    for (int r = 0; r < comm_.size(); ++r) n += share(whole, r).kv_count;
    return n;
  }

  /// The heads of `share` out of a tensor that holds the heads of `whole`.
  template <class E>
  static view<E, 3> cut_heads(view<E, 3> const& v, heads whole, heads share, bool q) {
    return q ? v.narrow(1, share.q_begin - whole.q_begin, share.q_count)
             : v.narrow(1, share.kv_begin - whole.kv_begin, share.kv_count);
  }

  template <class To = void, class E>
  static auto by_heads(allocator& a, detail::token_exchange const& x, view<E, 3> const& like, index_t head_count) {
    using element = std::conditional_t<std::is_void_v<To>, std::remove_const_t<E>, To>;
    return owned<element, 3>(a, {x.group_rows, head_count, like.extent(2)}); // (group's tokens, my heads, dim)
  }

  template <class T>
  struct buffers { // q, k, v by heads
    owned<T, 3> q, k, v;
    buffers(allocator& a, prepared const& p, heads mine, attention_shape const& s)
        : q(a, {p.queries.group_rows, mine.q_count, s.dim}), k(a, {p.keys.group_rows, mine.kv_count, s.dim}),
          v(a, {p.keys.group_rows, mine.kv_count, s.value_dim}) {}
  };

  template <class T>
  struct inbound {
    detail::token_exchange const* rows;
    view<T const, 3> from; // (tokens, heads, dim)
    view<T, 3> to;         // (group's tokens, my heads, dim)
    bool q;
  };

  /// tokens -> heads for several tensors in one exchange.
  template <class T>
  void to_heads(detail::exchange_plan<Comm>& plan, char const* primitive, heads on,
                std::initializer_list<inbound<T>> tensors) const {
    plan.clear();
    for (int r = 0; r < comm_.size(); ++r) {
      plan.open(r);
      for (auto const& t : tensors) {
        t.rows->receive_group_rows(plan, r, t.to);
        t.rows->send_own_rows(plan, cut_heads(t.from, on, share(on, r), t.q));
      }
    }
    plan.run(primitive);
  }

  /// Where gradients arrive when the caller's tensors cannot be written directly: to be added, or shared kv heads to be summed.
  template <class T, class Share>
  struct staging {
    owned<T, 3> q;        // (tokens, q heads, dim)
    owned<Share, 3> k, v; // (tokens, kv heads summed over ranks, dim)
    staging(allocator& a, prepared const& p, index_t q_heads, index_t kv_heads, index_t dim, index_t value_dim)
        : q(a, {p.queries.rows, q_heads, dim}), k(a, {p.keys.rows, kv_heads, dim}), v(a, {p.keys.rows, kv_heads, value_dim}) {}
  };

  /// heads -> tokens for dq, dk, dv in one exchange; kv heads that several ranks share are summed in rank order.
  template <class T, class G, class Share>
  void return_gradients(prepared const& p, detail::exchange_plan<Comm>& plan, allocator& scratch,
                        detail::backward_io<T, G> const& io, view<T, 3> dq, view<Share, 3> dk, view<Share, 3> dv) const {
    index_t const copies = kv_copies(io.on);
    bool const add = io.extras.accumulate, direct = !add && copies == io.on.kv_count;
    staging<T, Share> stage(scratch, p, add ? io.on.q_count : 0, direct ? 0 : copies, io.dk.extent(2), io.dv.extent(2));
    plan.clear();
    index_t at = 0;
    auto arrive = [&](int r, view<G, 3> const& to, owned<Share, 3> const& staged, heads theirs) {
      if (direct) // Share is G here
        p.keys.receive_rows(plan, r, cut_heads(to, io.on, theirs, false));
      else
        p.keys.receive_rows(plan, r, staged.tensor.narrow(1, at, theirs.kv_count));
    };
    for (int r = 0; r < comm_.size(); ++r) {
      heads theirs = share(io.on, r);
      plan.open(r);
      p.queries.send_rows(plan, r, dq);
      p.keys.send_rows(plan, r, dk);
      p.keys.send_rows(plan, r, dv);
      p.queries.receive_rows(plan, r, cut_heads(add ? stage.q.tensor : io.dq, io.on, theirs, true));
      arrive(r, io.dk, stage.k, theirs);
      arrive(r, io.dv, stage.v, theirs);
      at += theirs.kv_count;
    }
    plan.run("ulysses.backward.gradients");
    if (add) detail::add(io.dq, stage.q.tensor);
    if (direct) return;
    sum_shared(scratch, io.on, io.dk, stage.k.tensor, add);
    sum_shared(scratch, io.on, io.dv, stage.v.tensor, add);
  }

  template <class G, class Share>
  void sum_shared(allocator& scratch, heads on, view<G, 3> to, view<Share, 3> staged, bool add) const {
    detail::accumulator<G, 3> sum(scratch, to);
    auto total = sum.begin(add);
    index_t at = 0;
    for (int r = 0; r < comm_.size(); ++r) {
      heads theirs = share(on, r);
      detail::add(cut_heads(total, on, theirs, false), staged.narrow(1, at, theirs.kv_count));
      at += theirs.kv_count;
    }
    sum.finish();
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
