// Step 6: several ranks on one GPU. Ranks are threads of this process, each with a stream of its own; a zigzag ring and Ulysses over
// packed documents, forward and backward, by the tensor cores in bf16, against one rank of the host in float64.
//     nvcc -std=c++20 -O2 -arch=native -I include examples/06_cuda.cu -o 06_cuda && ./06_cuda [ranks]
#include "gpu.hpp"

#include <atomic>
#include <cstdlib>
#include <memory>

#include <sp/cuda_flash.hpp>
#include <sp/ulysses.hpp>

namespace {

/// What a trainer does in one layer of one step: works for any attention object and any communicator of devices.
template <class Attention>
int train(char const* name, Attention const& attention, sp::cuda_local const& ranks, sp::batch const& batch,
          gpu::layer const& all) {
  // Where this rank's work runs, and where it takes memory: what it needs during a call, and what forward keeps for backward.
  sp::cuda_queue const& queue = ranks.queue();
  sp::device_pool memory(queue);
  sp::context ctx(queue, memory, memory);
  gpu::rows_of_layer x{batch, all, queue.stream()};

  // Once a step, for all layers: the tables that the kernel reads are uploaded.
  auto prepared = attention.prepare(batch, ctx);

  // These calls return when their work is on the stream. Nothing here waits for the device.
  auto saved = attention.forward(prepared, ctx, x.q.view, x.k.view, x.v.view, x.out.view);
  attention.backward(prepared, ctx, std::move(saved), x.q.view, x.k.view, x.v.view, x.out.view, x.dout.view, x.dq.view, x.dk.view,
                     x.dv.view);

  return gpu::verdict(name, ranks.rank(), ranks.size(), batch, x.differences());
}

} // namespace

int main(int argc, char** argv) try {
  static_cast<void>(setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0)); // or the streams of some ranks wait for those of others
  if (gpu::devices() == 0) return gpu::skipped;
  int const size = argc > 1 ? std::atoi(argv[1]) : 4;

  // Three documents in one stream, 4 query heads on 2 kv heads: nothing needs to divide by anything.
  gpu::layer const all(sp::packed{0, 37, 700, 1000}, 4, 2, 64);
  std::vector<std::unique_ptr<gpu::stream>> streams;
  for (int r = 0; r < size; ++r) streams.push_back(std::make_unique<gpu::stream>());

  std::atomic<int> wrong = 0;
  auto body = [&](sp::cuda_local const& ranks) {
    sp::cuda_flash const kernel;
    // Zigzag gives each rank an early and a late piece of every document; keys and values travel around the ring.
    wrong += train("ring   ", sp::ring_attention{ranks, kernel, {.mask = sp::causal(), .schedule = sp::schedule::rotate}}, ranks,
                   sp::batch{all.docs, sp::zigzag{}, ranks}, all);
    // Tokens are exchanged for heads and back: on one device that is one strided copy.
    wrong += train("ulysses", sp::ulysses_attention{ranks, kernel, {.mask = sp::causal()}}, ranks,
                   sp::batch{all.docs, sp::contiguous{}, ranks}, all);
  };
  sp::cuda_local::run(size, body, {}, [&](int rank) { return sp::cuda_queue(streams[std::size_t(rank)]->handle, 0); });
  return wrong == 0 ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
