// blockwise{kernel}: a backend from a kernel that knows one block and ordinary GQA heads; or of two, blockwise{kernel, fallback}.
// A block the kernel does not accept is cut into full and square causal ones; what is still refused goes to `fallback` or fails.
#pragma once

#include <string>
#include <type_traits>

#include <sp/backend/block_calls.hpp>
#include <sp/backend/merge.hpp>
#include <sp/core/digest.hpp>

namespace sp {

namespace detail {

/// Stands for "there is no fallback".
struct no_fallback {
  struct plan {};
  using saved = nothing;
};

template <class K, class T>
concept has_block_forward = takes_forward<K, block_call<T, typename K::memory_type>>;

template <class K, class T>
using forward_result =
    decltype(returned_by(std::declval<K const&>(), std::declval<block_call<T, typename K::memory_type> const&>()));

/// What the kernel's forward returns, whatever type of tensor it takes; void if there is none.
template <class K>
auto find_forward_result() {
  if constexpr (has_block_forward<K, float>)
    return forward_result<K, float>{};
  else if constexpr (has_block_forward<K, bf16>)
    return forward_result<K, bf16>{};
  else if constexpr (has_block_forward<K, fp16>)
    return forward_result<K, fp16>{};
  else if constexpr (has_block_forward<K, double>)
    return forward_result<K, double>{};
  else
    return std::type_identity<void>{};
}
template <class K>
using forward_result_of = typename decltype(find_forward_result<K>())::type;

template <class K, class T, class Saved>
concept backward_takes_saved = takes_backward<K, block_grad<T, typename K::memory_type>, Saved>;
template <class K, class T>
concept has_block_backward = takes_backward<K, block_grad<T, typename K::memory_type>> ||
    backward_takes_saved<K, T, std::conditional_t<std::is_void_v<forward_result_of<K>>, nothing, forward_result_of<K>>>;

/// A block as a problem of its own, for the fallback.
inline problem as_problem(block const& b) {
  run q{b.q_pos, b.rows, b.q_stride}, k{b.k_pos, b.keys, b.k_stride};
  slice s{q.begin, q.end(), k.begin, k.end(), b.lo, b.hi, b.document, b.id, b.q_origin, b.k_origin, b.q_pos};
  return {{{q, b.q_tensor, b.q}}, {{k, b.k_tensor, b.k}}, {s}};
}

} // namespace detail

/// An attention_backend over a block_kernel. Results of blocks are merged in the accumulate type, in the order of the blocks. Its calls
/// take a queue as last argument, on which they merge and which the kernel gets if it takes one; without, all is on the caller's thread.
/// What the kernel's forward returns, if not void, is saved for each of its calls and handed to its backward as a second argument.
template <class Kernel, class Fallback = detail::no_fallback>
class blockwise {
  static_assert(
      requires { typename Kernel::memory_type; }, "sp::blockwise: the kernel does not say where its tensors live; add `using "
                                                  "memory_type = sp::host_memory;` (or sp::device_memory) to it");
  static_assert(
      detail::has_block_forward<Kernel, float> || detail::has_block_forward<Kernel, bf16> ||
          detail::has_block_forward<Kernel, fp16> || detail::has_block_forward<Kernel, double>,
      "sp::blockwise: the kernel has no `forward(sp::block_call<T> const&) const`; a kernel that cannot return its lse goes "
      "directly into sp::ulysses_attention");
  static_assert(
      detail::has_block_backward<Kernel, float> || detail::has_block_backward<Kernel, bf16> ||
          detail::has_block_backward<Kernel, fp16> || detail::has_block_backward<Kernel, double>,
      "sp::blockwise: the kernel has no `backward(sp::block_grad<T> const&) const`; add it (throw in it if you only infer)");

  static constexpr bool has_fallback = !std::same_as<Fallback, detail::no_fallback>;
  static constexpr bool saves = !std::is_void_v<detail::forward_result_of<Kernel>>;
  using saved_call = std::conditional_t<saves, detail::forward_result_of<Kernel>, nothing>;

public:
  using memory_type = typename Kernel::memory_type;

