// Attention as the model sees it: a call forward and a call backward for each layer, on tensors of host memory.
// The single place of the model where tokens meet; who computes it, and where, is somebody else's affair.
#pragma once

#include <sp/core/adapt/packed_qkv.hpp>

#include "config.hpp"

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

} // namespace trainer
