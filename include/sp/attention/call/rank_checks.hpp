// What check levels 2 and 3 know of an attention call: its fingerprint and the search for NaN.
// Level 2 compares fingerprints before any other communication; slack rows may hold anything and are never searched.
#pragma once

#include <sp/attention/call/argument_checks.hpp>
#include <sp/attention/call/checked_geometry.hpp>
#include <sp/attention/call/identity.hpp>
#include <sp/attention/call/options.hpp>
#include <sp/backend/concepts.hpp>
#include <sp/collective/check/agreement.hpp>

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
    if (dim > 0) f.hash("random key", given(digest().add(key.seed).add(key.layer)));
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

/// Every element of the rows that hold tokens. v (rows, heads, dim).
template <class E>
void require_finite(char const* name, view<E, 3> const& v, std::vector<real_rows> const& rows, std::uint64_t call) {
  for (real_rows const& r : rows)
    for (index_t i = 0; i < r.count; ++i)
      for (index_t h = 0; h < v.extent(1); ++h)
        for (index_t d = 0; d < v.extent(2); ++d)
          if (auto const& x = v(r.row + i, h, d); !is_finite(x))
            fail_non_finite(std::string(name) + " holds " + spell(x) + " at row " + std::to_string(r.row + i) + ", head " +
                                std::to_string(h) + ", channel " + std::to_string(d) + ": position " +
                                std::to_string(r.position + i * r.stride) + " of the stream, document " +
                                std::to_string(r.document),
                            call);
}

/// -inf is legal in `v`: the lse of a row that sees nothing, a sink that takes nothing.
template <class E, int R>
void require_below_infinity(char const* name, view<E, R> const& v, std::uint64_t call) {
  for (index_t i = 0; i < v.extent(0); ++i)
    for (index_t h = 0; h < (R == 2 ? v.extent(R - 1) : 1); ++h) {
      auto const& x = v.data[i * v.stride(0) + (R == 2 ? h * v.stride(R - 1) : 0)];
      if (is_finite(x) || is_minus_infinity(x)) continue;
      fail_non_finite(
          std::string(name) + " holds " + spell(x) +
              (R == 2 ? " at row " + std::to_string(i) + ", head " + std::to_string(h) : " at head " + std::to_string(i)),
          call);
    }
}

template <class T>
void require_finite_inputs(forward_io<T> const& io, checked_geometry const& g, std::uint64_t call) {
  require_finite("q", io.q, g.q_rows, call);
  require_finite("k", io.k, g.k_rows, call);
  require_finite("v", io.v, g.k_rows, call);
  if (io.sinks.data) require_below_infinity("sinks", io.sinks, call);
}
template <class T>
void require_finite_inputs(backward_io<T> const& io, checked_geometry const& g, std::uint64_t call) {
  require_finite("q", io.q, g.q_rows, call);
  require_finite("k", io.k, g.k_rows, call);
  require_finite("v", io.v, g.k_rows, call);
  require_finite("out", io.out, g.q_rows, call);
  require_finite("dout", io.dout, g.q_rows, call);
  if (io.extras.sinks.data) require_below_infinity("sinks", io.extras.sinks, call);
}
template <class T>
void require_finite_results(backward_io<T> const& io, checked_geometry const& g, std::uint64_t call) {
  require_finite("dq", io.dq, g.q_rows, call);
  require_finite("dk", io.dk, g.k_rows, call);
  require_finite("dv", io.dv, g.k_rows, call);
  for (index_t h = 0; h < io.extras.dsinks.extent(0); ++h)
    if (auto const& x = io.extras.dsinks(h); !is_finite(x))
      fail_non_finite("dsinks holds " + spell(x) + " at head " + std::to_string(h), call);
}

} // namespace sp::detail
