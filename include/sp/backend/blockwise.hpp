// blockwise{kernel}: a backend from a kernel that knows one block and ordinary GQA heads; blockwise{kernel, second} has two.
// A block the kernel does not accept is cut into full and square causal ones; what is still refused goes to `second` or fails.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>

#include <sp/backend/block_calls.hpp>
#include <sp/backend/merge.hpp>
#include <sp/core/digest.hpp>

namespace sp {

namespace detail {

/// Stands for "there is no second backend".
struct no_second {
  struct plan {};
  using extra = nothing;
};

template <class K, class T>
concept computes_block = requires(K const k, block_call<T, typename K::memory_type> const& c) {
  k.forward(c);
};

template <class K, class T>
using kept_of = decltype(std::declval<K const&>().forward(std::declval<block_call<T, typename K::memory_type> const&>()));

/// What the kernel's forward returns, whatever type of tensor it takes; void if there is none.
template <class K>
auto kept_type() {
  if constexpr (computes_block<K, float>)
    return std::type_identity<kept_of<K, float>>{};
  else if constexpr (computes_block<K, bf16>)
    return std::type_identity<kept_of<K, bf16>>{};
  else if constexpr (computes_block<K, fp16>)
    return std::type_identity<kept_of<K, fp16>>{};
  else if constexpr (computes_block<K, double>)
    return std::type_identity<kept_of<K, double>>{};
  else
    return std::type_identity<void>{};
}
template <class K>
using kept_by = typename decltype(kept_type<K>())::type;

template <class K, class T, class Kept>
concept takes_kept = requires(K const k, block_grad<T, typename K::memory_type> const& g, Kept const& kept) {
  k.backward(g, kept);
};
template <class K, class T>
concept differentiates_block = requires(K const k, block_grad<T, typename K::memory_type> const& g) {
  k.backward(g);
}
|| takes_kept<K, T, std::conditional_t<std::is_void_v<kept_by<K>>, nothing, kept_by<K>>>;

/// A block as a problem of its own, for a backend over tables.
inline problem as_problem(block const& b) {
  run q{b.q_pos, b.rows, b.q_stride}, k{b.k_pos, b.keys, b.k_stride};
  slice s{q.begin, q.end(), k.begin, k.end(), b.lo, b.hi, b.document, b.id, b.q_origin, b.k_origin};
  return {{{q, b.q_part, b.q}}, {{k, b.k_part, b.k}}, {s}};
}

} // namespace detail

/// An attention_backend over a block_kernel. Results of blocks are merged in the accumulate type, in the order of the blocks.
/// What the kernel's forward returns, if not void, is kept for each of its calls and handed to its backward as a second argument.
template <class Kernel, class Second = detail::no_second>
class blockwise {
  static_assert(
      requires { typename Kernel::memory_type; }, "sp::blockwise: the kernel does not say where its tensors live; add `using "
                                                  "memory_type = sp::host_memory;` (or sp::device_memory) to it");
  static_assert(
      detail::computes_block<Kernel, float> || detail::computes_block<Kernel, bf16> || detail::computes_block<Kernel, fp16> ||
          detail::computes_block<Kernel, double>,
      "sp::blockwise: the kernel has no `forward(sp::block_call<T> const&) const`; a kernel that cannot return its lse goes "
      "directly into sp::ulysses_attention");
  static_assert(
      detail::differentiates_block<Kernel, float> || detail::differentiates_block<Kernel, bf16> ||
          detail::differentiates_block<Kernel, fp16> || detail::differentiates_block<Kernel, double>,
      "sp::blockwise: the kernel has no `backward(sp::block_grad<T> const&) const`; add it (throw in it if you only infer)");

  static constexpr bool has_second = !std::same_as<Second, detail::no_second>;
  static constexpr bool keeps = !std::is_void_v<detail::kept_by<Kernel>>;
  using kept = std::conditional_t<keeps, detail::kept_by<Kernel>, nothing>;

public:
  using memory_type = typename Kernel::memory_type;

  struct plan {
    std::vector<block> blocks;                 ///< what the kernel computes
    std::vector<typename Second::plan> others; ///< one per block that goes to the second backend
    index_t rows = 0;                          ///< of the largest block
  };
  struct kept_calls {
    std::vector<kept> calls;
    std::vector<typename Second::extra> others;
  };
  /// `nothing` where no kernel keeps anything: then a schedule may run backward over another problem than forward's (pull).
  static constexpr bool keeps_any = keeps || !std::same_as<typename Second::extra, nothing>;
  using extra = std::conditional_t<keeps_any, kept_calls, nothing>;

  constexpr explicit blockwise(Kernel kernel) : kernel_(std::move(kernel)) {}
  constexpr blockwise(Kernel kernel, Second second) : kernel_(std::move(kernel)), second_(std::move(second)) {}

  Kernel const& kernel() const { return kernel_; }

  /// Passes on what the kernels have to say about a call's (global) heads, if anything.
  void check(heads whole) const {
    if constexpr (requires { kernel_.check(whole); }) kernel_.check(whole);
    if constexpr (requires { second_.check(whole); }) second_.check(whole);
  }

