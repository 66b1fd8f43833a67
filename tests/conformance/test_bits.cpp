// Bitwise identities: what must have the same bits for every number of ranks, sharding and schedule, and from run to run.
// out, lse and dq of Ulysses, cast and pull; dk and dv of pull, and of Ulysses where no kv head is shared; rotate and pass_q under delays.
// optimised: hundreds of trials
#include <doctest/doctest.h>

#include <sp/collective/decorators/chaos.hpp>
#include <sp/cpu.hpp>

#include "bits.hpp"

namespace conformance::test_bits {
namespace {

constexpr std::uint64_t trials = 12; // under delays

#ifndef SP_TEST_SANITIZED
/// A trial with the problem of `problem` and the ranks, sharding and schedule of `how`.
trial combine(trial how, trial const& problem) {
  trial t = problem;
  t.object = how.object;
  t.ranks = how.ranks, t.ring = how.ring, t.ulysses = how.ulysses, t.ring_is_fast = how.ring_is_fast;
  t.how = how.how, t.head_chunks = how.head_chunks, t.keep = how.keep;
  t.sharding = how.sharding, t.padded = how.padded, t.order = how.order, t.checks = how.checks;
  t.key_sharding = how.key_sharding, t.key_padded = how.key_padded;
  return t;
}

template <class T, bool Featured>
void identities(double budget) {
  auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(budget);
  std::uint64_t seed = 1;
  if (char const* s = std::getenv("SP_TEST_SEED")) seed = std::strtoull(s, nullptr, 10);
  int compared = 0;
  for (; std::chrono::steady_clock::now() < end || compared < 180; ++seed) {
    trial problem = plain(seed * 7919, object_kind::ring);
    if (!Featured) problem.softcap = problem.dropout = 0, problem.alibi = false;
    inputs<T> in(problem);
    auto with_kernel = [&](auto const& kernel) {
      outcome<T> alone(problem, 1);
      run_alone(problem, in, kernel, alone);
      for (int i = 0; i < 6; ++i) {
        auto object = object_kind(i % 3);
        trial t = combine(plain(seed * 7919 + std::uint64_t(i) * 104729 + 1, object), problem);
        if (t.how == sp::schedule::rotate || t.how == sp::schedule::pass_q) t.how = sp::schedule::pull;
        if (t.how == sp::schedule::automatic && t.object == object_kind::ring) t.how = sp::schedule::cast;
        outcome<T> got(t, t.ranks);
        if (object == object_kind::ring) run<object_kind::ring>(t, in, kernel, got);
        if (object == object_kind::ulysses) run<object_kind::ulysses>(t, in, kernel, got);
        if (object == object_kind::usp) run<object_kind::usp>(t, in, kernel, got);
        bool pulls = t.how != sp::schedule::cast || t.ring == 1;
        auto wrong = differing(got, alone, pulls && !shares_kv_heads(t));
        INFO(t.describe());
        INFO("replay: SP_TEST_SEED=" << seed);
        INFO("different from one rank:" << wrong);
        CHECK(wrong.empty());
        ++compared;
      }
    };
    if constexpr (Featured)
      with_kernel(sp::cpu{sp::softcap{problem.softcap}, sp::alibi{in.slopes}, sp::dropout{problem.dropout}});
    else
      with_kernel(sp::cpu{});
  }
  MESSAGE(compared << " results compared");
}

#endif

} // namespace

#ifndef SP_TEST_SANITIZED
TEST_CASE("float: the same bits for every number of ranks, sharding and schedule") { identities<float, false>(seconds() / 4); }
TEST_CASE("bf16: the same bits for every number of ranks, sharding and schedule") { identities<sp::bf16, false>(seconds() / 4); }
#ifdef SP_TEST_ALL
TEST_CASE("double: the same bits for every number of ranks, sharding and schedule") { identities<double, false>(seconds() / 4); }
TEST_CASE("float with every feature: the same bits") { identities<float, true>(seconds() / 4); }
#endif
#endif

TEST_CASE("rotate, cast and pass_q have the same bits from run to run and under delays [tsan]") {
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= trials; ++seed) {
    trial t = plain(seed, object_kind::ring);
    t.how = seed % 4 == 3 ? sp::schedule::cast : seed % 4 == 1 ? sp::schedule::pass_q : sp::schedule::rotate;
    if (t.ranks < 3) t.ranks = t.ring = 5;
    inputs<float> in(t);
    outcome<float> first(t, t.ranks), again(t, t.ranks);
    run<object_kind::ring>(t, in, sp::cpu{}, first);
    run<object_kind::ring>(t, in, sp::cpu{}, again);
    INFO(t.describe());
    CHECK(differing(first, again, true) == "");
    for (std::uint64_t delays = 1; delays <= 3; ++delays) {
      outcome<float> delayed(t, t.ranks);
      run<object_kind::ring>(t, in, sp::cpu{}, delayed, [&](sp::threads const& comm) {
        return sp::chaos(comm, {.seed = seed * 100 + delays, .max_delay = std::chrono::microseconds(300)});
      });
      CHECK(differing(first, delayed, true) == "");
      ++compared;
    }
  }
  CHECK(compared == 3 * int(trials));
}

TEST_CASE("two threads of each rank at once, in groups of their own, have the bits of one [tsan]") {
  for (std::uint64_t seed = 1; seed <= trials / 2; ++seed) {
    trial t = plain(seed, object_kind::ring);
    if (t.ranks < 2) t.ranks = t.ring = 3;
    inputs<float> in(t);
    outcome<float> once(t, t.ranks), first(t, t.ranks), second(t, t.ranks);
    run<object_kind::ring>(t, in, sp::cpu{}, once);
    run_twice<object_kind::ring>(t, in, sp::cpu{}, first, second);
    INFO(t.describe());
    CHECK(differing(first, once, true) == "");
    CHECK(differing(second, once, true) == "");
  }
}

TEST_CASE("ulysses and usp under delays have the bits of one rank [tsan]") {
  for (std::uint64_t seed = 1; seed <= trials; ++seed) {
    trial t = plain(seed, seed % 2 ? object_kind::usp : object_kind::ulysses);
    t.how = sp::schedule::pull;
    inputs<float> in(t);
    outcome<float> alone(t, 1), got(t, t.ranks);
    run_alone(t, in, sp::cpu{}, alone);
    auto wrap = [&](sp::threads const& comm) {
      return sp::chaos(comm, {.seed = seed, .max_delay = std::chrono::microseconds(300)});
    };
    if (t.object == object_kind::usp)
      run<object_kind::usp>(t, in, sp::cpu{}, got, wrap);
    else
      run<object_kind::ulysses>(t, in, sp::cpu{}, got, wrap);
    INFO(t.describe());
    CHECK(differing(got, alone, !shares_kv_heads(t)) == "");
  }
}

} // namespace conformance::test_bits
