// What a consumer of sp::nccl writes in a source of the host: the version found, and a rank over its communicator and stream.
// Where there is no device, the failure says so in the words of the runtime; either way it ends with 0.
#include <sp/nccl.hpp>

#include <cstdio>
#include <cstring>

int main() {
  int version = 0;
  cudaStream_t stream = nullptr;
  ncclComm_t comm = nullptr;
  try {
    sp::detail::nccl_check(ncclGetVersion(&version), "ncclGetVersion");
    std::printf("NCCL %s\n", sp::detail::nccl_version_text(version).c_str());
    sp::detail::cuda_check(cudaStreamCreate(&stream), "cudaStreamCreate", "main");
    sp::detail::nccl_check(ncclCommInitAll(&comm, 1, nullptr), "ncclCommInitAll");
    {
      sp::nccl const ranks{comm, sp::cuda_queue(stream), {.deadline = std::chrono::minutes(1)}};
      ranks.poll();
      std::printf("rank %d of %d\n", ranks.rank(), ranks.size());
    }
    sp::detail::nccl_check(ncclCommDestroy(comm), "ncclCommDestroy");
  } catch (sp::error const& e) {
    std::printf("%s\n", e.what());
    return std::strstr(e.what(), "backend_error in main: cudaStreamCreate: cuda") ? 0 : 1;
  }
  return cudaStreamDestroy(stream) == cudaSuccess ? 0 : 1;
}
