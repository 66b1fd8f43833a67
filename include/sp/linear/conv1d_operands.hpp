// The operands of a causal convolution by name, their shapes, and the calls that take them: one overload for each element type.
// Tensors are (tokens, channels) or (tokens, heads, dim); shapes that do not fit are refused with both numbers.
#pragma once

#include <sp/attention/call/tensors.hpp>
#include <sp/core/context.hpp>
#include <sp/core/footprint.hpp>
#include <sp/core/queue.hpp>
#include <sp/layout/batch.hpp>

namespace sp {

/// (tokens, channels), or (tokens, heads, dim): channel h dim + d is entry d of head h. A view of either, or what attention objects take.
template <class E, class M = host_memory>
class channel_operand {
public:
  constexpr channel_operand() = default;
  template <class F>
    requires std::is_convertible_v<view<F, 2, M>, view<E, 2, M>>
  constexpr channel_operand(view<F, 2, M> const& v)
      : tensor_(view<E, 3, M>(v.data, {v.extent(0), 1, v.extent(1)}, {v.stride(0), 0, v.stride(1)})) {}
  template <class Tensor>
    requires detail::reads_as<Tensor, E, M>
  constexpr channel_operand(Tensor const& t) : tensor_(t) {}

  /// (tokens, heads, dim); bad_pointer if it was not given.
  [[nodiscard]] view<E, 3, M> get(char const* name) const { return tensor_.get(name); }

private:
  operand<E, M> tensor_{};
};

/// Of causal_conv1d::forward and infer. State of a document is what stands before its first token, or at its end: width - 1 rows of x, in
/// order. Every rank gives the same weights, bias and states. Rows of states, one document's after the other's, are equally far apart:
/// stride(0) = (width - 1) stride(1), here as in conv1d_gradients.
template <class T, class M = host_memory>
struct conv1d_operands {
  channel_operand<T const, M> x{};     ///< (tokens, channels)
  view<T const, 2, M> weights{};       ///< (channels, width): the last tap is for the token itself
  view<T const, 1, M> bias{};          ///< optional, (channels)
  channel_operand<T, M> out{};         ///< as x, overwritten; 0 in rows of slack
  view<T const, 3, M> initial_state{}; ///< optional, (documents, width - 1, channels); zeros without
  view<T, 3, M> final_state{};         ///< optional on all ranks alike, (documents, width - 1, channels): all of it on every rank
};

/// Of causal_conv1d::backward: x, weights, bias and initial state of the forward call, and gradients.
template <class T, class M = host_memory>
struct conv1d_gradients {
  using A = accumulate_t<T>;
  channel_operand<T const, M> x{};     ///< (tokens, channels)
  view<T const, 2, M> weights{};       ///< (channels, width)
  view<T const, 1, M> bias{};          ///< optional, (channels)
  channel_operand<T const, M> dout{};  ///< as x
  channel_operand<T, M> dx{};          ///< as x, overwritten: whole; 0 in rows of slack
  view<A, 2, M> dweights{};            ///< optional, (channels, width): this rank's share; its sum over ranks is the gradient
  view<A, 1, M> dbias{};               ///< optional, (channels): a share as well
  view<T const, 3, M> initial_state{}; ///< optional, (documents, width - 1, channels)
  view<A, 3, M> dinitial_state{};      ///< optional, (documents, width - 1, channels): a share as well
  view<A const, 3, M>
      dfinal_state{}; ///< optional on all ranks alike, (documents, width - 1, channels): the sum over ranks counts
};

namespace detail {

/// Tensors of one call as (rows, heads, dim), of one head where heads follow each other in all of them.
template <class T, class M, class... Others>
void join_heads(view<T, 3, M>& v, Others&... others) {
  auto follow = [](auto const& x) { return x.extent(1) == 1 || x.stride(1) == x.extent(2) * x.stride(2); };
  if (!(follow(v) && (follow(others) && ...))) return;
  auto join = [](auto& x) {
    x.extents = {x.extent(0), 1, x.extent(1) * x.extent(2)};
    x.strides[1] = 0;
  };
  join(v), (join(others), ...);
}

/// States (documents, width - 1, channels) that require_state let pass as rows (states, heads, dim) beside tensors of these heads; null
/// stays null.
template <class T, class M, class Like>
view<T, 3, M> state_rows(view<T, 3, M> const& states, Like const& x) {
  if (!states.data) return {};
  view<T, 2, M> const rows = flatten(states); // (states, channels)
  return {rows.data, {rows.extent(0), x.extent(1), x.extent(2)}, {rows.stride(0), x.extent(2) * rows.stride(1), rows.stride(1)}};
}

/// What a call is checked against.
struct conv1d_shape {
  index_t rows = 0, documents = 0, width = 1, channels = 0;
  [[nodiscard]] index_t reach() const noexcept { return width - 1; }

