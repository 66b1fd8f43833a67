// The ranks of a training run as threads of this process that share one CUDA device, each with a stream of its own.
// threads/ranks.hpp has the same class over threads that compute by themselves. Compiled by any compiler: it gives a device no work.
#pragma once

#include <cstdlib>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <sp/cuda.hpp>

namespace trainer {

class ranks {
public:
  using communicator = sp::cuda_local;
  static constexpr bool on_device = true;

  ranks(int&, char**&) {
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32",
           0); // before the runtime's first call: streams of a connection wait for each other
    if (cudaError_t const e = cudaGetDeviceCount(&devices_); e != cudaSuccess) {
      why_none_ = std::string(" (cudaGetDeviceCount: ") + cudaGetErrorString(e) + ")";
      devices_ = 0;
    }
  }

  /// Why nothing can be run here; empty: it can.
  std::string missing() const { return devices_ > 0 ? "" : "no CUDA device was found" + why_none_; }
  int most() const { return 4; }
  bool lead() const { return true; }
  int cores() const { return std::max(1, int(std::thread::hardware_concurrency())); }
  static int in_process(int n) { return n; }

  static std::string are() {
    cudaDeviceProp device{};
    sp::detail::cuda_check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties", "sp_trainer");
    return std::string("threads that share one CUDA device, ") + device.name;
  }

  template <class Body>
  auto run(int n, Body const& body) {
    std::vector<std::invoke_result_t<Body const&, communicator const&>> results(static_cast<std::size_t>(n));
    std::vector<stream> const streams(static_cast<std::size_t>(n));
    sp::cuda_local::run(
        n, [&](communicator const& world) { results[std::size_t(world.rank())] = body(world); }, {},
        [&](int rank) { return sp::cuda_queue(streams[std::size_t(rank)].handle, 0); });
    return results;
  }
  int agree(int code) const { return code; }

private:
  /// Of one rank; the library borrows it.
  struct stream {
    cudaStream_t handle = nullptr;
    stream() { sp::detail::cuda_check(cudaStreamCreate(&handle), "cudaStreamCreate", "sp_trainer"); }
    stream(stream const&) = delete;
    ~stream() { static_cast<void>(cudaStreamDestroy(handle)); }
  };

  int devices_ = 0;
  std::string why_none_;
};

} // namespace trainer
