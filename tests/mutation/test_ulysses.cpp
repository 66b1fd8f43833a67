// Ulysses and USP in double with every feature at once, under uneven heads and kv heads that ranks share, against the oracle.
// Compiles in seconds, because tests/mutation.sh builds it again for each bug that it plants in Ulysses.
#include <doctest/doctest.h>

#include <sp/usp.hpp>

#include "mutation/problem.hpp"
#include "support/failure.hpp"

namespace test_ulysses {
namespace {

using namespace sentinel;
using support::failure_of;

using inner_ring = sp::ring_attention<comm, kernel>;
using object = sp::ulysses_attention<comm, inner_ring>;

auto usp(sp::attention_options const& options, sp::keep keep, index_t chunks = 1) {
  return [&options, keep, chunks](sp::threads const& c, sp::mesh const& m) {
    return object{m.ulysses(c), inner_ring{m.ring(c), kernel(), options}, sp::ulysses_options{keep, chunks}};
  };
}

/// What every rank found, bit by bit.
using bits = std::vector<std::vector<std::vector<double>>>;

/// With blocks of exactly the promised bytes, twice, and with pools.
template <class Make>
bits bits_of(problem const& p, way const& w, Make&& make) {
  bits found(std::size_t(w.ring * w.ulysses));
  sp::threads::run(
      w.ring * w.ulysses,
      [&](sp::threads const& c) {
        rank_scene s(p, w, c);
        auto attention = make(c, w.mesh());
        auto prepared = attention.prepare(s.qb, s.kb);
        exact scratch(attention.template scratch_bytes<double>(prepared, p.shape)),
            kept(attention.template saved_bytes<double>(prepared, p.shape));
        sp::context tight(scratch.space, kept.space, key);
        for (int again = 0; again < 2; ++again)
          s.backward(attention, prepared, tight, s.forward(attention, prepared, tight, p, w), p, w);
        sp::pool pool, pool_kept;
        sp::context ctx(pool, pool_kept, key);
        rank_scene fresh(p, w, c);
        fresh.backward(attention, prepared, ctx, fresh.forward(attention, prepared, ctx, p, w), p, w);
        CHECK((pool.bytes_in_use() == 0 && pool_kept.bytes_in_use() == 0));
        CHECK(index_t(pool_kept.peak_bytes()) == attention.template saved_bytes<double>(prepared, p.shape));
        CHECK((scratch.intact() && kept.intact()));
        if (!w.accumulate) CHECK(same_bits(results(s), results(fresh)));
        found[std::size_t(c.rank())] = results(fresh);
      },
      patience);
  return found;
}

void check_all(problem const& p, way w, numbers const& want) {
  CAPTURE(w.ring);
  CAPTURE(w.ulysses);
  CAPTURE(w.ring_is_fast);
  for (sp::keep keep : {sp::keep::heads, sp::keep::output}) {
    CAPTURE(int(keep));
    w.options.mask = p.mask;
    check(run(p, w, usp(w.options, keep)), want);
  }
}

void check_all(problem const& p, way const& w) { check_all(p, w, p.truth()); }

// 6 query heads and 3 kv heads: over 2 ranks the middle kv head is shared, over 4 the heads are 1, 2, 1, 2, over 7 one rank has none
TEST_CASE("ulysses: even and uneven heads, shared kv heads, every gradient agrees with the oracle") {
  for (int ranks : {1, 2, 3, 4, 7}) check_all(self_attention(), {.ring = 1, .ulysses = ranks});
}

TEST_CASE("ulysses: gradients are added to what is there where that is asked for") {
  for (int ranks : {3, 4}) check_all(self_attention(), {.ring = 1, .ulysses = ranks, .accumulate = true});
}

// 6 query heads on 3 kv heads: one rank has three chunks, two ranks share the middle kv head, of three each has one chunk, of four or
// seven some have none; more chunks than heads are as many as there are heads
TEST_CASE("ulysses: chunks of heads give the bits of one chunk, within the memory that was promised") {
  std::vector<way> ways;
  for (int ranks : {1, 2, 3, 4, 7}) ways.push_back({.ring = 1, .ulysses = ranks, .accumulate = ranks % 2 == 0});
  for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull})
    ways.push_back({.ring = 3, .ulysses = 2, .options = {.schedule = how, .head_chunks = 2}, .accumulate = true});
  problem const problems[] = {self_attention(), cross_attention()};
  std::size_t turn = 0;
  for (way& w : ways) {
    problem const& p = problems[turn++ % 2];
    w.options.mask = p.mask;
    bits const want = bits_of(p, w, usp(w.options, sp::keep::heads));
    for (auto [keep, chunks] : {std::pair(sp::keep::heads, 3), std::pair(sp::keep::output, turn % 3 == 0 ? 64 : 2)}) {
      CAPTURE(w.ring);
      CAPTURE(w.ulysses);
      CAPTURE(int(keep));
      CAPTURE(chunks);
      bits const found = bits_of(p, w, usp(w.options, keep, chunks));
      for (std::size_t r = 0; r < want.size(); ++r) CHECK(same_bits(found[r], want[r]));
    }
  }
}

