// Attention objects over ranks on threads against one rank: two ranks per object and schedule, four (ring 2 x ulysses 2) for USP.
// Manual time of the slowest rank, fixed iterations. Counters: tokens per second, ratio to half of one rank: 1 is ideal on two
// cores, where the four ranks of USP share two cores; with four free cores their ideal is 0.5.
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <random>

#include <benchmark/benchmark.h>

#include <sp/cpu.hpp>
#include <sp/threads.hpp>
#include <sp/usp.hpp>

namespace {

bool tiny() { return std::getenv("SP_BENCH_TINY") != nullptr; }
std::int64_t tokens() { return tiny() ? 96 : 2048; }
constexpr std::int64_t heads = 4, kv_heads = 2, dim = 64;

enum class what { rotate, rotate_window, cast, cast_window, pull, ulysses, usp };

struct tensors {
  std::vector<float> q, k, v, out, dout, dq, dk, dv;
  std::int64_t rows;
  explicit tensors(std::int64_t n) : rows(n) {
    std::mt19937 bits(7);
    std::normal_distribution<float> normal;
    auto fill = [&](std::vector<float>& x, std::int64_t h) {
      x.resize(std::size_t(n * h * dim));
      for (float& y : x) y = normal(bits);
    };
    for (auto* x : {&q, &out, &dout, &dq}) fill(*x, heads);
    for (auto* x : {&k, &v, &dk, &dv}) fill(*x, kv_heads);
  }
  sp::view<float, 3> of(std::vector<float>& x) const {
    return {x.data(), {rows, std::int64_t(x.size()) / std::max<std::int64_t>(rows, 1) / dim, dim}};
  }
};

struct seconds {
  double forward = 0, backward = 0;
};

template <class Attention>
seconds time_one(Attention const& attention, sp::batch const& b, auto const& comm) {
  tensors t(b.tokens());
  seconds s;
  for (int round = 0; round < 2; ++round) { // the first warms up
    sp::barrier(comm);
    auto clock = [] { return std::chrono::steady_clock::now(); };
    auto start = clock();
    auto saved = attention.forward(b, t.of(t.q), t.of(t.k), t.of(t.v), t.of(t.out));
    sp::barrier(comm);
    auto middle = clock();
    attention.backward(b, std::move(saved), t.of(t.q), t.of(t.k), t.of(t.v), t.of(t.out), t.of(t.dout), t.of(t.dq), t.of(t.dk),
                       t.of(t.dv));
    sp::barrier(comm);
    s = {std::chrono::duration<double>(middle - start).count(), std::chrono::duration<double>(clock() - middle).count()};
  }
  return s;
}

template <class Sharding>
seconds run(int ranks, what object, Sharding how) {
  seconds worst;
  std::mutex lock;
  sp::threads::run(ranks, [&](auto const& comm) {
    sp::batch b(sp::documents::rectangular(1, tokens()), how, comm);
    seconds s;
    auto ring = [&](sp::schedule schedule, sp::mask const& mask = sp::causal()) {
      return sp::ring_attention{comm, sp::cpu{}, {.mask = mask, .schedule = schedule}};
    };
    if (object == what::ulysses) s = time_one(sp::ulysses_attention{comm, sp::cpu{}, {.mask = sp::causal()}}, b, comm);
    if (object == what::rotate) s = time_one(ring(sp::schedule::rotate), b, comm);
    if (object == what::cast) s = time_one(ring(sp::schedule::cast), b, comm);
    if (object == what::rotate_window) s = time_one(ring(sp::schedule::rotate, sp::window(255)), b, comm);
    if (object == what::cast_window) s = time_one(ring(sp::schedule::cast, sp::window(255)), b, comm);
    if (object == what::pull) s = time_one(ring(sp::schedule::pull), b, comm);
    if (object == what::usp) {
      sp::mesh mesh{sp::axis::ring{2}, sp::axis::ulysses{2}};
      s = time_one(
          sp::ulysses_attention{mesh.ulysses(comm), sp::ring_attention{mesh.ring(comm), sp::cpu{}, {.mask = sp::causal()}}}, b,
          comm);
    }
    std::scoped_lock hold(lock);
    worst.forward = std::max(worst.forward, s.forward);
    worst.backward = std::max(worst.backward, s.backward);
  });
  return worst;
}

template <class Sharding>
void attention(benchmark::State& state, what object, Sharding how, bool backward) {
  double alone = 0, together = 0;
  for (auto _ : state) {
    seconds one = run(1, what::rotate, sp::contiguous{}), all = run(object == what::usp ? 4 : 2, object, how);
    alone += backward ? one.backward : one.forward;
    together += backward ? all.backward : all.forward;
    state.SetIterationTime(backward ? all.backward : all.forward);
  }
  // half of one rank also for the four ranks of USP: two cores do the work of both
  state.counters["over_half_of_one_rank"] = 2 * together / alone;
  state.counters["tokens_per_second"] = benchmark::Counter(double(tokens()), benchmark::Counter::kIsIterationInvariantRate);
}

#define SP_BENCH_BOTH(name, object, how)                                                                                         \
  BENCHMARK_CAPTURE(attention, name##_forward, object, how, false)->UseManualTime()->Iterations(tiny() ? 1 : 9);                 \
  BENCHMARK_CAPTURE(attention, name##_backward, object, how, true)->UseManualTime()->Iterations(tiny() ? 1 : 9)

SP_BENCH_BOTH(ulysses, what::ulysses, sp::contiguous{});
SP_BENCH_BOTH(rotate_contiguous, what::rotate, sp::contiguous{});
SP_BENCH_BOTH(rotate_zigzag, what::rotate, sp::zigzag{});
SP_BENCH_BOTH(rotate_striped, what::rotate, sp::striped{});
SP_BENCH_BOTH(cast_zigzag, what::cast, sp::zigzag{});
SP_BENCH_BOTH(cast_window, what::cast_window, sp::zigzag{});
SP_BENCH_BOTH(rotate_window, what::rotate_window, sp::zigzag{});
SP_BENCH_BOTH(pull_zigzag, what::pull, sp::zigzag{});
SP_BENCH_BOTH(usp_2x2_zigzag, what::usp, (sp::nested{sp::zigzag{}, 2}));

} // namespace
