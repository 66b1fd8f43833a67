// The CPU backend: useful GF/s of forward and backward per element type, full and causal, and what several threads gain; the cost of
// handing out work, and what passes and copies gain from it. Forward counts 4 rows keys dim per visible pair and head, backward 2.5 times
// that. SP_BENCH_TINY=1: smallest size only.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdlib>
#include <random>

#include <sp/core/elementwise.hpp>
#include <sp/cpu.hpp>
#include <sp/reference.hpp>
#include <sp/workers.hpp>

namespace {

using sp::index_t;

/// One document of n tokens, `heads` q and kv heads, everything random.
template <class T>
struct setup {
  using A = sp::accumulate_t<T>;
  index_t n, heads, dim;
  std::vector<T> q, k, v, out, dout;
  std::vector<A> sums, dq, dk, dv, lse, delta;
  sp::documents docs;

  setup(index_t tokens, index_t head_count, index_t width)
      : n(tokens), heads(head_count), dim(width), q(random(1)), k(random(2)), v(random(3)), out(random(4)), dout(random(5)),
        sums(q.size()), dq(q.size()), dk(q.size()), dv(q.size()), lse(static_cast<std::size_t>(n * heads)), delta(lse.size()),
        docs({{0, tokens, tokens}}, tokens) {}

  std::vector<T> random(unsigned seed) const {
    std::mt19937 gen(seed);
    std::normal_distribution<float> normal;
    std::vector<T> x(static_cast<std::size_t>(n * heads * dim));
    for (T& e : x) e = T(normal(gen));
    return x;
  }
  template <class E>
  sp::view<E, 3> view(std::vector<E>& x) const {
    return {x.data(), {n, heads, dim}};
  }
  sp::view<A, 2> rows(std::vector<A>& x) const { return {x.data(), {n, heads}}; }
  void empty() {
    std::fill(sums.begin(), sums.end(), A(0));
    std::fill(lse.begin(), lse.end(), -std::numeric_limits<A>::infinity());
  }
};

double pairs(index_t n, bool causal) { return causal ? 0.5 * double(n) * double(n + 1) : double(n) * double(n); }

/// Both passes of a backend over a setup.
template <class T, class Backend>
struct passes {
  setup<T>& s;
  Backend const& b;
  sp::pool memory{};
  sp::call_params numbers{sp::all_heads(s.heads, s.heads), 0.125};
  sp::kv_views<T> keys{s.view(s.k), s.view(s.v)};
  sp::query_grad<T> query_grad{s.view(s.q), s.view(s.out), s.view(s.dout), s.rows(s.lse), s.rows(s.delta), s.view(s.dq)};
  sp::key_grad<T> key_grad{s.view(s.k), s.view(s.v), s.view(s.dk), s.view(s.dv)};
  typename Backend::plan plan;
  typename Backend::saved saved;

