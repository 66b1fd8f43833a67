// Gated delta nets as the model sees them: a convolution and the delta rule over the tokens of all ranks, on tensors of host memory.
// A layer makes two calls and keeps its tensors as they are from forward to backward.
#pragma once

#include <sp/core/view.hpp>

#include "config.hpp"

namespace trainer {

/// This rank's rows of what the delta rule takes, or of their gradients.
template <class T>
struct delta_rows {
  sp::view<T, 3> q, k;    ///< (tokens, key heads, key dim)
  sp::view<T, 3> v;       ///< (tokens, value heads, value dim)
  sp::view<T, 3> g, beta; ///< (tokens, value heads, 1): log of the decay, strength of writing
};

/// Of all layers of a step. Each forward call is followed by one backward call at most.
template <class T>
class delta_net {
public:
  virtual ~delta_net() = default;
  /// out (tokens, channels) = silu of the causal convolution of x with weights (channels, taps), within documents.
  virtual void convolve(index_t layer, sp::view<T, 2> x, sp::view<T, 2> weights, sp::view<T, 2> out) = 0;
  /// dx and dweights are written; of dweights this is the share of this rank.
  virtual void convolve_backward(index_t layer, sp::view<T, 2> dout, sp::view<T, 2> dx, sp::view<T, 2> dweights) = 0;
  /// out (tokens, value heads, value dim) of the delta rule, q and k normalised and scaled within.
  virtual void recur(index_t layer, delta_rows<T> const& x, sp::view<T, 3> out) = 0;
  virtual void recur_backward(index_t layer, sp::view<T, 3> dout, delta_rows<T> const& gradient) = 0;
};

} // namespace trainer
