// A differentiable gather: any (tokens, ...) tensor of a sequence group in stream order on every rank, padding trimmed.
// Its backward is the rank's own rows. Losses, log-probabilities, entropies or hidden states: any function can follow.
#pragma once

#include <sp/collective/check/agreement.hpp>
#include <sp/core/group_place.hpp>
#include <sp/layout/digests.hpp>
#include <sp/layout/route_exchange.hpp>
#include <sp/layout/tokens.hpp>

namespace sp {

/// What a gather_tokens is made with. One value for all ranks.
struct gather_options {
  int checks = 1; ///< 0 and 1: shapes, always. 2, 3: also, ranks compare batches, element types and shapes before each forward
};

/// Borrow the sequence group's communicator; use one object for any number of tensors.
template <class Comm>
class gather_tokens {
  static_assert(communicator<Comm>,
                "sp::gather_tokens: the argument must be a communicator: copyable, with memory_type, rank(), size() and "
                "exchange(traffic); sp::threads, sp::solo or a mesh group is one.");

public:
  /// Who sends what for one batch; made once per step.
  struct prepared {
    route rows;                                ///< of every rank to the caller's stream
    std::uint64_t documents = 0, sharding = 0; ///< digests, from level 2 on
    std::uint64_t batch = 0;                   ///< serial of the batch
    detail::group_place place{};               ///< for which it was made
    std::uint64_t object = 0;                  ///< from level 2 on: which object made it
  };

  explicit gather_tokens(Comm comm, gather_options options = {}) : comm_(std::move(comm)), options_(options) {
    detail::check_level(options_.checks, "gather_tokens", comm_.rank(), comm_.size());
    if (options_.checks > 1) life_ = detail::lifetime::begin();
  }
  Comm const& group() const noexcept { return comm_; }

  /// Local below level 2; from there on all ranks prepare together, which over other memory than the host's takes a context.
  [[nodiscard]] prepared prepare(batch const& b) const {
    if (options_.checks < 2) return prepare_alone(b);
    if constexpr (std::is_same_v<typename Comm::memory_type, host_memory>) {
      pool memory;
      return prepare(b, context(memory, memory));
    } else {
      fail({errc::unsupported, "from check level 2 on ranks compare what they prepare, over memory of a queue",
            "Call prepare(batch, context)", "gather_tokens", comm_.rank(), comm_.size()});
    }
  }
  template <class Queue>
  [[nodiscard]] prepared prepare(batch const& b, context<Queue> const& ctx) const {
    if (options_.checks < 2) return prepare_alone(b);
    prepared p;
    fingerprint f("gather_tokens", ".prepare", comm_.rank());
    auto local = [&] {
      p = prepare_alone(b);
      p.documents = detail::digest_of(b.source()), p.sharding = detail::digest_of(b.layout());
      p.object = id_;
      f.number("check level", options_.checks);
      describe(f, b, p);
    };
    compare(f, ctx, local);
    return p;
  }

  /// local (batch.tokens(), ...) of every rank -> global (stream, ...) in stream order; positions in no document get `value`. Ordered
  /// before all later work of the context's queue when the call returns.
  template <class Queue, class From, class T, int R>
  void forward(batch const& b, prepared const& p, context<Queue> const& ctx, detail::view_on<Queue, From, R> local,
               detail::view_on<Queue, T, R> global, std::type_identity_t<T> value = T{}) const {
    static_assert(detail::require_rows_move<From, T>());
    auto const range = detail::named_work(ctx.queue, "gather_tokens", ".forward");
    auto check = [&] {
      require_made_here(b, p);
      detail::check_global<T, T const, R, typename Queue::memory_type>(b, global, local, "gather_tokens");
    };
    options_.checks > 1 ? compare_forward(b, p, local, ctx, check) : check();
    sp::fill(ctx.queue, global, value);
    sp::exchange_with_everybody(comm_, "gather_tokens", ctx, routed(p.rows, local, global)).wait();
  }
  template <class From, class T, int R>
  void forward(batch const& b, prepared const& p, view<From, R> local, view<T, R> global, allocator& scratch,
               std::type_identity_t<T> value = T{}) const {
    forward(b, p, context(scratch, scratch), local, global, value);
  }

  /// dlocal (batch.tokens(), ...) = own rows of dglobal (stream, ...); slack rows 0. Every rank holds the same dglobal, so nothing is
  /// sent and nothing is scaled; what happens to parameter gradients afterwards is the loss's contract.
  template <class Queue, class From, class T, int R>
  void backward(batch const& b, context<Queue> const& ctx, detail::view_on<Queue, From, R> dglobal,
                detail::view_on<Queue, T, R> dlocal) const {
    sp::split(ctx.queue, b, dglobal, dlocal);
  }
  template <class From, class T, int R>
  void backward(batch const& b, view<From, R> dglobal, view<T, R> dlocal) const {
    sp::split(b, dglobal, dlocal);
  }

