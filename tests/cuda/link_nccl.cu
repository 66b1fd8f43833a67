// sp::nccl as a trainer has it: compiled by nvcc, linked with the NCCL that is installed; the CTest entries cuda.nccl.link and .run.
// Where there is a device one rank exchanges with itself and gathers from itself; without one the program says so and is skipped.
#include <cstdio>
#include <vector>

#include <sp/collective/reductions.hpp>
#include <sp/mesh/mesh.hpp>
#include <sp/nccl.hpp>

namespace {

void cuda(cudaError_t code) { sp::detail::cuda_check(code, "a call of the runtime", "main"); }

/// Six values to this rank itself, every second one, and back to the host.
int exchange_with_itself(sp::nccl const& ranks, sp::cuda_queue const& queue) {
  sp::device_pool memory(queue);
  sp::owned<float, 2, sp::device_memory> const x(memory, {3, 4}), y(memory, {3, 2});
  std::vector<float> const values{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  queue.upload(reinterpret_cast<std::byte*>(x.tensor.data), std::as_bytes(std::span(values)));
  sp::piece const out = sp::as_piece(x.tensor.narrow(1, 0, 2)), in = sp::as_piece(y.tensor);
  sp::parcel const to{0, {&out, 1}}, from{0, {&in, 1}};
  sp::exchange(ranks, sp::traffic{"main", {&to, 1}, {&from, 1}}, queue).wait();
  std::vector<float> got(6);
  sp::detail::read_now(queue, sp::view<float, 2>(got.data(), {3, 2}), y.tensor);
  sp::native_sums const sums{ranks};
  static_assert(sp::communicator<sp::native_sums<sp::nccl>> && sp::has_all_reduce<sp::native_sums<sp::nccl>, float>);
  sp::all_reduce(sums, sp::view<float, 1, sp::device_memory>(y.tensor.data, {6}), sp::context(queue, memory, memory)).wait();
  auto const group = sp::mesh{sp::axis::ring{1}}.ring(ranks);
  ranks.poll();
  return got == std::vector<float>{0, 1, 4, 5, 8, 9} && group.size() == 1 ? 0 : 1;
}

} // namespace

int main() {
  int version = 0, devices = 0;
  sp::detail::nccl_check(ncclGetVersion(&version), "ncclGetVersion");
  std::printf("NCCL %s\n", sp::detail::nccl_version_text(version).c_str());
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no device: compiled and linked only\n");
    return 0;
  }
  cudaStream_t stream = nullptr;
  ncclComm_t comm = nullptr;
  cuda(cudaStreamCreate(&stream));
  sp::detail::nccl_check(ncclCommInitAll(&comm, 1, nullptr), "ncclCommInitAll");
  int result = 1;
  {
    sp::cuda_queue const queue(stream, 0);
    result = exchange_with_itself(sp::nccl(comm, queue), queue);
    queue.synchronize();
  }
  sp::detail::nccl_check(ncclCommDestroy(comm), "ncclCommDestroy");
  cuda(cudaStreamDestroy(stream));
  std::printf(result == 0 ? "one rank: good\n" : "one rank: WRONG\n");
  return result;
}
