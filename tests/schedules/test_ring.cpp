// F15 for rings: rotate, cast, pull and pass_q as pure data for numbers of ranks up to 64, under every sharding, forward and backward.
// No thread, no message: the real objects run rank by rank and what they asked for is checked, pair by pair and send by send.
// optimised: up to 64 ranks
#include <doctest/doctest.h>

#include "schedules/tracer.hpp"

namespace schedules::test_ring {
namespace {

constexpr int most_ranks = 64;
#ifdef SP_TEST_ALL
constexpr int every = 1; // of the numbers of ranks, from most_ranks down
#else
constexpr int every = 5;
#endif

auto ring(sp::schedule how, sp::mask const& mask, index_t head_chunks = 1) {
  return [=](record& all, int rank, tracer const& kernel) {
    rank_group world;
    for (int r = 0; r < int(all.events().size()); ++r) world.members.push_back(r);
    return sp::ring_attention{recorder(all, world, rank), kernel, {.mask = mask, .schedule = how, .head_chunks = head_chunks}};
  };
}

/// Two documents that do not divide, an empty one, and one token alone.
std::vector<index_t> lengths(int ranks) { return {2 * ranks + 1, 0, 1, ranks / 2 + 1}; }

/// One schedule under one sharding for every stride-th number of ranks from 64 down; `extra` looks at what was recorded.
template <class Sharding, class Extra>
void every_size(sp::schedule how, Sharding const& sharding, rule const& mask, Extra extra, int stride = every) {
  int good = 0;
  for (int ranks = most_ranks; ranks >= 1; ranks -= stride) {
    study s = run(ranks, lengths(ranks), sharding, 2, 1, mask, ring(how, mask.mask));
    INFO(ranks << " ranks, " << s.passes << " passes");
    CHECK(s.wrong == "");
    CHECK(most_open(s.events) <= 2);
    extra(s, ranks);
    ++good;
  }
  CHECK(good == (most_ranks + stride - 1) / stride);
}

/// Keys make P - 1 hops each way, and so do their gradients, the last of which is the way home.
void hops(study const& s, int ranks) {
  for (auto const& events : s.events)
    for (char const* primitive : {"ring.forward.keys", "ring.backward.keys", "ring.backward.gradients"})
      CHECK(exchanges(events, primitive) == ranks - 1);
}
void casts(study const& s, int ranks) {
  for (auto const& events : s.events)
    for (char const* primitive : {"ring.forward.cast", "ring.backward.cast", "ring.backward.gradients"})
      CHECK(exchanges(events, primitive) == (ranks == 1 ? 0 : 1));
}
/// Queries go out and results come home, once each.
void passes(study const& s, int ranks) {
  for (auto const& events : s.events)
    for (char const* primitive :
         {"ring.forward.queries", "ring.forward.partials", "ring.backward.queries", "ring.backward.gradients"})
      CHECK(exchanges(events, primitive) == (ranks == 1 ? 0 : 1));
}
void sends_nothing(study const& s, int) {
  for (auto const& events : s.events)
    for (event const& e : events) CHECK((e.kind == event::publish || e.kind == event::release));
}

} // namespace

TEST_CASE("F15: rotate, up to 64 ranks") {
  every_size(sp::schedule::rotate, sp::zigzag{}, causal(), hops);
  every_size(sp::schedule::rotate, sp::striped{sp::scope::stream}, window(5, 2), hops, 3);
  every_size(sp::schedule::rotate, sp::contiguous{}, full(), hops, 3);
}

TEST_CASE("F15: cast, up to 64 ranks") {
  every_size(sp::schedule::cast, sp::zigzag{}, causal(), casts);
  every_size(sp::schedule::cast, sp::striped{sp::scope::stream}, window(5, 2), casts, 3);
  every_size(sp::schedule::cast, sp::contiguous{}, causal(), casts, 3);
}

TEST_CASE("F15: cast by groups of heads, the next group in flight") {
  for (int ranks : {2, 3, 8, 17, most_ranks})
    for (index_t groups : {2, 3, 4}) {
      rule const mask = causal();
      study s = run(ranks, lengths(ranks), sp::zigzag{}, 8, 4, mask, ring(sp::schedule::cast, mask.mask, groups));
      INFO(ranks << " ranks, " << groups << " groups");
      CHECK(s.wrong == "");
      CHECK(most_open(s.events) == 2);
      CHECK(exchanges(s.events[0], "ring.forward.cast") == groups);
    }
}

TEST_CASE("F15: pull, up to 64 ranks") {
  every_size(sp::schedule::pull, sp::zigzag{}, causal(), sends_nothing);
  every_size(sp::schedule::pull, sp::striped{}, full(), sends_nothing);
  every_size(sp::schedule::pull, sp::contiguous{}, window(5, 2), sends_nothing);
}

TEST_CASE("F15: pass_q, up to 64 ranks") {
  every_size(sp::schedule::pass_q, sp::zigzag{}, causal(), passes, 9);
  every_size(sp::schedule::pass_q, sp::striped{sp::scope::stream}, window(5, 2), passes, 9);
  every_size(sp::schedule::pass_q, sp::contiguous{}, full(), passes, 9);
}

TEST_CASE("F15: pass_q by groups of heads, the next group in flight") {
  study const s = run(17, lengths(17), sp::zigzag{}, 8, 4, causal(), ring(sp::schedule::pass_q, causal().mask, 3));
  CHECK(s.wrong == "");
  CHECK(most_open(s.events) == 2); // the queries of the next chunk, and what comes home
  CHECK(exchanges(s.events[0], "ring.forward.partials") == 3);
}

} // namespace schedules::test_ring
