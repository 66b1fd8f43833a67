// How long the memory of calls lives, and what takes it over: saved beyond its batch, a new batch in every step, workspaces of the
// promised size, and a backward call that is refused for its arguments or its memory and made again.
#include <doctest/doctest.h>

#include <optional>

#include <sp/cpu.hpp>
#include <sp/ulysses.hpp>

#include "mutation/problem.hpp"
#include "support/failure.hpp"
#ifndef SP_TEST_SANITIZED
#include "support/allocations.hpp"
#endif

namespace test_lifetime {
namespace {

using namespace sentinel;
using sp::errc;
using support::failure_of;
using support::operand;
using support::says;

sp::documents const docs = sp::packed{0, 20, 21, 49};
sp::attention_shape const shape{4, 2, 4, 4};
using tensors = support::attention_tensors<double>;

/// Calls f(comm, object) on every rank for what keeps most and least: a ring, and Ulysses both ways. Level: of checks.
template <class F>
void every_object(int ranks, int level, F&& f) {
  for (int object = 0; object < (ranks % 2 ? 3 : 4); ++object) { // USP wants two ranks in a group
    CAPTURE(object); // here: what leaves a rank's body is not to be described by many threads at once
    sp::threads::run(
        ranks,
        [&](sp::threads const& c) {
          sp::attention_options const options{.schedule = sp::schedule::rotate, .checks = level};
          sp::mesh const mesh{sp::axis::ring{object == 3 ? ranks / 2 : 1}, sp::axis::ulysses{object == 3 ? 2 : ranks}};
          if (object == 0) return f(c, sp::ring_attention{c, sp::reference{}, options});
          sp::keep const kept = object == 2 ? sp::keep::output : sp::keep::heads;
          f(c, sp::ulysses_attention{mesh.ulysses(c), sp::ring_attention{mesh.ring(c), sp::reference{}, options}, {kept}});
        },
        patience);
  }
}
sp::batch batch_of(sp::threads const& c, sp::documents const& documents = docs) {
  return {documents, sp::nested{sp::zigzag{}, c.size() % 2 ? c.size() : 2}, c};
}

template <class Object>
auto forward(Object const& o, sp::batch const& b, tensors& x) {
  return o.forward(b, {.q = x.q, .k = x.k, .v = x.v, .out = x.out});
}
template <class Object, class Saved>
void backward(Object const& o, sp::batch const& b, Saved&& s, tensors& x) {
  o.backward(b, std::move(s), {.q = x.q, .k = x.k, .v = x.v, .out = x.out, .dout = x.dout, .dq = x.dq, .dk = x.dk, .dv = x.dv});
}

TEST_CASE("lifetime: saved of a validation step outlives its batch: its memory stays, and it is refused elsewhere [asan]") {
  sp::release_idle_memory();
  sp::threads::run(
      3,
      [](sp::threads const& c) {
        for (int level : {1, 3}) {
          sp::ring_attention const a{c, sp::reference{}, {.schedule = sp::schedule::rotate, .checks = level}};
          std::vector<decltype(a)::saved<double>> layers(2);
          std::optional<sp::batch> b;
          for (int step = 0; step < 3; ++step) { // forward without backward, as a trainer validates
            b.emplace(docs, sp::zigzag{}, c);
            tensors x(*b, shape);
            for (auto& s : layers) s = forward(a, *b, x);
          }
          tensors x(*b, shape), y(*b, shape);
          auto stale = forward(a, *b, x);
          double const lse = stale.lse.tensor(0, 0);
          b.emplace(docs, sp::zigzag{}, c);
          auto fresh = forward(a, *b, x);
          CHECK(stale.lse.tensor(0, 0) == lse);
          CHECK(stale.lse.tensor.data != fresh.lse.tensor.data);
          CHECK(says(failure_of([&] { return backward(a, *b, std::move(stale), x), 0; }), errc::bad_state, "another batch"));
          backward(a, *b, std::move(fresh), x);
          sp::batch again{docs, sp::zigzag{}, c};
          backward(a, again, forward(a, again, y), y);
          CHECK(x.results() == y.results());
          b.reset();
        } // the last of the saved go here, after every batch they came from
      },
      patience);
  CHECK(sp::release_idle_memory() > 0); // they came back, and their pools with them
  CHECK(sp::release_idle_memory() == 0);
}

TEST_CASE("lifetime: a step with a new batch takes the memory of the one before, and allocates nothing but its geometry [asan]") {
  sp::release_idle_memory();
  every_object(3, 1, [](sp::threads const& c, auto const& a) {
    sp::batch b = batch_of(c);
    tensors x(b, shape);
    std::vector<void const*> pools;
    [[maybe_unused]] long blocks = 0, geometry = 0; // not counted where a sanitizer has operator new
    for (int step = 0; step < 6; ++step) {
      for (int micro = 0; micro < 2; ++micro) { // the second one needs geometry alone
#ifndef SP_TEST_SANITIZED
        long const before = support::allocations_of_thread;
        sp::batch next = batch_of(c);
        auto const prepared = a.prepared_for(next);
        geometry = support::allocations_of_thread - before;
        backward(a, next, forward(a, next, x), x);
        blocks = support::allocations_of_thread - before - geometry;
#else
        sp::batch next = batch_of(c);
        backward(a, next, forward(a, next, x), x);
#endif
        b = std::move(next);
        if (step > 2) CHECK(std::find(pools.begin(), pools.end(), &b.memory()) != pools.end());
        pools.push_back(&b.memory());
        CHECK(b.memory().bytes_in_use() == 0);
      }
    }
#ifndef SP_TEST_SANITIZED
    CHECK(blocks == 0);
    CHECK(geometry > 0);
#endif
  });
}

TEST_CASE("lifetime: thirty-two layers made alike take one geometry of a batch, which the first of them prepares") {
  every_object(3, 1, [](sp::threads const& c, auto const& first) {
    using object = std::remove_cvref_t<decltype(first)>;
    auto layer = [&] { // of its own options and kernel, by value as the first
      if constexpr (requires { first.inner(); })
        return object{first.group(), {first.inner().group(), sp::reference{}, first.inner().options()}, first.options()};
      else
        return object{first.group(), sp::reference{}, first.options()};
    };
    for (int step = 0; step < 2; ++step) {
      sp::batch const b = batch_of(c);
      void const* const shared = &*first.prepared_for(b);
      for (int i = 1; i < 32; ++i) {
        object const other = layer();
#ifndef SP_TEST_SANITIZED
        long const before = support::allocations_of_thread;
#endif
        CHECK(&*other.prepared_for(b) == shared);
#ifndef SP_TEST_SANITIZED
        CHECK(support::allocations_of_thread == before);
#endif
      }
    }
  });
}

TEST_CASE(
    "lifetime: what a phase needed and the steps after it do not goes back to the system, and all of it when asked [asan]") {
  sp::release_idle_memory();
  auto use = [](sp::index_t bytes) {
    sp::batch b{docs, sp::contiguous{}, sp::solo{}};
    sp::buffer block(b.memory(), bytes);
  };
  use(1 << 20);
  for (int step = 0; step < 4; ++step) use(1000);
  use(1 << 20); // still there
  for (int step = 0; step < 12; ++step) use(1000);
  CHECK(sp::release_idle_memory() == 1024);
  sp::batch unused{docs, sp::contiguous{}, sp::solo{}};
  { sp::batch ended{docs, sp::contiguous{}, sp::solo{}}; }
  CHECK(sp::release_idle_memory() == 0); // a batch that was asked for no memory took none
}

TEST_CASE("lifetime: one workspace of scratch_bytes and saved_bytes is enough for infer, two for a step, at every check level") {
  for (int trial = 0; trial < 6; ++trial) { // of a size, and of tensors that are smaller than what many ranks tell each other
    CAPTURE(trial);
    bool const tiny = trial % 2 != 0;
    sp::attention_shape const sizes = tiny ? sp::attention_shape{4, 2, 1, 1} : shape;
    every_object(tiny ? 16 : 4, 1 + trial / 2, [&](sp::threads const& c, auto const& a) {
      sp::batch const b = tiny ? batch_of(c, sp::packed{0, 5}) : batch_of(c);
      tensors x(b, sizes), y(b, sizes);
      auto const prepared = a.prepare(b);
      sp::pool memory;
      x.both(a, prepared, {memory, memory});
      index_t const scratch = a.template scratch_bytes<double>(prepared, sizes),
                    saved = a.template saved_bytes<double>(prepared, sizes);
      exact one(scratch + saved), first(scratch), second(saved);
      a.infer(prepared, sp::context(one.space, one.space), y.q, y.k, y.v, y.out);
      CHECK(x[operand::out] == y[operand::out]);
      y.both(a, prepared, {first.space, second.space});
      CHECK(x.results() == y.results());
    });
  }
}

TEST_CASE("lifetime: backward that is refused before it sends can be made again, and adds to gradients once") {
  problem const p = self_attention();
  for (way w : {way{.ring = 3}, way{.ring = 1, .ulysses = 3}, way{.ring = 2, .ulysses = 2}}) {
    for (bool add : {false, true}) {
      w.options = {.mask = p.mask, .schedule = sp::schedule::rotate};
      w.accumulate = add;
      numbers found;
      sp::threads::run(
          w.ring * w.ulysses,
          [&](sp::threads const& c) {
            rank_scene s(p, w, c);
            sp::mesh const m = w.mesh();
            sp::ulysses_attention const a{m.ulysses(c),
                                          sp::ring_attention<comm, kernel>{m.ring(c), kernel(), w.options},
                                          {add ? sp::keep::heads : sp::keep::output}};
            auto const prepared = a.prepare(s.qb, s.kb);
            sp::pool memory;
            auto saved = s.forward(a, prepared, {memory, memory, key}, p, w);
            auto attempt = [&](sp::allocator& scratch) -> std::optional<errc> { // why it was refused, if it was
              try {
                s.backward(a, prepared, {scratch, memory, key}, std::move(saved), p, w);
              } catch (sp::error const& e) {
                return e.code();
              }
              return std::nullopt;
            };
            auto const dk = s.dk;
            s.dk.extents[0] += 1;
            CHECK(attempt(memory) == errc::bad_documents);
            s.dk = dk;
            int too_small = 0;
            auto refused = [&](index_t bytes) {
              exact little(bytes);
              return attempt(little.space) == errc::workspace_too_small && ++too_small;
            };
            for (index_t bytes = 64; refused(bytes);) bytes += bytes / 2; // more and more, until it is enough
            CHECK(too_small > 1);
            CHECK(failure_of([&] {
                    return s.backward(a, prepared, {memory, memory, key}, std::move(saved), p, w), 0;
                  }).code == errc::bad_state);
            CHECK(memory.bytes_in_use() == 0); // consumed: its memory came back
            numbers all = s.collect(c, w);
            if (c.rank() == 0) found = std::move(all);
          },
          patience);
      check(found, p.truth());
    }
  }
}

TEST_CASE(
    "lifetime: memory that is short is refused before anything is sent: a kernel with scratch, sums of bf16, all schedules") {
  sp::attention_shape const sizes{4, 2, 8, 8}; // of three ranks, two share a kv head
  for (sp::schedule how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q})
    for (int ring : {1, 3})
      sp::threads::run(
          3,
          [&](sp::threads const& c) {
            sp::mesh const m{sp::axis::ring{ring}, sp::axis::ulysses{3 / ring}};
            sp::ulysses_attention const a{m.ulysses(c), sp::ring_attention{m.ring(c), sp::cpu{}, {.schedule = how}}};
            sp::batch const b{docs, sp::zigzag{}, c};
            support::attention_tensors<sp::bf16> x(b, sizes), y(b, sizes);
            auto const prepared = a.prepare(b);
            sp::pool memory;
            y.both(a, prepared, {memory, memory});
            auto saved = x.forward(a, prepared, {memory, memory});
            index_t const needed = a.scratch_bytes<sp::bf16>(prepared, sizes);
            for (index_t missing : {needed, index_t(2048), index_t(64)}) {
              exact little(needed - missing);
              CHECK(says(failure_of([&] {
                           return x.backward(a, prepared, {little.space, memory}, std::move(saved)), 0;
                         }),
                         errc::workspace_too_small, std::to_string(needed)));
            }
            exact enough(needed);
            x.backward(a, prepared, {enough.space, memory}, std::move(saved));
            CHECK(x.results() == y.results());
          },
          patience);
}

TEST_CASE("lifetime: a rank without heads has scratch for the sums of dk and dv that ranks share and round to bf16") {
  // of five ranks the first has no heads: nothing that runs inside takes more than its sums of shared kv heads
  for (sp::attention_shape const sizes : {sp::attention_shape{4, 2, 32, 32}, {2, 1, 32, 64}})
    for (sp::keep const kept : {sp::keep::heads, sp::keep::output})
      for (sp::index_t const chunks : {1, 3})
        sp::threads::run(
            5,
            [&](sp::threads const& c) {
              sp::ulysses_attention const a{c, sp::reference{}, {}, {.keep = kept, .head_chunks = chunks}};
              sp::batch const b{docs, sp::zigzag{}, c};
              support::attention_tensors<sp::bf16> x(b, sizes), y(b, sizes);
              auto const prepared = a.prepare(b);
              sp::attention_extras<sp::bf16> const how{.accumulate = chunks == 1};
              sp::pool memory;
              sp::context const roomy(memory, memory);
              x.backward(a, prepared, roomy, x.forward(a, prepared, roomy), how);
              exact enough(a.scratch_bytes<sp::bf16>(prepared, sizes));
              sp::context const ctx(enough.space, memory);
              y.backward(a, prepared, ctx, y.forward(a, prepared, ctx), how);
              CHECK(x.results() == y.results());
            },
            patience);
}

} // namespace
} // namespace test_lifetime
