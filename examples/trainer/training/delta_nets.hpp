// The gated delta nets of a run, whatever computes them.
// Apart from their objects, because group_work_on.hpp is compiled for devices, too, which have no kernel for them.
#pragma once

#include <memory>

#include <sp/batch.hpp>

#include "model/delta_net.hpp"

namespace trainer {

template <class T>
class delta_nets {
public:
  virtual ~delta_nets() = default;
  /// Of the step whose rows `batch` names; prepared once for all layers.
  virtual std::unique_ptr<delta_net<T>> prepare(sp::batch const& batch) = 0;
};

} // namespace trainer
