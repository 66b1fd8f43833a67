// Faults F1 and F2 at the level of attention objects: a rank that throws at any step, in transport or kernel, and one that never comes.
// All other ranks return `aborted` within 100 ms, no thread stays behind, and what run() rethrows is the original cause.
// waits: for deadlines
#include <doctest/doctest.h>

#include <filesystem>

#include <sp/collective/decorators/chaos.hpp>

#include "simple.hpp"

namespace conformance::test_faults {
namespace {

constexpr int ranks = 4;
sp::documents const docs = sp::packed{0, 20, 21, 49};
sp::attention_shape const shape{4, 2, 8, 4};
using clock = std::chrono::steady_clock;
#ifdef SP_TEST_SANITIZED
constexpr double prompt = 1; // seconds; everything is ten times slower
#else
constexpr double prompt = 0.1;
#endif

/// Threads of this process; if there are more than `expected`, after a second: the system still lists a thread for a moment after
/// it has been joined.
int threads_alive(int expected) {
  namespace fs = std::filesystem;
  auto const end = clock::now() + std::chrono::seconds(1);
  for (;;) {
    int const n = int(std::distance(fs::directory_iterator("/proc/self/task"), fs::directory_iterator()));
    if (n <= expected || clock::now() > end) return n;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/// Threads of this process when no rank runs: the main thread, and what a sanitizer starts with the first other thread.
int threads_at_rest() {
  static int const n = [] {
    std::thread([] {}).join();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    return threads_alive(0);
  }();
  return n;
}

/// What became of a run.
struct aftermath {
  std::string what; ///< of the exception that run() rethrew; empty: none
  sp::errc code = sp::errc::bad_state;
  int rank = -1;
  std::atomic<int> returned{0}, aborted{0};
  std::atomic<clock::rep> first{0}, last{0}; ///< when the first and the last rank left
  double spread() const { return std::chrono::duration<double>(clock::duration(last - first)).count(); }
};

template <class Body>
void survey(aftermath& a, Body body, int deadline = 30000) {
  try {
    sp::threads::run(
        ranks,
        [&](sp::threads const& comm) {
          struct leaving {
            aftermath& a;
            ~leaving() {
              auto now = clock::now().time_since_epoch().count();
              clock::rep none = 0;
              a.first.compare_exchange_strong(none, now);
              a.last = now;
              ++a.returned;
            }
          } on_exit{a};
          try {
            body(comm);
          } catch (sp::error const& e) {
            if (e.code() == sp::errc::aborted) ++a.aborted;
            throw;
          }
        },
        impatient(deadline));
  } catch (sp::error const& e) {
    a.what = e.what();
    a.code = e.code();
    a.rank = e.info().rank;
  } catch (std::exception const& e) {
    a.what = e.what();
  }
}

template <class Make>
void one_step(sp::threads const& base, int victim, index_t at, Make make) {
  sp::chaos comm(base, {.fail_at = base.rank() == victim ? at : -1});
  auto attn = make(comm);
  sp::batch b(docs, sp::zigzag{}, comm);
  attention_tensors<float> x(b, shape);
  sp::pool memory;
  x.both(attn, attn.prepare(b), {memory, memory});
  base.barrier(); // who is done waits for the others: everybody hears of a failure, also of the last message
}

/// Runs `attempt`, which fills an aftermath, up to three times: a busy machine may be slow once.
template <class Attempt>
double quickest(aftermath& a, Attempt attempt) {
  double best = 1e9;
  int const at_rest = threads_at_rest();
  for (int i = 0; i < 3 && best > prompt; ++i) {
    attempt();
    if (a.what.empty()) return 0; // nothing failed
    CHECK(threads_alive(at_rest) <= at_rest);
    CHECK(a.aborted == ranks - 1);
    CHECK(a.returned == ranks);
    best = std::min(best, a.spread());
    a.returned = a.aborted = 0;
    a.first = a.last = 0;
  }
  return best;
}

constexpr index_t most_calls = 100; ///< of one rank in one step: a dozen or two

/// The transport of rank r fails in its k-th call, for all r and k; returns how many such failures there were.
template <class Make>
int fail_everywhere(Make make) {
  int failures = 0;
  for (int victim = 0; victim < ranks; ++victim)
    for (index_t at = 0;; ++at) {
      REQUIRE_MESSAGE(at < most_calls, "rank " << victim << " fails without end");
      aftermath a;
      INFO("rank " << victim << ", call " << at);
      double const took = quickest(a, [&] { survey(a, [&](sp::threads const& comm) { one_step(comm, victim, at, make); }); });
      if (a.what.empty()) break; // this rank makes fewer calls
      CHECK(a.code == sp::errc::backend_error);
      CHECK(a.rank == victim);
      CHECK(a.what.find("chaos") != std::string::npos);
      CHECK(took <= prompt);
      ++failures;
    }
  return failures;
}

/// A kernel that throws something of its own in its k-th call on one rank.
class exploding {
public:
  using memory_type = sp::host_memory;
  using plan = sp::cpu<>::plan;
  using saved = sp::cpu<>::saved;
  explicit exploding(int at) : at_(at) {}
  plan prepare(sp::problem const& p) const { return kernel_.prepare(p); }
  template <class T>
  saved forward(plan const& p, sp::allocator& a, sp::call_params const& n, sp::view<T const, 3> q,
                std::span<sp::kv_views<T> const> k, sp::attention_state<T> s) const {
    burn();
    return kernel_.forward<T>(p, a, n, q, k, s);
  }
  template <class T>
  void backward(plan const& p, sp::allocator& a, sp::call_params const& n, std::span<sp::query_grad<T> const> q,
                std::span<sp::key_grad<T> const> k, saved const& x) const {
    burn();
    kernel_.backward<T>(p, a, n, q, k, x);
  }
  template <class T>
  sp::index_t scratch_bytes(plan const& p, sp::heads const& h, sp::index_t dim, sp::index_t value_dim) const {
    return kernel_.scratch_bytes<T>(p, h, dim, value_dim);
  }

private:
  void burn() const {
    if (at_-- == 0) throw std::runtime_error("the kernel is on fire");
  }
  sp::cpu<> kernel_;
  mutable int at_;
};

} // namespace

TEST_CASE("F1: the transport of any rank fails at any call of a ring [tsan]") {
  for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q}) {
    int n = fail_everywhere([&](auto comm) { return sp::ring_attention{comm, sp::cpu{}, {.schedule = how, .head_chunks = 2}}; });
    CHECK(n >= (how == sp::schedule::pull ? 2 * ranks : 6 * ranks)); // a publish each way; or six exchanges at least
  }
}

TEST_CASE("F1: a kernel that throws on any rank at any step [tsan]") {
  for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q})
    for (int victim = 0; victim < ranks; ++victim)
      for (int at = 0; at < (how == sp::schedule::rotate ? 2 * ranks : 2); ++at) {
        aftermath a;
        INFO("schedule " << int(how) << ", rank " << victim << ", call " << at);
        double const took = quickest(a, [&] {
          survey(a, [&](sp::threads const& comm) {
            one_step(comm, -1, -1, [&](auto c) {
              return sp::ring_attention{c, exploding(comm.rank() == victim ? at : -1), {.schedule = how}};
            });
          });
        });
        CHECK(a.what == "the kernel is on fire");
        CHECK(took <= prompt);
      }
}

