// Moving rows: split and copies of strided pieces against memcpy of the same bytes, merge against a stream that reads and writes
// the same bytes, relayout between two shardings, the gather of tokens, the loss.
// Bytes per second of payload; ranks are threads, the time is that of the slowest rank.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include <benchmark/benchmark.h>

#include <sp/backend/merge.hpp>
#include <sp/batch.hpp>
#include <sp/gather_loss.hpp>
#include <sp/relayout.hpp>
#include <sp/threads.hpp>

namespace {

std::int64_t tokens() { return std::getenv("SP_BENCH_TINY") ? 64 : 16384; }
constexpr std::int64_t width = 256;

sp::documents one_document() { return sp::documents::rectangular(1, tokens()); }

void memcpy_of_the_same_bytes(benchmark::State& state) {
  std::vector<float> from(std::size_t(tokens() * width / 2), 1.5f), to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size() * sizeof(float));
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(std::int64_t(state.iterations() * from.size() * sizeof(float)));
}
BENCHMARK(memcpy_of_the_same_bytes);

template <class Sharding>
void split_half(benchmark::State& state, Sharding how) {
  sp::batch b(one_document(), how, 0, 2);
  std::vector<float> global(std::size_t(tokens() * width), 1.5f), local(std::size_t(b.tokens() * width));
  for (auto _ : state) {
    sp::split(b, sp::view<float const, 2>(global.data(), {tokens(), width}),
              sp::view<float, 2>(local.data(), {b.tokens(), width}));
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(std::int64_t(state.iterations() * local.size() * sizeof(float)));
}
BENCHMARK_CAPTURE(split_half, contiguous, sp::contiguous{});
BENCHMARK_CAPTURE(split_half, zigzag, sp::zigzag{});
BENCHMARK_CAPTURE(split_half, striped, sp::striped{});

/// Packs every second run of `run` floats: as many bytes as memcpy_of_the_same_bytes.
void copy_strided_piece(benchmark::State& state) {
  std::int64_t run = state.range(0), rows = tokens(), groups = width / (2 * run);
  std::vector<float> from(std::size_t(rows * width), 1.5f), to(from.size() / 2);
  sp::piece const source = sp::as_piece(sp::view<float, 3>(from.data(), {rows, groups, run}, {width, 2 * run, 1}));
  sp::piece const target = sp::as_piece(sp::view<float, 3>(to.data(), {rows, groups, run}));
  for (auto _ : state) {
    sp::copy({&target, 1}, {&source, 1});
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(std::int64_t(state.iterations() * to.size() * sizeof(float)));
}
BENCHMARK(copy_strided_piece)->ArgName("run")->Arg(8)->Arg(32)->Arg(128);

/// What a merge must at least do with its outputs: read both, write one.
void read_modify_write_of_the_same_bytes(benchmark::State& state) {
  std::vector<float> x(std::size_t(tokens() * width), 1.5f), y(x.size(), 0.5f);
  for (auto _ : state) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.5f * x[i] + 0.5f * y[i];
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(std::int64_t(state.iterations() * 3 * x.size() * sizeof(float)));
}
BENCHMARK(read_modify_write_of_the_same_bytes);

void merge(benchmark::State& state) {
  std::int64_t rows = tokens(), dim = 64, heads = width / dim;
  std::vector<float> x(std::size_t(rows * width), 1.5f), y(x.size(), 0.5f), a(std::size_t(rows * heads), 0.25f),
      b(a.size(), 0.0f);
  auto state_of = [&](std::vector<float>& out, std::vector<float>& lse) {
    return sp::attention_state<float>{{out.data(), {rows, heads, dim}}, {lse.data(), {rows, heads}}};
  };
  for (auto _ : state) {
    sp::merge<float>(state_of(x, a), state_of(y, b)); // lse grows by the logarithm of a sum: no weight ever vanishes
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(std::int64_t(state.iterations() * 3 * x.size() * sizeof(float)));
}
BENCHMARK(merge);

/// Seconds of `body(comm, batch)` on two ranks, the slower one, after one warm-up.
template <class Body>
double slowest(Body body) {
  double seconds = 0;
  std::mutex lock;
  sp::threads::run(2, [&](auto const& comm) {
    sp::batch b(one_document(), sp::contiguous{}, comm);
    auto call = body(comm, b);
    call();
    sp::barrier(comm);
    auto start = std::chrono::steady_clock::now();
    call();
    double mine = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::scoped_lock hold(lock);
    seconds = std::max(seconds, mine);
  });
  return seconds;
}

void relayout_contiguous_to_zigzag(benchmark::State& state) {
  for (auto _ : state)
    state.SetIterationTime(slowest([](auto const& comm, sp::batch const& b) {
      sp::batch other(one_document(), sp::zigzag{}, comm);
      auto map = sp::identity_map(tokens());
      sp::relayout move(b.layout(), other.layout(), std::span(&map, 1), comm.rank());
      std::vector<float> in(std::size_t(b.tokens() * width), 1.5f), out(std::size_t(other.tokens() * width));
      return [&comm, &b, move, in, out, rows = other.tokens()]() mutable {
        move.apply(comm, sp::view<float const, 2>(in.data(), {b.tokens(), width}), sp::view<float, 2>(out.data(), {rows, width}),
                   b.memory());
      };
    }));
  state.SetBytesProcessed(std::int64_t(state.iterations()) * tokens() * width * 2);
}
BENCHMARK(relayout_contiguous_to_zigzag)->UseManualTime()->Iterations(5);

void gather_of_tokens(benchmark::State& state) {
  for (auto _ : state)
    state.SetIterationTime(slowest([](auto const& comm, sp::batch const& b) {
      std::vector<float> local(std::size_t(b.tokens() * width), 1.5f), global(std::size_t(tokens() * width));
      return [&comm, &b, local, global]() mutable {
        sp::gather(comm, b, sp::view<float const, 2>(local.data(), {b.tokens(), width}),
                   sp::view<float, 2>(global.data(), {tokens(), width}));
      };
    }));
  state.SetBytesProcessed(std::int64_t(state.iterations()) * tokens() * width * 4);
}
BENCHMARK(gather_of_tokens)->UseManualTime()->Iterations(5);

void loss_forward_backward(benchmark::State& state) {
  for (auto _ : state)
    state.SetIterationTime(slowest([](auto const& comm, sp::batch const& b) {
      std::vector<float> losses(std::size_t(b.tokens()), 1.5f), gradients(losses.size());
      std::vector<std::int64_t> labels(losses.size(), 7);
      return [&comm, &b, losses, gradients, labels]() mutable {
        sp::gather_loss loss{comm, sp::summed{}};
        sp::view<std::int64_t const, 1> l(labels.data(), {b.tokens()});
        auto r = loss.forward(sp::view<float const, 1>(losses.data(), {b.tokens()}), l, b.memory());
        loss.backward(r, l, sp::view<float, 1>(gradients.data(), {b.tokens()}));
      };
    }));
}
BENCHMARK(loss_forward_backward)->UseManualTime()->Iterations(5);

} // namespace
