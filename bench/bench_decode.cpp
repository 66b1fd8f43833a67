// Decode over eight ranks: one query of each sequence against 64K keys, by rotate, cast and pass_q. Bytes that move, and time on threads.
// Keys of each sequence are cut over all ranks, queries are spread over them; 32 query heads, 8 kv heads of 128 channels, bf16.
#include <chrono>
#include <cstdlib>
#include <mutex>

#include <benchmark/benchmark.h>

#include <sp/counting.hpp>
#include <sp/cpu.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>

namespace {

using sp::index_t;

constexpr int ranks = 8;
constexpr index_t q_heads = 32, kv_heads = 8, dim = 128;
bool tiny() { return std::getenv("SP_BENCH_TINY") != nullptr; }
index_t keys() { return tiny() ? 512 : 65536; } ///< of all sequences together

sp::documents equal_lengths(index_t count, index_t length) {
  std::vector<index_t> ends;
  for (index_t d = 0; d <= count; ++d) ends.push_back(d * length);
  return sp::packed(std::span<index_t const>(ends));
}

struct result {
  double seconds = 0;
  index_t most = 0, all = 0; ///< bytes sent by the busiest rank, and by all
  bool as_promised = true;
};

void step(sp::threads const& comm, index_t sequences, sp::schedule how, result& to, std::mutex& lock) {
  auto const mask = sp::causal(sp::align::end);
  sp::batch const q(equal_lengths(sequences, 1), sp::contiguous{sp::scope::stream}, comm);
  sp::batch const k(equal_lengths(sequences, keys() / sequences), sp::contiguous{sp::scope::document}, comm);
  std::vector<sp::bf16> memory[4];
  auto tensor = [&](int i, index_t rows, index_t heads) {
    memory[i].assign(std::size_t(rows * heads * dim), sp::from_acc<sp::bf16>(0.01F * float(comm.rank() + i)));
    return sp::view<sp::bf16, 3>(memory[i].data(), {rows, heads, dim});
  };
  auto const query = tensor(0, q.tokens(), q_heads), answer = tensor(1, q.tokens(), q_heads);
  auto const key = tensor(2, k.tokens(), kv_heads), value = tensor(3, k.tokens(), kv_heads);
  sp::ledger sent;
  sp::ring_attention const ring{sp::counting(comm, sent), sp::cpu{}, {.mask = mask, .schedule = how}};
  auto const prepared = ring.prepare(q, k);
  sp::pool pool;
  sp::context const context(pool, pool);
  ring.infer(prepared, context, query, key, value, answer); // warms up
  sent = {};
  sp::barrier(comm);
  auto const start = std::chrono::steady_clock::now();
  ring.infer(prepared, context, query, key, value, answer);
  sp::barrier(comm);
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  sp::query_cast const rows(q.layout(), k.layout(), sp::slices(mask, q.docs(), k.docs()), comm.rank());
  index_t const promised = rows.rows_sent() * q_heads * dim * 2 + rows.rows_received() * q_heads * (dim + 1) * 4;
  std::scoped_lock hold(lock);
  to.seconds = std::max(to.seconds, seconds);
  to.most = std::max(to.most, index_t(sent.total().bytes_sent));
  to.all += index_t(sent.total().bytes_sent);
  to.as_promised = to.as_promised && (how != sp::schedule::pass_q || index_t(sent.total().bytes_sent) == promised);
}

void decode(benchmark::State& state, sp::schedule how) {
  result last;
  for (auto _ : state) {
    last = {};
    std::mutex lock;
    sp::threads::run(ranks, [&](sp::threads const& comm) { step(comm, state.range(0), how, last, lock); });
    state.SetIterationTime(last.seconds);
    if (!last.as_promised) return state.SkipWithError("pass_q sent other bytes than query_cast says");
  }
  state.counters["bytes_busiest_rank"] = double(last.most);
  state.counters["bytes_all_ranks"] = double(last.all);
}

void sequences(benchmark::internal::Benchmark* b) {
  b->ArgName("sequences")->Arg(1)->Arg(8)->UseManualTime()->Iterations(tiny() ? 1 : 3);
}
BENCHMARK_CAPTURE(decode, rotate, sp::schedule::rotate)->Apply(sequences);
BENCHMARK_CAPTURE(decode, cast, sp::schedule::cast)->Apply(sequences);
BENCHMARK_CAPTURE(decode, pass_q, sp::schedule::pass_q)->Apply(sequences);

} // namespace
