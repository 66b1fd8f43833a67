// What every attention object shares: options, the context of a call, optional operands, and the operands as one struct.
// Numbers that differ per call live here; geometry lives in what prepare() returns.
#pragma once

#include <cmath>

#include <sp/backend/concepts.hpp>
#include <sp/core/guarded.hpp>
#include <sp/layout/batch.hpp>

namespace sp {

/// How keys reach queries in a ring.
enum class schedule {
  automatic, ///< pull where ranks share memory and the kernel keeps nothing from forward, rotate otherwise
  rotate,    ///< keys travel around the ring, the next ones in flight while a block is computed
  gather,    ///< all keys are gathered by groups of heads, their gradients reduce-scattered
  pull,      ///< one pass over everybody's keys where they lie (peer memory)
};

/// What an attention object is made with, besides communicator and kernel. One value for all ranks.
struct attention_options {
  sp::mask mask = causal();
  double scale = 0; ///< softmax scale; 0 means 1 / sqrt(dim)
  sp::schedule schedule = schedule::automatic;
  index_t head_groups = 1; ///< gather: kv heads are gathered in this many groups, each in flight while the one before is computed
  /// 0: none. 1: the arguments of every call, locally. 2: also, prepare, forward and backward begin with a small exchange in
  /// which the ranks compare arguments and options, and throw rank_mismatch together; prepare() becomes collective. 3: also,
  /// inputs and results are searched for NaN and infinities, and scratch and saved memory for writes outside of blocks. One value
  /// for all ranks.
  int checks = 1;
};

/// Where a call takes memory from and the key of its random numbers. One per rank; not shared between threads.
struct context {
  allocator* scratch; ///< given back before the call returns
  allocator* kept;    ///< what `saved` holds until the backward pass
  random_key random{};

  context(allocator& scratch_memory, allocator& saved_memory, random_key key = {})
      : scratch(&scratch_memory), kept(&saved_memory), random(key) {}
};

/// Global shape of the heads, for questions about memory.
struct attention_shape {
  index_t q_heads = 0, kv_heads = 0, dim = 0, value_dim = 0;
};

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

inline double scale_of(attention_options const& o, index_t dim) { return o.scale != 0 ? o.scale : 1.0 / std::sqrt(double(dim)); }

/// Guards `saved`: a token made by one forward call is consumed by one backward call.
class once {
public:
  once() = default;
  explicit once(bool live) : live_(live) {}
  once(once&& o) noexcept : call(o.call), memory(std::move(o.memory)), live_(std::exchange(o.live_, false)) {}
  once& operator=(once&& o) noexcept {
    call = o.call;
    memory = std::move(o.memory);
    live_ = std::exchange(o.live_, false);
    return *this;
  }
  void require() const {
    if (!live_)
      fail({errc::bad_state, "this saved token was used already, moved away, or never made",
            "Pass to backward what forward of the same step returned"});
  }
  void use() {
    require();
    live_ = false;
  }

  std::uint64_t call = 0;   ///< check level 2: the number of the forward call
  guarded::handle memory{}; ///< check level 3: where the saved memory comes from

private:
  bool live_ = false;
};

} // namespace detail
} // namespace sp
