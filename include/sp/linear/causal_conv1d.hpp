// Causal depthwise convolution over a sharded stream: the rows before each run come from whoever owns them, none from before a document.
// Outputs have the same bits for every sharding; gradients of rows return to their owners, those of weights are shares.
#pragma once

#include <sp/collective/check/agreement.hpp>
#include <sp/core/lifetime.hpp>
#include <sp/layout/route_exchange.hpp>
#include <sp/linear/conv1d_call.hpp>

namespace sp {

/// What a convolution's sums go through.
enum class activation {
  none,
  silu, ///< x / (1 + e^-x)
};

/// What a causal_conv1d is made with, besides its communicator. One value for all ranks.
struct conv1d_options {
  index_t width = 4; ///< taps: a token and the width - 1 tokens before it
  sp::activation activation = sp::activation::none;
  int checks = 1; ///< 0 and 1: arguments, always. 2, 3: also, ranks compare batches, element types and shapes before each call
};

/// y(t) = activation(bias + sum over j < width of weights(j) x(t - width + 1 + j)), for each channel, within documents: before the first
/// token of one stand the rows of its initial state, or zeros. Borrow the sequence group's communicator; one object serves any tensors.
template <class Comm>
class causal_conv1d : public detail::conv1d_calls<causal_conv1d<Comm>, float>,
                      public detail::conv1d_calls<causal_conv1d<Comm>, double>,
                      public detail::conv1d_calls<causal_conv1d<Comm>, bf16>,
                      public detail::conv1d_calls<causal_conv1d<Comm>, fp16> {
  static_assert(communicator<Comm>,
                "sp::causal_conv1d: the first argument must be a communicator: copyable, with memory_type, rank(), size() and "
                "exchange(traffic); sp::threads, sp::solo or a mesh group is one.");

public:
  using memory_type = typename Comm::memory_type;

  /// Who needs which rows of whom, for one batch; see its halo_rows() and rows_sent().
  using prepared = detail::conv1d_plan<memory_type>;
  /// What backward needs of a forward call: its halo. Movable; one backward call consumes it.
  template <class T>
  using saved = detail::conv1d_saved<T, memory_type>;

  explicit causal_conv1d(Comm comm, conv1d_options options = {}) : comm_(std::move(comm)), options_(options) {
    detail::check_level(options_.checks, name, comm_.rank(), comm_.size());
    detail::check_choice(options_.activation, 2, "activation", "sp::activation", name, comm_.rank(), comm_.size());
    if (options_.width < 1)
      fail({errc::invalid_shape, "a width of " + std::to_string(options_.width), "Give one tap or more", name, comm_.rank(),
            comm_.size()});
    if (options_.checks > 1) life_ = detail::lifetime::begin();
  }
  Comm const& group() const noexcept { return comm_; }
  conv1d_options const& options() const noexcept { return options_; }

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
                  "sp::causal_conv1d: the communicator and the queue of the context are of different memories.");
    prepared p;
    auto local = [&] {
      p.assign(ctx, b, detail::group_place::in(comm_), options_.width, options_.checks > 1);
      p.object = id_;
    };
    located(at(".prepare"), [&] { compare(".prepare", ctx, p, local, [](fingerprint&) {}); });
    return p;
  }
  /// What the short forms use: made once and kept with the batch. Objects of equal width and place share it below check level 2.
  [[nodiscard]] detail::shared<prepared> prepared_for(batch const& b) const {
    auto fits = [&](prepared const& p) {
      return p.serial == b.serial() && p.fits(detail::group_place::in(comm_), options_.width) &&
             (options_.checks < 2 || p.object == id_);
    };
    return b.cached<prepared>(
        fits, [&] { return prepare(b); }, life_);
  }

  // ---- calls by name: forward(batch, {.x = x, .weights = w, .out = y}); members and shapes: conv1d_operands ------------------------

  using detail::conv1d_calls<causal_conv1d, float>::forward;
  using detail::conv1d_calls<causal_conv1d, double>::forward;
  using detail::conv1d_calls<causal_conv1d, bf16>::forward;
  using detail::conv1d_calls<causal_conv1d, fp16>::forward;
  using detail::conv1d_calls<causal_conv1d, float>::infer;
  using detail::conv1d_calls<causal_conv1d, double>::infer;
  using detail::conv1d_calls<causal_conv1d, bf16>::infer;
  using detail::conv1d_calls<causal_conv1d, fp16>::infer;

  /// Gradients by name; members and shapes: conv1d_gradients. Consumes `s`. One exchange: gradients of the halo, and of final states
  /// where these are given, travel to the owners of the rows in the type of sums and are added there to what these computed.
  template <class T, class Queue>
  void backward(prepared const& p, context<Queue> const& ctx, saved<T>&& s, conv1d_gradients<T, memory_type> const& o) const {
    run_backward(p, ctx, s, o);
    saved<T> const used = std::move(s); // only now: until here a caller may try again
  }
  template <class T>
  void backward(batch const& b, saved<T>&& s, conv1d_gradients<T, memory_type> const& o) const {
    backward(*prepared_for(b), context(b.memory(), b.memory()), std::move(s), o);
  }

  /// Bytes that a call with all operands takes from context.scratch at most, for tensors of T with so many channels. bad_state for a plan that
  /// the call would refuse.
  template <class T, class Queue = inline_queue>
  [[nodiscard]] index_t scratch_bytes(prepared const& p, index_t channels, Queue const& queue = {}) const {
    return asked(".scratch_bytes", p, channels, [&] { return scratch_of<T>(p, channels, queue); });
  }
  /// Bytes that context.kept gives for one `saved`.
  template <class T>
  [[nodiscard]] index_t saved_bytes(prepared const& p, index_t channels) const {
    return asked(".saved_bytes", p, channels, [&] {
      basic_byte_counter<memory_type> kept;
      owned<T, 2, memory_type>(kept, {p.rows.halo, channels});
      return kept.bytes();
    });
  }

