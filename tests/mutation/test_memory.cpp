// Memory promises of ring, Ulysses and USP: scratch is given back by every pass, kept memory by backward, and blocks of exactly the
// promised bytes are enough at every check level, also where many ranks make the agreement the largest part. Bits stay the same.
#include <doctest/doctest.h>

#include <sp/usp.hpp>

#include "mutation/problem.hpp"

namespace test_memory {
namespace {

using namespace sentinel;
using sp::index_t;
using support::operand;

using inner_ring = sp::ring_attention<comm, kernel>;
using object = sp::ulysses_attention<comm, inner_ring>;
constexpr sp::threads_options patient{.deadline = std::chrono::seconds(30)};

/// f(scene, object, prepared) on every rank of a way; a ring alone, or Ulysses around it.
template <class F>
void on_every_rank(problem const& p, way const& w, sp::keep keep, F&& f) {
  sp::threads::run(
      w.ring * w.ulysses,
      [&](sp::threads const& c) {
        rank_scene s(p, w, c);
        inner_ring const ring{w.mesh().ring(c), kernel(), w.options};
        if (w.ulysses == 1) return f(s, ring, ring.prepare(s.qb, s.kb), c.rank());
        object const attention{w.mesh().ulysses(c), ring, sp::ulysses_options{keep}};
        f(s, attention, attention.prepare(s.qb, s.kb), c.rank());
      },
      patient);
}

TEST_CASE("memory: scratch is in use in no pass's wake, kept memory from forward to backward alone") {
  problem const p = self_attention();
  for (int level : {1, 2, 3})
    for (sp::attention_options options : every_schedule(p.mask))
      for (int ulysses : {1, 2})
        for (sp::keep keep : {sp::keep::heads, sp::keep::output}) {
          if (ulysses == 1 && keep == sp::keep::output) continue;
          options.checks = level;
          way const w{.ring = 2, .ulysses = ulysses, .options = options};
          std::atomic<int> good = 0;
          on_every_rank(p, w, keep, [&](rank_scene& s, auto const& attention, auto const& prepared, int) {
            sp::pool scratch, kept;
            sp::context const ctx(scratch, kept, key);
            bool right = true;
            auto expect = [&](index_t held) {
              right = right && scratch.bytes_in_use() == 0 && index_t(kept.bytes_in_use()) == held;
            };
            expect(0);
            index_t const saved_bytes = attention.template saved_bytes<double>(prepared, p.shape);
            for (int again = 0; again < 2; ++again) {
              auto saved = s.forward(attention, prepared, ctx, p, w);
              expect(saved_bytes);
              auto other = s.forward(attention, prepared, ctx, p, w);
              expect(2 * saved_bytes);
              s.backward(attention, prepared, ctx, std::move(other), p, w);
              expect(saved_bytes);
              attention.infer(prepared, ctx, s.q, s.k, s.v, s.out, s.extras(p, w));
              expect(saved_bytes);
              s.backward(attention, prepared, ctx, std::move(saved), p, w);
              expect(0);
            }
            good += right;
          });
          CAPTURE(level);
          CAPTURE(int(options.schedule));
          CAPTURE(ulysses);
          CHECK(good == 2 * ulysses);
        }
}

TEST_CASE("memory: exactly the promised bytes are enough on 16 and 24 ranks, at every check level, and give the bits of pools") {
  problem const p = self_attention();
  struct {
    int ring, ulysses;
    sp::schedule how;
    sp::keep keep = sp::keep::heads;
  } const ways[] = {{16, 1, sp::schedule::rotate}, {24, 1, sp::schedule::cast},
                    {24, 1, sp::schedule::pull},   {1, 16, sp::schedule::rotate, sp::keep::output},
                    {12, 2, sp::schedule::rotate}, {3, 8, sp::schedule::cast},
                    {24, 1, sp::schedule::pass_q}};
  for (auto const& [ring, ulysses, how, keep] : ways)
    for (int level : {1, 2, 3}) {
      way const w{
          .ring = ring, .ulysses = ulysses, .options = {.mask = p.mask, .schedule = how, .head_chunks = 2, .checks = level}};
      std::atomic<int> enough = 0, same = 0, found = 0;
      on_every_rank(p, w, keep, [&](rank_scene& s, auto const& attention, auto const& prepared, int) {
        sp::pool scratch, kept;
        sp::context const roomy(scratch, kept, key);
        s.backward(attention, prepared, roomy, s.forward(attention, prepared, roomy, p, w), p, w);
        auto const want = results(s);
        exact a(attention.template scratch_bytes<double>(prepared, p.shape)),
            b(attention.template saved_bytes<double>(prepared, p.shape));
        sp::context const tight(a.space, b.space, key);
        for (int again = 0; again < 2; ++again) {
          for (operand t : {operand::out, operand::dq, operand::dk, operand::dv}) std::fill(s[t].begin(), s[t].end(), s.nan);
          s.backward(attention, prepared, tight, s.forward(attention, prepared, tight, p, w), p, w);
          same += same_bits(results(s), want);
        }
        enough += a.intact() && b.intact();
        for (double x : want[2]) found += x != 0;
      });
      CAPTURE(ring);
      CAPTURE(ulysses);
      CAPTURE(level);
      CHECK(enough == ring * ulysses);
      CHECK(same == 2 * ring * ulysses);
      CHECK(found > 0);
    }
}

} // namespace
} // namespace test_memory
