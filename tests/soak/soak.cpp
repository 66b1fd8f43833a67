// The soak on ranks that are threads: random differential cases, ring steps under delays, throws at random places.
// soak cases|steps|throws [--count N] [--seed S] [--seconds T] [--latency MS]; the last line is the tally, status 1 on any failure.
#define DOCTEST_CONFIG_IMPLEMENT // the conformance headers mention doctest; nothing here asserts through it
#include <filesystem>

#include "conformance/simple.hpp"
#include "fuzz/differential.hpp"
#include "fuzz/draw.hpp"
#include "fuzz/shrink.hpp"
#include "soak.hpp"

#include <sp/collective/decorators/chaos.hpp>

namespace soak {

using conformance::attention_tensors;
using sp::index_t;

/// Random differential cases, one after the other.
int cases(arguments const& args, std::uint64_t seed) {
  run all("cases", args.number("--count", 50000), args.number("--seconds", 0));
  int mismatches = 0;
  for (; all.more() && mismatches < 20; ++seed, all.add(1)) {
    fuzz::recipe const r = fuzz::draw(seed);
    all.doing(fuzz::line_of(r));
    std::string const wrong = fuzz::check(r);
    if (wrong.empty()) continue;
    ++mismatches;
    auto const small = fuzz::shrink(
                           r, [](fuzz::recipe const& x) { return !fuzz::check(x).empty(); }, 200)
                           .smallest;
    fuzz::remember(small, wrong);
    std::printf("MISMATCH %s\n  from seed %llu: %s\n", fuzz::line_of(small).c_str(), static_cast<unsigned long long>(seed),
                wrong.c_str());
  }
  std::printf("cases %.0f mismatches %d seconds %.1f%s\n", all.done(), mismatches, all.seconds(), all.memory().c_str());
  return mismatches > 0;
}

/// One forward and backward pass of a ring on each rank of `comm`.
template <class Comm>
std::vector<float> ring_pass(Comm const& comm, sp::documents const& docs, sp::pool& memory) {
  sp::ring_attention attn{comm, sp::cpu<>{}, {.mask = sp::causal(), .schedule = sp::schedule::rotate}};
  sp::batch b(docs, sp::zigzag{}, comm);
  attention_tensors<float> x(b, {2, 1, 4, 4});
  x.both(attn, attn.prepare(b), {memory, memory});
  return x.results();
}

/// Rings under seeded delays: the same bits as without. A step is one exchange of the whole ring.
int steps(arguments const& args, std::uint64_t seed) {
  run all("ring steps", args.number("--count", 1e6), args.number("--seconds", 0));
  std::atomic<int> different = 0;
  int hangs = 0, others = 0;
  for (; all.more() && hangs + others + different < 20; ++seed) {
    fuzz::dice d(seed);
    int const ranks = int(d.between(2, 8));
    index_t const a = d.between(0, 20), b = d.between(1, 20), passes = 50;
    auto const longest = std::chrono::microseconds(d.between(1, 60));
    sp::documents const docs({{0, a, a, 0}, {a, b, b, 1}}, a + b);
    all.doing("seed " + std::to_string(seed));
    std::atomic<index_t> done = 0;
    try {
      sp::threads::run(
          ranks,
          [&](sp::threads const& rank) {
            sp::pool memory;
            auto const expected = ring_pass(rank, docs, memory);
            for (index_t pass = 0; pass < passes; ++pass) {
              sp::chaos comm(rank, {.seed = seed * 1000 + std::uint64_t(pass), .max_delay = longest});
              auto const got = ring_pass(comm, docs, memory);
              different += std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) != 0;
              if (rank.rank() == 0) done += comm.calls();
            }
          },
          conformance::impatient());
    } catch (sp::error const& e) {
      (e.code() == sp::errc::timeout ? hangs : others)++;
      std::printf("RING of seed %llu: %s\n", static_cast<unsigned long long>(seed), e.what());
    }
    all.add(double(done));
  }
  std::printf("steps %.0f hangs %d different %d errors %d seconds %.1f%s\n", all.done(), hangs, int(different), others,
              all.seconds(), all.memory().c_str());
  return hangs + others + different > 0;
}

std::size_t threads_alive() {
  std::size_t n = 0;
  for ([[maybe_unused]] auto const& entry : std::filesystem::directory_iterator("/proc/self/task")) ++n;
  return n;
}

