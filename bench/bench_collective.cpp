// What a collective of the threads communicator costs when it moves nothing or little, beside a bare spin barrier; also peer
// memory (publish and release) and split.
// Iterations are fixed and time is manual: the slowest rank's. SP_BENCH_TINY=1 makes few calls.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <vector>

#include <sp/collective/reductions.hpp>
#include <sp/core/pause.hpp>
#include <sp/threads.hpp>

namespace {

using values = std::vector<float>;
sp::view<float, 1> view_of(values& v) { return {v.data(), {sp::index_t(v.size())}}; }

bool tiny() { return std::getenv("SP_BENCH_TINY") != nullptr; }
int calls() { return tiny() ? 10 : 100; }                            // in one block
int blocks(int ranks) { return tiny() ? 2 : ranks > 2 ? 100 : 400; } // more ranks than cores take turns and their time
void few(benchmark::internal::Benchmark* b) { b->Iterations(tiny() ? 1 : 5)->UseManualTime(); }

/// Calls `body(communicator)()` on all ranks; reports the time per call of the slowest rank in the quietest block, because other
/// programs on the machine can only add to it.
template <class Body>
void measure(benchmark::State& state, int ranks, Body&& body) {
  for (auto _ : state) {
    std::vector<double> slowest(std::size_t(ranks * blocks(ranks)));
    sp::threads::run(ranks, [&](sp::threads const& c) {
      auto one = body(c);
      for (int b = 0; b < blocks(ranks); ++b) {
        c.barrier();
        auto const begin = std::chrono::steady_clock::now();
        for (int i = 0; i < calls(); ++i) one();
        std::chrono::duration<double> const took = std::chrono::steady_clock::now() - begin;
        slowest[std::size_t(b * ranks + c.rank())] = took.count() / calls();
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
        while (turn.value.load() < mine) sp::detail::pause_briefly();
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
  sp::index_t const bytes = state.range(1);
  measure(state, int(state.range(0)), [&](sp::threads const& c) {
    return [c, out = std::vector<char>(std::size_t(bytes), 1), in = std::vector<char>(std::size_t(bytes))]() mutable {
      sp::piece const from = sp::as_piece(sp::view<char, 1>(out.data(), {sp::index_t(out.size())}));
      sp::piece const to = sp::as_piece(sp::view<char, 1>(in.data(), {sp::index_t(in.size())}));
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

/// Everybody shows range(1) bytes and takes them back; nothing is copied.
void publish_release(benchmark::State& state) {
  measure(state, int(state.range(0)), [&](sp::threads const& c) {
    return [c, mine = values(std::size_t(state.range(1) / 4))]() mutable {
      sp::piece const p = sp::as_piece(view_of(mine));
      auto shown = c.publish("publish", {&p, 1});
      benchmark::DoNotOptimize(shown.of((c.rank() + 1) % c.size()).data());
      shown.release();
    };
  });
}

/// range(1) bytes of every rank to every rank.
void all_gather(benchmark::State& state) {
  int const ranks = int(state.range(0));
  auto const n = std::size_t(state.range(1) / 4);
  measure(state, ranks, [&](sp::threads const& c) {
    return [c, n, scratch = std::make_shared<sp::pool>(), mine = values(n), all = values(n * std::size_t(c.size()))]() mutable {
      sp::piece const own = sp::as_piece(view_of(mine));
      std::vector<sp::piece> to;
      for (int r = 0; r < c.size(); ++r) to.push_back(sp::as_piece(view_of(all).narrow(0, r * sp::index_t(n), sp::index_t(n))));
      std::vector<sp::parcel> receives;
      for (int r = 0; r < c.size(); ++r) receives.push_back({r, {&to[std::size_t(r)], 1}});
      sp::all_gather_v(c, "all_gather", {&own, 1}, receives, *scratch).wait();
    };
  });
  state.SetBytesProcessed(state.iterations() * state.range(1) * (ranks - 1)); // received by each rank
}

/// range(1) bytes of the sum for every rank.
void reduce_scatter(benchmark::State& state) {
  int const ranks = int(state.range(0));
  auto const n = std::size_t(state.range(1) / 4);
  measure(state, ranks, [&](sp::threads const& c) {
    return [c, n, scratch = std::make_shared<sp::pool>(), mine = values(n), all = values(n * std::size_t(c.size()))]() mutable {
      std::vector<sp::view<float, 1>> parts;
      for (int r = 0; r < c.size(); ++r) parts.push_back(view_of(all).narrow(0, r * sp::index_t(n), sp::index_t(n)));
      sp::reduce_scatter(c, parts, view_of(mine), *scratch);
    };
  });
  state.SetBytesProcessed(state.iterations() * state.range(1) * (ranks - 1)); // received by each rank
}

/// range(1) bytes from rank 0 to everybody.
void broadcast(benchmark::State& state) {
  measure(state, int(state.range(0)), [&](sp::threads const& c) {
    return [c, data = values(std::size_t(state.range(1) / 4))]() mutable {
      sp::piece const p = sp::as_piece(view_of(data));
      sp::broadcast(c, {&p, 1}, 0);
    };
  });
  state.SetBytesProcessed(state.iterations() * state.range(1));
}

/// Two groups, even and odd ranks; includes making and dropping them.
void split(benchmark::State& state) {
  measure(state, int(state.range(0)),
          [](sp::threads const& c) { return [c] { benchmark::DoNotOptimize(c.split(c.rank() % 2, 0).size()); }; });
}

void sizes(benchmark::internal::Benchmark* b) { b->Args({2, 64})->Args({2, 65536})->Args({8, 64})->Apply(few); }

BENCHMARK(spin_barrier)->Arg(2)->Apply(few);
BENCHMARK(empty_exchange)->Arg(2)->Arg(8)->Apply(few);
BENCHMARK(barrier)->Arg(2)->Arg(8)->Apply(few);
BENCHMARK(ring_exchange)->Args({2, 8})->Args({2, 65536})->Args({8, 8})->Apply(few);
BENCHMARK(all_reduce_one)->Arg(2)->Arg(8)->Apply(few);
BENCHMARK(publish_release)->Args({2, 64})->Args({8, 64})->Apply(few);
BENCHMARK(all_gather)->Apply(sizes);
BENCHMARK(reduce_scatter)->Apply(sizes);
BENCHMARK(broadcast)->Apply(sizes);
BENCHMARK(split)->Arg(2)->Arg(8)->Apply(few);

} // namespace
