// Kernels of linear attention on one thread: GF/s, and the share of what multiply-adds in registers reach in the same run, by key and
// value dim and by chunk. Times are those of the processor; each call stands between two measurements of the peak, and does not count
// where these differ by more than 5 %. `share` is the median.
// Flops of a token and head with chunks of C, key dim K, value dim V; triangles count half, decays and norms nothing:
//   forward   C (K + V) + 4 K V for decays alone: scores, what they read; what reads the state and what writes it.
//             The delta rule adds C (K + V) + 2 K V: scores of keys, the solve; looking up what the state holds
//   backward  C (3 K + 2 V) + 8 K V and, for the delta rule, C (3 K + 2 V) + 4 K V. Scores are computed once more and count, as they
//             do for attention; states are too, and do not
// SP_BENCH_TINY=1: the smallest size only.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <random>

#include <sp/linear/kernels.hpp>

namespace {

using sp::index_t;

double processor_seconds() {
  std::timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

/// `rounds` multiply-adds in each of as many registers as hide their latency.
template <class A, int... I>
[[gnu::noinline]] A chains(index_t rounds, A factor, A summand, std::integer_sequence<int, I...>) {
  using V = sp::detail::simd<A>;
  V const x(factor), y(summand);
  V sum[] = {V(A(I))...};
  for (index_t i = 0; i < rounds; ++i) ((sum[I] = multiply_add(sum[I], x, y)), ...);
  return (sum[I].sum() + ...);
}

/// GF/s of multiply-adds that wait for nothing, in a millisecond or less.
template <class A>
double peak() {
  constexpr int width = 12;
  constexpr index_t rounds = 200000;
  A const volatile given(A(0.999)); // or one run would do for all; DoNotOptimize(given) makes g++ 12 read what was never written
  A const factor = given;
  double const start = processor_seconds();
  benchmark::DoNotOptimize(chains(rounds, factor, A(0.001), std::make_integer_sequence<int, width>{}));
  return 2e-9 * double(rounds) * width * double(sp::detail::simd<A>::lanes) / (processor_seconds() - start);
}

template <class T>
std::vector<T> random(index_t n, unsigned seed, double from, double to) {
  std::minstd_rand gen(seed);
  std::vector<T> x(static_cast<std::size_t>(n));
  for (T& e : x) e = T(float(from + (to - from) * double(gen()) / double(std::minstd_rand::max())));
  return x;
}

/// One segment and all that its passes read and write.
template <class K, class T>
struct passes {
  using A = sp::accumulate_t<T>;
  index_t n, heads, dim;
  K kernel;
  std::vector<T> q = random<T>(n * heads * dim, 1, -1, 1), k = random<T>(n * heads * dim, 2, -1, 1);
  std::vector<T> v = random<T>(n * heads * dim, 3, -1, 1), dout = random<T>(n * heads * dim, 4, -1, 1), out = v;
  std::vector<A> g = random<A>(n * heads * K::gate_width(0, dim), 5, -0.1, 0), beta = random<A>(n * heads, 6, 0, 1), dg = g,
                 dbeta = beta;
  std::vector<A> dq = std::vector<A>(q.size()), dk = dq, dv = dq, state = std::vector<A>(std::size_t(heads * dim * dim));
  sp::pool scratch{}, kept{};
  sp::context<sp::inline_queue> where{scratch, kept};
  std::optional<sp::linear_saved_t<K, T>> saved{};

  template <class E>
  sp::view<E, 3> rows(std::vector<E>& x, index_t width) const {
    return {x.data(), n, heads, width};
  }
  void run(bool back) {
    sp::linear_call<T, K::gates> call{rows(q, dim), rows(k, dim), rows(v, dim), {}};
    if constexpr (K::gates > 0) call.gates[0] = rows(g, K::gate_width(0, dim));
    if constexpr (K::gates > 1) call.gates[1] = rows(beta, 1);
    if (!back) {
      auto const unused = kernel.template forward<T>(call, {}, rows(out, dim), {}, where);
      return;
    }
    sp::linear_grad<T, K::gates> grad{rows(dout, dim), {}, rows(dq, dim), rows(dk, dim), rows(dv, dim), {}, {}};
    if constexpr (K::gates > 0) grad.dgates[0] = rows(dg, K::gate_width(0, dim));
    if constexpr (K::gates > 1) grad.dgates[1] = rows(dbeta, 1);
    if (!saved) saved = kernel.template forward<T>(call, {}, rows(out, dim), {}, where);
    kernel.template backward<T>(call, {}, *saved, grad, where);
  }
};

/// Of one token and head.
double flops(bool delta, bool back, double chunk, double dim) {
  double const pair = chunk * dim, state = dim * dim;
  if (!back) return delta ? 4 * pair + 6 * state : 2 * pair + 4 * state;
  return delta ? 10 * pair + 12 * state : 5 * pair + 8 * state;
}

template <class K, class T, bool Back>
void run(benchmark::State& state) {
  index_t const n = state.range(0), heads = 2, dim = state.range(1), chunk = state.range(2);
  passes<K, T> pass{n, heads, dim, K({.normalise = true, .chunk = chunk, .keep_every = state.range(3)})};
  pass.run(Back);
  using A = sp::accumulate_t<T>;
  double const work = 1e-9 * flops(K::form == sp::map_form::dense, Back, double(chunk), double(dim)) * double(n * heads);
  double most = 0, spent = 0;
  std::vector<double> shares;
  for (auto _ : state) {
    double const before = peak<A>(), start = processor_seconds();
    pass.run(Back);
    double const seconds = processor_seconds() - start, after = peak<A>();
    benchmark::ClobberMemory();
    spent += seconds;
    most = std::max({most, before, after});
    if (std::abs(before - after) <= 0.05 * after) shares.push_back(2 * work / seconds / (before + after));
  }
  std::sort(shares.begin(), shares.end());
  state.counters["GF/s"] = work * double(state.iterations()) / spent;
  state.counters["peak"] = most;
  state.counters["rounds"] = double(shares.size());
  state.counters["share"] = shares.empty() ? 0 : shares[shares.size() / 2];
  state.counters["share_best"] = shares.empty() ? 0 : shares.back();
}

void sizes(benchmark::internal::Benchmark* b, std::vector<index_t> const& chunks) {
  b->ArgNames({"tokens", "dim", "chunk", "keep"})->Unit(benchmark::kMillisecond);
  bool const tiny = std::getenv("SP_BENCH_TINY") != nullptr;
  for (index_t const dim : {64, 128, 256})
    for (index_t const chunk : chunks)
      if (!tiny || (dim == 64 && chunk <= 32)) b->Args({tiny ? 64 : 2048, dim, chunk, 128});
  if (!tiny && chunks.size() > 1)
    for (index_t const keep : {64, 512})
      b->Args({2048, 128, 64, keep}); // more states kept, less computed again and in cache; fewer
}
void all_chunks(benchmark::internal::Benchmark* b) { sizes(b, {32, 64, 128}); }
void own_chunk(benchmark::internal::Benchmark* b) { sizes(b, {64}); }
void short_chunk(benchmark::internal::Benchmark* b) { sizes(b, {16}); }

#define SP_BENCH_LINEAR(kernel, type, name, sizes)                                                                               \
  BENCHMARK_TEMPLATE(run, sp::kernel, type, false)->Name(#kernel "/forward/" name)->Apply(sizes);                                \
  BENCHMARK_TEMPLATE(run, sp::kernel, type, true)->Name(#kernel "/backward/" name)->Apply(sizes)

SP_BENCH_LINEAR(gated_delta, float, "float", all_chunks);
SP_BENCH_LINEAR(gated_delta, sp::bf16, "bf16", own_chunk);
SP_BENCH_LINEAR(gated_delta, double, "double", own_chunk);
SP_BENCH_LINEAR(scalar_decay, float, "float", own_chunk);
SP_BENCH_LINEAR(plain_linear, float, "float", own_chunk);
SP_BENCH_LINEAR(gated_linear, float, "float", short_chunk);

} // namespace