  /// What ranks compare at check level 2, if the kernel says it: its features, and whether the random key counts.
  std::uint64_t features() const {
    digest both;
    if constexpr (requires { kernel_.features(); }) both.add(kernel_.features());
    if constexpr (requires { second_.features(); }) both.add(second_.features());
    return both.value();
  }
  static constexpr bool draws_random_numbers = requires { requires Kernel::draws_random_numbers; }
  || requires { requires Second::draws_random_numbers; };

  /// unsupported_mask when neither the kernel nor a second backend takes a block.
  plan prepare(problem const& p) const {
    plan out;
    for_each_block(std::span(p.q), std::span(p.k), std::span(p.mask), [&](block const& b) {
      detail::for_each_piece(
          kernel_, b, [&](block const& piece, bool accepted) { accepted ? out.blocks.push_back(piece) : refused(piece, out); });
    });
    for (block const& b : out.blocks) out.rows = max(out.rows, b.rows);
    return out;
  }

  template <class T>
    requires detail::computes_block<Kernel, T> extra forward(plan const& p, allocator& scratch, call_numbers const& n,
                                                             view<T const, 3, memory_type> q,
                                                             std::span<kv_views<T, memory_type> const> keys,
                                                             fold_state<T, memory_type> state)
  const {
    extra out;
    parts<T> part(scratch, p, state.out.extent(1), state.out.extent(2));
    detail::for_each_call<block_call<T, memory_type>>(p.blocks, n, [&](auto& c, block const& b, gqa_range const& g) {
      auto const& kv = keys[std::size_t(b.k_part)];
      c.q = detail::query_rows(q, b, g);
      c.k = detail::key_rows(kv.k, b, g);
      c.v = detail::key_rows(kv.v, b, g);
      c.out = part.out.tensor.rows(0, b.rows).narrow(1, 0, g.q_count);
      c.lse = part.lse.tensor.rows(0, b.rows).narrow(1, 0, g.q_count);
      if constexpr (keeps)
        out.calls.push_back(kernel_.forward(c));
      else
        kernel_.forward(c);
      merge(fold_state<T, memory_type>{detail::query_rows(state.out, b, g), detail::query_rows(state.lse, b, g)},
            fold_state<T, memory_type>{c.out, c.lse});
    });
    if constexpr (has_second)
      for (auto const& other : p.others) {
        auto back = second_.template forward<T>(other, scratch, n, q, keys, state);
        if constexpr (keeps_any) out.others.push_back(std::move(back));
      }
    return out;
  }

  template <class T>
    requires detail::differentiates_block<Kernel, T>
  void backward(plan const& p, allocator& scratch, call_numbers const& n, std::span<query_grad<T, memory_type> const> queries,
                std::span<key_grad<T, memory_type> const> keys, extra const& x) const {
    std::size_t call = 0;
    detail::for_each_call<block_grad<T, memory_type>>(p.blocks, n, [&](auto& grad, block const& b, gqa_range const& g) {
      auto const& of_q = queries[std::size_t(b.q_part)];
      auto const& of_k = keys[std::size_t(b.k_part)];
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
      if constexpr (detail::takes_kept<Kernel, T, kept>)
        kernel_.backward(grad, x.calls[call++]);
      else
        kernel_.backward(grad);
    });
    if constexpr (has_second)
      for (std::size_t i = 0; i < p.others.size(); ++i)
        second_.template backward<T>(p.others[i], scratch, n, queries, keys, kept_of_other(x, i));
  }

  /// Bytes a call takes from the allocator at once.
  template <class T>
  index_t scratch_bytes(plan const& p, heads const& h, index_t dim, index_t value_dim) const {
    byte_counter count;
    parts<T> part(count, p, h.q_count, value_dim);
    index_t most = 0;
    if constexpr (has_second)
      for (auto const& other : p.others) most = max(most, second_.template scratch_bytes<T>(other, h, dim, value_dim));
    return count.bytes() + most;
  }

private:
  /// The result of one block before it is merged.
  template <class T>
  struct parts {
    owned<accumulate_t<T>, 3> out;
    owned<accumulate_t<T>, 2> lse;
    parts(allocator& a, plan const& p, index_t q_heads, index_t value_dim)
        : out(a, {p.rows, q_heads, value_dim}), lse(a, {p.rows, q_heads}) {}
  };

  void refused(block const& b, plan& out) const {
    if constexpr (has_second)
      out.others.push_back(second_.prepare(detail::as_problem(b)));
    else
      fail({errc::unsupported_mask, "the kernel accepts neither " + detail::describe(b) + " nor its pieces",
            "Pass a second backend for the rest, sp::blockwise{kernel, sp::reference{}}, or a mask that cuts into full and "
            "square causal blocks"});
  }

  static decltype(auto) kept_of_other([[maybe_unused]] extra const& x, [[maybe_unused]] std::size_t i) {
    if constexpr (keeps_any)
      return (x.others[i]);
    else
      return (x); // nothing, as the second backend's own
  }

  Kernel kernel_;
  [[no_unique_address]] Second second_{};
};

} // namespace sp
