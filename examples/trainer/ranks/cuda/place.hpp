// Where ranks on a CUDA device compute: attention, the loss and sums of ranks by the library, products by cuBLAS; the rest of the model on the host.
// host/place.hpp has the same class without a device. Any compiler takes this: work for the device is in group_work.cu, which nvcc compiles.
#pragma once

#include "model/eigen.hpp"

#include "products.hpp"
#include "ranks.hpp"
#include "training/group_work.hpp"
#include "training/plans.hpp"

namespace trainer {

/// Defined in group_work.cu for a model in float and in double.
template <class T>
std::unique_ptr<group_work<T>> group_on_device(sp::cuda_local const& world, plan const& how, settings const& asked);

/// What the ranks of this process share in a run: nothing but the device.
class place {
public:
  place(settings const&, int) {}

  cublas_products products(ranks::communicator const& world) const { return cublas_products(world.queue().stream()); }
  template <class T>
  std::unique_ptr<group_work<T>> group_of(ranks::communicator const& world, plan const& how, settings const& asked) const {
    return group_on_device<T>(world, how, asked);
  }
};

} // namespace trainer
