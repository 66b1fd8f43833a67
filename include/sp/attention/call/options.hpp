// What every attention object is made with, and the global shape of its heads.
// Numbers that differ per object live here; those of a call in its context, geometry in what prepare() returns.
#pragma once

#include <sp/core/context.hpp>
#include <sp/core/real.hpp>
#include <sp/geometry/mask.hpp>

namespace sp {

/// How queries and keys meet in a ring.
enum class schedule {
  automatic, ///< pull where ranks share memory and the kernel keeps nothing from forward, rotate otherwise
  rotate,    ///< keys travel around the ring, the next ones in flight while a block is computed
  cast,      ///< each rank is sent the key rows that its queries see, in chunks of heads (head_chunks of them)
  pull,      ///< one pass over everybody's keys where they lie (peer memory)
  pass_q,    ///< keys stay; queries go to those whose keys they see, and partial results come home (few queries: decode)
};

/// What an attention object is made with, besides communicator and kernel. One value for all ranks.
struct attention_options {
  sp::mask mask = causal();
  double scale = 0; ///< softmax scale, of either sign; 0 means 1 / sqrt(dim)
  sp::schedule schedule = schedule::automatic;
  index_t head_chunks = 1; ///< cast, pass_q: heads are sent in this many chunks, each in flight while the one before is computed
  /// 0: none. 1: the arguments of every call, locally. 2: also, prepare, forward and backward begin with a small exchange in
  /// which the ranks compare arguments and options, and throw rank_mismatch together; prepare() becomes collective. 3: also,
  /// inputs and results are searched for NaN and infinities, and scratch and saved memory for writes outside of blocks. One value
  /// for all ranks.
  int checks = 1;
};

/// Global shape of the heads, for questions about memory.
struct attention_shape {
  index_t q_heads = 0, kv_heads = 0, dim = 0, value_dim = 0;
  friend constexpr bool operator==(attention_shape const&, attention_shape const&) = default;
};

namespace detail {
inline double scale_of(attention_options const& o, index_t dim) {
  return o.scale != 0 ? o.scale : 1.0 / detail::sqrt_of(double(dim));
}
} // namespace detail
} // namespace sp
