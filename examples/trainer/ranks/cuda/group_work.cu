// The one source of the trainer that gives a CUDA device work: attention, the loss and sums of ranks, of a model in float and in double.
// Everything else is the trainer's as it is.
#include "ranks/cuda/device_place.hpp"
#include "training/group_work_on.hpp"

namespace trainer {

template <class T>
std::unique_ptr<group_work<T>> group_on_device(sp::cuda_local const& world, plan const& how, settings const& asked) {
  if constexpr (std::is_same_v<T, float>)
    if (asked.kernel == device_kernel::flash)
      return std::make_unique<group_work_on<float, sp::bf16, device_place>>(how, asked.model, world);
  return std::make_unique<group_work_on<T, T, device_place>>(how, asked.model, world);
}

template std::unique_ptr<group_work<float>> group_on_device(sp::cuda_local const&, plan const&, settings const&);
template std::unique_ptr<group_work<double>> group_on_device(sp::cuda_local const&, plan const&, settings const&);

} // namespace trainer
