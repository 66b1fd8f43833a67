// Step 8: the attention of a CUDA trainer like llm.c becomes sequence-parallel: raw pointers, packed QKV (B, T, 3, NH, HS), a stream, an
// ncclComm_t. Two functions keep their place; nothing is copied to take queries, keys and values apart, nor to join their gradients.
//     nvcc -std=c++20 -O2 -arch=native -I include examples/08_packed_qkv.cu -lnccl -o 08_packed_qkv && ./08_packed_qkv
#include "nccl_ranks.hpp"

#include <cuda_bf16.h>

#include <sp/cuda_flash.hpp>
#include <sp/nccl.hpp>

namespace {

using floatX = __nv_bfloat16; // as llm.c calls it

// ---- What changes ---------------------------------------------------------------------------------------------------------------
//
// Before, in llmc/cudnn_att.h:
//
//   void attention_forward_cudnn(floatX* out, float* stats, floatX* inp, int B, int T, int NH, int C, cudaStream_t stream);
//   void attention_backward_cudnn(floatX* dqkvr, floatX* dout, floatX* qkvr, floatX* o, float* stats, int B, int T, int NH, int C,
//                                 cudaStream_t stream);
//
// After, the two functions below: `s`, made once, stands where the stream stood, T is what this rank holds of each sequence, and what
// forward keeps for backward (stats) is in s.saved[l]. The rest of the trainer treats each token alone and stays as it is, but for
// the loader (sp::split), the position embedding (sp::positions), the mean of the loss (sp::gather_loss), and the sum of parameter
// gradients, which is over these ranks too.

/// The sequences of a trainer on one rank; Ranks: sp::nccl, or sp::cuda_local for ranks that are threads.
template <class Ranks>
struct sequence_parallel {
  using attention_type = sp::ring_attention<Ranks, sp::cuda_flash<>>;

  sp::cuda_queue queue; // over the trainer's stream
  sp::device_pool memory{queue};
  sp::context<sp::cuda_queue> ctx{queue, memory, memory};
  sp::batch batch; // B sequences of T tokens: of each an early and a late piece on every rank, equal work under a causal mask
  attention_type attention;
  typename attention_type::prepared prepared = attention.prepare(batch, ctx);
  std::vector<typename attention_type::template saved<sp::bf16>> saved; // of each layer, from forward to backward

  sequence_parallel(Ranks const& ranks, int B, int T, int layers)
      : queue(ranks.queue()), batch(sp::documents::rectangular(B, T), sp::zigzag{}, ranks),
        attention(ranks, sp::cuda_flash{}, {.mask = sp::causal()}), saved(std::size_t(layers)) {}
  int local_T(int B) const { return int(batch.tokens()) / B; }
};

// The trainer's arrays as views; both types are the same two bytes.
sp::bf16* bits(floatX const* x) { return reinterpret_cast<sp::bf16*>(const_cast<floatX*>(x)); }
auto heads_of_qkv(floatX const* qkv, int B, int T, int NH, int C) { // three strided views of it, each (B T, NH, HS)
  return sp::split_qkv(sp::view<sp::bf16, 5, sp::device_memory>(bits(qkv), {B, T, 3, NH, C / NH}));
}
auto heads(floatX const* x, int B, int T, int NH, int C) { // (B T, NH, HS)
  return sp::view<sp::bf16, 3, sp::device_memory>(bits(x), {B * T, NH, C / NH});
}

template <class Ranks>
void attention_forward(sequence_parallel<Ranks>& s, int l, floatX* out, floatX const* qkv, int B, int T, int NH, int C) {
  auto x = heads_of_qkv(qkv, B, T, NH, C);
  s.saved[l] = s.attention.forward(s.prepared, s.ctx, x.q, x.k, x.v, heads(out, B, T, NH, C));
}

template <class Ranks>
void attention_backward(sequence_parallel<Ranks>& s, int l, floatX* dqkv, floatX const* dout, floatX const* qkv,
                        floatX const* out, int B, int T, int NH, int C) {
  auto x = heads_of_qkv(qkv, B, T, NH, C), d = heads_of_qkv(dqkv, B, T, NH, C);
  s.attention.backward(s.prepared, s.ctx, std::move(s.saved[l]), x.q, x.k, x.v, heads(out, B, T, NH, C), heads(dout, B, T, NH, C),
                       d.q, d.k, d.v);
}

// ---- A trainer that calls them: one layer of one step ---------------------------------------------------------------------------

constexpr int B = 2, T = 480, NH = 2, HS = 64, C = NH * HS;

/// A packed tensor of this rank on the host: (B, T, 3, NH, HS).
struct packed_rows {
  sp::batch const& batch;
  std::vector<double> values = std::vector<double>(std::size_t(batch.tokens() * 3 * C), NAN);
  auto views() { return sp::split_qkv(sp::view<double, 5>(values.data(), {B, batch.tokens() / B, 3, NH, HS})); }
};

template <class Ranks>
int train(Ranks const& ranks, gpu::layer const& all) {
  sequence_parallel<Ranks> s(ranks, B, T, 1);
  int const rows = s.local_T(B);

  packed_rows qkv{s.batch}, dqkv{s.batch};
  sp::split(s.batch, all.q.view(), qkv.views().q);
  sp::split(s.batch, all.k.view(), qkv.views().k);
  sp::split(s.batch, all.v.view(), qkv.views().v);
  cudaStream_t const stream = s.queue.stream();
  gpu::device_array const d_qkv(qkv.values, stream), d_dqkv(dqkv.values, stream); // (B, rows, 3, NH, HS)
  auto const out = gpu::device_rows::like(all.out, s.batch, stream), dout = gpu::device_rows::of(all.dout, s.batch, stream);
  auto raw = [](sp::bf16* p) { return reinterpret_cast<floatX*>(p); };

  attention_forward(s, 0, raw(out.memory.data()), raw(d_qkv.data()), B, rows, NH, C);
  attention_backward(s, 0, raw(d_dqkv.data()), raw(dout.memory.data()), raw(d_qkv.data()), raw(out.memory.data()), B, rows, NH,
                     C);

  dqkv.values = d_dqkv.read();
  auto const d = dqkv.views();
  return gpu::verdict("packed QKV", ranks.rank(), ranks.size(), s.batch,
                      {out.difference(s.batch, all.out), gpu::difference(s.batch, all.dq, d.q),
                       gpu::difference(s.batch, all.dk, d.k), gpu::difference(s.batch, all.dv, d.v)});
}

} // namespace

/// With any argument on one device, however many there are.
int main(int argc, char**) try {
  gpu::load_kernels_at_once();
  int const devices = gpu::devices();
  if (devices == 0) return gpu::skipped;
  gpu::layer const all(sp::documents::rectangular(B, T), NH, NH, HS);
  if (devices > 1 && argc == 1) // what llm.c has: a device, a stream and an ncclComm_t for each rank
    return gpu::run_on_devices(0, [&](ncclComm_t comm, cudaStream_t stream) {
      return train(sp::nccl{comm, sp::cuda_queue{stream}}, all);
    });
  gpu::stream const streams[2]; // on one device two ranks that are threads: the functions above do not change
  std::atomic<int> wrong = 0;
  sp::cuda_local::run(
      2, [&](sp::cuda_local const& ranks) { wrong += train(ranks, all); }, {},
      [&](int rank) { return sp::cuda_queue(streams[rank].handle); });
  return wrong == 0 ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
