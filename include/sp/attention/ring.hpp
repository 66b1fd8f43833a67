// Ring attention: the queries of each rank meet everybody's keys, by the schedule it was given. Exact, forward and backward.
// A ring of one rank is local attention, which is what Ulysses runs inside when it is handed a backend.
#pragma once

#include <sp/attention/call/attention_object.hpp>
#include <sp/attention/ring/memory.hpp>
#include <sp/collective/solo.hpp>

namespace sp {

namespace detail {

/// What kernels returned in forward, in call order; costs nothing for kernels that return nothing.
template <class Saved>
class saved_list {
public:
  using value_type = Saved;
  std::span<Saved const> all() const noexcept { return list_; }
  void push(Saved e) { list_.push_back(std::move(e)); }
  Saved const& at(int i) const { return list_[std::size_t(i)]; }

private:
  std::vector<Saved> list_;
};
template <>
class saved_list<nothing> {
public:
  using value_type = nothing;
  static constexpr std::span<nothing const> all() noexcept { return {}; }
  void push(nothing) {}
  nothing const& at(int) const {
    static constexpr nothing none{};
    return none;
  }
};

template <class B>
concept some_backend =
    attention_backend<B, float> || attention_backend<B, double> || attention_backend<B, bf16> || attention_backend<B, fp16>;

} // namespace detail

/// Attention of this rank's queries over the keys of a whole group.
/// Comm: a communicator. Backend: an attention_backend, e.g. sp::cpu{} or sp::blockwise{your kernel}.
template <class Comm, class Backend>
class ring_attention : public detail::attention_object<ring_attention<Comm, Backend>> {
  static_assert(communicator<Comm>,
                "sp::ring_attention: the first argument must be a communicator: copyable, with memory_type, rank(), size() and "
                "exchange(traffic); sp::threads, sp::solo or a mesh group is one.");
  static_assert(
      requires { typename Backend::plan; },
      "sp::ring_attention: this kernel cannot resume or return its lse, so partial results over different keys cannot be merged. "
      "Use it under "
      "sp::ulysses_attention, or give it forward(block_call) that writes lse and wrap it in sp::blockwise.");

  static_assert(detail::some_backend<Backend>, "sp::ring_attention: the kernel must model sp::attention_backend for some element "
                                               "type: memory_type, plan, saved, prepare(problem), "
                                               "forward<T>(plan, allocator, call_params, q, keys, state) and backward<T>(plan, "
                                               "allocator, call_params, queries, keys, saved).");

  static_assert(std::is_same_v<detail::memory_of<Comm>, detail::memory_of<Backend>>,
                "sp::ring_attention: the communicator moves tensors of one memory and the kernel computes on those of another; "
                "their memory_type must be the same.");

public:
  using memory_type = typename Comm::memory_type;
  using backend_saved = typename Backend::saved;

  /// Geometry of one batch: made once per step, used by all layers.
  struct prepared {
    detail::ring_geometry<Backend> geometry;
    detail::checked_geometry checked{};
  };

  /// What backward needs from forward: lse, (tokens, q heads), and what the kernel returned.
  template <class T>
  struct saved {
    using element_type = T;
    owned<accumulate_t<T>, 2, memory_type> lse;
    detail::saved_list<backend_saved> by_backend;
    detail::saved_token token;
  };

  ring_attention(Comm comm, Backend backend, attention_options options = {})
      : comm_(std::move(comm)), backend_(std::move(backend)), options_(std::move(options)),
        kernel_identity_(detail::kernel_identity(backend_, this->id_)) {
    detail::check_level(options_.checks, name, comm_.rank(), comm_.size());
    detail::check_head_chunks(options_.head_chunks, name, comm_.rank(), comm_.size());
    this->identify_object();
  }

  Comm const& group() const noexcept { return comm_; }
  Backend const& backend() const noexcept { return backend_; }
  attention_options const& options() const noexcept { return options_; }
  /// The head ranges this rank computes: all of them.
  [[nodiscard]] heads local_heads(index_t q_heads, index_t kv_heads) const { return all_heads(q_heads, kv_heads); }

