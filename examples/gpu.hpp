// What the GPU examples share: the answer of one rank in float64, a rank's part of all tensors on its device, a verdict.
// Nothing here belongs to sp: it is what a trainer has. Needs the CUDA runtime and the headers of sp, nothing else.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <vector>

#include <sp/batch.hpp>
#include <sp/cuda.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>

namespace gpu {

inline void check(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}

/// How many devices there are; it is said when there is none. main then returns `skipped`, which test drivers know.
inline int devices() {
  int count = 0;
  cudaError_t const code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count > 0) return count;
  std::printf("skipped: no CUDA device: %s\n", code == cudaSuccess ? "none is visible" : cudaGetErrorString(code));
  return 0;
}
constexpr int skipped = 77;

/// A stream of the trainer's on the device that is current.
struct stream {
  cudaStream_t handle = nullptr;
  stream() { check(cudaStreamCreate(&handle)); }
  stream(stream const&) = delete;
  ~stream() { static_cast<void>(cudaStreamDestroy(handle)); }
};

/// Numbers of the host, (tokens, heads, dim).
struct tensor {
  sp::index_t tokens, heads, dim;
  std::vector<double> values = std::vector<double>(std::size_t(tokens * heads * dim));

  sp::view<double, 3> view() { return {values.data(), {tokens, heads, dim}}; }
  sp::view<double const, 3> view() const { return {values.data(), {tokens, heads, dim}}; }
};
inline tensor random_tensor(sp::index_t tokens, sp::index_t heads, sp::index_t dim, unsigned seed) {
  tensor t{tokens, heads, dim};
  std::mt19937 generator(seed);
  for (double& x : t.values) x = double(sp::bf16(float(generator()) / 2147483648.0f - 1.0f)); // what bf16 can hold
  return t;
}

/// Causal attention over packed documents, all tokens: what goes in, and what comes out on one rank of the host in float64.
struct layer {
  sp::documents docs;
  tensor q, k, v, dout, out = q, dq = q, dk = k, dv = v;

  layer(sp::documents of, sp::index_t q_heads, sp::index_t kv_heads, sp::index_t dim)
      : docs(std::move(of)), q(random_tensor(docs.length(), q_heads, dim, 1)), k(random_tensor(docs.length(), kv_heads, dim, 2)),
        v(random_tensor(docs.length(), kv_heads, dim, 3)), dout(random_tensor(docs.length(), q_heads, dim, 4)) {
    sp::batch one{docs, sp::contiguous{}, sp::solo{}};
    sp::ring_attention attention{sp::solo{}, sp::reference{}, {.mask = sp::causal()}};
    auto saved = attention.forward(one, q.view(), k.view(), v.view(), out.view());
    attention.backward(one, std::move(saved), q.view(), k.view(), v.view(), out.view(), dout.view(), dq.view(), dk.view(),
                       dv.view());
  }
};

/// Elements of bf16 in device memory, taken and given back in the order of a stream.
class device_array {
public:
  device_array(std::size_t elements, cudaStream_t stream) : elements_(elements), stream_(stream) {
    void* p = nullptr;
    check(cudaMallocAsync(&p, elements_ * sizeof(sp::bf16), stream_));
    data_ = static_cast<sp::bf16*>(p);
  }
  device_array(std::vector<double> const& values, cudaStream_t stream) : device_array(values.size(), stream) {
    std::vector<sp::bf16> const here(values.begin(), values.end());
    check(cudaMemcpyAsync(data_, here.data(), elements_ * sizeof(sp::bf16), cudaMemcpyHostToDevice, stream_));
  }
  device_array(device_array const&) = delete;
  ~device_array() { static_cast<void>(cudaFreeAsync(data_, stream_)); }

