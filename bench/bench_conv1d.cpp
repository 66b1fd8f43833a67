// Causal convolution on one thread, forward and backward, against streams that read and write the same bytes: x to y, x and dy to dx.
// `of_stream` is the share of such a stream's speed, both timed in turns, the best of each; two ranks tell what the exchange costs.
#include <chrono>
#include <cstdlib>
#include <mutex>

#include <benchmark/benchmark.h>

#include <sp/collective/solo.hpp>
#include <sp/conv1d.hpp>
#include <sp/threads.hpp>

namespace {

using clock_type = std::chrono::steady_clock;
std::int64_t tokens() { return std::getenv("SP_BENCH_TINY") ? 64 : 8192; }
constexpr std::int64_t channels = 8192, width = 4; // q, k and v of Qwen3-Next

template <class F>
double seconds(F&& f) {
  auto const start = clock_type::now();
  f();
  return std::chrono::duration<double>(clock_type::now() - start).count();
}
/// Times f(what before() returned) and the stream in turns.
template <class Before, class F, class Stream>
void against_stream(benchmark::State& state, std::int64_t bytes, Before&& before, F&& f, Stream&& stream) {
  double best = 1e9, best_stream = 1e9;
  for (auto _ : state) {
    auto ready = before();
    best_stream = std::min(best_stream, seconds(stream));
    double const now = seconds([&] { f(std::move(ready)); });
    state.SetIterationTime(now);
    best = std::min(best, now);
  }
  state.SetBytesProcessed(state.iterations() * bytes);
  state.counters["of_stream"] = best_stream / best;
}
/// to = from ^ other, byte by byte: memcpy would write past the caches.
template <class T>
void stream(std::vector<T>& to, std::vector<T> const& from, std::vector<T> const* other) {
  auto const* x = reinterpret_cast<unsigned char const*>(from.data());
  auto const* y = reinterpret_cast<unsigned char const*>(other ? other->data() : nullptr);
  auto* z = reinterpret_cast<unsigned char*>(to.data());
  std::size_t const n = from.size() * sizeof(T);
  if (other)
    for (std::size_t i = 0; i < n; ++i) z[i] = static_cast<unsigned char>(x[i] ^ y[i]);
  else
    for (std::size_t i = 0; i < n; ++i) z[i] = static_cast<unsigned char>(x[i] ^ 1U);
  benchmark::ClobberMemory();
}

template <class T>
struct tensors {
  using A = sp::accumulate_t<T>;
  std::int64_t rows;
  std::vector<T> x, out, dout, dx, weights;
  std::vector<A> dweights;

  explicit tensors(std::int64_t n)
      : rows(n), x(std::size_t(n * channels), T(0.5F)), out(x.size()), dout(x), dx(x.size()),
        weights(std::size_t(channels * width), T(0.25F)), dweights(weights.size()) {}
  sp::view<T, 2> of(std::vector<T>& v) { return {v.data(), {rows, channels}}; }
  sp::conv1d_operands<T> operands() { return {.x = of(x), .weights = w(), .out = of(out)}; }
  sp::conv1d_gradients<T> gradients() {
    return {.x = of(x), .weights = w(), .dout = of(dout), .dx = of(dx), .dweights = {dweights.data(), {channels, width}}};
  }
  sp::view<T const, 2> w() const { return {weights.data(), {channels, width}}; }
};

template <class T>
void forward(benchmark::State& state, T, sp::activation activation) {
  sp::batch const b(sp::documents::rectangular(1, tokens()), sp::contiguous{}, 0, 1);
  tensors<T> t(tokens());
  sp::causal_conv1d const conv{sp::solo{}, {.width = width, .activation = activation}};
  against_stream(
      state, 2 * tokens() * channels * std::int64_t(sizeof(T)), [] { return 0; }, [&](int) { conv.infer(b, t.operands()); },
      [&] { stream<T>(t.out, t.x, nullptr); });
}
template <class T>
void backward(benchmark::State& state, T, sp::activation activation) {
  sp::batch const b(sp::documents::rectangular(1, tokens()), sp::contiguous{}, 0, 1);
  tensors<T> t(tokens());
  sp::causal_conv1d const conv{sp::solo{}, {.width = width, .activation = activation}};
  against_stream(
      state, 3 * tokens() * channels * std::int64_t(sizeof(T)), [&] { return conv.forward(b, t.operands()); },
      [&](auto&& saved) { conv.backward(b, std::move(saved), t.gradients()); }, [&] { stream<T>(t.dx, t.x, &t.dout); });
}
BENCHMARK_CAPTURE(forward, float, float{}, sp::activation::none)->UseManualTime();
BENCHMARK_CAPTURE(forward, float_silu, float{}, sp::activation::silu)->UseManualTime();
BENCHMARK_CAPTURE(forward, bf16, sp::bf16{}, sp::activation::none)->UseManualTime();
BENCHMARK_CAPTURE(forward, bf16_silu, sp::bf16{}, sp::activation::silu)->UseManualTime();
BENCHMARK_CAPTURE(forward, double, double{}, sp::activation::none)->UseManualTime();
BENCHMARK_CAPTURE(forward, double_silu, double{}, sp::activation::silu)->UseManualTime();
BENCHMARK_CAPTURE(backward, float, float{}, sp::activation::none)->UseManualTime();
BENCHMARK_CAPTURE(backward, float_silu, float{}, sp::activation::silu)->UseManualTime();
BENCHMARK_CAPTURE(backward, bf16, sp::bf16{}, sp::activation::none)->UseManualTime();
BENCHMARK_CAPTURE(backward, bf16_silu, sp::bf16{}, sp::activation::silu)->UseManualTime();
BENCHMARK_CAPTURE(backward, double, double{}, sp::activation::none)->UseManualTime();
BENCHMARK_CAPTURE(backward, double_silu, double{}, sp::activation::silu)->UseManualTime();

/// Forward and backward on two ranks that share the stream, the slower one.
void two_ranks(benchmark::State& state) {
  for (auto _ : state) {
    double slowest = 0;
    std::mutex lock;
    sp::threads::run(2, [&](auto const& comm) {
      sp::batch const b(sp::documents::rectangular(1, tokens()), sp::zigzag{}, comm);
      tensors<float> t(b.tokens());
      sp::causal_conv1d const conv{comm, {.width = width, .activation = sp::activation::silu}};
      auto step = [&] { conv.backward(b, conv.forward(b, t.operands()), t.gradients()); };
      step();
      sp::barrier(comm);
      double const mine = seconds(step);
      std::scoped_lock const hold(lock);
      slowest = std::max(slowest, mine);
    });
    state.SetIterationTime(slowest);
  }
}
BENCHMARK(two_ranks)->UseManualTime()->Iterations(3);

/// What is made once per step and rank.
void prepare(benchmark::State& state) {
  sp::batch const b(sp::documents::rectangular(8, tokens()), sp::zigzag{}, 3, 8);
  sp::causal_conv1d const conv{sp::solo{}, {.width = width}};
  for (auto _ : state) benchmark::DoNotOptimize(sp::detail::conv1d_rows::of(b.layout(), 3, width));
}
BENCHMARK(prepare);

} // namespace
