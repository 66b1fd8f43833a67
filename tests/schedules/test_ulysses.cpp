// F15 for Ulysses and USP: tokens for heads and back, alone for numbers of ranks up to 64 and around a ring for every way to
// divide them. The same checks as for rings; heads that do not divide, heads that ranks share, and ranks without any.
// optimised: up to 64 ranks
#include <doctest/doctest.h>

#include "schedules/tracer.hpp"

namespace schedules::test_ulysses {
namespace {

constexpr int most_ranks = 64;
#ifdef SP_TEST_ALL
constexpr int every = 1; // of the numbers of ranks, from most_ranks down
#else
constexpr int every = 5;
#endif

std::vector<index_t> lengths(int ranks) { return {2 * ranks + 1, 0, 1, ranks / 2 + 1}; }

auto ulysses(sp::mask const& mask, sp::keep kept, index_t chunks = 1) {
  return [=](record& all, int rank, tracer const& kernel) {
    rank_group world;
    for (int r = 0; r < int(all.events().size()); ++r) world.members.push_back(r);
    return sp::ulysses_attention{recorder(all, world, rank), kernel, {.mask = mask}, {kept, chunks}};
  };
}

/// ring x ulysses ranks; `ring_is_near`: ring ranks are neighbours, not the ulysses ranks.
auto usp(int ring, int degree, bool ring_is_near, sp::schedule how, sp::mask const& mask) {
  return [=](record& all, int rank, tracer const& kernel) {
    sp::mesh const mesh = ring_is_near ? sp::mesh{sp::axis::ulysses{degree}, sp::axis::ring{ring}}
                                       : sp::mesh{sp::axis::ring{ring}, sp::axis::ulysses{degree}};
    auto along = [&](sp::axis_kind kind, int first) {
      rank_group group{first + mesh.group_of(rank, {kind}), mesh.members(rank, {kind})};
      return mesh.adopt(recorder(all, group, mesh.index_in(rank, {kind})), {kind}, rank);
    };
    return sp::ulysses_attention{along(sp::axis_kind::ulysses, 0),
                                 sp::ring_attention{along(sp::axis_kind::ring, 100), kernel, {.mask = mask, .schedule = how}}};
  };
}

sp::nested<sp::zigzag> zigzag_for(int ring, int degree, bool ring_is_near) { return {{}, degree, ring_is_near ? ring : 1}; }

/// One exchange each for inputs and output of each chunk, forward and backward.
void four_exchanges(study const& s, int chunks = 1) {
  for (auto const& events : s.events)
    for (char const* primitive :
         {"ulysses.forward.inputs", "ulysses.forward.output", "ulysses.backward.inputs", "ulysses.backward.gradients"})
      CHECK(exchanges(events, primitive) == chunks);
}

void every_usp(sp::schedule how, int ranks) {
  for (int degree = 1; degree <= ranks; ++degree) {
    if (ranks % degree != 0) continue;
    rule const mask = causal();
    bool const near = degree % 3 == 2;
    study s = run(ranks, lengths(ranks), zigzag_for(ranks / degree, degree, near), 6, 3, mask,
                  usp(ranks / degree, degree, near, how, mask.mask));
    INFO((ranks / degree) << " ring ranks x " << degree << ", " << s.passes << " passes");
    CHECK(s.wrong == "");
    CHECK(most_open(s.events) <= 2);
    four_exchanges(s);
  }
}

} // namespace

TEST_CASE("F15: ulysses, up to 64 ranks, heads that do not divide") {
  int good = 0;
  for (int ranks = most_ranks; ranks >= 1; ranks -= every) {
    rule const mask = ranks % 2 ? causal() : window(5, 2);
    auto kept = ranks % 3 ? sp::keep::heads : sp::keep::output;
    study s = run(ranks, lengths(ranks), sp::zigzag{}, 6, 3, mask, ulysses(mask.mask, kept));
    INFO(ranks << " ranks, " << s.passes << " passes");
    CHECK(s.wrong == "");
    CHECK(most_open(s.events) == 1);
    four_exchanges(s);
    ++good;
  }
  CHECK(good == (most_ranks + every - 1) / every);
}

TEST_CASE(
    "F15: ulysses in chunks of heads: as many on every rank, though ranks have more or fewer heads, and two exchanges open") {
  for (auto [ranks, chunks] : {std::pair(1, 3), std::pair(2, 2), std::pair(3, 1), std::pair(4, 2), std::pair(7, 1)})
    for (sp::keep kept : {sp::keep::heads, sp::keep::output}) {
      rule const mask = causal();
      study s =
          run(ranks, lengths(ranks), sp::zigzag{}, 6, 3, mask, ulysses(mask.mask, kept, 5)); // at most 3, 2, 1, 2, 1 kv heads
      INFO(ranks << " ranks, " << s.passes << " passes");
      CHECK(s.wrong == "");
      CHECK(most_open(s.events) == (chunks > 1 ? 2 : 1));
      four_exchanges(s, chunks);
    }
  study s = run(9, lengths(9), sp::contiguous{}, 31, 31, causal(), ulysses(causal().mask, sp::keep::heads, 3)); // 3 or 4 heads
  CHECK(s.wrong == "");
  four_exchanges(s, 3);
}

TEST_CASE("F15: ulysses with a head or two for every rank, and kv heads that ranks share") {
  for (int ranks : {2, 3, 5, 8, 16, 31, 64})
    for (int group : {1, 2, ranks}) {
      if (ranks % group != 0) continue;
      rule const mask = causal();
      study s = run(ranks, lengths(ranks), sp::contiguous{}, ranks, ranks / group, mask, ulysses(mask.mask, sp::keep::heads));
      INFO(ranks << " ranks, " << (ranks / group) << " kv heads");
      CHECK(s.wrong == "");
      four_exchanges(s);
    }
}

TEST_CASE("F15: usp around rotate, every division of up to 64 ranks") {
  for (int ranks = most_ranks; ranks >= 1; ranks -= every) every_usp(sp::schedule::rotate, ranks);
}

TEST_CASE("F15: usp around cast and pull") {
  for (auto how : {sp::schedule::cast, sp::schedule::pull})
    for (int ranks : {4, 6, 8, 9, 12, 16, 24, 36, most_ranks}) every_usp(how, ranks);
}

} // namespace schedules::test_ulysses
