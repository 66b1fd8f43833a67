// A call of cuDNN's attention: its shape, by whose value plans are kept, and the addresses that it works on.
// What an engine must take, and what it may rely on; nothing here needs CUDA.
#pragma once

#include <compare>
#include <concepts>
#include <cstdint>

#include <sp/core/dtype.hpp>
#include <sp/core/queue.hpp>

namespace sp::detail {

inline constexpr char const* sdpa_remedy = "Compute it with sp::cuda_flash";

/// Strides in elements of a tensor (batch, heads, rows, dim) whose last one is 1. All are positive, and multiples of 8.
struct sdpa_strides {
  index_t batch = 0, head = 0, row = 0;
  friend constexpr auto operator<=>(sdpa_strides const&, sdpa_strides const&) = default;
};

/// Tensors of a call that have strides, in the order of their lists.
enum sdpa_tensor : int { sdpa_q, sdpa_k, sdpa_v, sdpa_out, sdpa_dout, sdpa_dq, sdpa_dk, sdpa_dv, sdpa_tensor_count };
inline constexpr int sdpa_forward_tensors = sdpa_out + 1;

/// What a plan is made for. Heads are ordinary grouped-query heads: q head i uses kv head i / (q_heads / kv_heads). A causal call has as
/// many rows as keys, and row i sees keys 0..i.
struct sdpa_shape {
  bool backward = false, causal = false;
  bool ragged = false; ///< lengths and offsets of the sequences are in memory, see sdpa_arguments
  bool deterministic = false;
  bool is_bf16 = false; ///< elements; otherwise fp16
  index_t batch = 0, rows = 0, keys = 0;
  index_t q_heads = 0, kv_heads = 0, dim = 0, value_dim = 0;
  sdpa_strides strides[sdpa_tensor_count]{};
  friend constexpr auto operator<=>(sdpa_shape const&, sdpa_shape const&) = default;
};

/// What one call reads and writes. Element tensors start at multiples of 16 bytes. Ragged: sequence i of tensor t starts offsets[t][i]
/// elements behind it; offsets ascend, and entry `batch` is the end of the last sequence.
struct sdpa_arguments {
  void const* read[sdpa_dout + 1]{};  ///< q, k, v; backward: out and dout
  void* written[sdpa_tensor_count]{}; ///< forward: out; backward: dq, dk, dv
  float* stats = nullptr;             ///< (batch, q_heads, rows), dense: natural logarithm of the sum of exponentials
  std::int32_t const* lengths[2]{};   ///< ragged: rows and keys of each sequence, at least 1
  std::int64_t const* offsets[sdpa_tensor_count]{};
  float scale = 1;
};

/// What computes such calls as work of a queue.
///
///     workspace_bytes(shape, queue)            memory that a call needs beside its tensors; makes the plan
///     run(shape, arguments, scratch, queue)    forward: out and stats of the rows of each sequence over its keys. backward: dq, dk, dv
///                                              from out, dout and stats of the rows over all keys
template <class E, class Q>
concept sdpa_engine = requires(E& e, Q const& q, sdpa_shape const& s, sdpa_arguments const& a, void* scratch) {
  { e.workspace_bytes(s, q) } -> std::same_as<index_t>;
  e.run(s, a, scratch, q);
};

} // namespace sp::detail