/// What became of one throw.
struct aftermath {
  std::atomic<int> ended{0}, wrong{0};
  std::atomic<clock::rep> thrown{0}, last{0};
};

/// Passes of ring and ulysses without end; the victim's communicator fails in its call `at`, or the victim throws by itself.
void doomed(sp::threads const& rank, int victim, index_t at, bool own, aftermath& a) {
  sp::chaos comm(rank, {.fail_at = rank.rank() == victim && !own ? at : -1});
  sp::documents const docs = sp::packed{0, 9, 9, 20};
  sp::pool memory;
  auto now = [] { return clock::now().time_since_epoch().count(); };
  try {
    for (index_t step = 0;; ++step) {
      if (own && rank.rank() == victim && step == at) throw std::runtime_error("the victim throws");
      if (rank.rank() == victim && !own) a.thrown = now(); // the last time before the failing call
      if (step % 2 == 0) {
        ring_pass(comm, docs, memory);
        continue;
      }
      sp::ulysses_attention attn{sp::group(comm), sp::cpu<>{}, {.mask = sp::causal()}};
      sp::batch b(docs, sp::contiguous{}, comm);
      attention_tensors<float> x(b, {4, 2, 4, 4});
      x.both(attn, attn.prepare(b), {memory, memory});
    }
  } catch (sp::error const& e) {
    bool const mine = rank.rank() == victim;
    if (e.code() != (mine ? sp::errc::backend_error : sp::errc::aborted)) {
      ++a.wrong;
      std::printf("THROW rank %d of victim %d: %s\n", rank.rank(), victim, e.what());
    }
    a.last = now();
    ++a.ended;
    throw;
  } catch (std::runtime_error const&) {
    a.thrown = a.last = now();
    ++a.ended;
    throw;
  }
}

/// A throw in a random rank at a random step: everybody ends in time, with `aborted` or what it threw, and no thread is left.
int throws(arguments const& args, std::uint64_t seed) {
  run all("throws", args.number("--count", 1000), args.number("--seconds", 0));
  double const latency = args.number("--latency", 100);
  double slowest = 0;
  int wrong = 0, late = 0, leaks = 0;
  std::size_t const before = threads_alive();
  for (; all.more(); ++seed, all.add(1)) {
    fuzz::dice d(seed);
    int const ranks = int(d.between(2, 8)), victim = int(d.between(0, ranks - 1));
    bool const own = d.one_in(2);
    index_t const at = own ? d.between(0, 6) : d.between(0, 60);
    all.doing("seed " + std::to_string(seed));
    aftermath a;
    std::string what;
    try {
      sp::threads::run(
          ranks, [&](sp::threads const& rank) { doomed(rank, victim, at, own, a); }, conformance::impatient());
    } catch (std::exception const& e) {
      what = e.what();
    }
    bool const first_cause = what.find(own ? "the victim throws" : "fails as asked") != std::string::npos;
    if (!first_cause || a.ended != ranks || a.wrong > 0) {
      ++wrong;
      std::printf("THROW seed %llu: %d of %d ranks ended, run() said: %s\n", static_cast<unsigned long long>(seed), int(a.ended),
                  ranks, what.c_str());
    }
    double const took = std::chrono::duration<double, std::milli>(clock::duration(a.last - a.thrown)).count();
    slowest = std::max(slowest, took);
    late += took > latency;
    auto const patience = clock::now() + std::chrono::seconds(1); // a joined thread stays listed for a moment
    while (threads_alive() > before && clock::now() < patience) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    leaks += threads_alive() > before;
  }
  std::printf("throws %.0f wrong %d late %d leaks %d slowest_ms %.1f seconds %.1f%s\n", all.done(), wrong, late, leaks, slowest,
              all.seconds(), all.memory().c_str());
  return wrong + late + leaks > 0;
}

} // namespace soak

int main(int argc, char** argv) {
  ::mallopt(M_ARENA_MAX, 2); // many short-lived threads: their arenas would be what is measured
  soak::arguments const args(argc, argv);
  auto const seed = std::uint64_t(args.number("--seed", 1));
  std::string const mode = argc > 1 ? argv[1] : "";
  if (mode == "cases") return soak::cases(args, seed);
  if (mode == "steps") return soak::steps(args, seed);
  if (mode == "throws") return soak::throws(args, seed);
  std::fprintf(stderr, "usage: soak cases|steps|throws [--count N] [--seed S] [--seconds T] [--latency MS]\n");
  return 2;
}
