// What a consumer of sp::cuda writes in a source of the host: a queue over its stream, and memory of it.
// Where there is no device, the failure says so in the words of the runtime; either way it ends with 0.
#include <sp/cuda.hpp>

#include <cstdio>
#include <cstring>

static_assert(sp::queue<sp::cuda_queue> && sp::communicator<sp::cuda_local>);

int main() {
  cudaStream_t stream = nullptr;
  try {
    sp::detail::cuda_check(cudaStreamCreate(&stream), "cudaStreamCreate", "main");
    sp::cuda_queue const queue(stream);
    sp::device_pool memory(queue);
    sp::owned<float, 1, sp::device_memory> const x(memory, {1000});
    queue.wait(queue.lane().record());
    queue.synchronize();
    std::printf("device %d: ready\n", queue.device());
  } catch (sp::error const& e) {
    std::printf("%s\n", e.what());
    return std::strstr(e.what(), "backend_error in main: cudaStreamCreate: cuda") ? 0 : 1;
  }
  return cudaStreamDestroy(stream) == cudaSuccess ? 0 : 1;
}
