// Memory of the CPU backend: steady state takes nothing but scratch from the given allocator, exactly what scratch_bytes says.
// Every operator new of this program is counted.
#include <doctest/doctest.h>

#include <sp/cpu.hpp>
#include <sp/workers.hpp>

#include "support/allocations.hpp"

namespace test_cpu_memory {
namespace {

template <class Backend>
void check(Backend const& b) {
  sp::index_t n = 300, heads = 2, dim = 16;
  std::vector<float> x(static_cast<std::size_t>(n * heads * dim), 0.5f), sums(x.size()),
      lse(static_cast<std::size_t>(n * heads), 0.f);
  sp::view<float const, 3> in(x.data(), {n, heads, dim});
  sp::view<float, 3> out(sums.data(), {n, heads, dim});
  sp::view<float, 2> rows(lse.data(), {n, heads});
  auto h = sp::all_heads(heads, heads);
  sp::documents docs = sp::packed{0, 100, 300};
  sp::run all{0, n, 1};
  auto plan = b.prepare({sp::place(std::span(&all, 1)), sp::place(std::span(&all, 1)), sp::slices(sp::causal(), docs, docs)});
  sp::kv_views<float> keys{in, in};
  sp::query_grad<float> query_grad{in, in, in, rows, rows, out};
  sp::key_grad<float> key_grad{in, in, out, out};
  auto pass = [&](sp::allocator& memory) {
    auto saved = b.template forward<float>(plan, memory, {h, 1}, in, std::span<sp::kv_views<float> const>(&keys, 1), {out, rows});
    b.template backward<float>(plan, memory, {h, 1}, std::span<sp::query_grad<float> const>(&query_grad, 1),
                               std::span<sp::key_grad<float> const>(&key_grad, 1), saved);
  };
  sp::pool memory;
  pass(memory);
  long const before = support::allocations_of_program;
  pass(memory);
  CHECK(support::allocations_of_program == before);
  CHECK(sp::index_t(memory.peak_bytes()) == b.template scratch_bytes<float>(plan, h, dim, dim));
}

} // namespace

TEST_CASE("cpu: no allocation after the first call, and scratch is what scratch_bytes says") {
  check(sp::cpu{});
  for (int threads : {1, 2, 5}) check(sp::on_queue{sp::workers{threads}, sp::cpu{}});
}

} // namespace test_cpu_memory