#ifndef SP_TEST_SANITIZED
TEST_CASE("F1: the transport of any rank fails at any call of ulysses and usp") {
  CHECK(fail_everywhere([](auto comm) { return sp::ulysses_attention{comm, sp::cpu{}}; }) == 4 * ranks);
  CHECK(fail_everywhere([](auto comm) { return make_usp(comm, 2, sp::cpu{}, {.schedule = sp::schedule::rotate}); }) >= 8 * ranks);
}

TEST_CASE("F1: after a failure the communicator refuses at once") {
  std::atomic<int> refused{0};
  aftermath a;
  survey(a, [&](sp::threads const& comm) {
    try {
      one_step(comm, 2, 1, [](auto c) { return sp::ring_attention{c, sp::cpu{}, {.schedule = sp::schedule::rotate}}; });
    } catch (sp::error const& e) {
      if (comm.rank() == 2) throw;
      auto begin = clock::now();
      try {
        one_step(comm, -1, -1, [](auto c) { return sp::ulysses_attention{c, sp::cpu{}}; });
      } catch (sp::error const& later) {
        if (later.code() == sp::errc::aborted && clock::now() - begin < std::chrono::seconds(1)) ++refused;
      }
      throw;
    }
  });
  CHECK(refused == ranks - 1);
  CHECK(a.code == sp::errc::backend_error);
}

