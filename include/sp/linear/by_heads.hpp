// Linear attention by heads: not there yet. Each of its calls says so.
// The same member functions as linear_by_state, so that linear_attention treats both alike.
#pragma once

#include <sp/linear/linear_saved.hpp>

namespace sp::detail {

template <class Comm, class Kernel>
class linear_by_heads {
public:
  struct plan {};
  template <class T>
  struct saved {};

  linear_by_heads(Comm const&, Kernel const&, index_t) {}

  /// Integers and tables of one batch.
  template <class Queue>
  void prepare(plan&, batch const&, context<Queue> const&) const {}
  /// `keep`: backward is to follow.
  template <class T, class Queue, int Gates, class M>
  saved<T> forward(plan const&, context<Queue> const&, linear_io<T, Gates, M> const&, bool) const {
    refuse();
  }
  template <class T, class Queue, int Gates, class M>
  void backward(plan const&, context<Queue> const&, saved<T> const&, linear_gradient_io<T, Gates, M> const&) const {
    refuse();
  }
  template <class T, class Queue>
  index_t scratch_bytes(plan const&, linear_shape const&, Queue const&) const {
    return 0;
  }
  template <class T>
  index_t saved_bytes(plan const&, linear_shape const&) const {
    return 0;
  }
  /// Of all ranks together.
  template <class T>
  linear_bytes bytes(plan const&, linear_shape const&) const {
    return {unbounded / 2, 0};
  }

private:
  [[noreturn]] static void refuse() {
    fail({errc::unsupported, "linear attention by heads is not there yet",
          "Use linear_strategy::state, over a sharding whose runs are consecutive tokens: contiguous or zigzag"});
  }
};

} // namespace sp::detail
