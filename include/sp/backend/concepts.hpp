// What sp asks of an attention kernel, in three strengths: any list of rows and keys, one block, or a whole document without lse.
// The first is used as it is; the others are wrapped (blockwise.hpp, whole.hpp), so that attention objects see one interface.
#pragma once

#include <concepts>
#include <span>
#include <vector>

#include <sp/core/dtype.hpp>
#include <sp/core/table.hpp>
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

namespace detail {

/// Stands for the queues of memory M that kernels are given.
template <class M>
struct some_queue {
  using memory_type = M;
  static constexpr bool finished_on_return = std::is_same_v<M, host_memory>;
  struct event {};
  template <std::size_t Rank, class Body>
  void for_each(std::array<index_t, Rank> const&, Body const&) const;
  template <class Term, class Store>
  void sums(index_t, index_t, Term const&, Store const&) const;
  void copy(std::span<piece const>, std::span<piece const>) const;
  void upload(std::byte*, std::span<std::byte const>) const;
  event record() const;
  void wait(event) const;
  some_queue lane() const;
  void synchronize() const;
};

/// The calls of a backend with some more arguments behind those that all have: a queue, or none.
template <class B, class T, class... Where>
concept computes_tables = requires(B const b, typename B::plan const plan, basic_allocator<typename B::memory_type>& scratch,
                                   call_params const& n, view<T const, 3, typename B::memory_type> q,
                                   std::span<kv_views<T, typename B::memory_type> const> keys,
                                   attention_state<T, typename B::memory_type> state,
                                   std::span<query_grad<T, typename B::memory_type> const> dq,
                                   std::span<key_grad<T, typename B::memory_type> const> dk, typename B::saved const& saved,
                                   Where const&... where) {
  { b.template forward<T>(plan, scratch, n, q, keys, state, where...) } -> std::same_as<typename B::saved>;
  b.template backward<T>(plan, scratch, n, dq, dk, saved, where...);
};

} // namespace detail

/// A backend whose calls may be told where to run, by a queue as their last argument; without one they run on the caller's thread.
/// Results are the same bits; only the scratch that a call takes may depend on the queue.
template <class B, class T, class Q>
concept takes_queue = queue<Q> && detail::computes_tables<B, T, Q>;

/// A backend that keeps tables in the memory of its queue:
///
///     prepare(problem, context) -> plan   takes them from context.kept and has them uploaded by context.queue
///     refresh(plan, problem, context)     rewrites them for another problem, where they are: a graph that was captured may read them
template <class B, class Q>
concept keeps_tables = queue<Q> && requires(B const b, problem const p, typename B::plan& made, context<Q> const& c) {
  { b.prepare(p, c) } -> std::same_as<typename B::plan>;
  b.refresh(made, p, c);
};
namespace detail {
template <class B>
concept prepares_on_host = requires(B const b, problem const p) {
  { b.prepare(p) } -> std::same_as<typename B::plan>;
};
} // namespace detail

/// A kernel that takes rows as a `problem` lists them. prepare(problem) is called once per step, or with a context (keeps_tables); forward() goes on from `state` with all keys;
/// backward() adds to dq, dk and dv. What forward() returns is handed to backward() untouched. A kernel whose results do not depend on
/// which tensor holds a row gives the same bits for every sharding. One whose sums also depend on where a key stands among keys that are
/// `key_tile` positions of its document apart at most, counted from its begin, says so by a static constexpr member of that name. Its calls
/// are without a queue, on the caller's thread, or take any queue of its memory as last argument, or both.
template <class B, class T>
concept attention_backend = (detail::prepares_on_host<B> || keeps_tables<B, detail::some_queue<typename B::memory_type>>)&&(
    detail::computes_tables<B, T> || takes_queue<B, T, detail::some_queue<typename B::memory_type>>);

namespace detail {
/// A kernel that takes no queue runs on the caller's thread, which is right for queues of the host alone.
template <bool taken, class Q>
constexpr bool require_queue_taken() {
  static_assert(
      taken || runs_on_host<Q>,
      "sp: the work of this context's queue is not done when a call returns, and the kernel takes no queue: give its forward "
      "and backward the queue as last argument.");
  return taken;
}
template <class B, class Context>
inline constexpr bool keeps_tables_in = false;
template <class B, class Q>
inline constexpr bool keeps_tables_in<B, context<Q>> = keeps_tables<B, Q>;

/// A kernel whose plans are made and remade in a context, or without one (no_context). What it does not take it is not given; a plan that
/// it cannot rewrite is made again.
template <class Backend, class Context>
struct planner {
  using plan = typename Backend::plan;
  static constexpr bool in_context = keeps_tables_in<Backend, Context>;
  static_assert(in_context || prepares_on_host<Backend>,
                "sp: this kernel keeps tables in the memory of its queue: prepare with the context of its calls, prepare(batch, "
                "context).");
  Backend const& backend;
  Context const& where;

