// Geometry: what a step costs before any kernel runs: layouts, block lists, the route of an exchange, and finding what was prepared.
// Nanoseconds per call over packed documents; no communication.
#include <cstdlib>

#include <benchmark/benchmark.h>

#include <sp/reference.hpp>
#include <sp/ulysses.hpp>

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

void route_of_ulysses(benchmark::State& state) {
  auto docs = packed_documents(state.range(0));
  sp::layout fine(docs, sp::contiguous{}, 8);
  auto coarse = fine.grouped(8, 1);
  sp::mapping const all = sp::identity_map(sp::unbounded);
  for (auto _ : state) benchmark::DoNotOptimize(sp::route::to_everybody(fine, 0, 1, 8, 3, coarse.runs(0), {&all, 1}));
}
BENCHMARK(route_of_ulysses)->Apply(sizes);

/// What a short-form call does before its arguments: it finds the geometry of the batch and compares what that was made of.
void identity_checks_per_call(benchmark::State& state) {
  std::vector<sp::document> spans;
  for (std::int64_t i = 0; i < state.range(0); ++i) spans.push_back({2 * i, 1});
  sp::batch const b(sp::packed({0, 2048}), sp::contiguous{}, sp::solo{});
  sp::ulysses_attention const attention(
      sp::solo{},
      sp::ring_attention(sp::solo{}, sp::reference{}, {.mask = sp::image_spans(spans), .checks = int(state.range(1))}));
  for (auto _ : state) {
    auto const p = attention.prepared_for(b);
    benchmark::DoNotOptimize(attention.saved_bytes<float>(*p, {1, 1, 1, 1}));
  }
}
BENCHMARK(identity_checks_per_call)->ArgNames({"spans", "level"})->ArgsProduct({{0, 1000}, {0, 1}});

} // namespace
