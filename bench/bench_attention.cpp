// Attention objects over ranks on threads against one rank: two ranks per object and schedule, four (ring 2 x ulysses 2) for USP.
// Manual time of the slowest rank, fixed iterations. Counters: tokens per second, ratio to half of one rank: 1 is ideal on two
// cores, where the four ranks of USP share two cores; with four free cores their ideal is 0.5. Last, Ulysses over a slow network: how
// much of its exchanges chunks of heads hide.
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

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
  explicit tensors(std::int64_t n, std::int64_t q_heads = heads, std::int64_t k_heads = kv_heads) : rows(n) {
    std::mt19937 bits(7);
    std::normal_distribution<float> normal;
    auto fill = [&](std::vector<float>& x, std::int64_t h) {
      x.resize(std::size_t(n * h * dim));
      for (float& y : x) y = normal(bits);
    };
    for (auto* x : {&q, &out, &dout, &dq}) fill(*x, q_heads);
    for (auto* x : {&k, &v, &dk, &dv}) fill(*x, k_heads);
  }
  sp::view<float, 3> of(std::vector<float>& x) const {
    return {x.data(), {rows, std::int64_t(x.size()) / std::max<std::int64_t>(rows, 1) / dim, dim}};
  }
};

struct seconds {
  double forward = 0, backward = 0;
};

template <class Attention>
seconds time_one(Attention const& attention, sp::batch const& b, auto const& comm, tensors t) {
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

template <class Attention>
seconds time_one(Attention const& attention, sp::batch const& b, auto const& comm) {
  return time_one(attention, b, comm, tensors(b.tokens()));
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

// ---- overlap -------------------------------------------------------------------------------------------------------------------

using steady = std::chrono::steady_clock;

/// A communicator over a slow network: what a rank receives comes one message behind the other, each in the time that its bytes take,
/// while the rank computes.
template <class C>
class slow {
public:
  using memory_type = typename C::memory_type;
  static constexpr bool row_lists = sp::has_row_lists<C>;
  struct token {
    decltype(std::declval<C const&>().exchange({})) inner;
    steady::time_point arrival;
    void wait() {
      inner.wait();
      std::this_thread::sleep_until(arrival);
    }
  };
  slow(C inner, double seconds_per_byte)
      : inner_(std::move(inner)), per_byte_(seconds_per_byte), free_(std::make_shared<steady::time_point>()) {}
  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  token exchange(sp::traffic const& t) const {
    std::int64_t bytes = 0;
    for (sp::parcel const& p : t.receives) bytes += p.peer == rank() ? 0 : sp::total_bytes(p.pieces);
    auto const takes = std::chrono::duration_cast<steady::duration>(std::chrono::duration<double>(double(bytes) * per_byte_));
    *free_ = std::max(*free_, steady::now()) + takes;
    return {inner_.exchange(t), *free_};
  }

private:
  C inner_;
  double per_byte_;
  std::shared_ptr<steady::time_point> free_; ///< when the network has brought all that was asked for
};

/// A kernel that takes no time.
struct idle {
  using memory_type = sp::host_memory;
  template <class T>
  void forward(sp::whole_call<T> const&) const {}
  template <class T>
  void backward(sp::whole_grad<T> const&) const {}
};

/// The slowest of two ranks, eight heads.
template <class Kernel>
seconds over_slow_network(Kernel kernel, double seconds_per_byte, std::int64_t chunks) {
  seconds worst;
  std::mutex lock;
  sp::threads::run(2, [&](auto const& comm) {
    sp::batch b(sp::documents::rectangular(1, tokens()), sp::contiguous{}, comm);
    sp::ulysses_attention const attention{slow(comm, seconds_per_byte), kernel, {}, {.head_chunks = chunks}};
    seconds const s = time_one(attention, b, comm, tensors(b.tokens(), 8, 8));
    std::scoped_lock hold(lock);
    worst = {std::max(worst.forward, s.forward), std::max(worst.backward, s.backward)};
  });
  return worst;
}

/// On a network whose exchanges take about as long as the computation. Counters in milliseconds, and the time against their sum.
void overlap(benchmark::State& state, bool backward) {
  auto of = [&](seconds const& s) { return backward ? s.backward : s.forward; };
  double sums[4] = {};
  double const received =
      double(tokens()) * dim * 8 * sizeof(float) / 4; // of one tensor: half of the heads of the other rank's tokens
  for (auto _ : state) {
    double const compute = of(over_slow_network(sp::cpu{}, 0, 1));
    double const per_byte = compute / (4 * received); // forward q, k, v and out, backward dout, dq, dk and dv
    double const exchange = of(over_slow_network(idle{}, per_byte, 1)), at_once = of(over_slow_network(sp::cpu{}, per_byte, 1));
    double const chunks = of(over_slow_network(sp::cpu{}, per_byte, state.range(0)));
    state.SetIterationTime(chunks);
    for (auto [i, x] : {std::pair(0, compute), std::pair(1, exchange), std::pair(2, at_once), std::pair(3, chunks)}) sums[i] += x;
  }
  auto ms = [&](double x) { return x * 1e3 / double(state.iterations()); };
  state.counters["compute"] = ms(sums[0]);
  state.counters["exchange"] = ms(sums[1]);
  state.counters["sum"] = ms(sums[0] + sums[1]);
  state.counters["one_chunk"] = ms(sums[2]);
  state.counters["over_sum"] = sums[3] / (sums[0] + sums[1]);
}
BENCHMARK_CAPTURE(overlap, forward, false)
    ->Arg(2)
    ->Arg(4)
    ->UseManualTime()
    ->Iterations(tiny() ? 1 : 3)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(overlap, backward, true)
    ->Arg(2)
    ->Arg(4)
    ->UseManualTime()
    ->Iterations(tiny() ? 1 : 3)
    ->Unit(benchmark::kMillisecond);

} // namespace
