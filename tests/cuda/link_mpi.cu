// sp::mpi_device over CUDA queues as a trainer has it: compiled by nvcc, linked with the MPI that is installed; CTest entries cuda.mpi.*.
// Where there is a device, two ranks exchange, or an MPI that is not CUDA-aware is refused; without one the program says so.
#include <cstdio>
#include <vector>

#include <sp/collective/reductions.hpp>
#include <sp/cuda.hpp>
#include <sp/mpi.hpp>

namespace {

/// Each rank's six values, every second of which goes to the other rank, and the sum of both ranks' numbers.
int exchange_with_another(sp::mpi_device<sp::cuda_queue> const& ranks, sp::device_pool& memory) {
  auto const& queue = ranks.queue();
  sp::owned<float, 2, sp::device_memory> const x(memory, {3, 4}), y(memory, {3, 2});
  std::vector<float> const values(12, float(ranks.rank()));
  queue.upload(reinterpret_cast<std::byte*>(x.tensor.data), std::as_bytes(std::span(values)));
  sp::piece const out = sp::as_piece(x.tensor.narrow(1, 0, 2)), in = sp::as_piece(y.tensor);
  int const other = (ranks.rank() + 1) % ranks.size();
  sp::parcel const to{other, {&out, 1}}, from{other, {&in, 1}};
  sp::exchange(ranks, sp::traffic{"main", {&to, 1}, {&from, 1}}, queue).wait();
  sp::all_reduce(ranks, sp::view<float, 1, sp::device_memory>(x.tensor.data, {12}), sp::context(queue, memory, memory)).wait();
  std::vector<float> got(6);
  sp::detail::read_now(queue, sp::view<float, 2>(got.data(), {3, 2}), y.tensor);
  return got == std::vector<float>(6, float(other)) ? 0 : 1;
}

// Memory of cudaMalloc: MPI opens it in other processes, which pools refuse. Both calls wait for the device.
void* take(void*, std::size_t bytes, cudaStream_t) {
  void* p = nullptr;
  return cudaMalloc(&p, bytes) == cudaSuccess ? p : nullptr;
}
void give_back(void*, void* p, std::size_t, cudaStream_t) { static_cast<void>(cudaFree(p)); }

} // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int devices = 0, result = 1;
  bool const aware = sp::detail::mpi_takes_device_memory();
  std::printf("%s: %s\n", sp::detail::mpi_library_name().c_str(), aware ? "CUDA-aware" : "not CUDA-aware");
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no device: compiled and linked only\n");
    MPI_Finalize();
    return 0;
  }
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  int const device = rank % devices;
  cudaStream_t stream = nullptr;
  sp::detail::cuda_check(cudaSetDevice(device), "cudaSetDevice", "main");
  sp::detail::cuda_check(cudaStreamCreate(&stream), "cudaStreamCreate", "main");
  try {
    sp::cuda_queue const queue(stream, device);
    sp::detail::cuda_check(cudaSetDevice(0), "cudaSetDevice", "main"); // the queue's is current where it must be
    sp::device_pool memory(queue, sp::device_memory_functions{nullptr, take, give_back});
    sp::mpi_device const ranks{MPI_COMM_WORLD, queue, memory};
    result = exchange_with_another(ranks, memory);
  } catch (sp::error const& e) {
    std::printf("%s\n", e.what());
    result = !aware && e.code() == sp::errc::unsupported ? 0 : 1;
  }
  sp::detail::cuda_check(cudaStreamDestroy(stream), "cudaStreamDestroy", "main");
  MPI_Finalize();
  std::printf(result == 0 ? "good\n" : "WRONG\n");
  return result;
}
