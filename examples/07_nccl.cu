// Step 7: one rank for each GPU, over NCCL. A ring of two (where the number of ranks is even) around Ulysses groups of the others, packed
// documents, forward and backward, by the tensor cores in bf16, against one rank of the host in float64.
//     nvcc -std=c++20 -O2 -arch=native -I include examples/07_nccl.cu -lnccl -o 07_nccl && ./07_nccl
//     nvcc -std=c++20 -O2 -arch=native -DSP_MPI -ccbin mpicxx -I include examples/07_nccl.cu -lnccl -o 07_nccl && mpirun -n 8 ./07_nccl
#include "nccl_ranks.hpp"

#include <sp/cuda_flash.hpp>
#include <sp/nccl.hpp>
#include <sp/usp.hpp>

namespace {

/// A rank's part of the step: the communicator and the stream are the trainer's, and stay so.
int train(ncclComm_t comm, cudaStream_t stream, gpu::layer const& all) {
  sp::cuda_queue queue(stream);
  sp::nccl ranks{comm, queue};

  // The last axis is the fastest: the ranks of a Ulysses group, which exchange most, are neighbours.
  int const size = ranks.size(), ring = size % 2 == 0 ? 2 : size;
  sp::mesh const mesh{sp::axis::ring{ring}, sp::axis::ulysses{size / ring}};
  // Two statements: of nested braces the front end of nvcc 13 loses a name.
  sp::ring_attention inner{mesh.ring(ranks), sp::cuda_flash{}, {.mask = sp::causal()}};
  sp::ulysses_attention attention{mesh.ulysses(ranks), inner};

  // Zigzag over the ring, and each shard cut once more for the ranks of its Ulysses group.
  sp::batch batch{all.docs, sp::nested{sp::zigzag{}, mesh.extent(sp::axis_kind::ulysses)}, mesh.sequence(ranks)};

  sp::device_pool memory(queue);
  sp::context ctx(queue, memory, memory);
  gpu::rows_of_layer x{batch, all, queue.stream()};
  auto prepared = attention.prepare(batch, ctx);
  auto saved = attention.forward(prepared, ctx, x.q.view, x.k.view, x.v.view, x.out.view);
  attention.backward(prepared, ctx, std::move(saved), x.q.view, x.k.view, x.v.view, x.out.view, x.dout.view, x.dq.view, x.dk.view,
                     x.dv.view);
  return gpu::verdict("usp", ranks.rank(), size, batch, x.differences());
}

} // namespace

int main(int argc, char** argv) {
  gpu::load_kernels_at_once();
  if (gpu::devices() == 0) return gpu::skipped;
  gpu::layer const all(sp::packed{0, 37, 700, 1000}, 8, 2, 64);
  return gpu::run_on_devices(argc > 1 ? std::atoi(argv[1]) : 0,
                             [&](ncclComm_t comm, cudaStream_t stream) { return train(comm, stream, all); });
}
