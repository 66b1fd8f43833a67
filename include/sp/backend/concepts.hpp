// What sp asks of an attention kernel, in three strengths: any list of rows and keys, one block, or a whole document without lse.
// The first is used as it is; the others are wrapped (blockwise.hpp, whole.hpp), so that attention objects see one interface.
#pragma once

#include <concepts>
#include <span>
#include <vector>

#include <sp/core/dtype.hpp>
#include <sp/core/memory.hpp>
#include <sp/core/philox.hpp>
#include <sp/core/queue.hpp>
#include <sp/geometry/block.hpp>
#include <sp/geometry/heads.hpp>

namespace sp {

/// Whether two kernels of this type are equal if their features() are, a std::uint64_t. Specialise it behind the class of a kernel with
/// data members: template <> inline constexpr bool sp::equal_by_features<mine> = true; what derives from that may hold more, and answers
/// for itself.
template <class Kernel>
inline constexpr bool equal_by_features = false;

namespace detail {

/// Kernels that can be told to be equal: those without state, and those whose features say it.
template <class Kernel>
concept equal_by_value = std::is_empty_v<Kernel> || equal_by_features<Kernel>;
/// The same number for equal kernels of one type; any other kernel equals only copies of the object that holds it.
template <class Kernel>
std::uint64_t kernel_identity(Kernel const& k, std::uint64_t object) {
  if constexpr (std::is_empty_v<Kernel>)
    return 0;
  else if constexpr (equal_by_value<Kernel>)
    return k.features();
  else
    return object;
}

/// A kernel, or an attention object, whose results depend on the random key.
template <class X>
inline constexpr bool draws_random_numbers = requires {
  requires X::draws_random_numbers;
};

} // namespace detail

/// Who attends to whom in one kernel call: query rows, key rows (in one tensor or several) and a mask. Pure data, made once per step.
/// Key tables are in document order; each placed_run names the tensor of a call that holds its rows.
struct problem {
  std::vector<placed_run> q, k;
  std::vector<slice> mask;
};

/// What a call is told besides geometry and tensors.
struct call_params {
  sp::heads heads;     ///< which global heads the tensors hold
  double scale = 1;    ///< softmax scale
  random_key random{}; ///< seed and layer, for dropout
};

/// Keys and values of one rank.
template <class T, class M = host_memory>
struct kv_views {
  view<T const, 3, M> k; ///< (rows, kv heads, dim)
  view<T const, 3, M> v; ///< (rows, kv heads, value dim)
};

/// Attention over the keys seen so far: the normalised output and its natural-log lse. Together they are the state of an online
/// softmax (m = lse, l = 1, acc = out), so a call can go on from them. (0, -inf) stands for no keys.
template <class T, class M = host_memory>
struct attention_state {
  view<accumulate_t<T>, 3, M> out; ///< (rows, q heads, value dim)
  view<accumulate_t<T>, 2, M> lse; ///< (rows, q heads)
};

/// The query side of a backward pass. out and lse are those over ALL keys; delta = sum over value dim of dout * out.
template <class T, class M = host_memory>
struct query_grad {
  view<T const, 3, M> q;                        ///< (rows, q heads, dim)
  view<T const, 3, M> out, dout;                ///< (rows, q heads, value dim)
  view<accumulate_t<T> const, 2, M> lse, delta; ///< (rows, q heads)
  view<accumulate_t<T>, 3, M> dq;               ///< (rows, q heads, dim), added to; null data: not wanted
};

/// The key side of a backward pass.
template <class T, class M = host_memory>
struct key_grad {
  view<T const, 3, M> k, v;           ///< (rows, kv heads, dim), (rows, kv heads, value dim)
  view<accumulate_t<T>, 3, M> dk, dv; ///< same shapes, added to; null data: not wanted
};

/// What a kernel returns that saves nothing for its backward pass.
struct nothing {};

/// A kernel that takes rows as a `problem` lists them. prepare() is called once per step; forward() goes on from `state` with all keys;
/// backward() adds to dq, dk and dv. What forward() returns is handed to backward() untouched. A kernel whose results do not depend on
/// which tensor holds a row gives the same bits for every sharding. One whose sums also depend on where a key stands among keys that are
/// `key_tile` positions of its document apart at most, counted from its begin, says so by a static constexpr member of that name.
template <class B, class T>
concept attention_backend = requires(B const b, problem p, typename B::plan const plan, allocator& scratch, call_params const& n,
                                     view<T const, 3, typename B::memory_type> q,
                                     std::span<kv_views<T, typename B::memory_type> const> keys,
                                     attention_state<T, typename B::memory_type> state,
                                     std::span<query_grad<T, typename B::memory_type> const> dq,
                                     std::span<key_grad<T, typename B::memory_type> const> dk, typename B::saved const& saved) {
  { b.prepare(p) } -> std::same_as<typename B::plan>;
  { b.template forward<T>(plan, scratch, n, q, keys, state) } -> std::same_as<typename B::saved>;
  b.template backward<T>(plan, scratch, n, dq, dk, saved);
};

/// A backend whose calls may be told where to run, by a queue as their last argument; without one they run on the caller's thread.
/// Results are the same bits; only the scratch that a call takes may depend on the queue.
template <class B, class T, class Q>
concept takes_queue = attention_backend<B, T> && queue<Q> &&
    requires(B const b, typename B::plan const plan, allocator& scratch, call_params const& n, heads const& h, index_t dim,
             view<T const, 3, typename B::memory_type> q, std::span<kv_views<T, typename B::memory_type> const> keys,
             attention_state<T, typename B::memory_type> state, std::span<query_grad<T, typename B::memory_type> const> dq,
             std::span<key_grad<T, typename B::memory_type> const> dk, typename B::saved const& saved, Q const& where) {
  { b.template forward<T>(plan, scratch, n, q, keys, state, where) } -> std::same_as<typename B::saved>;
  b.template backward<T>(plan, scratch, n, dq, dk, saved, where);
  { b.template scratch_bytes<T>(plan, h, dim, dim, where) } -> std::convertible_to<index_t>;
};

/// One block with ordinary grouped-query heads: q head i uses kv head i / (q heads / kv heads).
template <class T, class M = host_memory>
struct block_call {
  block where;     ///< positions, bounds, document
  sp::heads heads; ///< global numbers of the heads below
  double scale = 1;
  random_key random{};
  view<T const, 3, M> q;           ///< (rows, q heads, dim)
  view<T const, 3, M> k;           ///< (keys, kv heads, dim)
  view<T const, 3, M> v;           ///< (keys, kv heads, value dim)
  view<accumulate_t<T>, 3, M> out; ///< (rows, q heads, value dim), to be written: normalised over this block's keys
  view<accumulate_t<T>, 2, M> lse; ///< (rows, q heads), to be written: natural logarithm, -inf for a row that sees nothing
};

/// The gradient of a block_call. out, lse, dout and delta are those of the rows over all keys; dq, dk, dv are to be added to.
template <class T, class M = host_memory>
struct block_grad {
  block where;
  sp::heads heads;
  double scale = 1;
  random_key random{};
  view<T const, 3, M> q, k, v;                  ///< (rows, q heads, dim), (keys, kv heads, dim), (keys, kv heads, value dim)
  view<T const, 3, M> out, dout;                ///< (rows, q heads, value dim)
  view<accumulate_t<T> const, 2, M> lse, delta; ///< (rows, q heads)
  view<accumulate_t<T>, 3, M> dq, dk, dv;       ///< shapes of q, k and v; null data: not wanted
};

/// A kernel over one block that returns its lse: what `blockwise{kernel}` turns into a backend. Optional: accepts(block).
template <class K, class T>
concept block_kernel = requires(K const k, block_call<T, typename K::memory_type> const& c,
                                block_grad<T, typename K::memory_type> const& g) {
  k.forward(c);
  k.backward(g);
};

/// One document in stream order, for kernels that cannot return an lse (plain scaled-dot-product attention).
template <class T, class M = host_memory>
struct whole_call {
  block where; ///< the rows of the document that see a key and the keys they see; its bounds are the mask
  sp::heads heads;
  double scale = 1;
  random_key random{};
  view<T const, 3, M> q{}, k{}, v{}; ///< (rows, q heads, dim), (keys, kv heads, dim), (keys, kv heads, value dim)
  view<T, 3, M> out{};               ///< (rows, q heads, value dim), to be written
};

/// The gradient of a whole_call: saved output and its gradient in, gradients of q, k and v out.
template <class T, class M = host_memory>
struct whole_grad {
  block where;
  sp::heads heads;
  double scale = 1;
  random_key random{};
  view<T const, 3, M> q{}, k{}, v{}; ///< (rows, q heads, dim), (keys, kv heads, dim), (keys, kv heads, value dim)
  view<T const, 3, M> out{}, dout{}; ///< (rows, q heads, value dim)
  view<T, 3, M> dq{}, dk{}, dv{};    ///< shapes of q, k and v, to be written
};

/// A kernel without lse. forward() may return anything; it comes back as the second argument of backward(). Optional: accepts(block).
template <class K, class T>
concept whole_kernel = requires(K const k, whole_call<T, typename K::memory_type> const& c) {
  k.forward(c);
}
&&!block_kernel<K, T>;

} // namespace sp
