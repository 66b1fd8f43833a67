// Refreshing what was prepared: every object then computes, to the bit, what it computes on a batch that was prepared anew, and the
// oracle's numbers. What was saved before is refused; a refresh that fails leaves nothing that a call would take.
#include <doctest/doctest.h>

#include <atomic>

#include <sp/ulysses.hpp>

#include "mutation/problem.hpp"
#include "support/failure.hpp"

namespace test_refresh {
namespace {

using namespace sentinel;
using sp::errc;
using support::failure_of;
using support::says;

/// Batches that follow each other: more documents, fewer and longer ones, one of a single token; ranks without rows among them.
std::vector<problem> steps(bool cross) {
  auto packed = [](std::vector<index_t> cu, std::vector<index_t> ids) { return sp::documents::packed(cu).with_ids(ids); };
  std::vector<problem> list;
  if (cross) {
    list.push_back(cross_attention());
    list.push_back(
        {packed({0, 2, 4, 9}, {1, 2, 3}), packed({0, 2, 13, 21}, {1, 2, 3}), {.lo = -9, .hi = 0, .at = sp::align::end}});
  } else {
    list.push_back(self_attention());
    for (auto const& docs : {packed({0, 1}, {4}), packed({0, 3, 3, 15, 16, 24, 37}, {7, 0, 1, 2, 9, 12})})
      list.push_back({docs, docs, sp::window(7, 1)});
  }
  list.push_back(list.front());
  return list;
}

/// make(communicator, mesh, options) -> object. On every rank; the oracle is asked for what all found together.
template <class Make>
void check_steps(way w, bool cross, Make&& make) {
  auto const list = steps(cross);
  w.options.mask = list[0].mask;
  std::vector<numbers> found(list.size());
  std::atomic<int> good{0};
  sp::threads::run(
      w.ring * w.ulysses,
      [&](sp::threads const& c) {
        auto const attention = make(c, w.mesh(), w.options);
        sp::pool memory;
        sp::context const ctx(memory, memory, key);
        typename std::remove_cvref_t<decltype(attention)>::prepared prepared;
        for (std::size_t i = 0; i < list.size(); ++i) {
          problem const& p = list[i];
          rank_scene s(p, w, c), anew(p, w, c);
          auto into = [&] { cross ? attention.refresh(prepared, s.qb, s.kb, ctx) : attention.refresh(prepared, s.qb, ctx); };
          into();
          s.backward(attention, prepared, ctx, s.forward(attention, prepared, ctx, p, w), p, w);
          auto const fresh = cross ? attention.prepare(anew.qb, anew.kb, ctx) : attention.prepare(anew.qb);
          anew.backward(attention, fresh, ctx, anew.forward(attention, fresh, ctx, p, w), p, w);
          good += same_bits(results(s), results(anew));
          numbers all = s.collect(c, w);
          if (c.rank() == 0) found[i] = std::move(all);
        }
      },
      patience);
  CHECK(good == w.ring * w.ulysses * int(list.size()));
  for (std::size_t i = 0; i < list.size(); ++i) check(found[i], list[i].truth());
}

auto const ring = [](sp::threads const& c, sp::mesh const& m, sp::attention_options const& o) {
  return sp::ring_attention<comm, kernel>{m.ring(c), kernel(), o};
};
auto const usp = [](sp::threads const& c, sp::mesh const& m, sp::attention_options const& o) {
  return sp::ulysses_attention{m.ulysses(c), ring(c, m, o), {sp::keep::output}};
};

} // namespace

TEST_CASE("refresh: rings of every schedule, Ulysses and USP give the bits of a batch prepared anew, and the oracle's numbers") {
  for (bool cross : {false, true}) {
    CAPTURE(cross);
    for (auto const& options : every_schedule({})) check_steps({.ring = 3, .options = options}, cross, ring);
    check_steps({.ring = 1, .ulysses = 3}, cross, usp);
    check_steps({.ring = 2, .ulysses = 2, .stripes = true}, cross, usp);
  }
}

TEST_CASE("refresh: saved of the batch before is refused, and what another object prepared stays as it was") {
  auto const list = steps(false);
  way const w{.ring = 3, .options = {.mask = list[0].mask, .schedule = sp::schedule::cast}};
  std::atomic<int> good{0};
  sp::threads::run(
      w.ring,
      [&](sp::threads const& c) {
        rank_scene a(list[0], w, c), b(list[2], w, c);
        sp::pool memory;
        sp::context const ctx(memory, memory, key);
        auto const attention = ring(c, w.mesh(), w.options);
        auto prepared = attention.prepare(a.qb, ctx);
        auto const kept = prepared;
        auto saved = a.forward(attention, prepared, ctx, list[0], w);
        attention.refresh(prepared, b.qb, ctx);
        auto e = failure_of([&] { return a.backward(attention, prepared, ctx, std::move(saved), list[0], w), 0; });
        good += says(e, errc::bad_state, "saved belongs to another batch");
        a.backward(attention, kept, ctx, std::move(saved), list[0], w); // a copy is of the batch that it was made of

        auto other = w;
        other.options.schedule = sp::schedule::rotate;
        auto const rotate = ring(c, w.mesh(), other.options);
        e = failure_of([&] { return rotate.refresh(prepared, a.qb, ctx), 0; });
        good += says(e, errc::bad_state, "another schedule or another kernel") && e.primitive == "ring_attention.refresh";
        b.backward(attention, prepared, ctx, b.forward(attention, prepared, ctx, list[2], w), list[2], w);

        rank_scene again(list[2], w, c);
        auto const fresh = attention.prepare(again.qb);
        again.backward(attention, fresh, ctx, again.forward(attention, fresh, ctx, list[2], w), list[2], w);
        good += same_bits(results(again), results(b));
      },
      patience);
  CHECK(good == 3 * w.ring);
}

TEST_CASE("refresh: from level 2 on ranks agree; after an error no call takes the geometry, until a refresh succeeds") {
  auto const list = steps(false);
  way const w{.ring = 3, .options = {.mask = list[0].mask, .checks = 2}};
  std::atomic<int> good{0};
  sp::threads::run(
      w.ring,
      [&](sp::threads const& c) {
        rank_scene a(list[0], w, c), b(list[2], w, c), twin(list[2], w, c);
        sp::pool memory;
        sp::context const ctx(memory, memory, key);
        auto const attention = ring(c, w.mesh(), w.options);
        auto prepared = attention.prepare(a.qb, ctx);
        auto e = failure_of([&] { return attention.refresh(prepared, c.rank() == 1 ? a.qb : b.qb, ctx), 0; });
        good += says(e, errc::rank_mismatch, "documents") && e.primitive == "ring_attention.refresh";
        e = failure_of([&] { return a.forward(attention, prepared, ctx, list[0], w); });
        good += says(e, errc::bad_state, "refreshing it failed");
        attention.refresh(prepared, b.qb, ctx);
        b.backward(attention, prepared, ctx, b.forward(attention, prepared, ctx, list[2], w), list[2], w);
        auto const fresh = attention.prepare(twin.qb);
        twin.backward(attention, fresh, ctx, twin.forward(attention, fresh, ctx, list[2], w), list[2], w);
        good += same_bits(results(twin), results(b));
      },
      patience);
  CHECK(good == 3 * w.ring);
}

} // namespace test_refresh
