// Every operation of a block, and every type it takes, as nvcc compiles it: the CTest entry cuda.compile.
// On a machine with a device the program also runs: it fails unless all that block_proofs.hpp checks is right there.
#include <cstdio>
#include <vector>

#include "cuda/block_proofs.hpp"

namespace {

using sp::detail::cuda_check;

/// Host values in memory of the device, and back.
template <class T>
class on_device {
public:
  explicit on_device(std::vector<T> const& values) : count_(values.size()) {
    void* p = nullptr;
    cuda_check(cudaMalloc(&p, count_ * sizeof(T)), "cudaMalloc", "block_proofs");
    data_ = static_cast<T*>(p);
    cuda_check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy", "block_proofs");
  }
  on_device(on_device const&) = delete;
  ~on_device() { static_cast<void>(cudaFree(data_)); }
  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> v(count_);
    cuda_check(cudaMemcpy(v.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy", "block_proofs");
    return v;
  }

private:
  T* data_ = nullptr;
  std::size_t count_;
};

bool said(char const* name, bool right) {
  std::printf("%s: %s\n", name, right ? "right" : "WRONG");
  return right;
}

template <class Kernel, class... Argument>
bool holds(char const* name, Argument... arguments) {
  on_device<int> const counts(std::vector<int>(2));
  // more shared memory than a device gives unasked, where any is used
  sp::index_t const bytes = Kernel::shared_bytes > 0 ? Kernel::shared_bytes + 64 * 1024 : 0;
  sp::detail::launch(nullptr, Kernel{{counts.data(), counts.data() + 1}, arguments...}, Kernel::blocks, bytes);
  return said(name, counts.values() == std::vector<int>{static_cast<int>(Kernel::checks), 0});
}

bool totals_hold() {
  using block_proofs::totals;
  on_device<int> const tickets(std::vector<int>(1)), drawn(std::vector<int>(totals::all));
  on_device<float> const sum(std::vector<float>(1));
  on_device<double> const wide(std::vector<double>(1));
  on_device<float> const two(std::vector<float>(2));
  sp::detail::launch(
      nullptr,
      totals{{}, tickets.data(), drawn.data(), sum.data(), wide.data(), reinterpret_cast<sp::detail::two_floats*>(two.data())},
      totals::blocks, 0);
  return said("add_to", tickets.values()[0] == totals::all && drawn.values() == std::vector<int>(totals::all, 1) &&
                            sum.values()[0] == totals::all / 2 && wide.values()[0] == totals::all / 4 &&
                            two.values() == std::vector<float>{totals::all, 3 * totals::all});
}

} // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("skipped: no device");
    return 77;
  }
  std::vector<block_proofs::sixteen> numbers(128);
  for (int i = 0; i < 512; ++i) numbers[static_cast<std::size_t>(i / 4)].x[i % 4] = i;
  on_device<block_proofs::sixteen> const there(numbers);
  bool right = holds<block_proofs::meetings>("barriers and operations of a warp");
  right = holds<block_proofs::copies>("copies", there.data()) && right;
  right = holds<block_proofs::products<sp::bf16>>("products of bf16") && right;
  right = holds<block_proofs::products<sp::fp16>>("products of fp16") && right;
  right = holds<block_proofs::functions>("exp2 and log2") && right;
  right = totals_hold() && right;
  return right ? 0 : 1;
}