  struct plan {
    std::vector<block> blocks;                      ///< what the kernel computes
    std::vector<typename Fallback::plan> fallbacks; ///< one per block that the kernel refuses
    index_t rows = 0;                               ///< of the largest block
  };
  struct saved_calls {
    std::vector<saved_call> calls;
    std::vector<typename Fallback::saved> fallbacks;
  };
  /// `nothing` where no kernel saves anything: then a schedule may run backward over another problem than forward's (pull).
  static constexpr bool saves_any = saves || !std::same_as<typename Fallback::saved, nothing>;
  using saved = std::conditional_t<saves_any, saved_calls, nothing>;

  constexpr explicit blockwise(Kernel kernel) : kernel_(std::move(kernel)) {}
  constexpr blockwise(Kernel kernel, Fallback fallback) : kernel_(std::move(kernel)), fallback_(std::move(fallback)) {}

  Kernel const& kernel() const { return kernel_; }

  /// Passes on what the kernels have to say about a call's (global) heads, if anything.
  void check(heads whole) const {
    if constexpr (requires { kernel_.check(whole); }) kernel_.check(whole);
    if constexpr (requires { fallback_.check(whole); }) fallback_.check(whole);
  }

  /// What ranks compare at check level 2, if the kernel says it: its features, and whether the random key counts.
  std::uint64_t features() const {
    digest both;
    if constexpr (requires { kernel_.features(); }) both.add(kernel_.features());
    if constexpr (requires { fallback_.features(); }) both.add(fallback_.features());
    return both.value();
  }
  static constexpr bool draws_random_numbers = detail::draws_random_numbers<Kernel> || detail::draws_random_numbers<Fallback>;
  static constexpr bool needs_alignment = requires { requires Kernel::needs_alignment; }
  || requires { requires Fallback::needs_alignment; };

  /// unsupported_mask when neither the kernel nor the fallback takes a block.
  [[nodiscard]] plan prepare(problem const& p) const {
    plan out;
    refresh(out, p);
    return out;
  }
  /// The plan of another problem, in the memory of a plan that is not needed any more.
  void refresh(plan& out, problem const& p) const {
    out.blocks.clear();
    out.fallbacks.clear();
    out.rows = 0;
    for_each_block(std::span(p.q), std::span(p.k), std::span(p.mask), [&](block const& b) {
      detail::for_each_piece(
          kernel_, b, [&](block const& piece, bool accepted) { accepted ? out.blocks.push_back(piece) : refused(piece, out); });
    });
    for (block const& b : out.blocks) out.rows = max(out.rows, b.rows);
  }

  template <class T, queue Queue = inline_queue>
    requires(detail::has_block_forward<Kernel, T>&& std::same_as<typename Queue::memory_type, memory_type>)
  saved forward(plan const& p, basic_allocator<memory_type>& scratch, call_params const& n, view<T const, 3, memory_type> q,
                std::span<kv_views<T, memory_type> const> keys, attention_state<T, memory_type> state, Queue const& queue = {})
  const {
    saved out;
    partial_result<T> partial(scratch, p, state.out.extent(1), state.out.extent(2));
    detail::for_each_call<block_call<T, memory_type>>(p.blocks, n, [&](auto& c, block const& b, gqa_range const& g) {
      auto const& kv = keys[std::size_t(b.k_tensor)];
      c.q = detail::query_rows(q, b, g);
      c.k = detail::key_rows(kv.k, b, g);
      c.v = detail::key_rows(kv.v, b, g);
      c.out = partial.out.tensor.rows(0, b.rows).narrow(1, 0, g.q_count);
      c.lse = partial.lse.tensor.rows(0, b.rows).narrow(1, 0, g.q_count);
      if constexpr (saves)
        out.calls.push_back(detail::kernel_forward(queue, kernel_, c));
      else
        detail::kernel_forward(queue, kernel_, c);
      sp::merge<T>(queue, {detail::query_rows(state.out, b, g), detail::query_rows(state.lse, b, g)}, {c.out, c.lse});
    });
    if constexpr (has_fallback)
      for (auto const& other : p.fallbacks) {
        auto back = detail::forward_on<T>(queue, fallback_, other, scratch, n, q, keys, state);
        if constexpr (saves_any) out.fallbacks.push_back(std::move(back));
      }
    return out;
  }

