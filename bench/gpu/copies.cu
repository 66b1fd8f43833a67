// G3: what packs an exchange and what merges partial results, over a copy of the device of the same bytes; by the clock of the device.
// bench_copies [results.json]: medians of interleaved rounds. Skipped without a device.
#include <sp/backend/merge.hpp>

#include "measure.hpp"

namespace {

using namespace gpu_bench;
using view = sp::view<sp::bf16, 3, device_memory>;

/// Ulysses packs the heads of each peer: (tokens, 16 heads, 128) cut into 8 parts of 2 heads, dense one behind the other.
void pack(results& to, sp::cuda_queue const& queue, sp::device_pool& memory, device_clock const& clock, index_t tokens) {
  index_t const heads = 16, dim = 128, parts = 8;
  tensor<sp::bf16> const from(queue, memory, {tokens, heads, dim}, 1), packed(queue, memory, {tokens, heads, dim}, 2);
  std::vector<sp::piece> strided, dense;
  for (index_t p = 0; p < parts; ++p) {
    strided.push_back(sp::as_piece((*from).narrow(1, p * heads / parts, heads / parts)));
    index_t const elements = tokens * heads / parts * dim;
    dense.push_back(sp::as_piece(view((*packed).data + p * elements, {tokens, heads / parts, dim})));
  }
  std::size_t const bytes = std::size_t((*from).elements()) * sizeof(sp::bf16);
  auto copy = [&] {
    sp::detail::cuda_check(cudaMemcpyAsync((*packed).data, (*from).data, bytes, cudaMemcpyDeviceToDevice, queue.stream()),
                           "cudaMemcpyAsync", "bench");
  };
  int const times = int(std::max<std::size_t>(1, (std::size_t(1) << 30) / bytes));
  auto const t = in_turns({[&] { return clock(times, copy); }, [&] { return clock(times, [&] { queue.copy(dense, strided); }); },
                           [&] { return clock(times, [&] { queue.copy(strided, dense); }); }});
  std::string const size = std::to_string(bytes >> 20) + "_MiB";
  std::vector<double> rate;
  for (double s : t[0]) rate.push_back(2 * double(bytes) / s / 1e9);
  to.add("G3", "device_copy_" + size, spread_of(rate), "GB/s", "", "read and written");
  to.add("G3", "pack_over_copy_" + size, ratio(t[0], t[1]), "", ">= .90");
  to.add("G3", "unpack_over_copy_" + size, ratio(t[0], t[2]), "", ">= .90");
}

/// A merge reads two outputs and writes one, in float: three halves of the bytes that a copy of as many elements moves.
void merge(results& to, sp::cuda_queue const& queue, sp::device_pool& memory, device_clock const& clock, index_t tokens) {
  index_t const heads = 16, dim = 128;
  tensor<float> const a(queue, memory, {tokens, heads, dim}, 1), b(queue, memory, {tokens, heads, dim}, 2);
  tensor<float> const of_a(queue, memory, {tokens, heads, 1}, 3), of_b(queue, memory, {tokens, heads, 1}, 4);
  auto state = [&](tensor<float> const& out, tensor<float> const& lse) {
    return sp::attention_state<sp::bf16, device_memory>{*out, {(*lse).data, {tokens, heads}}};
  };
  std::size_t const bytes = std::size_t((*a).elements()) * sizeof(float);
  auto copy = [&] {
    sp::detail::cuda_check(cudaMemcpyAsync((*a).data, (*b).data, bytes, cudaMemcpyDeviceToDevice, queue.stream()),
                           "cudaMemcpyAsync", "bench");
  };
  auto const t = in_turns({[&] { return clock(4, copy); },
                           [&] { return clock(4, [&] { sp::merge<sp::bf16>(queue, state(a, of_a), state(b, of_b)); }); }});
  spread r = ratio(t[0], t[1]);
  for (double* x : {&r.median, &r.low, &r.high}) *x *= 1.5;
  to.add("G3", "merge_over_copy_of_its_bytes", r, "", ">= .90");
}

} // namespace

int main(int argc, char** argv) {
  return program("copies", argc, argv, [](results& to) {
    cudaStream_t stream = nullptr;
    sp::detail::cuda_check(cudaStreamCreate(&stream), "cudaStreamCreate", "bench");
    {
      sp::cuda_queue const queue(stream, 0);
      sp::device_pool memory(queue);
      device_clock const clock(stream);
      for (index_t tokens : {1024, 65536}) pack(to, queue, memory, clock, tokens);
      merge(to, queue, memory, clock, 32768);
      queue.synchronize();
    }
    sp::detail::cuda_check(cudaStreamDestroy(stream), "cudaStreamDestroy", "bench");
  });
}
