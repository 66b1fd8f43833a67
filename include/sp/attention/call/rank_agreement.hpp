// Check levels 2 and 3 around an attention call: ranks compare it before it begins, and at level 3 search its tensors and memory.
// A difference, or what one rank refuses, is an error on every rank before anything is sent, and the communicator stays usable.
#pragma once

#include <sp/attention/call/rank_checks.hpp>
#include <sp/core/guarded.hpp>

namespace sp::detail {

/// Levels 2 and 3: `local` checks this rank, `describe` fills in the fingerprint; all ranks go on or all throw. It waits for the queue.
template <class Object, class Queue, class Local, class Describe>
void together(Object const& object, char const* call, context<Queue> const& ctx, Local&& local, Describe&& describe) {
  fingerprint f(Object::name, call, object.sequence_rank());
  f.number("check level", object.checks());
  check_together(
      ctx.queue, f,
      [&] {
        local();
        describe(f);
      },
      [&](fingerprint const& mine) {
        agreement all(mine, ranks_of(object), ctx);
        object.each_group([&](auto const& comm) { all.gather(comm, agreement_primitive); });
        object.each_group([&](auto const& comm) { all.barrier_if_different(comm); });
        all.throw_if_different();
      });
}

/// A context whose blocks, those of ctx.kept if `kept` is given, stand between canaries. The caller's thread writes and reads these: on a
/// queue that works later, or on another memory, blocks have none, and `ctx` is returned as it is.
template <class Queue>
context<Queue> between_canaries(context<Queue> const& ctx, guarded::handle& scratch, guarded::handle* kept) {
  if constexpr (runs_on_host<Queue>) {
    scratch = guarded::handle(*ctx.scratch);
    if (kept) *kept = guarded::handle(*ctx.kept);
    return kept ? ctx.with(*scratch, **kept) : ctx.with(*scratch, *ctx.kept);
  } else {
    return ctx;
  }
}
inline void verify_canaries(guarded::handle const& memory) {
  if (memory) memory->verify();
}

/// The forward call itself between two agreements; `arguments` are the checks of this rank.
template <class Object, class Prepared, class Queue, class T, class Arguments>
auto forward_together(Object const& object, Prepared const& p, context<Queue> const& ctx,
                      forward_io<T, typename Queue::memory_type> const& io, Arguments&& arguments) {
  std::uint64_t const call = p.checked.calls + 1;
  bool const search = object.checks() > 2;
  detail::together(
      object, ".forward", ctx,
      [&] {
        arguments();
        p.checked.require(object.checks());
        if (search) require_finite_inputs(ctx, io, p.checked, call);
      },
      [&](fingerprint& f) {
        f.number("call number", call);
        describe_operands<T>(f, io);
        p.checked.describe(f);
        object.describe(f, p, io.q.extent(2), ctx.random);
        f.word("sinks", io.sinks.data != nullptr, none_or_given);
      });
  p.checked.calls = call; // a call that the ranks refused does not count
  guarded::handle scratch, kept;
  auto s = object.run_forward(p, search ? between_canaries(ctx, scratch, &kept) : ctx, io);
  if (search)
    detail::together(
        object, ".forward.results", ctx,
        [&] {
          verify_canaries(scratch);
          verify_canaries(kept);
          require_finite(ctx, "out", io.out, p.checked.q_rows, call);
          object.each_lse(s, [&](auto const& lse) { require_below_infinity(ctx, "lse", lse, call); });
        },
        [](fingerprint&) {});
  s.token.call = call;
  s.token.memory = std::move(kept);
  return s;
}

/// The same for backward, which `run` computes in the context it is given.
template <class Object, class Prepared, class Queue, class Saved, class T, class Arguments, class Run>
void backward_together(Object const& object, Prepared const& p, context<Queue> const& ctx, Saved const& s,
                       backward_io<T, T, typename Queue::memory_type> const& io, Arguments&& arguments, Run&& run) {
  std::uint64_t const call = p.checked.calls + 1;
  bool const search = object.checks() > 2;
  guarded::handle scratch, kept = s.token.memory;
  detail::together(
      object, ".backward", ctx,
      [&] {
        arguments();
        p.checked.require(object.checks());
        if (!search) return;
        verify_canaries(kept);
        require_finite_inputs(ctx, io, p.checked, call);
        object.each_lse(s, [&](auto const& lse) { require_below_infinity(ctx, "saved lse", lse, call); });
      },
      [&](fingerprint& f) {
        f.number("call number", call).number("number of the forward call", s.token.call);
        describe_operands<T>(f, io);
        p.checked.describe(f);
        object.describe(f, p, io.q.extent(2), ctx.random);
        f.word("sinks", io.extras.sinks.data != nullptr, none_or_given).word("accumulate", io.extras.accumulate, off_or_on);
      });
  p.checked.calls = call;
  if (!search) return run(ctx);
  run(between_canaries(ctx, scratch, nullptr));
  detail::together(
      object, ".backward.results", ctx,
      [&] {
        verify_canaries(scratch);
        verify_canaries(kept);
        require_finite_results(ctx, io, p.checked, call);
      },
      [](fingerprint&) {});
}

} // namespace sp::detail