TEST_CASE("F2: a rank that never calls is a timeout within the deadline and a tenth") {
  constexpr double deadline = 0.5;
  for (int object = 0; object < 3; ++object) {
    double best = 1e9;
    for (int attempt = 0; attempt < 3 && best > deadline * 1.1; ++attempt) { // a busy machine may be slow once
      std::atomic<int> left{0};
      aftermath a;
      auto begin = clock::now();
      survey(
          a,
          [&](sp::threads const& comm) {
            if (comm.rank() == 1) { // lives, but does not take part
              while (left < ranks - 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
              return;
            }
            struct leaving {
              std::atomic<int>& n;
              ~leaving() { ++n; }
            } on_exit{left};
            if (object == 0)
              one_step(comm, -1, -1, [](auto c) { return sp::ring_attention{c, sp::cpu{}, {.schedule = sp::schedule::rotate}}; });
            if (object == 1)
              one_step(comm, -1, -1, [](auto c) { return sp::ring_attention{c, sp::cpu{}, {.schedule = sp::schedule::pull}}; });
            if (object == 2) one_step(comm, -1, -1, [](auto c) { return sp::ulysses_attention{c, sp::cpu{}}; });
          },
          int(1000 * deadline));
      double took = std::chrono::duration<double>(clock::now() - begin).count();
      INFO(a.what);
      CHECK(a.code == sp::errc::timeout);
      CHECK(a.what.find(object == 2 ? "ulysses.forward" : "ring.forward") != std::string::npos);
      CHECK(took >= deadline);
      CHECK(a.returned == ranks);
      best = std::min(best, took);
    }
    CHECK(best <= deadline * 1.1);
  }
}

TEST_CASE("F12: a rank that returns early is named") {
  aftermath a;
  survey(a, [&](sp::threads const& comm) {
    if (comm.rank() != 3)
      one_step(comm, -1, -1, [](auto c) { return sp::ring_attention{c, sp::cpu{}, {.schedule = sp::schedule::rotate}}; });
  });
  INFO(a.what);
  CHECK(a.code == sp::errc::peer_failed);
  CHECK(a.what.find("3") != std::string::npos);
  CHECK(a.returned == ranks);
}

TEST_CASE("F7: a message that is too short is an error, not numbers") {
  for (int victim : {0, 3}) {
    aftermath a;
    survey(a, [&](sp::threads const& comm) {
      sp::chaos bad(comm, {.truncate_at = comm.rank() == victim ? 1 : -1});
      sp::ring_attention attn{bad, sp::cpu{}, {.schedule = sp::schedule::rotate}};
      sp::batch b(docs, sp::zigzag{}, comm);
      attention_tensors<float> x(b, shape);
      sp::pool memory;
      x.both(attn, attn.prepare(b), {memory, memory});
    });
    INFO(a.what);
    CHECK(a.code == sp::errc::short_message);
    CHECK(a.returned == ranks);
  }
}
#endif

} // namespace conformance::test_faults