  [[nodiscard]] plan prepare(problem const& p) const {
    if constexpr (in_context)
      return backend.prepare(p, where);
    else
      return backend.prepare(p);
  }
  void refresh(plan& made, problem const& p) const {
    if constexpr (in_context)
      backend.refresh(made, p, where);
    else if constexpr (requires { backend.refresh(made, p); })
      backend.refresh(made, p);
    else
      made = backend.prepare(p);
  }
};

/// Calls a backend on a queue.
template <class T, class B, class Q, class M, class Keys>
typename B::saved forward_on(Q const& queue, B const& backend, typename B::plan const& plan, basic_allocator<M>& scratch,
                             call_params const& n, view<T const, 3, M> q, Keys keys, attention_state<T, M> state) {
  if constexpr (require_queue_taken<takes_queue<B, T, Q>, Q>())
    return backend.template forward<T>(plan, scratch, n, q, keys, state, queue);
  else
    return backend.template forward<T>(plan, scratch, n, q, keys, state);
}
template <class T, class B, class Q, class M, class Queries, class Keys>
void backward_on(Q const& queue, B const& backend, typename B::plan const& plan, basic_allocator<M>& scratch,
                 call_params const& n, Queries queries, Keys keys, typename B::saved const& saved) {
  if constexpr (require_queue_taken<takes_queue<B, T, Q>, Q>())
    backend.template backward<T>(plan, scratch, n, queries, keys, saved, queue);
  else
    backend.template backward<T>(plan, scratch, n, queries, keys, saved);
}
/// Bytes that either call takes from the allocator at once; a kernel that does not say takes none.
template <class T, class B, class Q>
index_t scratch_on([[maybe_unused]] Q const& queue, [[maybe_unused]] B const& backend, typename B::plan const& plan,
                   heads const& h, index_t dim, index_t value_dim) {
  if constexpr (requires { backend.template scratch_bytes<T>(plan, h, dim, value_dim, queue); })
    return backend.template scratch_bytes<T>(plan, h, dim, value_dim, queue);
  else if constexpr (requires { backend.template scratch_bytes<T>(plan, h, dim, value_dim); })
    return backend.template scratch_bytes<T>(plan, h, dim, value_dim);
  else
    return 0;
}
} // namespace detail

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

namespace detail {
/// What a kernel's forward returns for a call; it may take a queue of its memory as last argument.
template <class K, class Call>
auto returned_by(K const& k, Call const& c) {
  using any = some_queue<typename K::memory_type>;
  if constexpr (requires { k.forward(c); })
    return std::type_identity<decltype(k.forward(c))>{};
  else
    return std::type_identity<decltype(k.forward(c, std::declval<any const&>()))>{};
}
template <class K, class Q, class Call>
concept queued_forward = requires(K const& k, Q const& q, Call const& c) {
  k.forward(c, q);
};
template <class K, class Q, class Grad, class... Saved>
concept queued_backward = requires(K const& k, Q const& q, Grad const& g, Saved const&... saved) {
  k.backward(g, saved..., q);
};
/// forward(call), with or without a queue behind it.
template <class K, class Call>
concept takes_forward = requires(K const& k, Call const& c) {
  k.forward(c);
}
|| queued_forward<K, some_queue<typename K::memory_type>, Call>;
/// backward(grad), or backward(grad, what forward returned), with or without a queue behind it.
template <class K, class Grad, class... Saved>
concept takes_backward = requires(K const& k, Grad const& g, Saved const&... saved) {
  k.backward(g, saved...);
}
|| queued_backward<K, some_queue<typename K::memory_type>, Grad, Saved...>;

/// Calls a kernel's forward with the queue where it takes it.
template <class Q, class K, class Call>
decltype(auto) kernel_forward([[maybe_unused]] Q const& q, K const& k, Call const& c) {
  if constexpr (require_queue_taken<queued_forward<K, Q, Call>, Q>())
    return k.forward(c, q);
  else
    return k.forward(c);
}
template <class Q, class K, class Grad, class... Saved>
void kernel_backward([[maybe_unused]] Q const& q, K const& k, Grad const& g, Saved const&... saved) {
  if constexpr (require_queue_taken<queued_backward<K, Q, Grad, Saved...>, Q>())
    k.backward(g, saved..., q);
  else
    k.backward(g, saved...);
}
} // namespace detail

/// A kernel over one block that returns its lse: what `blockwise{kernel}` turns into a backend. Either call may take a queue of its
/// memory as last argument. Optional: accepts(block).
template <class K, class T>
concept block_kernel = detail::takes_forward<K, block_call<T, typename K::memory_type>> &&
    detail::takes_backward<K, block_grad<T, typename K::memory_type>>;

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
concept whole_kernel = detail::takes_forward<K, whole_call<T, typename K::memory_type>> && !block_kernel<K, T>;

} // namespace sp
