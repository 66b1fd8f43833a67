// The calls every attention object offers to a trainer, written once: prepare, forward, infer, backward, memory questions. Each
// checks its arguments before any communication, at level 2 together with the other ranks, and puts primitive and rank on errors.
#pragma once

#include <sp/attention/call/prepare_calls.hpp>
#include <sp/attention/call/rank_agreement.hpp>
#include <sp/attention/call/required_members.hpp>

namespace sp::detail {

/// Optional operands beside tensors of T on a queue.
template <class Queue, class T>
using extras_on = std::type_identity_t<attention_extras<T, typename Queue::memory_type>>;

/// The element type of what a forward call returned.
template <class Saved>
using element_of_saved = typename std::remove_cvref_t<Saved>::element_type;

/// forward and infer with operands by name, for tensors of T: braces carry no type, so there is one of these for each element type.
template <class Object, class T>
class named_calls {
public:
  [[nodiscard]] auto forward(batch const& b, forward_operands<T> const& o) const {
    return object().run_checked_forward(*object().prepared_for(b), context(b.memory(), b.memory(), o.random), o);
  }
  template <class Prepared, class Queue = inline_queue>
    requires(!std::is_same_v<Prepared, batch>)
  [[nodiscard]] auto forward(Prepared const& p, context<Queue> const& ctx,
                             forward_operands<T, typename Queue::memory_type> const& o) const {
    return object().run_checked_forward(p, ctx, o);
  }
  void infer(batch const& b, forward_operands<T> const& o) const {
    infer(*object().prepared_for(b), context(b.memory(), b.memory(), o.random), o);
  }
  template <class Prepared, class Queue = inline_queue>
    requires(!std::is_same_v<Prepared, batch>)
  void infer(Prepared const& p, context<Queue> const& ctx, forward_operands<T, typename Queue::memory_type> const& o) const {
    static_cast<void>(object().run_checked_forward(p, ctx.with(*ctx.scratch, *ctx.scratch), o));
  }

private:
  named_calls() = default;
  friend Object;
  Object const& object() const { return static_cast<Object const&>(*this); }
};

/// The one sentence for a call with a context that no overload takes.
template <class Prepared>
constexpr void require_prepared_operand() {
  static_assert(
      !std::is_same_v<Prepared, batch>,
      "sp: a call with a context takes what prepare(batch) returned, not the batch; prepare it, or leave the context out.");
  if constexpr (!std::is_same_v<Prepared, batch>) require_operand<std::is_void_v<Prepared>>();
}

/// Derived models inner_attention (concepts.hpp) and names itself here: class ring_attention : attention_object<ring_attention>.
/// Sealed: only Derived itself can be made of it.
template <class Derived>
class attention_object : public prepare_calls<attention_object<Derived>>,
                         public named_calls<attention_object<Derived>, float>,
                         public named_calls<attention_object<Derived>, double>,
                         public named_calls<attention_object<Derived>, bf16>,
                         public named_calls<attention_object<Derived>, fp16> {
public:
  using prepare_calls<attention_object>::prepare;
  using prepare_calls<attention_object>::refresh;

  /// The prepared geometry of a batch, made once and kept with it: what the short forms below use. Objects of equal place, mask,
  /// schedule and kernel share it below check level 2; from there on, where prepare() is collective, an object and its copies do. A
  /// pointer that keeps what it points to.
  [[nodiscard]] auto prepared_for(batch const& b) const {
    using prepared = decltype(prepare(b));
    return located(at(".prepare"), [&] {
      auto const wanted = identity_over(b, b, self().mask());
      return b.cached<prepared>([&](prepared const& p) { return p.checked.serves(wanted, self().checks(), id_); },
                                [&] { return prepare(b); }, life_);
    });
  }

  // ---- calls by name: forward(batch, {.q = q, .k = k, .v = v, .out = out}); members and shapes: forward_operands -----------------

  using named_calls<attention_object, float>::forward;
  using named_calls<attention_object, double>::forward;
  using named_calls<attention_object, bf16>::forward;
  using named_calls<attention_object, fp16>::forward;
  using named_calls<attention_object, float>::infer;
  using named_calls<attention_object, double>::infer;
  using named_calls<attention_object, bf16>::infer;
  using named_calls<attention_object, fp16>::infer;

  /// Gradients by name; members and shapes: backward_operands. The element type follows from `s`.
  template <class Prepared, class Saved, class Queue = inline_queue>
    requires(!std::is_same_v<Prepared, batch>)
  void backward(Prepared const& p, context<Queue> const& ctx, Saved&& s,
                backward_operands<element_of_saved<Saved>, typename Queue::memory_type> const& o) const {
    run_checked_backward(p, ctx, std::forward<Saved>(s), o);
  }
  template <class Saved>
  void backward(batch const& b, Saved&& s, backward_operands<element_of_saved<Saved>> const& o) const {
    run_checked_backward(*prepared_for(b), context(b.memory(), b.memory(), o.random), std::forward<Saved>(s), o);
  }

  // Where no element type takes the tensors by name, or a batch stands where a call with a context wants what was prepared.
  template <bool readable = false>
  [[nodiscard]] any_operand forward(last_choice<batch>, any_forward_operands const&) const {
    require_operand<readable>();
    return {};
  }
  template <class Prepared>
  [[nodiscard]] any_operand forward(Prepared const&, any_context, any_forward_operands const&) const {
    require_prepared_operand<Prepared>();
    return {};
  }
  template <bool readable = false>
  void infer(last_choice<batch>, any_forward_operands const&) const {
    require_operand<readable>();
  }
  template <class Prepared>
  void infer(Prepared const&, any_context, any_forward_operands const&) const {
    require_prepared_operand<Prepared>();
  }
  template <class Saved>
  void backward(last_choice<batch>, Saved&&, any_backward_operands const&) const {
    require_operand<std::is_void_v<Saved>>();
  }
  template <class Prepared, class Saved>
  void backward(Prepared const&, any_context, Saved&&, any_backward_operands const&) const {
    require_prepared_operand<Prepared>();
  }

  // ---- the same by position --------------------------------------------------------------------------------------------------------

  /// q (tokens, q heads, dim), k (tokens, kv heads, dim), v (tokens, kv heads, value dim) -> out (tokens, q heads, value dim).
  /// Returns what backward needs; its memory comes from ctx.kept.
  template <class Prepared, class Q, class K, class V, class O, class T = element_of<O>, class Queue = inline_queue>
    requires(!std::is_same_v<Prepared, batch>)
  [[nodiscard]] auto forward(Prepared const& p, context<Queue> const& ctx, Q const& q, K const& k, V const& v, O const& out,
                             extras_on<Queue, T> const& e = {}) const {
    return run_checked_forward(p, ctx, operands_at(q, k, v, out, e));
  }
  /// The short form. What it returns lives in the batch's memory, which stays until it is destroyed; backward needs the batch.
  template <class Q, class K, class V, class O, class T = element_of<O>>
  [[nodiscard]] auto forward(batch const& b, Q const& q, K const& k, V const& v, O const& out,
                             extras_on<inline_queue, T> const& e = {}) const {
    return run_checked_forward(*prepared_for(b), context(b.memory(), b.memory(), e.random), operands_at(q, k, v, out, e));
  }

  /// Forward that keeps nothing: what forward would keep comes from ctx.scratch too (scratch_bytes + saved_bytes at most).
  template <class Prepared, class Q, class K, class V, class O, class T = element_of<O>, class Queue = inline_queue>
    requires(!std::is_same_v<Prepared, batch>)
  void infer(Prepared const& p, context<Queue> const& ctx, Q const& q, K const& k, V const& v, O const& out,
             extras_on<Queue, T> const& e = {}) const {
    static_cast<void>(run_checked_forward(p, ctx.with(*ctx.scratch, *ctx.scratch), operands_at(q, k, v, out, e)));
  }

  template <class Q, class K, class V, class O, class T = element_of<O>>
  void infer(batch const& b, Q const& q, K const& k, V const& v, O const& out, extras_on<inline_queue, T> const& e = {}) const {
    infer(*prepared_for(b), context(b.memory(), b.memory(), e.random), q, k, v, out, e);
  }

  /// Gradients of sum(out * dout), shaped as the tensors themselves; overwritten unless e.accumulate. Consumes `s`.
  template <class Prepared, class Saved, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV,
            class T = element_of<DQ>, class Queue = inline_queue>
    requires(!std::is_same_v<Prepared, batch>)
  void backward(Prepared const& p, context<Queue> const& ctx, Saved&& s, Q const& q, K const& k, V const& v, O const& out,
                DO const& dout, DQ const& dq, DK const& dk, DV const& dv, extras_on<Queue, T> const& e = {}) const {
    run_checked_backward(p, ctx, std::forward<Saved>(s), operands_at(q, k, v, out, dout, dq, dk, dv, e));
  }
  template <class Saved, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class T = element_of<DQ>>
  void backward(batch const& b, Saved&& s, Q const& q, K const& k, V const& v, O const& out, DO const& dout, DQ const& dq,
                DK const& dk, DV const& dv, extras_on<inline_queue, T> const& e = {}) const {
    run_checked_backward(*prepared_for(b), context(b.memory(), b.memory(), e.random), std::forward<Saved>(s),
                         operands_at(q, k, v, out, dout, dq, dk, dv, e));
  }

  /// Bytes a call takes from context.scratch at most, forward or backward, for tensors of T: on the queue of the context, because more
  /// threads may take more.
  template <class T, class Prepared, class Queue = inline_queue>
  [[nodiscard]] index_t scratch_bytes(Prepared const& p, attention_shape const& s,
                                      [[maybe_unused]] Queue const& queue = {}) const {
    return located(at(".scratch_bytes"), [&] {
      if (self().checks() > 0) require_same_configuration(p.checked.identity, identity_);
      counting_guarded canaries(self().checks() > 2 && runs_on_host<Queue>);
      heads const all = all_heads(s.q_heads, s.kv_heads);
      index_t const call = detail::scratch_of<T>(self(), p, all, s, queue);
      index_t const agreement = self().checks() > 1 ? agreement_scratch(ranks_of(self()), queue) : 0;
      // at level 3 ranks also compare their results, above blocks of the call that a stack cannot give back before
      return self().checks() > 2 ? call + agreement : max(call, agreement);
    });
  }
  /// Bytes that context.kept gives for one `saved`.
  template <class T, class Prepared>
  [[nodiscard]] index_t saved_bytes(Prepared const& p, attention_shape const& s) const {
    return located(at(".saved_bytes"), [&] {
      if (self().checks() > 0) require_same_configuration(p.checked.identity, identity_);
      counting_guarded canaries(self().checks() > 2);
      return self().template saved_for<T>(p, all_heads(s.q_heads, s.kv_heads), s);
    });
  }

private:
  template <class, class>
  friend class named_calls;
  template <class>
  friend class prepare_calls;
  friend Derived;
  attention_object() = default; // for Derived alone

  /// To be called at the end of every constructor of Derived, once its members answer: what a call compares is computed here, once.
  void identify_object() {
    identity_ = identity_without_batches(self());
    if (self().checks() > 1) life_ = lifetime::begin();
  }

  geometry_identity identity_over(batch const& q, batch const& k, sp::mask const& mask) const {
    if (identity_.configuration == 0)
      fail({errc::bad_state, "this attention object does not know what its geometry depends on",
            "Call identify_object() at the end of each of its constructors"});
    geometry_identity g = identity_;
    g.queries = q.serial(), g.keys = k.serial();
    if (&mask != &self().mask()) g.mask = digest_of(mask);
    return g;
  }
  /// What a call draws its random numbers with: on a queue of the host, with the counter as it is now.
  template <class Queue>
  static random_key key_of_call([[maybe_unused]] context<Queue> const& ctx) {
    if constexpr (!draws_random_numbers<Derived>)
      return {};
    else if constexpr (runs_on_host<Queue>)
      return with_step(ctx.random);
    else
      return ctx.random;
  }
  template <class Io>
  saved_origin origin_of(geometry_identity const& g, Io const& io, bool sinks, random_key random) const {
    return {g, id_, {io.on.q_count, io.on.kv_count, io.q.extent(2), io.v.extent(2)}, sinks, random};
  }

  template <class Prepared, class Queue, class T>
  auto run_checked_forward(Prepared const& p, context<Queue> const& ctx,
                           forward_operands<T, typename Queue::memory_type> const& o) const {
    static_assert(require_one_memory<Derived, Queue>() && require_inner_attention<Derived>() &&
                  require_inner_attention_of<Derived, T>());
    return located(at(".forward"), [&] {
      auto const range = named_work(ctx.queue, Derived::name, ".forward");
      forward_io<T, typename Queue::memory_type> io;
      auto arguments = [&] {
        io = read_operands(o);
        if (self().checks() == 0) return;
        require_same_configuration(p.checked.identity, identity_);
        check_forward(io, self().q_rows(p), self().k_rows(p));
        self().check_call(io.on, io.sinks.data != nullptr);
      };
      auto run = [&] {
        if (self().checks() > 1) return detail::forward_together(self(), p, ctx, io, arguments);
        arguments();
        return self().run_forward(p, ctx, io);
      };
      auto s = run();
      s.token.from = origin_of(p.checked.identity, io, io.sinks.data != nullptr, key_of_call(ctx));
      return s;
    });
  }

  template <class Prepared, class Queue, class Saved, class T>
  void run_checked_backward(Prepared const& p, context<Queue> const& ctx, Saved&& s,
                            backward_operands<T, typename Queue::memory_type> const& o) const {
    static_assert(require_one_memory<Derived, Queue>());
    static_assert(!std::is_lvalue_reference_v<Saved>, "sp: backward consumes what forward returned; pass std::move(saved).");
    located(at(".backward"), [&] {
      auto const range = named_work(ctx.queue, Derived::name, ".backward");
      backward_io<T, T, typename Queue::memory_type> io;
      auto arguments = [&] {
        s.token.require();
        io = read_operands(o);
        if (self().checks() == 0) return require_room<T>(self(), p, ctx, io);
        require_same_configuration(p.checked.identity, identity_);
        auto const origin = origin_of(p.checked.identity, io, io.extras.sinks.data != nullptr, key_of_call(ctx));
        require_same_origin(s.token.from, origin);
        require_same_key(s.token.from.random, origin.random);
        check_backward(io, self().q_rows(p), self().k_rows(p));
        self().check_call(io.on, io.extras.sinks.data != nullptr);
        require_same_tensors(s.token.from, origin);
        require_room<T>(self(), p, ctx, io);
      };
      auto run = [&](context<Queue> const& c) {
        if (io.extras.dsinks.data && !io.extras.accumulate) sp::fill(c.queue, io.extras.dsinks, accumulate_t<T>{});
        self().run_backward(p, c, std::as_const(s), io);
      };
      self().checks() > 1 ? detail::backward_together(self(), p, ctx, s, io, arguments, run) : (arguments(), run(ctx));
      auto const used = std::forward<Saved>(s); // only now: until here a caller may try again
    });
  }

  template <class Context>
  auto prepare_in(Context const& c, batch const& q, batch const& k, sp::mask const& mask) const {
    typename Derived::prepared p{};
    prepare_into(".prepare", p, c, q, k, mask);
    return p;
  }
  /// Prepared by an object of equal configuration, or by none: then it is as good as new.
  template <class Prepared, class Context>
  void prepare_into(char const* call, Prepared& p, Context const& c, batch const& q, batch const& k, sp::mask const& mask) const {
    static_assert(std::is_same_v<Prepared, typename Derived::prepared>,
                  "sp: refresh() takes what prepare() of this attention object returned.");
    if constexpr (requires { typename Context::queue_type; })
      static_assert(require_one_memory<Derived, typename Context::queue_type>());
    struct unfinished { // what was begun and not finished is of no batch
      Prepared* begun = nullptr;
      ~unfinished() {
        if (begun) begun->checked = {};
      }
    } unless_done;
    auto write = [&] {
      if (p.checked.identity.configuration != 0) require_same_configuration(p.checked.identity, identity_);
      unless_done.begun = &p;
      prepare_alone(p, c, q, k, mask);
    };
    auto describe = [&](fingerprint& f) {
      p.checked.describe(f);
      self().describe(f, p, 0, {});
    };
    located(at(call), [&] {
      if (self().checks() < 2) return write();
      if constexpr (std::is_same_v<memory_of<Derived>, host_memory>) {
        pool memory; // how much scratch calls take is known when this is done
        detail::together(self(), call, context(memory, memory), write, describe);
      } else if constexpr (std::is_same_v<Context, no_context>) {
        fail({errc::unsupported, "from check level 2 on ranks compare what they prepare, over memory of a queue",
              "Call prepare(batch, context)"});
      } else {
        detail::together(self(), call, c, write, describe);
      }
    });
    unless_done.begun = nullptr;
  }

  template <class Prepared, class Context>
  void prepare_alone(Prepared& p, Context const& c, batch const& q, batch const& k, sp::mask const& mask) const {
    if (q.part() != k.part() || q.parts() != k.parts())
      fail({errc::invalid_shape,
            "queries are part " + std::to_string(q.part()) + " of " + std::to_string(q.parts()) + ", keys part " +
                std::to_string(k.part()) + " of " + std::to_string(k.parts()),
            "Make both batches over the same ranks"});
    if constexpr (requires { self().prepare_batches(p, q, k, mask, c); }) { // its documents are not those of the batch alone
      self().prepare_batches(p, q, k, mask, c);
    } else {
      auto list = rebase(slices(mask, q.source(), k.source()), q.source(), q.docs(), k.source(), k.docs());
      detail::prepare_layouts(self(), p, q.layout(), k.layout(), q.part(), list, mask, c);
    }
    p.checked = checked_geometry(identity_over(q, k, mask), self().checks(), id_, q, k);
    if constexpr (requires { self().prefix_tokens(); }) p.checked.put_behind(self().prefix_tokens(), q.docs().size());
  }

  std::uint64_t id_ = new_serial(); ///< tells what this object saved from what another did; copies share it
  geometry_identity identity_{};    ///< of what it prepares, batches left out
  lifetime life_{};                 ///< from level 2 on, where a batch keeps geometry for this object and its copies alone
  Derived const& self() const { return static_cast<Derived const&>(*this); }
  site at(char const* call) const { return {Derived::name, call, self().group().rank(), self().group().size()}; }
};

} // namespace sp::detail
