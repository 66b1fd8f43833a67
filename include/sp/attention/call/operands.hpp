// The operands of an attention call as one struct: the heads at hand, views of the tensors, and what is optional.
// Plain views; shapes are checked by argument_checks.hpp, foreign tensors become views in tensors.hpp.
#pragma once

#include <sp/core/dtype.hpp>
#include <sp/core/philox.hpp>
#include <sp/core/view.hpp>
#include <sp/geometry/heads.hpp>

namespace sp {

/// Optional operands, and whether gradients are added to what is there.
template <class T, class M = host_memory>
struct attention_extras {
  view<accumulate_t<T> const, 1, M> sinks{}; ///< (global q heads): attention sinks
  view<accumulate_t<T>, 1, M>
      dsinks{};            ///< (global q heads): this rank's contribution; sum it over ranks like any parameter gradient
  random_key random{};     ///< key of a short-form call; the long form takes it from its context
  bool accumulate = false; ///< add to dq, dk, dv, dsinks instead of overwriting them
};

namespace detail {

/// Operands of one forward call on the heads a rank has at hand.
template <class T, class M = host_memory>
struct forward_io {
  heads on;
  view<T const, 3, M> q, k, v; // (tokens, q heads, dim), (tokens, kv heads, dim), (tokens, kv heads, value dim)
  view<T, 3, M> out;           // (tokens, q heads, value dim)
  view<accumulate_t<T> const, 1, M> sinks{};
};

/// G: element type of dk and dv, T or the type of sums where shares of several ranks are still to be added.
template <class T, class G = T, class M = host_memory>
struct backward_io {
  heads on;
  view<T const, 3, M> q, k, v, out, dout;
  view<T, 3, M> dq;     // (tokens, q heads, dim)
  view<G, 3, M> dk, dv; // (tokens, kv heads, dim), (tokens, kv heads, value dim)
  attention_extras<T, M> extras{};
};

} // namespace detail
} // namespace sp
