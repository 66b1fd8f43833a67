// The pass_q schedule with the tiled kernel: while keys stay, no bit depends on who owns a query, on chunks of heads or on who is late.
// Compiles in seconds, because tests/mutation.sh builds it again for each bug that it plants.
#include <doctest/doctest.h>

#include <sp/collective/decorators/chaos.hpp>
#include <sp/cpu.hpp>

#include "mutation/problem.hpp"

namespace test_pass_q {
namespace {

using namespace sentinel;

/// Few queries over the keys of three documents, of several tiles, of one key and of a few; the second document has no query.
problem few_queries(sp::mask rule) { return {sp::packed{0, 5, 5, 8}, sp::packed{0, 150, 151, 170}, std::move(rule)}; }

/// Keys are cut in zigzag over five ranks; queries as they are asked to be.
support::attention_results pass(problem const& p, any_sharding queries, index_t chunks = 1, unsigned delays = 0) {
  way const w{.ring = 5, .options = {.mask = p.mask, .schedule = sp::schedule::pass_q, .head_chunks = chunks}};
  support::attention_results found;
  sp::threads::run(
      w.ring,
      [&](sp::threads const& c) {
        sp::batch const qb(p.q_docs, queries, c), kb(p.k_docs, w.sharding(), c);
        support::rank_tensors x(p, qb, kb, std::numeric_limits<double>::quiet_NaN(), 0);
        sp::chaos const late(c, {.seed = delays, .max_delay = std::chrono::microseconds(delays ? 300 : 0)});
        sp::ring_attention const ring{late, sp::cpu{}, w.options};
        sp::pool memory;
        sp::context<> const ctx(memory, memory);
        auto const prepared = ring.prepare(qb, kb);
        x.both(ring, prepared, ctx);
        support::attention_results all = support::gathered(c, qb, kb, x, 0);
        if (c.rank() == 0) found = std::move(all);
      },
      patience);
  return found;
}

} // namespace

TEST_CASE("pass_q: while keys stay, all results have the same bits whoever owns the queries, in any chunks of heads, and under "
          "delays") {
  for (sp::mask const& mask : {sp::full(sp::align::end), sp::causal(sp::align::end), sp::window(40, 0, sp::align::end)}) {
    problem const p = few_queries(mask);
    support::attention_results const found = pass(p, {any_sharding::contiguous});
    support::attention_results const other[] = {pass(p, {any_sharding::striped, sp::scope::stream}),
                                                pass(p, {any_sharding::zigzag}, 2), pass(p, {any_sharding::contiguous}, 3, 7)};
    for (auto const& n : other) {
      CHECK(n.out == found.out);
      CHECK(n.dq == found.dq);
      CHECK(n.dk == found.dk);
      CHECK(n.dv == found.dv);
    }
    auto want = p.oracle_of([&](std::size_t d, index_t i, index_t j) {
      index_t const at = i + p.k_docs[d].count - p.q_docs[d].count;
      return mask.lo <= j - at && j - at <= mask.hi;
    });
    auto const truth = want.backward(p.dout);
    CHECK(support::relative_error(found.out, truth.out) < bound);
    CHECK(support::relative_error(found.dq, truth.dq) < bound);
    CHECK(support::relative_error(found.dk, truth.dk) < bound);
    CHECK(support::relative_error(found.dv, truth.dv) < bound);
  }
}

} // namespace test_pass_q
