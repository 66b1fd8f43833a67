// What a collective of the threads communicator costs when it moves nothing or little, beside a bare spin barrier.
// Iterations are fixed and time is manual: the slowest rank's. SP_BENCH_TINY=1 makes few calls.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <vector>

#include <sp/collective/operations.hpp>
#include <sp/threads.hpp>

namespace {

constexpr int calls = 100; // in one block
int blocks() { return std::getenv("SP_BENCH_TINY") ? 2 : 400; }

/// Calls `body(communicator)()` on all ranks; reports the time per call of the slowest rank in the quietest block, because other
/// programs on the machine can only add to it.
template <class Body>
void measure(benchmark::State& state, int ranks, Body&& body) {
  for (auto _ : state) {
    std::vector<double> slowest(std::size_t(ranks * blocks()));
    sp::threads::run(ranks, [&](sp::threads const& c) {
      auto one = body(c);
      for (int b = 0; b < blocks(); ++b) {
        c.barrier();
        auto const begin = std::chrono::steady_clock::now();
        for (int i = 0; i < calls; ++i) one();
        std::chrono::duration<double> const took = std::chrono::steady_clock::now() - begin;
        slowest[std::size_t(b * ranks + c.rank())] = took.count() / calls;
      }
    });
    double best = 1e9;
    for (auto b = slowest.begin(); b != slowest.end(); b += ranks) best = std::min(best, *std::max_element(b, b + ranks));
    state.SetIterationTime(best);
  }
}

/// The least that a barrier can cost: two counters and no way out.
void spin_barrier(benchmark::State& state) {
  int const ranks = int(state.range(0));
  struct alignas(64) counter {
    std::atomic<long> value{0};
  };
  counter arrived, turn;
  measure(state, ranks, [&](sp::threads const&) {
    return [&, mine = turn.value.load()]() mutable {
      ++mine;
      if (arrived.value.fetch_add(1) + 1 == mine * ranks)
        turn.value.store(mine);
      else
        while (turn.value.load() < mine) sp::detail::relax();
    };
  });
}

void empty_exchange(benchmark::State& state) {
  measure(state, int(state.range(0)), [](sp::threads const& c) { return [c] { c.exchange({}).wait(); }; });
}

void barrier(benchmark::State& state) {
  measure(state, int(state.range(0)), [](sp::threads const& c) { return [c] { c.barrier(); }; });
}

/// range(1) bytes to the next rank.
void ring_exchange(benchmark::State& state) {
  sp::index const bytes = state.range(1);
  measure(state, int(state.range(0)), [&](sp::threads const& c) {
    return [c, out = std::vector<char>(std::size_t(bytes), 1), in = std::vector<char>(std::size_t(bytes))]() mutable {
      sp::piece const from = sp::as_piece(sp::view<char, 1>(out.data(), {sp::index(out.size())}));
      sp::piece const to = sp::as_piece(sp::view<char, 1>(in.data(), {sp::index(in.size())}));
      sp::parcel const send{(c.rank() + 1) % c.size(), {&from, 1}}, receive{(c.rank() + c.size() - 1) % c.size(), {&to, 1}};
      c.exchange({"ring", {&send, 1}, {&receive, 1}}).wait();
    };
  });
  if (bytes > 0) state.SetBytesProcessed(state.iterations() * bytes);
}

void all_reduce_one(benchmark::State& state) {
  measure(state, int(state.range(0)), [](sp::threads const& c) {
    return [c, scratch = std::make_shared<sp::pool>(), value = 1.0]() mutable {
      sp::all_reduce(c, sp::view<double, 1>(&value, {1}), *scratch);
      value = 1.0;
    };
  });
}

BENCHMARK(spin_barrier)->Arg(2)->Iterations(5)->UseManualTime();
BENCHMARK(empty_exchange)->Arg(2)->Arg(8)->Iterations(5)->UseManualTime();
BENCHMARK(barrier)->Arg(2)->Arg(8)->Iterations(5)->UseManualTime();
BENCHMARK(ring_exchange)->Args({2, 8})->Args({2, 65536})->Args({8, 8})->Iterations(5)->UseManualTime();
BENCHMARK(all_reduce_one)->Arg(2)->Arg(8)->Iterations(5)->UseManualTime();

} // namespace