  /// The short forms: the batch keeps the plan, and without a context gives the memory.
  template <class Queue, class From, class T, int R>
  void forward(batch const& b, context<Queue> const& ctx, detail::view_on<Queue, From, R> local,
               detail::view_on<Queue, T, R> global, std::type_identity_t<T> value = T{}) const {
    // where prepare is collective, only what this object made: at an equal place in another group a peer would not find it
    auto fits = [&](prepared const& x) { return made_here(b, x) && (options_.checks < 2 || x.object == id_); };
    auto make = [&] { return prepare(b, ctx); };
    auto const p = b.cached<prepared>(fits, make, life_);
    forward(b, *p, ctx, local, global, value);
  }
  template <class From, class T, int R>
  void forward(batch const& b, view<From, R> local, view<T, R> global, std::type_identity_t<T> value = T{}) const {
    forward(b, context(b.memory(), b.memory()), local, global, value);
  }

private:
  bool made_here(batch const& b, prepared const& p) const {
    return p.batch == b.serial() && p.place == detail::group_place::in(comm_);
  }
  /// A plan that was made below level 2 has nothing that a call at level 2 could compare.
  bool has_digests(prepared const& p) const { return options_.checks < 2 || p.sharding != 0; }
  void require_made_here(batch const& b, prepared const& p) const {
    bool const here = made_here(b, p);
    if (here && has_digests(p)) return;
    std::string const whose = here ? "was made at a check level below 2, this object is at " + std::to_string(options_.checks)
                              : p.place.nowhere()     ? "was not made by prepare()"
                              : p.batch != b.serial() ? "belongs to another batch"
                                                      : "was made by " + p.place.text() + " of another group";
    fail({errc::bad_state, "this plan of a gather " + whose,
          "Pass what prepare of an object of the same group and checks made for the same batch", "gather_tokens", comm_.rank(),
          comm_.size()});
  }

  prepared prepare_alone(batch const& b) const {
    detail::group_place const here = detail::group_place::in(comm_), of_batch{b.part(), b.parts()};
    if (of_batch != here)
      fail({errc::invalid_shape, "the batch was made for " + of_batch.text() + ", this is " + here.text() + " of the group",
            "Make the batch over the ranks of the same group", "gather_tokens", comm_.rank(), comm_.size()});
    prepared p;
    p.batch = b.serial(), p.place = here;
    run const all{0, b.source().length(), 1};
    p.rows = route::to_everybody(b.layout(), 0, 1, comm_.size(), comm_.rank(), {&all, 1}, document_map(b.docs(), b.source()));
    return p;
  }

  void describe(fingerprint& f, batch const& b, prepared const& p) const {
    f.hash("documents", p.documents).hash("sharding", p.sharding).hash("tokens", b.token_digest());
  }
  template <class Queue, class Check>
  void compare(fingerprint& f, context<Queue> const& ctx, Check&& check) const {
    located({"gather_tokens", "", comm_.rank(), comm_.size()},
            [&] { detail::check_together(ctx.queue, f, check, [&](fingerprint const& mine) { sp::agree(comm_, mine, ctx); }); });
  }
  template <class T, int R, class M, class Queue, class Check>
  void compare_forward(batch const& b, prepared const& p, view<T, R, M> const& local, context<Queue> const& ctx,
                       Check&& check) const {
    fingerprint f("gather_tokens", ".forward", comm_.rank());
    f.number("check level", options_.checks).element<std::remove_const_t<T>>("element type");
    describe(f, b, p);
    digest row(R);
    for (int d = 1; d < R; ++d) row.add(local.extent(d));
    f.hash("row shape", row.value());
    compare(f, ctx, check);
  }

  Comm comm_;
  gather_options options_;
  std::uint64_t id_ = detail::new_serial(); ///< copies share it
  detail::lifetime life_{};                 ///< from level 2 on, as in attention objects
};

/// All rows of a sharded tensor in stream order on every rank: gather_tokens in one call.
template <communicator Comm, class From, class T, int R>
void gather(Comm const& comm, batch const& b, view<From, R> local, view<T, R> global, std::type_identity_t<T> value = T{}) {
  gather_tokens<Comm>(comm).forward(b, local, global, value);
}

} // namespace sp