TEST_CASE("ulysses: chunks of heads agree with the oracle, also where a kernel is slow") {
  problem const p = self_attention();
  numbers const want = p.truth();
  for (int ranks : {1, 2, 3})
    for (sp::keep keep : {sp::keep::heads, sp::keep::output}) {
      way const w{.ring = 1, .ulysses = ranks, .options = {.mask = p.mask}, .accumulate = ranks == 2};
      check(run(p, w,
                [&](sp::threads const& c, sp::mesh const& m) {
                  kernel const late(std::chrono::milliseconds(ranks == 2 ? 3 * c.rank() : 0));
                  return object{m.ulysses(c), inner_ring{m.ring(c), late, w.options}, sp::ulysses_options{keep, 3}};
                }),
            want);
    }
}

TEST_CASE("ulysses and usp: decode is the last rows of self attention, for every mask, feature and gradient") {
  int kind = 0;
  for (decode const& d : decodes()) {
    CAPTURE(kind);
    check_all(d.part, {.ring = 1, .ulysses = 3, .padded = kind % 2 > 0}, d.want);
    check_all(d.part, {.ring = 3, .ulysses = 2, .options = {.schedule = sp::schedule::rotate}}, d.want);
    ++kind;
  }
}

TEST_CASE("ulysses: cross attention over padded shapes, slack holds NaN") {
  check_all(cross_attention(), {.ring = 1, .ulysses = 2, .padded = true});
}

TEST_CASE("usp: groups in both orders, every schedule inside") {
  for (bool ring_is_fast : {false, true})
    for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q})
      check_all(self_attention(),
                {.ring = 3, .ulysses = 2, .ring_is_fast = ring_is_fast, .options = {.schedule = how, .head_chunks = 2}});
}

/// The heads of the outer one are cut again by the inner one, whose ranks are the groups of the outer one: neighbours among these.
TEST_CASE("ulysses: inside another ulysses, over uneven shares of shares") {
  auto nested = [](sp::attention_options const& options, index_t chunks, index_t inner_chunks) {
    return [&options, chunks, inner_chunks](sp::threads const& c, sp::mesh const& m) {
      comm const outer = m.ulysses(c), groups(m.ring(c).inner(), 1);
      return sp::ulysses_attention{outer, sp::ulysses_attention{groups, kernel(), options, {sp::keep::output, inner_chunks}},
                                   sp::ulysses_options{sp::keep::heads, chunks}};
    };
  };
  for (problem const& p : {self_attention(), cross_attention()}) {
    numbers const want = p.truth();
    for (way w : {way{.ring = 2, .ulysses = 2, .padded = true}, way{.ring = 2, .ulysses = 3, .ring_is_fast = true},
                  way{.ring = 3, .ulysses = 1, .accumulate = true}}) {
      w.options.mask = p.mask;
      CAPTURE(w.ulysses);
      check(run(p, w, nested(w.options, 1, 1)), want);
      bits const of_one = bits_of(p, w, nested(w.options, 1, 1));
      for (auto [chunks, inner] : {std::pair(1, 3), std::pair(2, 2)}) {
        bits const found = bits_of(p, w, nested(w.options, chunks, inner));
        for (std::size_t r = 0; r < of_one.size(); ++r) CHECK(same_bits(found[r], of_one[r]));
      }
    }
  }
}

TEST_CASE("ulysses: saved is used once") {
  problem const p = self_attention();
  sp::attention_options const options{.mask = p.mask};
  way const w{.ring = 1, .ulysses = 2};
  sp::threads::run(
      2,
      [&](sp::threads const& c) {
        rank_scene s(p, w, c);
        auto attention = usp(options, sp::keep::heads)(c, w.mesh());
        auto prepared = attention.prepare(s.qb, s.kb);
        sp::pool memory;
        sp::context ctx(memory, memory, key);
        auto saved = s.forward(attention, prepared, ctx, p, w);
        s.backward(attention, prepared, ctx, std::move(saved), p, w);
        auto e = failure_of([&] { return s.backward(attention, prepared, ctx, std::move(saved), p, w), 0; });
        CHECK(e.code == sp::errc::bad_state);
      },
      patience);
}

} // namespace
} // namespace test_ulysses