private:
  template <class, class>
  friend class detail::conv1d_calls;
  static constexpr char const* name = "causal_conv1d";
  template <class T>
  using tensor = view<T, 3, memory_type>;
  template <class Queue>
  using sizes = detail::conv1d_sizes<detail::runs_on_host<Queue>>;
  site at(char const* call) const { return {name, call, comm_.rank(), comm_.size()}; }

  /// Of this object's group, width and checks.
  void require_plan(prepared const& p) const {
    p.require_fitting(detail::group_place::in(comm_), options_.width, options_.checks);
  }
  /// An answer about a plan and channels that calls would take.
  template <class Answer>
  index_t asked(char const* what, prepared const& p, index_t channels, Answer const& answer) const {
    return located(at(what), [&] {
      require_plan(p);
      if (channels < 0)
        fail({errc::invalid_shape, std::to_string(channels) + " channels", "Give heads times dim of the tensors of the call"});
      return answer();
    });
  }
  template <class T, class Queue>
  index_t scratch_of(prepared const& p, index_t channels, Queue const& queue) const {
    using A = accumulate_t<T>;
    index_t const rows = p.rows.rows, states = p.rows.states(), halo = p.rows.halo;
    tensor<T> const x(nullptr, {rows, 1, channels});
    tensor<A> const dhalo(nullptr, {halo, 1, channels}), dstates(nullptr, {states, 1, channels});
    basic_byte_counter<memory_type> outputs, gradients;
    owned<T, 2, memory_type>(outputs, {halo, channels});
    owned<A, 2, memory_type>(gradients, {halo, channels});
    owned<A, 3, memory_type>(gradients, {spans<Queue>(rows), options_.width + 1, channels});
    index_t const there = sp::exchange_scratch(comm_, queue, routed(p.rows.to_readers, x, tensor<T>(nullptr, dhalo.extents)),
                                               routed(p.rows.to_all, x, tensor<T>(nullptr, dstates.extents)));
    index_t const back = sp::exchange_scratch(comm_, queue, returned(p.from_readers, dhalo, x, p.sums_of_readers),
                                              returned(p.from_all, dstates, x, p.sums_of_all));
    index_t const agreement = options_.checks > 1 ? agreement_scratch(comm_.size(), queue) : 0;
    return max(agreement, max(there + outputs.bytes(), back + gradients.bytes()));
  }

  template <class Queue>
  static index_t spans(index_t rows) {
    return ceil_div(rows, sizes<Queue>::span);
  }
  /// Gradients on their way back: added to what the owner computed.
  template <class A, class T>
  static auto returned(route const& back, tensor<A> const& from, tensor<T> const& to, landing_table<memory_type> const& table) {
    return routed(back, from, to, head_cut{}, landing::sum_to, &table);
  }

  /// Runs `local`, the checks of this rank; from level 2 on ranks compare what they call, of which plan.
  template <class Queue, class Local, class Describe>
  void compare(char const* call, context<Queue> const& ctx, prepared const& p, Local const& local, Describe const& more) const {
    if (options_.checks < 2) return local();
    fingerprint f(name, call, comm_.rank());
    auto all = [&] {
      local();
      f.number("check level", options_.checks).number("width", options_.width).number("activation", int(options_.activation));
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
  template <class T, class Operands>
  static void describe(fingerprint& f, index_t channels, Operands const& o, bool final) {
    f.template element<T>("element type").number("channels", channels).number("bias", int(o.bias.data && !o.bias.empty()));
    f.number("initial state", int(o.initial_state.data && !o.initial_state.empty())).number("final state", int(final));
  }

  template <class T, class Queue, class Call>
  void require_room(prepared const& p, context<Queue> const& ctx, Call const& c) const {
    detail::require_room(ctx, [&] { return scratch_of<T>(p, c.channels, ctx.queue); });
  }

  // ---- forward ---------------------------------------------------------------------------------------------------------------------

  template <class T, class Queue>
  saved<T> run_forward(prepared const& p, context<Queue> const& ctx, conv1d_operands<T, memory_type> const& o) const {
    return located(at(".forward"), [&] {
      auto const range = detail::named_work(ctx.queue, name, ".forward");
      detail::conv1d_call<T, memory_type> c;
      bool const final = o.final_state.data != nullptr;
      auto arguments = [&] {
        require_plan(p);
        c.read(p, o, options_.activation == activation::silu);
        require_room<T>(p, ctx, c);
      };
      compare_call(".forward", ctx, p, arguments, [&](fingerprint& f) { describe<T>(f, c.channels, o, final); });
      saved<T> s(*ctx.kept, p.rows.halo,
                 {p.serial, id_, c.channels, o.initial_state.data != nullptr, o.bias.data != nullptr, final});
      s.call = p.calls;
      exchange_rows(p, ctx, c, c.put_halo(s.halo.tensor));
      using body = detail::conv1d_forward_body<T, memory_type, sizes<Queue>>;
      each_tile(ctx.queue, ceil_div(p.rows.rows, sizes<Queue>::rows), c.out, body{c.all, c.out});
      return s;
    });
  }
  /// The halo, and the final state where it is asked for.
  template <class T, class Queue>
  void exchange_rows(prepared const& p, context<Queue> const& ctx, detail::conv1d_call<T, memory_type> const& c,
                     tensor<T> const& halo) const {
    routed const rows(p.rows.to_readers, c.x, halo);
    if (!c.final.data) return sp::exchange(comm_, name, ctx, rows).wait();
    sp::exchange(comm_, name, ctx, rows, routed(p.rows.to_all, c.x, c.final)).wait();
    using body = detail::conv1d_short_state_body<T, memory_type>;
    ctx.queue.for_each(c.final.extents, body{c.all.states, c.final, p.lengths.values(), p.rows.reach()});
  }
  /// body(i, head, tile of channels) for i < n: tasks where the queue has threads that take them, because each is long.
  template <class Queue, class Like, class Body>
  static void each_tile(Queue const& q, index_t n, Like const& v, Body const& body) {
    index_t const heads = v.extent(1), tiles = ceil_div(v.extent(2), sizes<Queue>::channels);
    if constexpr (requires { q.threads(); })
      q.parallel(n * heads, [&](index_t i) {
        for (index_t tile = 0; tile < tiles; ++tile) body(i / heads, i % heads, tile);
      });
    else
      q.for_each(std::array{n, heads, tiles}, body);
  }

  // ---- backward --------------------------------------------------------------------------------------------------------------------

  template <class T>
  using gradient_call = detail::conv1d_gradient_call<T, memory_type>;

  template <class T, class Queue>
  void run_backward(prepared const& p, context<Queue> const& ctx, saved<T> const& s,
                    conv1d_gradients<T, memory_type> const& o) const {
    using A = accumulate_t<T>;
    located(at(".backward"), [&] {
      auto const range = detail::named_work(ctx.queue, name, ".backward");
      gradient_call<T> c;
      auto arguments = [&] {
        require_plan(p);
        c.read(p, s, o, options_.activation == activation::silu, id_);
        require_room<T>(p, ctx, c);
      };
      compare_call(".backward", ctx, p, arguments, [&](fingerprint& f) {
        f.number("number of the forward call", s.call);
        describe<T>(f, c.channels, o, o.dfinal_state.data != nullptr);
      });
      c.put_halo(s.halo.tensor);
      bool const shares_asked = o.dweights.data || o.dbias.data;
      owned<A, 2, memory_type> const dhalo(*ctx.scratch, {p.rows.halo, c.channels});
      owned<A, 3, memory_type> const shares(*ctx.scratch,
                                            {shares_asked ? spans<Queue>(p.rows.rows) : 0, options_.width + 1, c.channels});
      tensor<A> const home(dhalo.tensor.data, c.all.halo.extents);
      gradients_of_others(p, ctx.queue, c, p.rows.rows, home);
      send_home(p, ctx, c, home, [&] {
        gradients_of_own(p, ctx.queue, c, shares.tensor, o.dbias.data != nullptr);
        if (shares_asked) add_shares(ctx.queue, shares.tensor, o);
        if (c.dinitial.data) gradients_of_others(p, ctx.queue, c, p.rows.rows + p.rows.halo, c.dinitial, c.dfinal);
      });
    });
  }
  /// Gradients of the halo leave while the own ones are computed; what comes is added to these.
  template <class T, class Queue, class A, class Own>
  void send_home(prepared const& p, context<Queue> const& ctx, gradient_call<T> const& c, tensor<A> const& dhalo,
                 Own const& own) const {
    auto exchange = [&](auto const&... operands) {
      auto flight = sp::exchange(comm_, name, ctx, operands...);
      own();
      flight.wait();
    };
    auto const halo = returned(p.from_readers, dhalo, c.dx, p.sums_of_readers);
    c.dfinal.data ? exchange(halo, returned(p.from_all, c.dfinal, c.dx, p.sums_of_all)) : exchange(halo);
  }
  template <class T, class Queue, class A>
  static void gradients_of_others(prepared const& p, Queue const& q, gradient_call<T> const& c, index_t first,
                                  tensor<A> const& to, tensor<A const> const& dfinal = {}) {
    using body = detail::conv1d_gradient_of_others_body<T, memory_type, sizes<Queue>>;
    each_tile(q, to.extent(0), to, body{c.all, c.dout, first, to, dfinal, p.lengths.values()});
  }
  template <class T, class Queue, class A>
  static void gradients_of_own(prepared const& p, Queue const& q, gradient_call<T> const& c, tensor<A> const& shares, bool bias) {
    using body = detail::conv1d_backward_body<T, memory_type, sizes<Queue>>;
    each_tile(q, spans<Queue>(p.rows.rows), c.dx, body{c.all, c.dout, c.dx, shares, bias});
  }
  template <class T, class Queue, class A>
  void add_shares(Queue const& q, tensor<A> const& shares, conv1d_gradients<T, memory_type> const& o) const {
    q.sums(shares.extent(1) * shares.extent(2), shares.extent(0), detail::conv1d_share_term<A, memory_type>{shares},
           detail::conv1d_share_store<A, memory_type>{o.dweights, o.dbias, shares.extent(2), options_.width});
  }

  Comm comm_;
  conv1d_options options_;
  std::uint64_t id_ = detail::new_serial(); ///< copies share it
  detail::lifetime life_{};                 ///< from level 2 on, as in attention objects
};

} // namespace sp