  template <class T, class X, class M>
  static void require_tensor(char const* name, view<T, 3, M> const& v, view<X, 3, M> const& x) {
    if (v.extents != x.extents)
      fail({errc::invalid_shape, std::string(name) + " " + shape(v) + " beside x " + shape(x), "Give tensors of equal extents"});
  }
  template <class T, int R, class M>
  static void require_given(char const* name, view<T, R, M> const& v) {
    if (!v.data && !v.empty())
      fail(
          {errc::bad_pointer, std::string(name) + " " + shape(v) + " is null", "Pass memory for every tensor that is not empty"});
  }
  void require_rows(index_t given) const {
    if (given != rows)
      fail({errc::invalid_shape, "x has " + std::to_string(given) + " rows, this rank owns " + std::to_string(rows),
            "Pass (batch.tokens(), channels) tensors of the batch that was prepared"});
  }
  template <class T, class M>
  void require_weights(char const* name, view<T, 2, M> const& v) const {
    if (v.extent(0) != channels || v.extent(1) != width)
      fail({errc::invalid_shape,
            std::string(name) + " " + shape(v) + " for " + std::to_string(channels) + " channels and a width of " +
                std::to_string(width),
            "Give (channels, width); the width is an option of the object"});
  }
  template <class T, class M>
  void require_bias(char const* name, view<T, 1, M> const& v) const {
    if (v.data && v.extent(0) != channels)
      fail({errc::invalid_shape, std::string(name) + " " + shape(v) + " for " + std::to_string(channels) + " channels",
            "Give one entry per channel"});
  }
  template <class T, class M>
  void require_state(char const* name, view<T, 3, M> const& v) const {
    if (v.data && (v.extent(0) != documents || v.extent(1) != reach() || v.extent(2) != channels))
      fail({errc::invalid_shape,
            std::string(name) + " " + shape(v) + " for " + std::to_string(documents) + " documents, " + std::to_string(reach()) +
                " rows of state and " + std::to_string(channels) + " channels",
            "Give (documents of the batch, width - 1, channels)"});
    if (v.data && documents > 1 && reach() > 1 && v.stride(0) != checked_mul(reach(), v.stride(1)))
      fail({errc::invalid_shape,
            std::string(name) + " " + shape(v) + " has strides of " + std::to_string(v.stride(0)) + " and " +
                std::to_string(v.stride(1)) + ": its rows, one document's after the other's, are not equally far apart",
            "Give states whose stride of documents is width - 1 times that of rows"});
  }
};

/// The calls that take operands by name, for tensors of T: braces carry no type, so there is one of these for each element type.
template <class Object, class T>
class conv1d_calls {
public:
  /// out = activation(bias + sum over taps), and what backward needs, in memory of context.kept. One exchange: rows of the halo, and of
  /// final states where asked for. Ordered before all later work of the context's queue when the call returns.
  template <class Prepared, class Queue = inline_queue>
    requires(!std::is_same_v<Prepared, batch>)
  [[nodiscard]] auto forward(Prepared const& p, context<Queue> const& ctx,
                             conv1d_operands<T, typename Queue::memory_type> const& o) const {
    return object().template run_forward<T>(p, ctx, o);
  }
  /// The short form: the batch keeps the plan and gives the memory.
  [[nodiscard]] auto forward(batch const& b, conv1d_operands<T> const& o) const {
    return object().template run_forward<T>(*object().prepared_for(b), context(b.memory(), b.memory()), o);
  }
  /// Forward that keeps nothing: all its memory is of context.scratch, as much as scratch_bytes says; the halo while it runs.
  template <class Prepared, class Queue = inline_queue>
    requires(!std::is_same_v<Prepared, batch>)
  void infer(Prepared const& p, context<Queue> const& ctx, conv1d_operands<T, typename Queue::memory_type> const& o) const {
    static_cast<void>(object().template run_forward<T>(p, ctx.with(*ctx.scratch, *ctx.scratch), o));
  }
  void infer(batch const& b, conv1d_operands<T> const& o) const {
    static_cast<void>(object().template run_forward<T>(*object().prepared_for(b), context(b.memory(), b.memory()), o));
  }

private:
  conv1d_calls() = default;
  friend Object;
  Object const& object() const { return static_cast<Object const&>(*this); }
};

} // namespace detail
} // namespace sp
