// The operands of an attention call as one struct: the heads at hand, views of the tensors, and what is optional.
// By position or by name; every tensor is there and has three dimensions, shapes are checked by argument_checks.hpp.
#pragma once

#include <sp/attention/call/tensors.hpp>
#include <sp/core/context.hpp>
#include <sp/core/dtype.hpp>
#include <sp/core/philox.hpp>
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

/// The operands of a forward call by name: attention.forward(batch, {.q = q, .k = k, .v = v, .out = out}).
template <class T, class M = host_memory>
struct forward_operands {
  operand<T const, M> q{};                   ///< (tokens, q heads, dim)
  operand<T const, M> k{};                   ///< (tokens, kv heads, dim)
  operand<T const, M> v{};                   ///< (tokens, kv heads, value dim)
  operand<T, M> out{};                       ///< (tokens, q heads, value dim), overwritten
  view<accumulate_t<T> const, 1, M> sinks{}; ///< optional, (global q heads): attention sinks
  random_key random{};                       ///< key of a short-form call; the long form takes it from its context
};

/// The operands of a backward call by name: tensors of the forward call and dout in, gradients out.
template <class T, class M = host_memory>
struct backward_operands {
  operand<T const, M> q{};                   ///< (tokens, q heads, dim)
  operand<T const, M> k{};                   ///< (tokens, kv heads, dim)
  operand<T const, M> v{};                   ///< (tokens, kv heads, value dim)
  operand<T const, M> out{};                 ///< (tokens, q heads, value dim): what forward wrote
  operand<T const, M> dout{};                ///< (tokens, q heads, value dim)
  operand<T, M> dq{};                        ///< (tokens, q heads, dim)
  operand<T, M> dk{};                        ///< (tokens, kv heads, dim)
  operand<T, M> dv{};                        ///< (tokens, kv heads, value dim)
  view<accumulate_t<T> const, 1, M> sinks{}; ///< optional, (global q heads): those of forward
  view<accumulate_t<T>, 1, M> dsinks{};      ///< with sinks, (global q heads): this rank's contribution
  random_key random{};                       ///< key of a short-form call; the long form takes it from its context
  bool accumulate = false;                   ///< add to dq, dk, dv, dsinks instead of overwriting them
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

template <class T, class M>
void check_heads(view<T, 3, M> const& q, view<T, 3, M> const& k, view<T, 3, M> const& v) {
  if (q.extent(2) <= 0 || v.extent(2) <= 0)
    fail({errc::invalid_shape, "head dimensions of q " + shape(q) + " and v " + shape(v), "dim must be positive"});
  if (k.extent(1) <= 0 || q.extent(1) <= 0 || q.extent(1) % k.extent(1) != 0)
    fail({errc::invalid_shape,
          std::to_string(q.extent(1)) + " query heads are not a multiple of " + std::to_string(k.extent(1)) + " kv heads",
          "Global query heads must be a positive multiple of global kv heads"});
}

template <class T, class M>
forward_io<T, M> read_operands(forward_operands<T, M> const& o) {
  forward_io<T, M> io{{}, o.q.get("q"), o.k.get("k"), o.v.get("v"), o.out.get("out"), o.sinks};
  check_heads(io.q, io.k, io.v);
  io.on = all_heads(io.q.extent(1), io.k.extent(1));
  return io;
}

template <class T, class M>
backward_io<T, T, M> read_operands(backward_operands<T, M> const& o) {
  backward_io<T, T, M> io{{},
                          o.q.get("q"),
                          o.k.get("k"),
                          o.v.get("v"),
                          o.out.get("out"),
                          o.dout.get("dout"),
                          o.dq.get("dq"),
                          o.dk.get("dk"),
                          o.dv.get("dv"),
                          {o.sinks, o.dsinks, o.random, o.accumulate}};
  check_heads(io.q, io.k, io.v);
  io.on = all_heads(io.q.extent(1), io.k.extent(1));
  return io;
}

template <class T, class M, class Q, class K, class V, class O>
forward_operands<T, M> operands_at(Q const& q, K const& k, V const& v, O const& out, attention_extras<T, M> const& e) {
  return {
      operand_of<T const, M>(q), operand_of<T const, M>(k), operand_of<T const, M>(v), operand_of<T, M>(out), e.sinks, e.random};
}
template <class T, class M, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV>
backward_operands<T, M> operands_at(Q const& q, K const& k, V const& v, O const& out, DO const& dout, DQ const& dq, DK const& dk,
                                    DV const& dv, attention_extras<T, M> const& e) {
  return {operand_of<T const, M>(q),
          operand_of<T const, M>(k),
          operand_of<T const, M>(v),
          operand_of<T const, M>(out),
          operand_of<T const, M>(dout),
          operand_of<T, M>(dq),
          operand_of<T, M>(dk),
          operand_of<T, M>(dv),
          e.sinks,
          e.dsinks,
          e.random,
          e.accumulate};
}

/// Stands where no operand fits: with it a call by name that no element type takes says so in one sentence.
struct any_operand {
  constexpr any_operand() = default;
  template <class Anything>
  constexpr any_operand(Anything const&) {}
};
struct any_forward_operands {
  any_operand q{}, k{}, v{}, out{}, sinks{};
  random_key random{};
};
struct any_backward_operands {
  any_operand q{}, k{}, v{}, out{}, dout{}, dq{}, dk{}, dv{}, sinks{}, dsinks{};
  random_key random{};
  bool accumulate = false;
};
/// Any context, but only where no overload takes it as what it is.
struct any_context {
  template <class Queue>
  constexpr any_context(context<Queue> const&) {}
};
/// Accepts what X accepts, but loses to an overload that takes X itself.
template <class X>
struct last_choice {
  constexpr last_choice(X const&) {}
};

} // namespace detail
} // namespace sp
