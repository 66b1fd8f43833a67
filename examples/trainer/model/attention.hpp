// Where tokens meet, as the model sees it: attention and, beside it, gated delta nets, each forward and backward for each layer.
// On tensors of host memory; who computes it, and where, is somebody else's affair.
#pragma once

#include <memory>

#include <sp/core/adapt/packed_qkv.hpp>

#include "model/delta_net.hpp"

namespace trainer {

/// Attention over the tokens of all ranks, as a layer sees it: q (tokens, q heads, dim), k and v (tokens, kv heads, dim),
/// out (tokens, q heads, dim), all of them this rank's rows.
template <class T>
class attention {
public:
  virtual ~attention() = default;
  /// The tensors stay as they are until backward() of the same layer.
  virtual void forward(index_t layer, sp::qkv_views<T> qkv, sp::view<T, 3> out) = 0;
  /// Writes the gradients of the layer's forward call; each is followed by one backward.
  virtual void backward(index_t layer, sp::view<T, 3> dout, sp::qkv_views<T> gradient) = 0;
};

/// All of it in one step.
template <class T>
struct meeting {
  std::unique_ptr<attention<T>> softmax{};
  std::unique_ptr<delta_net<T>> delta{}; ///< nothing where the model has no such layers
};

} // namespace trainer
