// What sp asks of a kernel of linear attention: a run of tokens of one document is an affine map of the state, S -> M S + B.
// Objects, schedules and tests know the form of M and four calls (reduce, forward and the transposes of both), no recurrence.
#pragma once

#include <array>
#include <concepts>

#include <sp/backend/concepts.hpp>
#include <sp/core/context.hpp>

namespace sp {

/// What M is: nothing, a number, a number for each row of the state, or a matrix (key dim, key dim); one for each value head.
enum class map_form { identity, scalar, diagonal, dense };

/// Numbers of M for each value head.
[[nodiscard]] constexpr index_t map_width(map_form form, index_t key_dim) {
  switch (form) {
  case map_form::identity:
    return 0;
  case map_form::scalar:
    return 1;
  case map_form::diagonal:
    return key_dim;
  case map_form::dense:
    break;
  }
  return checked_mul(key_dim, key_dim);
}

/// The extents of a segment: a run of consecutive tokens of one document.
/// Value heads are a multiple of key heads; value head h uses key head h / (value heads / key heads).
struct linear_shape {
  index_t rows = 0, k_heads = 0, v_heads = 0, key_dim = 0, value_dim = 0;
  friend bool operator==(linear_shape const&, linear_shape const&) = default;
};

/// The tokens of one segment, in order. Gates of a kernel are tensors of their own, in the type of sums.
template <class T, int Gates, class M = host_memory>
struct linear_call {
  using gate_views = std::array<view<accumulate_t<T> const, 3, M>, std::size_t(Gates)>;
  view<T const, 3, M> q, k; ///< (rows, key heads, key dim)
  view<T const, 3, M> v;    ///< (rows, value heads, value dim)
  gate_views gates{};       ///< (rows, value heads, width of the gate) each

  [[nodiscard]] constexpr linear_shape shape() const { return {q.extent(0), q.extent(1), v.extent(1), q.extent(2), v.extent(2)}; }
};

/// The map of a segment, to be written.
template <class T, class M = host_memory>
struct linear_map {
  view<accumulate_t<T>, 2, M> m; ///< (value heads, map_width); null data: not wanted
  view<accumulate_t<T>, 3, M> b; ///< (value heads, key dim, value dim); null data: not wanted
};

/// The gradient of a segment: of the outputs and of the state that leaves it, to all that went in. Those of rows are added to.
template <class T, int Gates, class M = host_memory>
struct linear_grad {
  using A = accumulate_t<T>;
  using gate_views = std::array<view<A, 3, M>, std::size_t(Gates)>;
  view<T const, 3, M> dout{};   ///< (rows, value heads, value dim)
  view<A const, 3, M> dleaving; ///< (value heads, key dim, value dim), of the state behind the last row; null data: zero
  view<A, 3, M> dq{}, dk{};     ///< (rows, key heads, key dim), added to; null data: not wanted
  view<A, 3, M> dv{};           ///< (rows, value heads, value dim), added to; null data: not wanted
  gate_views dgates{};          ///< shapes of the gates, added to; null data: not wanted
  view<A, 3, M>
      dentering{}; ///< (value heads, key dim, value dim), of the state before the first row, written; null data: not wanted
};

/// What a kernel K keeps of a forward call for its backward pass.
template <class K, class T>
using linear_saved_t = typename K::template saved<T>;

/// The operands of K's forward call.
template <class K, class T>
using linear_call_t = linear_call<T, int(K::gates), typename K::memory_type>;
/// Those of its backward call.
template <class K, class T>
using linear_grad_t = linear_grad<T, int(K::gates), typename K::memory_type>;

/// A kernel of linear attention. S is the state (value heads, key dim, value dim), in the type of sums; null data stands for zeros.
///
///     form, gates                            static constexpr: of M, and how many gate tensors a call has
///     gate_width(gate, key dim)              static: the last extent of that gate; 1 for a number per value head
///     reduce(call, map, context)             M and B, so that the segment takes S to M S + B; B is what it makes of zeros. Either view
///                                            may be null, or both, as where M is the identity; it does not look at q
///     saved<T>                               what forward keeps for backward: default-constructible and movable, for objects make those
///                                            of all segments before the first call
///     forward(call, S, out, leaving, context) -> saved
///                                            out (rows, value heads, value dim) and, unless null, the state behind the last row
///     backward(call, S, saved, grad, context)
///     backward_reduce(call, dout, e, context)
///                                            the gradient of S from dout alone, with none from the state that leaves: the transposed
///                                            map of gradients is dS = M^T dleaving + e. v and out are not needed for it
///     saved_bytes(shape)                     what `saved` takes from context.kept
///     scratch_bytes(shape, queue)            the most that a call takes from context.scratch
///     features()                             optional: a digest of what numbers depend on, equal on all ranks; compared from level 2 on
///
/// The rows of a segment may be cut anywhere: outputs, states and gradients are those of the whole, up to rounding. A row's outputs
/// depend on no later row, to the last bit. A segment may have no rows, as a document without a token has: what leaves it is what enters.
template <class K, class T>
concept linear_kernel = requires {
  typename K::memory_type;
  typename linear_saved_t<K, T>;
  requires std::default_initializable<linear_saved_t<K, T>> && std::movable<linear_saved_t<K, T>>;
  { K::form } -> std::convertible_to<map_form>;
  { K::gates } -> std::convertible_to<int>;
  { K::gate_width(0, index_t{}) } -> std::same_as<index_t>;
}
&&requires(K const kernel, linear_call_t<K, T> const& call, view<accumulate_t<T> const, 3, typename K::memory_type> entering,
           view<T, 3, typename K::memory_type> out, view<accumulate_t<T>, 3, typename K::memory_type> leaving,
           linear_map<T, typename K::memory_type> const& map, linear_saved_t<K, T> const& saved, linear_grad_t<K, T> const& grad,
           context<detail::some_queue<typename K::memory_type>> const& where, linear_shape const& shape) {
  kernel.template reduce<T>(call, map, where);
  { kernel.template forward<T>(call, entering, out, leaving, where) } -> std::same_as<linear_saved_t<K, T>>;
  kernel.template backward<T>(call, entering, saved, grad, where);
  kernel.template backward_reduce<T>(call, grad.dout, leaving, where);
  { kernel.template saved_bytes<T>(shape) } -> std::same_as<index_t>;
  { kernel.template scratch_bytes<T>(shape, where.queue) } -> std::same_as<index_t>;
};

/// A kernel that need not keep anything to compute outputs. Without it, what forward keeps for nobody is in scratch while it runs.
///
///     infer(call, S, out, leaving, context)  the outputs of forward and the state behind the last row, to the last bit; it takes nothing
///                                            from context.kept, and from context.scratch no more than scratch_bytes says
template <class K, class T>
concept has_infer = linear_kernel<K, T> &&
    requires(K const kernel, linear_call_t<K, T> const& call, view<accumulate_t<T> const, 3, typename K::memory_type> entering,
             view<T, 3, typename K::memory_type> out, view<accumulate_t<T>, 3, typename K::memory_type> leaving,
             context<detail::some_queue<typename K::memory_type>> const& where) {
  kernel.template infer<T>(call, entering, out, leaving, where);
};

} // namespace sp
