// The engine that sp::cudnn computes with: cuDNN's handles and plans behind an interface that costs nothing to include.
// It is made by make_cudnn_engine(), which one source of a program defines: see <sp/cudnn.hpp>.
#pragma once

#include <memory>

#include <cuda_runtime_api.h>

#include <sp/backend/cudnn/call.hpp>

namespace sp {

/// Plans and handles of cuDNN, by shape and device. Make one per process and share it: any number of ranks that are threads may use it
/// at the same time. It outlives the work that it was given. A plan is made by the first call of its shape, which takes 55 to 70 ms: call
/// forward and backward once before a stream is captured.
class cudnn_engine {
public:
  virtual ~cudnn_engine() = default;
  /// How many plans have been made: a number that keeps growing tells of shapes that change with every step, see cudnn_options.
  [[nodiscard]] virtual index_t plans() const = 0;

  template <class Queue>
  index_t workspace_bytes(detail::sdpa_shape const& s, Queue const& queue) {
    return workspace_bytes_on(queue.device(), s);
  }
  template <class Queue>
  void run(detail::sdpa_shape const& s, detail::sdpa_arguments const& a, void* scratch, Queue const& queue) {
    auto const turn = queue.capture_turn();
    run_on(queue.device(), queue.stream(), s, a, scratch);
  }

protected:
  virtual index_t workspace_bytes_on(int device, detail::sdpa_shape const& s) = 0;
  virtual void run_on(int device, cudaStream_t stream, detail::sdpa_shape const& s, detail::sdpa_arguments const& a,
                      void* scratch) = 0;
};

/// unsupported where the library found is older than cuDNN 9.19, whose behaviour sp knows.
[[nodiscard]] std::unique_ptr<cudnn_engine> make_cudnn_engine();

} // namespace sp
