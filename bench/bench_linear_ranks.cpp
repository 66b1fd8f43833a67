// Linear attention (gated_delta, heads of dim 128) over two ranks on threads against one rank, by state and by heads, by tokens.
// Manual time of the slower rank; the best of three rounds. Counters: ratio to half of one rank's time in the same iteration (1 is ideal
// on two cores), and seconds of one rank. By state over zigzag each rank has two runs of the stream and makes maps of them: those are
// flops that one rank does not do.
// SP_BENCH_TINY=1: the smallest size only.
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <random>

#include <benchmark/benchmark.h>

#include <sp/linear.hpp>
#include <sp/threads.hpp>

namespace {

using sp::index_t;

bool tiny() { return std::getenv("SP_BENCH_TINY") != nullptr; }

/// The rows of one rank, and all that a call reads and writes.
struct tensors {
  index_t rows, heads = tiny() ? 2 : 8, dim = tiny() ? 16 : 128;
  std::minstd_rand gen{7};
  std::vector<float> q = wide(), k = wide(), v = wide(), out = wide(), dout = wide(), dq = wide(), dk = wide(), dv = wide();
  std::vector<float> g = narrow(-0.1, 0), beta = narrow(0, 1), dg = g, dbeta = beta;

  explicit tensors(index_t n) : rows(n) {}
  std::vector<float> random(index_t n, double from, double to) {
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& e : x) e = float(from + (to - from) * double(gen()) / double(std::minstd_rand::max()));
    return x;
  }
  std::vector<float> wide() { return random(rows * heads * dim, -1, 1); }
  std::vector<float> narrow(double from, double to) { return random(rows * heads, from, to); }
  sp::view<float, 3> of(std::vector<float>& x) const { return {x.data(), rows, heads, dim}; }
  sp::view<float, 2> gate(std::vector<float>& x) const { return {x.data(), rows, heads}; }
};

struct seconds {
  double forward = 1e300, backward = 1e300;
};

template <class Comm>
seconds time_one(Comm const& comm, sp::batch const& b, sp::linear_strategy strategy) {
  sp::linear_attention const attention{comm, sp::gated_delta{{.normalise = true}}, {.strategy = strategy}};
  tensors t(b.tokens());
  auto clock = [] { return std::chrono::steady_clock::now(); };
  seconds best;
  for (int round = 0; round < (tiny() ? 1 : 4); ++round) { // the first warms up
    sp::barrier(comm);
    auto const start = clock();
    auto saved = attention.forward(
        b, {.q = t.of(t.q), .k = t.of(t.k), .v = t.of(t.v), .gates = {t.gate(t.g), t.gate(t.beta)}, .out = t.of(t.out)});
    sp::barrier(comm);
    auto const middle = clock();
    attention.backward(b, std::move(saved),
                       {.q = t.of(t.q),
                        .k = t.of(t.k),
                        .v = t.of(t.v),
                        .gates = {t.gate(t.g), t.gate(t.beta)},
                        .dout = t.of(t.dout),
                        .dq = t.of(t.dq),
                        .dk = t.of(t.dk),
                        .dv = t.of(t.dv),
                        .dgates = {t.gate(t.dg), t.gate(t.dbeta)}});
    sp::barrier(comm);
    best.forward = std::min(best.forward, std::chrono::duration<double>(middle - start).count());
    best.backward = std::min(best.backward, std::chrono::duration<double>(clock() - middle).count());
  }
  return best;
}

template <class Sharding>
seconds run(int ranks, index_t tokens, sp::linear_strategy strategy, Sharding how) {
  seconds worst{0, 0};
  std::mutex lock;
  sp::threads::run(ranks, [&](auto const& comm) {
    sp::batch const b(sp::documents::rectangular(1, tokens), how, comm);
    seconds const s = time_one(comm, b, strategy);
    std::scoped_lock const hold(lock);
    worst = {std::max(worst.forward, s.forward), std::max(worst.backward, s.backward)};
  });
  return worst;
}

template <class Sharding>
void linear(benchmark::State& state, sp::linear_strategy strategy, Sharding how, bool backward) {
  double alone = 0, together = 0;
  for (auto _ : state) {
    index_t const tokens = tiny() ? 96 : state.range(0);
    seconds const one = run(1, tokens, strategy, sp::contiguous{}), two = run(2, tokens, strategy, how);
    alone += backward ? one.backward : one.forward;
    together += backward ? two.backward : two.forward;
    state.SetIterationTime(backward ? two.backward : two.forward);
  }
  state.counters["over_half_of_one_rank"] = 2 * together / alone;
  state.counters["one_rank"] = alone / double(state.iterations());
}

void sizes(benchmark::internal::Benchmark* b) {
  b->UseManualTime()->Iterations(tiny() ? 1 : 3)->Unit(benchmark::kMillisecond)->ArgName("tokens");
  for (index_t const tokens : {2048, 8192})
    if (!tiny() || tokens == 2048) b->Arg(tokens);
}

#define SP_BENCH_BOTH(name, strategy, how)                                                                                       \
  BENCHMARK_CAPTURE(linear, name##_forward, strategy, how, false)->Apply(sizes);                                                 \
  BENCHMARK_CAPTURE(linear, name##_backward, strategy, how, true)->Apply(sizes)

SP_BENCH_BOTH(state_contiguous, sp::linear_strategy::state, sp::contiguous{});
SP_BENCH_BOTH(state_zigzag, sp::linear_strategy::state, sp::zigzag{});
SP_BENCH_BOTH(heads_contiguous, sp::linear_strategy::heads, sp::contiguous{});

} // namespace
