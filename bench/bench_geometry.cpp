// Geometry: what a step costs before any kernel runs: layouts, block lists, and the plan of an exchange.
// Nanoseconds per call over packed documents; no communication.
#include <cstdlib>

#include <benchmark/benchmark.h>

#include <sp/attention/heads_exchange.hpp>
#include <sp/batch.hpp>

namespace {

sp::documents packed_documents(std::int64_t count) {
  std::vector<std::int64_t> cu{0};
  for (std::int64_t d = 0; d < count; ++d) cu.push_back(cu.back() + 200 + (d * 7919) % 400);
  return sp::packed(std::span<std::int64_t const>(cu));
}

void sizes(benchmark::internal::Benchmark* b) {
  b->Arg(4);
  if (!std::getenv("SP_BENCH_TINY")) b->Arg(64)->Arg(512);
}

void layout_zigzag(benchmark::State& state) {
  auto docs = packed_documents(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(sp::layout(docs, sp::zigzag{}, 8));
  state.counters["documents"] = double(docs.size());
}
BENCHMARK(layout_zigzag)->Apply(sizes);

void blocks_of_a_ring_step(benchmark::State& state) {
  auto docs = packed_documents(state.range(0));
  sp::layout l(docs, sp::zigzag{}, 8);
  auto mask = sp::slices(sp::causal(), docs, docs);
  auto q = sp::place(l.runs(3)), k = sp::place(l.runs(1));
  std::size_t found = 0;
  for (auto _ : state) {
    auto list = sp::blocks(q, k, mask);
    found = list.size();
    benchmark::DoNotOptimize(list);
  }
  state.counters["blocks"] = double(found);
}
BENCHMARK(blocks_of_a_ring_step)->Apply(sizes);

void ulysses_exchange_plan(benchmark::State& state) {
  auto docs = packed_documents(state.range(0));
  sp::layout fine(docs, sp::contiguous{}, 8);
  auto coarse = fine.grouped(8, 1);
  for (auto _ : state) benchmark::DoNotOptimize(sp::detail::token_exchange(fine, coarse, 3, 0, 1, 8, 0));
}
BENCHMARK(ulysses_exchange_plan)->Apply(sizes);

} // namespace
