// What check levels 2 and 3 know of an attention call: its fingerprint and the search for NaN.
// Level 2 compares fingerprints before any other communication; slack rows may hold anything and are never searched.
#pragma once

#include <sp/attention/call/argument_checks.hpp>
#include <sp/attention/call/checked_geometry.hpp>
#include <sp/attention/call/identity.hpp>
#include <sp/attention/call/options.hpp>
#include <sp/backend/concepts.hpp>
#include <sp/collective/check/agreement.hpp>
#include <sp/core/elementwise.hpp>

namespace sp::detail {

// The words by which a difference between ranks is told.
inline constexpr char const* none_or_given[] = {"none", "given"};
inline constexpr char const* off_or_on[] = {"off", "on"};

/// The operands of a call: forward_io or backward_io. Heads are global.
template <class T, class Io>
void describe_operands(fingerprint& f, Io const& io) {
  f.element<T>("element type").number("q heads", io.on.q_count).number("kv heads", io.on.kv_count);
  f.number("dim", io.q.extent(2)).number("value dim", io.v.extent(2));
}

/// What ring and local attention say of their numbers; dim 0: not known yet.
template <class Backend>
void describe_options(fingerprint& f, attention_options const& o, Backend const& backend, index_t dim, random_key key) {
  if (dim > 0) f.real("scale", scale_of(o, dim));
  f.number("head chunks", o.head_chunks);
  if constexpr (requires { backend.features(); }) f.hash("kernel features", backend.features());
  if constexpr (draws_random_numbers<Backend>)
    if (dim > 0) f.hash("random key", given(digest().add(key.seed).add(key.layer).add(key.step != nullptr)));
}

/// Of a number that is not finite.
template <class T>
std::string spell(T const& x) {
  return is_nan(x) ? "NaN" : is_negative(x) ? "-inf" : "inf";
}

[[noreturn]] inline void fail_non_finite(std::string problem, std::uint64_t call) {
  error_info info{errc::non_finite, std::move(problem),
                  "Find where it comes from: the tensors were searched in the order of the call"};
  info.step = int(call);
  fail(std::move(info));
}

/// Where the last dimension of a tensor holds a number that is not finite, minus infinity aside if it is legal; t counts lines.
template <bool minus_infinity_is_legal, class E, int R, class M>
struct illegal_in_line {
  view<E, R, M> v;
  SP_BOTH first_place operator()(index_t, index_t t) const {
    index_t const n = v.extent(R - 1);
    for (index_t j = 0; j < n; ++j) {
      auto const& x = at(t, j);
      if (!is_finite(x) && !(minus_infinity_is_legal && is_minus_infinity(x))) return {t * n + j};
    }
    return {};
  }
  SP_BOTH E& at(index_t t, index_t j) const {
    if constexpr (R == 1)
      return v(j);
    else if constexpr (R == 2)
      return v(t, j);
    else
      return v(t / v.extent(1), t % v.extent(1), j);
  }
};

/// The first illegal number of a tensor as {place, what it is}; nowhere if there is none. It waits for the queue.
template <bool minus_infinity_is_legal, class Queue, class E, int R, class M>
std::pair<index_t, std::string> first_illegal(context<Queue> const& ctx, view<E, R, M> const& v) {
  if (v.empty()) return {first_place::nowhere, ""};
  illegal_in_line<minus_infinity_is_legal, E, R, M> const search{v};
  index_t const n = v.extent(R - 1), at = sum_now(ctx.queue, *ctx.scratch, v.elements() / n, search).at;
  if (at == first_place::nowhere) return {at, ""};
  return {at, spell(element_now(ctx.queue, &search.at(at / n, at % n)))};
}

/// Every element of the rows that hold tokens. v (rows, heads, dim).
template <class Queue, class E, class M>
void require_finite(context<Queue> const& ctx, char const* name, view<E, 3, M> const& v, std::vector<real_rows> const& rows,
                    std::uint64_t call) {
  for (real_rows const& r : rows) {
    auto const [at, value] = first_illegal<false>(ctx, v.rows(r.row, r.count));
    if (at == first_place::nowhere) continue;
    index_t const d = at % v.extent(2), h = at / v.extent(2) % v.extent(1), i = at / v.extent(2) / v.extent(1);
    fail_non_finite(std::string(name) + " holds " + value + " at row " + std::to_string(r.row + i) + ", head " +
                        std::to_string(h) + ", channel " + std::to_string(d) + ": " + r.place(i),
                    call);
  }
}

/// -inf is legal in `v`: the lse of a row that sees nothing, a sink that takes nothing.
template <class Queue, class E, int R, class M>
void require_below_infinity(context<Queue> const& ctx, char const* name, view<E, R, M> const& v, std::uint64_t call) {
  auto const [at, value] = first_illegal<true>(ctx, v);
  if (at == first_place::nowhere) return;
  std::string const head = std::to_string(at % v.extent(R - 1));
  fail_non_finite(std::string(name) + " holds " + value +
                      (R == 2 ? " at row " + std::to_string(at / v.extent(R - 1)) + ", head " + head : " at head " + head),
                  call);
}

template <class Queue, class T, class M>
void require_finite_inputs(context<Queue> const& ctx, forward_io<T, M> const& io, checked_geometry const& g, std::uint64_t call) {
  require_finite(ctx, "q", io.q, g.q_rows, call);
  require_finite(ctx, "k", io.k, g.k_rows, call);
  require_finite(ctx, "v", io.v, g.k_rows, call);
  if (io.sinks.data) require_below_infinity(ctx, "sinks", io.sinks, call);
}
template <class Queue, class T, class M>
void require_finite_inputs(context<Queue> const& ctx, backward_io<T, T, M> const& io, checked_geometry const& g,
                           std::uint64_t call) {
  require_finite(ctx, "q", io.q, g.q_rows, call);
  require_finite(ctx, "k", io.k, g.k_rows, call);
  require_finite(ctx, "v", io.v, g.k_rows, call);
  require_finite(ctx, "out", io.out, g.q_rows, call);
  require_finite(ctx, "dout", io.dout, g.q_rows, call);
  if (io.extras.sinks.data) require_below_infinity(ctx, "sinks", io.extras.sinks, call);
}
template <class Queue, class T, class M>
void require_finite_results(context<Queue> const& ctx, backward_io<T, T, M> const& io, checked_geometry const& g,
                            std::uint64_t call) {
  require_finite(ctx, "dq", io.dq, g.q_rows, call);
  require_finite(ctx, "dk", io.dk, g.k_rows, call);
  require_finite(ctx, "dv", io.dv, g.k_rows, call);
  auto const [head, value] = first_illegal<false>(ctx, io.extras.dsinks);
  if (head != first_place::nowhere) fail_non_finite("dsinks holds " + value + " at head " + std::to_string(head), call);
}

} // namespace sp::detail
