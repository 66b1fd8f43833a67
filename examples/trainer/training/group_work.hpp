// What a rank does together with the others in a training step: attention, the loss, the sum of gradients.
// The model knows no more of ranks than this, and nothing of where their memory is: group_work_on.hpp does it by objects of the library.
#pragma once

#include <span>

#include <sp/batch.hpp>

#include "model/attention.hpp"

namespace trainer {

/// What a rank's attention took.
struct usage {
  index_t bytes = 0;  ///< sent
  index_t memory = 0; ///< the most scratch and kept tensors
};

/// Of one rank, for all steps of a run. All ranks make the same calls in the same order. Numbers are in host memory.
template <class T>
class group_work {
public:
  virtual ~group_work() = default;
  /// Where tokens meet in the step whose rows `batch` names; prepared once for all layers.
  virtual meeting<T> meet(sp::batch const& batch) = 0;
  /// The mean loss over the tokens of all ranks, the same number on each, and its gradients by this rank's losses.
  virtual double loss(std::span<T> losses, std::span<std::int64_t> labels, std::span<T> dlosses) = 0;
  /// Gradients become the sums over all ranks.
  virtual void sum(std::span<T> gradients) = 0;
  [[nodiscard]] virtual usage used() const = 0;
};

} // namespace trainer
