// What diagnosis costs: an exchange and a small attention step with nothing on, with the flight recorder, and with log and trace. Also
// how long a throw takes to reach all ranks (F1), without and with files of flight records, while they wait and while they compute.
// All figures come from one run, in turns, and are the quietest block of each, of throws the median and the longest of nine;
// SP_BENCH_TINY=1 takes few.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include <sp/batch.hpp>
#include <sp/cpu.hpp>
#include <sp/diagnosis.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>

namespace {

struct mode {
  char const* name;
  int flight_records;
  sp::diagnosis::settings settings;
};

/// Seconds per call of `body(communicator)()` on `ranks` ranks: the quietest of `blocks` blocks, because others can only add to it.
template <class Body>
double quietest(mode const& m, int ranks, int blocks, int calls, Body&& body) {
  sp::diagnosis::configure(m.settings);
  std::vector<double> took(std::size_t(ranks * blocks));
  sp::threads::run(ranks,
                   [&](sp::threads const& c) {
                     auto one = body(c);
                     one();
                     for (int b = 0; b < blocks; ++b) {
                       c.barrier();
                       auto const begin = std::chrono::steady_clock::now();
                       for (int i = 0; i < calls; ++i) one();
                       took[std::size_t(ranks * b + c.rank())] =
                           std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / calls;
                     }
                   },
                   {.flight_records = m.flight_records});
  double best = 1e9;
  for (auto b = took.begin(); b != took.end(); b += ranks) best = std::min(best, *std::max_element(b, b + ranks));
  return best;
}

/// No message and nobody to wait for: what is left is the bookkeeping.
auto empty_exchange(sp::threads const& c) {
  return [c] { c.exchange({"empty", {}, {}}).wait(); };
}

/// One message there, and one back when it has come.
auto ping_pong(sp::threads const& c) {
  return [c, out = 1.0f, in = 0.0f]() mutable {
    sp::piece const from = sp::as_piece(sp::view<float, 1>(&out, {1})), to = sp::as_piece(sp::view<float, 1>(&in, {1}));
    sp::parcel const send{1 - c.rank(), {&from, 1}}, receive{1 - c.rank(), {&to, 1}};
    for (int turn = 0; turn < 2; ++turn)
      c.exchange(turn == c.rank() ? sp::traffic{"ping", {&send, 1}, {}} : sp::traffic{"ping", {}, {&receive, 1}}).wait();
  };
}

/// Messages both ways at once.
auto swap_floats(sp::threads const& c) {
  return [c, out = 1.0f, in = 0.0f]() mutable {
    sp::piece const from = sp::as_piece(sp::view<float, 1>(&out, {1})), to = sp::as_piece(sp::view<float, 1>(&in, {1}));
    sp::parcel const send{1 - c.rank(), {&from, 1}}, receive{1 - c.rank(), {&to, 1}};
    c.exchange({"swap", {&send, 1}, {&receive, 1}}).wait();
  };
}

/// Forward of a causal ring over `tokens` tokens, 2 heads of 16.
auto attention_step(sp::threads const& c, sp::index_t tokens) {
  struct step {
    sp::batch batch;
    sp::ring_attention<sp::threads, sp::cpu<>> attention;
    std::vector<float> q, k, v, out;
    void operator()() {
      auto view = [&](std::vector<float>& x) { return sp::view<float, 3>(x.data(), {batch.tokens(), 2, 16}); };
      attention.infer(batch, view(q), view(k), view(v), view(out));
    }
  };
  sp::batch b(sp::packed{0, tokens}, sp::zigzag{}, c);
  std::vector<float> const x(std::size_t(b.tokens() * 32), 0.5f);
  return step{std::move(b), sp::ring_attention{c, sp::cpu{}}, x, x, x, x};
}

struct spread {
  double median, longest;
};

/// Seconds from a throw in rank 0 until the last of the others has left, of `rounds`. `busy(world, group of the others)()` is what they
/// do meanwhile, after `records` operations that fill their flight records.
template <class Busy>
spread throw_to_last(int ranks, int records, int rounds, Busy&& busy) {
  using clock = std::chrono::steady_clock;
  std::vector<double> took;
  for (int round = 0; round < rounds; ++round) {
    std::atomic<clock::rep> thrown{0}, last{0};
    try {
      sp::threads::run(ranks,
                       [&](sp::threads const& c) {
                         struct leaving {
                           std::atomic<clock::rep>& last;
                           bool counts;
                           ~leaving() {
                             clock::rep const now = clock::now().time_since_epoch().count();
                             for (clock::rep l = last; counts && l < now && !last.compare_exchange_weak(l, now);) {
                             }
                           }
                         } const at_end{last, c.rank() != 0};
                         auto const self = c.split(c.rank(), 0);
                         auto const others = c.split(c.rank() != 0, 0);
                         auto work = busy(c, others);
                         for (int i = 0; i < records; ++i) self.barrier();
                         c.barrier();
                         if (c.rank() != 0)
                           while (true) work();
                         std::this_thread::sleep_for(std::chrono::milliseconds(20 + 7 * round));
                         thrown = clock::now().time_since_epoch().count();
                         throw std::runtime_error("rank 0 fell over");
                       },
                       {.flight_records = std::max(records, 64)});
    } catch (std::runtime_error const&) {
    }
    took.push_back(std::chrono::duration<double>(clock::duration(last - thrown)).count());
  }
  std::sort(took.begin(), took.end());
  return {took[std::size_t(rounds / 2)], took.back()};
}

/// F1: all others wait for a rank that never comes, or compute attention, and look for failures where they exchange.
void report_throws(std::filesystem::path const& folder, bool tiny) {
  int const rounds = tiny ? 1 : 9;
  sp::index_t const tokens = tiny ? 256 : 2048;
  sp::diagnosis::settings const off{}, files{.flight_file = (folder / "flight.%r").string()};
  auto waits = [](sp::threads const& world, sp::threads const&) { return [world] { world.barrier(); }; };
  auto computes = [&](sp::threads const&, sp::threads const& others) { return attention_step(others, tokens); };
  auto row = [&](char const* what, int ranks, auto&& busy) {
    std::printf("%-22s", what);
    for (auto const& [name, records, settings] :
         {mode{"no files", 0, off}, {"files of 64 records", 64, files}, {"of 4096", 4096, files}}) {
      sp::diagnosis::configure(settings);
      spread const s = throw_to_last(ranks, records, rounds, busy);
      std::printf(" %s %.2f ms (at most %.2f)%s", name, 1e3 * s.median, 1e3 * s.longest, records == 4096 ? "" : ",");
    }
    std::printf("\n");
  };
  row("throw to 15 that wait", 16, waits);
  row("throw to 63 that wait", tiny ? 8 : 64, waits);
  row("throw to 3 that compute", 4, computes);
  double const step = quietest({"off", 64, off}, 3, 3, 1, [&](sp::threads const& c) { return attention_step(c, tokens); });
  std::printf("%-22s %.2f ms; a rank that computes looks where it exchanges\n", "... steps of", 1e3 * step);
}

} // namespace

