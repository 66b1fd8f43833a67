// Linear attention over a sharded stream: a state goes through each document's tokens, wherever they are.
// Two strategies, one interface: heads are exchanged for tokens, or maps of the state travel; outputs and gradients are those of one rank.
#pragma once

#include <sp/collective/check/agreement.hpp>
#include <sp/core/lifetime.hpp>
#include <sp/layout/digests.hpp>
#include <sp/linear/by_heads.hpp>
#include <sp/linear/by_state.hpp>
#include <sp/linear/linear_saved.hpp>

namespace sp {

/// How ranks compute what depends on tokens of others.
enum class linear_strategy {
  automatic, ///< whichever of the two sends fewer bytes for the batch and the heads at hand
  heads,     ///< tokens are exchanged for heads, as in Ulysses: any sharding, as many ranks as there are heads to share out
  state,     ///< maps of the state travel to the ranks with later tokens of their documents: runs of consecutive tokens
};
namespace detail {
inline constexpr char const* strategy_words[] = {"automatic", "heads", "state"};
}

/// What a linear_attention is made with, besides its communicator and kernel. One value for all ranks.
struct linear_attention_options {
  linear_strategy strategy = linear_strategy::automatic;
  /// By state, key heads with their value heads are computed in this many chunks, or in as many as there are key heads: while one is
  /// computed, what others need of the next one is on its way, and ranks wait for each other for less than one chunk. Threads of a queue
  /// share the heads of a chunk: many threads want few chunks.
  index_t head_chunks = 8;
  int checks = 1; ///< 0 and 1: arguments, always. 2, 3: also, ranks compare batches, element types and shapes before each call
};

/// S -> M S + B for each token of a document, and an output from each state: what M, B and the output are is the kernel's, a
/// linear_kernel. Borrow the sequence group's communicator; one object serves tensors of any heads.
template <class Comm, class Kernel>
class linear_attention : public detail::linear_calls<linear_attention<Comm, Kernel>, float, detail::gates_in<Kernel>>,
                         public detail::linear_calls<linear_attention<Comm, Kernel>, double, detail::gates_in<Kernel>>,
                         public detail::linear_calls<linear_attention<Comm, Kernel>, bf16, detail::gates_in<Kernel>>,
                         public detail::linear_calls<linear_attention<Comm, Kernel>, fp16, detail::gates_in<Kernel>> {
  static_assert(communicator<Comm>,
                "sp::linear_attention: the first argument must be a communicator: copyable, with memory_type, rank(), size() and "
                "exchange(traffic); sp::threads, sp::solo or a mesh group is one.");
  static_assert(detail::gates_in<Kernel> >= 0,
                "sp::linear_attention: the second argument must be a kernel of linear attention: sp::gated_delta, "
                "sp::gated_linear, sp::scalar_decay, sp::plain_linear, or a model of sp::linear_kernel.");
  static_assert(detail::one_memory<Comm, Kernel>,
                "sp::linear_attention: the communicator moves tensors of one memory and the kernel computes on those of another; "
                "their memory_type must be the same.");

public:
  using memory_type = typename Comm::memory_type;
  /// Tensors of gates that a call takes.
  static constexpr int gates = detail::gates_in<Kernel>;

  using by_state = detail::linear_by_state<Comm, Kernel>;
  using by_heads = detail::linear_by_heads<Comm, Kernel>;
  /// Who sends what to whom, for one batch and for the strategies that may be asked for.
  struct prepared : detail::linear_prepared {
    typename by_state::plan state{};
    typename by_heads::plan heads{};
  };
  /// What backward needs of a forward call. Movable; one backward call consumes it.
  template <class T>
  struct saved : detail::linear_saved {
    using element_type = T;
    typename by_state::template saved<T> state{};
    typename by_heads::template saved<T> heads{};
  };

  linear_attention(Comm comm, Kernel kernel, linear_attention_options options = {})
      : comm_(std::move(comm)), kernel_(std::move(kernel)), options_(options), state_(comm_, kernel_, options.head_chunks),
        heads_(comm_, kernel_) {
    detail::check_level(options_.checks, name, comm_.rank(), comm_.size());
    detail::check_head_chunks(options_.head_chunks, name, comm_.rank(), comm_.size());
    detail::check_choice(options_.strategy, int(std::size(detail::strategy_words)), "strategy", "sp::linear_strategy", name,
                         comm_.rank(), comm_.size());
    if (options_.checks > 1) life_ = detail::lifetime::begin();
  }
  Comm const& group() const noexcept { return comm_; }
  Kernel const& kernel() const noexcept { return kernel_; }
  linear_attention_options const& options() const noexcept { return options_; }

  /// Local below level 2; from there on all ranks prepare together. Over other memory than the host's it takes a context.
  [[nodiscard]] prepared prepare(batch const& b) const {
    if constexpr (std::is_same_v<memory_type, host_memory>) {
      pool memory;
      return prepare(b, context(memory, memory));
    } else {
      fail({errc::unsupported, "a plan has tables in memory of a queue", "Call prepare(batch, context)", name, comm_.rank(),
            comm_.size()});
    }
  }
  template <class Queue>
  [[nodiscard]] prepared prepare(batch const& b, context<Queue> const& ctx) const {
    static_assert(std::is_same_v<typename Queue::memory_type, memory_type>,
                  "sp::linear_attention: the communicator and the queue of the context are of different memories.");
    prepared p;
    auto local = [&] {
      p.describe(b, detail::group_place::in(comm_), int(options_.strategy), options_.checks > 1);
      p.object = id_;
      if (options_.strategy != linear_strategy::heads) state_.prepare(p.state, b, ctx);
      if (options_.strategy == linear_strategy::state) p.state.require_runs();
      if (options_.strategy != linear_strategy::state) heads_.prepare(p.heads, b, ctx);
    };
    located(at(".prepare"), [&] { compare(".prepare", ctx, p, local, [](fingerprint&) {}); });
    return p;
  }
  /// What the short forms use: made once and kept with the batch. Objects of equal strategy and place share it below check level 2.
  [[nodiscard]] detail::shared<prepared> prepared_for(batch const& b) const {
    auto fits = [&](prepared const& p) {
      return p.serial == b.serial() && p.fits(detail::group_place::in(comm_), int(options_.strategy)) &&
             (options_.checks < 2 || p.object == id_);
    };
    return b.cached<prepared>(
        fits, [&] { return prepare(b); }, life_);
  }

  // ---- calls by name: forward(batch, {.q = q, .k = k, .v = v, .gates = {g, beta}, .out = out}); members and shapes: linear_operands ----

  using detail::linear_calls<linear_attention, float, gates>::forward;
  using detail::linear_calls<linear_attention, double, gates>::forward;
  using detail::linear_calls<linear_attention, bf16, gates>::forward;
  using detail::linear_calls<linear_attention, fp16, gates>::forward;
  using detail::linear_calls<linear_attention, float, gates>::infer;
  using detail::linear_calls<linear_attention, double, gates>::infer;
  using detail::linear_calls<linear_attention, bf16, gates>::infer;
  using detail::linear_calls<linear_attention, fp16, gates>::infer;

  /// Gradients by name; members and shapes: linear_gradients. Consumes `s`.
  template <class T, class Queue>
  void backward(prepared const& p, context<Queue> const& ctx, saved<T>&& s,
                linear_gradients<T, gates, memory_type> const& o) const {
    run_backward(p, ctx, s, o);
    saved<T> const used = std::move(s); // only now: until here a caller may try again
  }
  template <class T>
  void backward(batch const& b, saved<T>&& s, linear_gradients<T, gates, memory_type> const& o) const {
    backward(*prepared_for(b), context(b.memory(), b.memory()), std::move(s), o);
  }

  // ---- what calls will do: bad_state for a plan that they would refuse, invalid_shape for such heads; `s.rows` does not count --------

  /// The strategy of a call on tensors of T with these heads and dims.
  template <class T>
  [[nodiscard]] linear_strategy strategy_for(prepared const& p, linear_shape const& s) const {
    return asked(".strategy_for", p, s, [&] { return chosen<T>(p, s); });
  }
  /// Why, in a sentence.
  template <class T>
  [[nodiscard]] std::string reason(prepared const& p, linear_shape const& s) const {
    return asked(".reason", p, s, [&] {
      std::string const word = detail::strategy_words[int(chosen<T>(p, s))];
      if (options_.strategy != linear_strategy::automatic) return word + ": asked for";
      if (p.state.striped >= 0)
        return word + ": rank " + std::to_string(p.state.striped) + " has runs with a stride, which have no map of the state";
      auto all = [&](linear_strategy x) { return std::to_string(sent<T>(p, s, x).all()); };
      return word + ": all ranks together send " + all(linear_strategy::state) + " bytes by state and " +
             all(linear_strategy::heads) + " by heads, in both passes";
    });
  }
  /// Bytes that all ranks together send in either pass by a strategy, states that are given or asked for aside; automatic: by the one that
  /// strategy_for tells. bad_state if the plan is for the other one alone, unsupported by state where runs have a stride.
  template <class T>
  [[nodiscard]] detail::linear_bytes bytes(prepared const& p, linear_shape const& s, linear_strategy how) const {
    return asked(".bytes", p, s, [&] {
      detail::check_choice(how, int(std::size(detail::strategy_words)), "strategy", "sp::linear_strategy", name, comm_.rank(),
                           comm_.size());
      linear_strategy const by = how == linear_strategy::automatic ? chosen<T>(p, s) : how;
      if (options_.strategy != linear_strategy::automatic && by != options_.strategy)
        fail({errc::bad_state,
              "this plan has no part by " + std::string(detail::strategy_words[int(by)]) + ": it was prepared for " +
                  detail::strategy_words[int(options_.strategy)] + " alone",
              "Ask an object of linear_strategy::automatic, whose plans are for both"});
      if (by == linear_strategy::state) p.state.require_runs();
      return sent<T>(p, s, by);
    });
  }

  /// Bytes that a call with all operands takes from context.scratch at most: forward, infer and backward.
  template <class T, class Queue = inline_queue>
  [[nodiscard]] index_t scratch_bytes(prepared const& p, linear_shape const& s, Queue const& queue = {}) const {
    return asked(".scratch_bytes", p, s, [&] { return scratch_of<T>(p, s, chosen<T>(p, s), queue); });
  }
  /// Bytes that context.kept gives for one `saved`.
  template <class T>
  [[nodiscard]] index_t saved_bytes(prepared const& p, linear_shape const& s) const {
    return asked(".saved_bytes", p, s, [&] {
      return chosen<T>(p, s) == linear_strategy::heads ? heads_.template saved_bytes<T>(p.heads, s)
                                                       : state_.template saved_bytes<T>(p.state, s);
    });
  }

private:
  template <class, class, int>
  friend class detail::linear_calls;
  static constexpr char const* name = "linear_attention";
  site at(char const* call) const { return {name, call, comm_.rank(), comm_.size()}; }

  /// Of this object's group, strategy and checks.
  void require_plan(prepared const& p) const {
    p.require_fitting(detail::group_place::in(comm_), int(options_.strategy), options_.checks);
  }
  /// An answer about a plan and heads that calls would take.
  template <class Answer>
  auto asked(char const* what, prepared const& p, linear_shape const& s, Answer const& answer) const {
    return located(at(what), [&] {
      require_plan(p);
      detail::linear_needs::require_heads(s);
      return answer();
    });
  }
  template <class T>
  linear_strategy chosen(prepared const& p, linear_shape const& s) const {
    if (options_.strategy != linear_strategy::automatic) return options_.strategy;
    if (p.state.striped >= 0) return linear_strategy::heads;
    return sent<T>(p, s, linear_strategy::state).all() <= sent<T>(p, s, linear_strategy::heads).all() ? linear_strategy::state
                                                                                                      : linear_strategy::heads;
  }
  template <class T>
  detail::linear_bytes sent(prepared const& p, linear_shape const& s, linear_strategy how) const {
    return how == linear_strategy::heads ? heads_.template bytes<T>(p.heads, s) : state_.template bytes<T>(p.state, s);
  }
  template <class T, class Queue>
  index_t scratch_of(prepared const& p, linear_shape const& s, linear_strategy how, Queue const& queue) const {
    index_t const agreement = options_.checks > 1 ? agreement_scratch(comm_.size(), queue) : 0;
    return max(agreement, how == linear_strategy::heads ? heads_.template scratch_bytes<T>(p.heads, s, queue)
                                                        : state_.template scratch_bytes<T>(p.state, s, queue));
  }

  template <class T>
  static constexpr void require_kernel() {
    static_assert(linear_kernel<Kernel, T>,
                  "sp::linear_attention: the kernel does not model sp::linear_kernel for tensors of this element type: reduce, "
                  "forward, backward and backward_reduce of a segment, a movable saved<T> with a default, saved_bytes and "
                  "scratch_bytes.");
  }
  /// Runs `local`, the checks of this rank; from level 2 on ranks compare what they call, of which plan.
  template <class Queue, class Local, class Describe>
  void compare(char const* call, context<Queue> const& ctx, prepared const& p, Local const& local, Describe const& more) const {
    if (options_.checks < 2) return local();
    fingerprint f(name, call, comm_.rank());
    auto all = [&] {
      local();
      f.number("check level", options_.checks).word("strategy", options_.strategy, detail::strategy_words);
      f.number("head chunks", options_.head_chunks).number("form of maps", int(Kernel::form)).number("gates", gates);
      if constexpr (requires { kernel_.features(); }) f.hash("kernel features", kernel_.features());
      f.hash("documents", p.documents).hash("sharding", p.sharding).hash("tokens", p.tokens);
      more(f);
    };
    detail::check_together(ctx.queue, f, all, [&](fingerprint const& mine) { sp::agree(comm_, mine, ctx); });
  }
  /// The same around a call, with its number among those on its plan: one that the ranks refused does not count.
  template <class Queue, class Local, class Describe>
  void compare_call(char const* call, context<Queue> const& ctx, prepared const& p, Local const& local,
                    Describe const& more) const {
    compare(call, ctx, p, local, [&](fingerprint& f) {
      f.number("call number", p.calls + 1);
      more(f);
    });
    if (options_.checks > 1) ++p.calls;
  }
  template <class T, class Io>
  static void describe(fingerprint& f, Io const& io, bool final) {
    linear_shape const s = io.in.shape();
    f.template element<T>("element type").number("key heads", s.k_heads).number("value heads", s.v_heads);
    f.number("key dim", s.key_dim).number("value dim", s.value_dim);
    f.number("initial state", int(io.initial.data && !io.initial.empty())).number("final state", int(final));
  }
  template <class T, class Queue, class Io>
  void require_room(prepared const& p, context<Queue> const& ctx, Io const& io, linear_strategy how) const {
    detail::require_room(ctx, [&] { return scratch_of<T>(p, io.in.shape(), how, ctx.queue); });
  }
  template <class Io>
  detail::linear_saved origin(prepared const& p, Io const& io, linear_strategy how, bool final) const {
    return {p.serial, id_, io.in.shape(), int(how), io.initial.data != nullptr, final};
  }

  template <class T, class Queue>
  saved<T> run_forward(prepared const& p, context<Queue> const& ctx, linear_operands<T, gates, memory_type> const& o,
                       bool keep) const {
    require_kernel<T>();
    return located(at(".forward"), [&] {
      auto const range = detail::named_work(ctx.queue, name, ".forward");
      detail::linear_io<T, gates, memory_type> io;
      linear_strategy how{};
      bool const final = o.final_state.data != nullptr;
      auto arguments = [&] {
        require_plan(p);
        io = detail::read_linear<Kernel>(o, p.needs);
        how = chosen<T>(p, io.in.shape());
        require_room<T>(p, ctx, io, how);
      };
      compare_call(".forward", ctx, p, arguments, [&](fingerprint& f) { describe<T>(f, io, final); });
      saved<T> s{origin(p, io, how, final), {}, {}};
      s.call = p.calls;
      if (how == linear_strategy::heads)
        s.heads = heads_.template forward<T>(p.heads, ctx, io, keep);
      else
        s.state = state_.template forward<T>(p.state, ctx, io, keep);
      return s;
    });
  }

  template <class T, class Queue>
  void run_backward(prepared const& p, context<Queue> const& ctx, saved<T> const& s,
                    linear_gradients<T, gates, memory_type> const& o) const {
    require_kernel<T>();
    located(at(".backward"), [&] {
      auto const range = detail::named_work(ctx.queue, name, ".backward");
      detail::linear_gradient_io<T, gates, memory_type> io;
      auto const how = linear_strategy(s.strategy); // the one that forward chose
      bool const final = o.dfinal_state.data != nullptr;
      auto arguments = [&] {
        require_plan(p);
        io = detail::read_linear<Kernel>(o, p.needs);
        s.require(origin(p, io, how, final));
        if (io.dinitial.data && !io.initial.data)
          fail({errc::bad_state, "dinitial_state of a call without an initial state", "Give both, or none of them"});
        require_room<T>(p, ctx, io, how);
      };
      compare_call(".backward", ctx, p, arguments, [&](fingerprint& f) {
        f.number("number of the forward call", s.call);
        describe<T>(f, io, final);
      });
      if (how == linear_strategy::heads)
        heads_.template backward<T>(p.heads, ctx, s.heads, io);
      else
        state_.template backward<T>(p.state, ctx, s.state, io);
    });
  }

  Comm comm_;
  Kernel kernel_;
  linear_attention_options options_;
  by_state state_;
  by_heads heads_;
  std::uint64_t id_ = detail::new_serial(); ///< copies share it
  detail::lifetime life_{};                 ///< from level 2 on, as in attention objects
};

} // namespace sp