  passes(setup<T>& tensors, Backend const& backend, bool causal) : s(tensors), b(backend) {
    sp::run all{0, s.n, 1};
    auto table = sp::place(std::span(&all, 1));
    plan = b.prepare({table, table, sp::slices(causal ? sp::causal() : sp::full(), s.docs, s.docs)});
    forward();
  }
  void forward() {
    s.empty();
    saved = b.template forward<T>(plan, memory, numbers, s.view(s.q), std::span<sp::kv_views<T> const>(&keys, 1),
                                  {s.view(s.sums), s.rows(s.lse)});
  }
  void backward() {
    b.template backward<T>(plan, memory, numbers, std::span<sp::query_grad<T> const>(&query_grad, 1),
                           std::span<sp::key_grad<T> const>(&key_grad, 1), saved);
  }
  void run(bool back) { back ? backward() : forward(); }
};

template <class T, class Backend>
void run(benchmark::State& state, Backend const& b, bool backward) {
  setup<T> s(state.range(0), state.range(1), state.range(2));
  bool causal = state.range(3) != 0;
  passes<T, Backend> pass(s, b, causal);
  for (auto _ : state) {
    pass.run(backward);
    benchmark::ClobberMemory();
  }
  double flops = pairs(s.n, causal) * double(s.heads * s.dim) * (backward ? 10 : 4);
  state.counters["GF/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

/// One thread and several in turn: the fastest call of each, and their ratio. Other programs on the machine may take a core for a while;
/// it takes one call of either that they left alone.
template <class T, bool Backward>
void gain(benchmark::State& state) {
  setup<T> s(state.range(1), 2, 64);
  sp::on_queue const shared{sp::workers{int(state.range(0))}, sp::cpu{}};
  sp::cpu const alone;
  passes<T, sp::cpu<>> one(s, alone, true);
  passes<T, std::remove_const_t<decltype(shared)>> several(s, shared, true);
  double best[2] = {1e30, 1e30};
  for (auto _ : state)
    for (int who : {0, 1}) {
      auto const start = std::chrono::steady_clock::now();
      who == 0 ? one.run(Backward) : several.run(Backward);
      best[who] = std::min(best[who], std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
  state.counters["one_ms"] = 1e3 * best[0];
  state.counters["several_ms"] = 1e3 * best[1];
  state.counters["gain"] = best[0] / best[1];
}

/// Element-wise passes and copies of `elements` floats, by one thread and by several in turn, as in gain(); both by the code of workers.
void pass_gain(benchmark::State& state, int what) {
  index_t const n = state.range(1);
  std::vector<float> from(std::size_t(n), 1.0f), to(from);
  sp::view<float, 2> const x(to.data(), {n / 64, 64});
  sp::view<float const, 2> const y(from.data(), {n / 64, 64});
  sp::piece const a = sp::as_piece(x), b = sp::as_piece(y);
  auto pass = [&](sp::workers const& queue) {
    if (what == 0) sp::fill(queue, x, 2.0f);
    if (what == 1) sp::detail::add(queue, x, y);
    if (what == 2) queue.copy({&a, 1}, {&b, 1});
    benchmark::ClobberMemory();
  };
  sp::workers const one{1}, several{int(state.range(0))};
  double best[2] = {1e30, 1e30};
  for (auto _ : state)
    for (int who : {0, 1}) {
      auto const start = std::chrono::steady_clock::now();
      pass(who == 0 ? one : several);
      best[who] = std::min(best[who], std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
  state.counters["one_us"] = 1e6 * best[0];
  state.counters["several_us"] = 1e6 * best[1];
  state.counters["gain"] = best[0] / best[1];
}

/// A call of parallel() whose tasks do nothing: threads that poll, and threads that sleep.
void empty_parallel(benchmark::State& state) {
  sp::workers const queue{int(state.range(0)), {.spin = int(state.range(1))}};
  for (auto _ : state) queue.parallel(queue.threads(), [](index_t) { benchmark::ClobberMemory(); });
}

void sizes(benchmark::internal::Benchmark* b, bool large) {
  b->ArgNames({"tokens", "heads", "dim", "causal"})->Unit(benchmark::kMillisecond);
  bool tiny = std::getenv("SP_BENCH_TINY") != nullptr;
  for (index_t dim : {64, 128})
    for (index_t causal : {0, 1}) {
      if (tiny)
        b->Args({160, 1, dim, causal});
      else
        b->Args({large ? 4096 : 512, 2, dim, causal});
    }
}

template <class T, bool Backward>
void cpu(benchmark::State& state) {
  run<T>(state, sp::cpu{}, Backward);
}
template <class T, bool Backward>
void reference(benchmark::State& state) {
  run<T>(state, sp::reference{}, Backward);
}
void large(benchmark::internal::Benchmark* b) { sizes(b, true); }
void small(benchmark::internal::Benchmark* b) { sizes(b, false); }

BENCHMARK_TEMPLATE(cpu, float, false)->Name("cpu/forward/float")->Apply(large);
BENCHMARK_TEMPLATE(cpu, float, true)->Name("cpu/backward/float")->Apply(large);
BENCHMARK_TEMPLATE(cpu, sp::bf16, false)->Name("cpu/forward/bf16")->Apply(large);
BENCHMARK_TEMPLATE(cpu, sp::bf16, true)->Name("cpu/backward/bf16")->Apply(large);
BENCHMARK_TEMPLATE(cpu, sp::fp16, false)->Name("cpu/forward/fp16")->Apply(large);
BENCHMARK_TEMPLATE(cpu, double, false)->Name("cpu/forward/double")->Apply(large);
BENCHMARK_TEMPLATE(cpu, double, true)->Name("cpu/backward/double")->Apply(large);
BENCHMARK_TEMPLATE(reference, float, false)->Name("reference/forward/float")->Apply(small);

void thread_counts(benchmark::internal::Benchmark* b) {
  b->ArgNames({"threads", "tokens"})->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime()->UseRealTime();
  for (index_t threads : {1, 2})
    for (index_t tokens : {512, 2048})
      if (tokens == 512 || std::getenv("SP_BENCH_TINY") == nullptr) b->Args({threads, tokens});
}
BENCHMARK_TEMPLATE(gain, float, false)->Name("cpu/gain/forward/float")->Apply(thread_counts);
BENCHMARK_TEMPLATE(gain, float, true)->Name("cpu/gain/backward/float")->Apply(thread_counts);
void pass_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"threads", "elements"})->UseRealTime();
  for (index_t elements : {1 << 14, 1 << 16, 1 << 20, 1 << 23})
    if (elements == 1 << 14 || std::getenv("SP_BENCH_TINY") == nullptr) b->Args({2, elements});
}
BENCHMARK_CAPTURE(pass_gain, fill, 0)->Name("pass/gain/fill")->Apply(pass_sizes);
BENCHMARK_CAPTURE(pass_gain, add, 1)->Name("pass/gain/add")->Apply(pass_sizes);
BENCHMARK_CAPTURE(pass_gain, copy, 2)->Name("pass/gain/copy")->Apply(pass_sizes);
BENCHMARK(empty_parallel)->ArgNames({"threads", "spin"})->ArgsProduct({{1, 2, 4}, {0, 1000}})->UseRealTime();

} // namespace
