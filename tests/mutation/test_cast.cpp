// The cast schedule with the tiled kernel: which bits do not depend on who holds which keys, and in which order gradients are summed.
// Compiles in seconds, because tests/mutation.sh builds it again for each bug that it plants.
#include <doctest/doctest.h>

#include <sp/cpu.hpp>

#include "mutation/problem.hpp"

namespace test_cast {
namespace {

using namespace sentinel;

/// Documents of several key tiles, of one, and of one token.
problem tiles(sp::mask rule) {
  sp::documents const docs = sp::packed{0, 260, 291, 292};
  problem p(docs, docs, std::move(rule));
  std::fill(p.sinks.begin(), p.sinks.end(), -1e30);
  return p;
}

std::vector<sp::mask> masks() {
  sp::mask spans = sp::image_spans(std::vector<sp::document>{{30, 70, 70}, {265, 9, 9}});
  spans.lo = -40;
  sp::mask apart = sp::window(4); // a tile holds the prefix and, an odd number of keys later, a window
  apart.prefix = {3, 3, 0};
  return {sp::causal(), sp::window(3, 150), spans, apart};
}

numbers cast(problem const& p, way w, index_t chunks = 1) {
  w.options = {.mask = p.mask, .schedule = sp::schedule::cast, .head_chunks = chunks};
  return run(p, w, [&](sp::threads const& c, sp::mesh const& m) {
    return sp::ring_attention<comm, sp::cpu<>>{m.ring(c), sp::cpu{}, w.options};
  });
}

/// Only the rows of one rank are differentiated.
problem rows_of_one(problem p, way const& w, int rank) {
  sp::batch const mine(p.q_docs, w.sharding(), rank, w.ring);
  index_t const n = p.q_docs.length(), width = index_t(p.dout.size()) / n;
  for (index_t i = 0; i < n; ++i) {
    bool const held = std::any_of(mine.runs().begin(), mine.runs().end(), [&](sp::run const& r) { return r.contains(i); });
    if (!held) std::fill_n(p.dout.begin() + i * width, width, 0.0);
  }
  return p;
}

} // namespace

TEST_CASE("cast: out and dq have the bits of one rank, whatever keys are at hand") {
  for (sp::mask const& mask : masks()) {
    problem const p = tiles(mask);
    numbers const alone = cast(p, {.ring = 1});
    for (bool stripes : {false, true}) {
      numbers const found = cast(p, {.ring = stripes ? 3 : 5, .stripes = stripes}, stripes ? 1 : 3);
      CAPTURE(stripes);
      CHECK(found.out == alone.out);
      CHECK(found.dq == alone.dq);
      CHECK(support::relative_error(found.dk, alone.dk) < bound);
      CHECK(support::relative_error(found.dv, alone.dv) < bound);
    }
  }
}

TEST_CASE("cast: dk and dv are the sums, in rank order, of what the rows of each rank find") {
  for (sp::mask const& mask : {sp::causal(), sp::window(30, 60)})
    for (bool stripes : {false, true}) {
      problem const p = tiles(mask);
      way const w{.ring = 4, .stripes = stripes};
      numbers const found = cast(p, w, 2);
      std::vector<double> dk(found.dk.size()), dv(found.dv.size());
      for (int r = 0; r < w.ring; ++r) {
        numbers const share = cast(rows_of_one(p, w, r), {.ring = 1});
        for (std::size_t i = 0; i < dk.size(); ++i) dk[i] += share.dk[i];
        for (std::size_t i = 0; i < dv.size(); ++i) dv[i] += share.dv[i];
      }
      CAPTURE(stripes);
      CHECK(found.dk == dk);
      CHECK(found.dv == dv);
    }
}

} // namespace test_cast