  // ---- what attention_object and Ulysses call --------------------------------------------------------------------------------------

  static constexpr char const* name = "ring_attention";
  static constexpr bool draws_random_numbers = detail::draws_random_numbers<Backend>;
  heads local_heads_of(heads whole) const { return whole; }
  sp::mask const& mask() const noexcept { return options_.mask; }
  int checks() const noexcept { return options_.checks; }
  index_t q_rows(prepared const& p) const noexcept { return p.geometry.q_rows; }
  index_t k_rows(prepared const& p) const { return p.geometry.rows_of(comm_.rank()); }
  /// What only the kernel can say about the numbers of a call, on global heads and before anything is sent.
  void check_call(heads whole, bool) const {
    if constexpr (requires { backend_.check(whole); }) backend_.check(whole);
  }

  template <class Context>
  void prepare_layouts(prepared& out, layout const& q, layout const& k, int part, std::vector<slice> const& slices,
                       [[maybe_unused]] sp::mask const& mask, Context const& context) const {
    if (q.parts() != comm_.size() || k.parts() != comm_.size() || part != comm_.rank())
      fail({errc::invalid_shape,
            "the batch is cut for " + std::to_string(q.parts()) + " (keys " + std::to_string(k.parts()) +
                ") ranks and this is part " + std::to_string(part) + "; the group has " + std::to_string(comm_.size()) +
                " ranks and this is rank " + std::to_string(comm_.rank()),
            "Make the batch over the ranks of the same group"});
    if constexpr (requires { requires Backend::needs_alignment; }) detail::refuse_unaligned(mask, q.docs(), k.docs(), "ALiBi");
    auto& g = out.geometry;
    g.begin(comm_.rank(), comm_.size(), chosen_schedule(), q.tokens(part));
    for (int r = 0; r < g.size; ++r) {
      g.key_rows.push_back(k.tokens(r));
      g.query_rows.push_back(q.tokens(r));
    }
    detail::planner<Backend, Context> const plans{backend_, context};
    detail::ring_layouts const from{q, k, part, slices};
    detail::ring_schedules::visit(g.how, [&](auto how) { how.prepare(plans, g, from); });
  }

  void identify(digest& d) const { d.add(wanted_schedule()).add(kernel_identity_); }

  template <class T, class Queue>
  saved<T> run_forward(prepared const& p, context<Queue> const& ctx, detail::forward_io<T, memory_type> const& io) const {
    using A = accumulate_t<T>;
    auto const& g = p.geometry;
    saved<T> s{{*ctx.kept, {g.q_rows, io.on.q_count}}, {}, detail::saved_token(true)};
    detail::accumulator<T, 3, memory_type> out(*ctx.scratch, io.out);
    attention_state<T, memory_type> state{out.begin(ctx.queue, false), s.lse.tensor};
    sp::fill(ctx.queue, state.lse, detail::minus_infinity<A>);
    auto const call = call_of(g, ctx, io.on, io.q.extent(2));
    kv_views<T, memory_type> own{io.k, io.v};
    detail::with_schedule(call, [&](auto how) { how.template forward<T>(call, io.q, own, state, s.by_backend); });
    if (io.sinks.data) detail::apply_sinks<A>(ctx.queue, io.on, io.sinks, state.out, state.lse);
    out.finish(ctx.queue);
    return s;
  }