int main() {
  bool const tiny = std::getenv("SP_BENCH_TINY") != nullptr;
  auto const folder = std::filesystem::temp_directory_path() / ("sp_bench_diagnosis." + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  sp::diagnosis::settings const off{}, log{.log = sp::diagnosis::level::trace, .log_file = (folder / "log.%r").string()},
      both{.log = sp::diagnosis::level::trace, .log_file = log.log_file, .trace_file = (folder / "trace.%r.json").string()};
  std::array<mode, 4> const modes{{{"off", 0, off}, {"recorder", 64, off}, {"log", 64, log}, {"log and trace", 64, both}}};
  int const rounds = tiny ? 1 : 15;
  auto report = [&](char const* what, int ranks, int blocks, int calls, auto&& body) {
    std::array<double, modes.size()> best;
    best.fill(1e9);
    for (int r = 0; r < rounds; ++r)
      for (std::size_t m = 0; m < modes.size(); ++m)
        best[m] = std::min(best[m], quietest(modes[m], ranks,
                                             tiny    ? 2
                                             : m < 2 ? blocks
                                                     : 2,
                                             m < 2 ? calls : std::min(calls, 50), body));
    std::printf("%-22s %10.0f ns off", what, 1e9 * best[0]);
    for (std::size_t m = 1; m < modes.size(); ++m)
      std::printf(", %s x %.3f (+ %.0f ns)", modes[m].name, best[m] / best[0], 1e9 * (best[m] - best[0]));
    std::printf("\n");
  };
  report("exchange of nothing", 1, 500, 100, empty_exchange);
  report("swap of 4 bytes", 2, 500, 40, swap_floats);
  report("ping and pong", 2, 500, 40, ping_pong);
  report("ring of 64 tokens", 2, 100, 10, [](sp::threads const& c) { return attention_step(c, 64); });
  report("ring of 512 tokens", 2, 20, 4, [](sp::threads const& c) { return attention_step(c, 512); });
  report_throws(folder, tiny);
  sp::diagnosis::configure({});
  std::filesystem::remove_all(folder);
}