  sp::bf16* data() const { return data_; }
  /// Waits for the stream.
  std::vector<double> read() const {
    std::vector<sp::bf16> here(elements_);
    check(cudaMemcpyAsync(here.data(), data_, elements_ * sizeof(sp::bf16), cudaMemcpyDeviceToHost, stream_));
    check(cudaStreamSynchronize(stream_));
    return {here.begin(), here.end()};
  }

private:
  sp::bf16* data_ = nullptr;
  std::size_t elements_;
  cudaStream_t stream_;
};

/// How far this rank's rows are from theirs in `all`, as a part of the largest number there; infinite if something is no number.
inline double difference(sp::batch const& batch, tensor const& all, sp::view<double const, 3> mine) {
  tensor expected{batch.tokens(), all.heads, all.dim};
  sp::split(batch, all.view(), expected.view());
  double worst = 0, largest = 0;
  for (double x : all.values) largest = std::max(largest, std::abs(x));
  for (sp::index_t i = 0; i < mine.extent(0); ++i)
    for (sp::index_t h = 0; h < mine.extent(1); ++h)
      for (sp::index_t d = 0; d < mine.extent(2); ++d) {
        double const off = std::abs(mine(i, h, d) - expected.view()(i, h, d));
        worst = std::isnan(off) ? INFINITY : std::max(worst, off);
      }
  return worst / largest;
}

/// Prints how far out, dq, dk and dv of a rank are from those of one rank; returns 0 if they are the same up to rounding, else 1.
inline int verdict(char const* what, int rank, int ranks, sp::batch const& batch, std::array<double, 4> const& far) {
  bool good = true;
  for (double d : far) good = good && d <= 0.01; // bf16 rounds to 0.004 of a number
  std::printf("%s, rank %d of %d, %4d tokens: largest difference out %.1e, dq %.1e, dk %.1e, dv %.1e: %s\n", what, rank, ranks,
              int(batch.tokens()), far[0], far[1], far[2], far[3], good ? "the same up to rounding" : "WRONG");
  return good ? 0 : 1;
}

/// One rank's rows of a tensor on its device, contiguous.
struct device_rows {
  device_array memory;
  sp::view<sp::bf16, 3, sp::device_memory> view; // (tokens, heads, dim)

  /// Copied from all rows of `all`.
  static device_rows of(tensor const& all, sp::batch const& batch, cudaStream_t stream) {
    tensor mine{batch.tokens(), all.heads, all.dim};
    sp::split(batch, all.view(), mine.view());
    return {std::move(mine), stream};
  }
  /// As many, with no number in them.
  static device_rows like(tensor const& all, sp::batch const& batch, cudaStream_t stream) {
    tensor mine{batch.tokens(), all.heads, all.dim};
    for (double& x : mine.values) x = NAN;
    return {std::move(mine), stream};
  }
  /// See gpu::difference(); waits for the stream.
  double difference(sp::batch const& batch, tensor const& all) const {
    std::vector<double> const here = memory.read();
    return gpu::difference(batch, all, {here.data(), view.extents});
  }

private:
  device_rows(tensor mine, cudaStream_t stream)
      : memory(mine.values, stream), view{memory.data(), {mine.tokens, mine.heads, mine.dim}} {}
};

/// One rank's rows of every tensor of a layer, on its device.
struct rows_of_layer {
  sp::batch const& batch;
  layer const& all;
  cudaStream_t stream;
  device_rows q = device_rows::of(all.q, batch, stream), k = device_rows::of(all.k, batch, stream),
              v = device_rows::of(all.v, batch, stream), dout = device_rows::of(all.dout, batch, stream);
  device_rows out = device_rows::like(all.out, batch, stream), dq = device_rows::like(all.dq, batch, stream),
              dk = device_rows::like(all.dk, batch, stream), dv = device_rows::like(all.dv, batch, stream);

  /// Of out, dq, dk and dv.
  std::array<double, 4> differences() const {
    return {out.difference(batch, all.out), dq.difference(batch, all.dq), dk.difference(batch, all.dk),
            dv.difference(batch, all.dv)};
  }
};

} // namespace gpu