  template <class T, class Queue, class G>
  void run_backward(prepared const& p, context<Queue> const& ctx, saved<T> const& s,
                    detail::backward_io<T, G, memory_type> const& io) const {
    using A = accumulate_t<T>;
    auto const& g = p.geometry;
    owned<A, 2, memory_type> delta(*ctx.scratch, {g.q_rows, io.on.q_count}); // (tokens, q heads)
    detail::row_delta<T>(ctx.queue, io.out, io.dout, delta.tensor);
    detail::accumulator<T, 3, memory_type> dq(*ctx.scratch, io.dq);
    detail::accumulator<G, 3, memory_type> dk(*ctx.scratch, io.dk), dv(*ctx.scratch, io.dv);
    bool add = io.extras.accumulate;
    query_grad<T, memory_type> queries{io.q, io.out, io.dout, s.lse.tensor, delta.tensor, dq.begin(ctx.queue, add)};
    key_grad<T, memory_type> keys{io.k, io.v, dk.begin(ctx.queue, add), dv.begin(ctx.queue, add)};
    auto const call = call_of(g, ctx, io.on, io.q.extent(2));
    detail::with_schedule(call, [&](auto how) { how.template backward<T>(call, queries, keys, s.by_backend); });
    if (io.extras.sinks.data)
      detail::sink_gradient<A>(ctx.queue, io.on, io.extras.sinks, s.lse.tensor, delta.tensor, io.extras.dsinks);
    dq.finish(ctx.queue);
    dk.finish(ctx.queue);
    dv.finish(ctx.queue);
  }

  // for check levels 2 and 3
  template <class F>
  void each_group(F&& f) const {
    f(comm_);
  }
  int sequence_rank() const { return comm_.rank(); }
  void describe(fingerprint& f, prepared const& p, index_t dim, random_key key) const {
    f.word("schedule", p.geometry.how, detail::ring_schedules::names);
    detail::describe_options(f, options_, backend_, dim, key);
  }
  template <class T, class F>
  void each_lse(saved<T> const& s, F&& f) const {
    f(s.lse.tensor);
  }

  template <class T>
  index_t saved_for(prepared const& p, heads on, attention_shape const&) const {
    basic_byte_counter<memory_type> c;
    owned<accumulate_t<T>, 2, memory_type> lse(c, {p.geometry.q_rows, on.q_count});
    return c.bytes();
  }

  template <class T, class Queue = std::conditional_t<std::is_same_v<memory_type, host_memory>, inline_queue,
                                                      detail::some_queue<memory_type>>>
    requires(std::same_as<typename Queue::memory_type, memory_type>)
  index_t scratch_for(prepared const& p, heads on, attention_shape const& s, Queue const& queue = {})
  const { return detail::ring_scratch_bytes<T>(comm_, backend_, queue, p.geometry, on, s, options_.head_chunks); }

private:
  template <class Queue>
  detail::ring_call<Comm, Backend, Queue> call_of(detail::ring_geometry<Backend> const& g, context<Queue> const& ctx, heads on,
                                                  index_t dim) const {
    return {comm_, backend_, g, ctx, {on, detail::scale_of(options_, dim), ctx.random}, options_.head_chunks};
  }

  /// What the option means here, whether it can be done or not. One rank has nobody to meet: every schedule is one step over its keys.
  schedule wanted_schedule() const {
    if (comm_.size() == 1) return schedule::rotate;
    bool const pulls = !detail::pull_schedule::missing<Comm, Backend>;
    if (options_.schedule == schedule::automatic) return pulls ? schedule::pull : schedule::rotate;
    return options_.schedule;
  }
  schedule chosen_schedule() const {
    schedule const how = wanted_schedule();
    char const* why = nullptr;
    bool const known = detail::ring_schedules::visit(how, [&](auto s) { why = decltype(s)::template missing<Comm, Backend>; });
    if (!known) fail({errc::unsupported, "there is no schedule number " + std::to_string(int(how)), "Name one of sp::schedule"});
    if (why) fail({errc::unsupported, why, "Use schedule::rotate or schedule::cast"});
    return how;
  }

  Comm comm_;
  Backend backend_;
  attention_options options_;
  std::uint64_t kernel_identity_;
};

template <class Comm, class Backend>
ring_attention(Comm, Backend, attention_options = {}) -> ring_attention<Comm, Backend>;

// That it models inner_attention is asserted in tests/attention/test_concepts.cpp: asked here, it would cost everybody who includes it.

} // namespace sp