  template <class T, queue Queue = inline_queue>
    requires(detail::has_block_backward<Kernel, T>&& std::same_as<typename Queue::memory_type, memory_type>)
  void backward(plan const& p, basic_allocator<memory_type>& scratch, call_params const& n,
                std::span<query_grad<T, memory_type> const> queries, std::span<key_grad<T, memory_type> const> keys,
                saved const& x, Queue const& queue = {}) const {
    std::size_t call = 0;
    detail::for_each_call<block_grad<T, memory_type>>(p.blocks, n, [&](auto& grad, block const& b, gqa_range const& g) {
      auto const& of_q = queries[std::size_t(b.q_tensor)];
      auto const& of_k = keys[std::size_t(b.k_tensor)];
      grad.q = detail::query_rows(of_q.q, b, g);
      grad.k = detail::key_rows(of_k.k, b, g);
      grad.v = detail::key_rows(of_k.v, b, g);
      grad.out = detail::query_rows(of_q.out, b, g);
      grad.dout = detail::query_rows(of_q.dout, b, g);
      grad.lse = detail::query_rows(of_q.lse, b, g);
      grad.delta = detail::query_rows(of_q.delta, b, g);
      grad.dq = detail::query_rows(of_q.dq, b, g);
      grad.dk = detail::key_rows(of_k.dk, b, g);
      grad.dv = detail::key_rows(of_k.dv, b, g);
      if constexpr (detail::backward_takes_saved<Kernel, T, saved_call>)
        detail::kernel_backward(queue, kernel_, grad, x.calls[call++]);
      else
        detail::kernel_backward(queue, kernel_, grad);
    });
    if constexpr (has_fallback)
      for (std::size_t i = 0; i < p.fallbacks.size(); ++i)
        detail::backward_on<T>(queue, fallback_, p.fallbacks[i], scratch, n, queries, keys, saved_by_fallback(x, i));
  }

  /// Bytes a call takes from the allocator at once.
  template <class T, class Queue = detail::some_queue<memory_type>>
  index_t scratch_bytes(plan const& p, heads const& h, index_t dim, index_t value_dim,
                        [[maybe_unused]] Queue const& queue = {}) const {
    basic_byte_counter<memory_type> count;
    partial_result<T> partial(count, p, h.q_count, value_dim);
    index_t most = 0;
    if constexpr (has_fallback)
      for (auto const& other : p.fallbacks) most = max(most, detail::scratch_on<T>(queue, fallback_, other, h, dim, value_dim));
    return count.bytes() + most;
  }

private:
  /// The result of one block before it is merged.
  template <class T>
  struct partial_result {
    owned<accumulate_t<T>, 3, memory_type> out;
    owned<accumulate_t<T>, 2, memory_type> lse;
    partial_result(basic_allocator<memory_type>& a, plan const& p, index_t q_heads, index_t value_dim)
        : out(a, {p.rows, q_heads, value_dim}), lse(a, {p.rows, q_heads}) {}
  };

  void refused(block const& b, plan& out) const {
    if constexpr (has_fallback)
      out.fallbacks.push_back(fallback_.prepare(detail::as_problem(b)));
    else
      fail({errc::unsupported_mask, "the kernel accepts neither " + detail::describe(b) + " nor its pieces",
            "Pass a fallback for the rest, sp::blockwise{kernel, sp::reference{}}, or a mask that cuts into full and "
            "square causal blocks"});
  }

  static decltype(auto) saved_by_fallback([[maybe_unused]] saved const& x, [[maybe_unused]] std::size_t i) {
    if constexpr (saves_any)
      return (x.fallbacks[i]);
    else
      return (x); // nothing, as the fallback's own
  }

  Kernel kernel_;
  [[no_unique_address]] Fallback fallback_{};
};

template <class Kernel, class Fallback>
inline constexpr bool equal_by_features<blockwise<Kernel, Fallback>> =
    detail::equal_by_value<Kernel>&& detail::equal_by_value<Fallback>;

} // namespace sp
