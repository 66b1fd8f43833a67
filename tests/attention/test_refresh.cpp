// Refreshing what was prepared: every object then computes, to the bit, what it computes on a batch that was prepared anew, and the
// oracle's numbers. What was saved before is refused; a refresh that fails leaves nothing that a call would take.
#include <doctest/doctest.h>

#include <atomic>

#include <sp/local.hpp>
#include <sp/ulysses.hpp>

#include "mutation/problem.hpp"
#include "support/failure.hpp"
#include "support/late_queue.hpp"

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

/// A kernel that cannot rewrite a plan.
struct counting_rows {
  using memory_type = sp::host_memory;
  using saved = sp::nothing;
  using plan = index_t;
  plan prepare(sp::problem const& p) const {
    index_t n = 0;
    for (auto const& r : p.q) n += r.positions.count;
    return n;
  }
  template <class T>
  saved forward(plan const&, sp::allocator&, sp::call_params const&, sp::view<T const, 3>, std::span<sp::kv_views<T> const>,
                sp::attention_state<T>) const;
  template <class T>
  void backward(plan const&, sp::allocator&, sp::call_params const&, std::span<sp::query_grad<T> const>,
                std::span<sp::key_grad<T> const>, saved const&) const;
};

/// A kernel over tables in memory that the host cannot read: for each plan the rows of its queries, and how many keys there are.
struct with_table : sp::basic_reference<support::elsewhere> {
  using base = sp::basic_reference<support::elsewhere>;
  using memory_type = support::elsewhere;
  struct plan : base::plan {
    sp::table<index_t, support::elsewhere> numbers;
  };
  static std::vector<index_t> numbers_of(sp::problem const& p) {
    std::vector<index_t> list;
    for (auto const& r : p.q) list.push_back(r.positions.begin);
    for (auto const& r : p.k) list.push_back(-r.positions.count);
    return list;
  }
  template <class Queue>
  plan prepare(sp::problem const& p, sp::context<Queue> const& ctx) const {
    plan made;
    refresh(made, p, ctx);
    return made;
  }
  template <class Queue>
  void refresh(plan& made, sp::problem const& p, sp::context<Queue> const& ctx) const {
    base::refresh(made, p);
    made.numbers.assign(ctx, numbers_of(p));
  }
};
/// Documents of six tokens each.
std::vector<index_t> short_documents(index_t n) {
  std::vector<index_t> cu;
  for (index_t i = 0; i <= n; ++i) cu.push_back(6 * i);
  return cu;
}
/// Reads a table by the address it had when this was made, as a graph does that was captured.
struct captured_pass {
  sp::view<index_t const, 1, support::elsewhere> table;
  sp::view<index_t, 1, support::elsewhere> to;
  void operator()(index_t i) const { to(i) = table(i); }
};

/// A kernel without lse: element-wise, on any queue.
template <class M>
struct rows {
  using memory_type = M;
  template <class T, class Queue = sp::inline_queue>
  void forward(sp::whole_call<T, M> const& c, Queue const& q = {}) const {
    sp::assign(q, c.out, c.q);
  }
  template <class T, class Queue = sp::inline_queue>
  void backward(sp::whole_grad<T, M> const& g, Queue const& q = {}) const {
    sp::assign(q, g.dq, g.dout);
    sp::assign(q, g.dk, g.k);
    sp::assign(q, g.dv, g.dout);
  }
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

TEST_CASE(
    "refresh: after one that failed an object of any schedule starts anew, with the bits and the scratch of a fresh geometry") {
  auto const list = steps(false);
  way const w{.ring = 3, .options = {.mask = list[0].mask}};
  auto schedules = every_schedule(w.options.mask);
  std::erase_if(schedules, [](sp::attention_options const& o) { return o.head_chunks > 1; });
  std::atomic<int> good{0};
  sp::threads::run(
      w.ring,
      [&](sp::threads const& c) {
        sp::pool memory;
        sp::context const ctx(memory, memory, key);
        sp::batch const of_others(sp::packed{0, 8}, sp::zigzag{}, 0, w.ring + 1);
        for (auto const& before : schedules)
          for (auto const& after : schedules) {
            rank_scene a(list[2], w, c), b(list[0], w, c), anew(list[0], w, c);
            auto const first = ring(c, w.mesh(), before), second = ring(c, w.mesh(), after);
            auto prepared = first.prepare(a.qb, ctx);
            static_cast<void>(failure_of([&] { return first.refresh(prepared, of_others, ctx), 0; }));
            second.refresh(prepared, b.qb, ctx);
            b.backward(second, prepared, ctx, b.forward(second, prepared, ctx, list[0], w), list[0], w);
            auto const fresh = second.prepare(anew.qb, ctx);
            anew.backward(second, fresh, ctx, anew.forward(second, fresh, ctx, list[0], w), list[0], w);
            sp::attention_shape const s{4, 2, 8, 8};
            auto const &g = prepared.geometry, &f = fresh.geometry;
            bool const alike = g.steps.size() == f.steps.size() && g.keys.has_value() == f.keys.has_value() &&
                               g.held.to_readers.size() == f.held.to_readers.size();
            good += alike && same_bits(results(b), results(anew)) &&
                    second.template scratch_bytes<float>(prepared, s) == second.template scratch_bytes<float>(fresh, s);
          }
      },
      patience);
  CHECK(good == w.ring * int(schedules.size() * schedules.size()));
}

TEST_CASE("refresh: a kernel that cannot rewrite a plan makes it again, in a context that it does not take") {
  auto batch = [](index_t n) { return sp::batch(sp::packed{0, n}, sp::contiguous{}, sp::solo{}); };
  auto const one = batch(7), other = batch(12);
  sp::ring_attention const object{sp::solo{}, counting_rows{}};
  sp::pool memory;
  sp::context const ctx(memory, memory);
  auto prepared = object.prepare(one, ctx);
  CHECK((prepared.geometry.steps.size() == 1 && prepared.geometry.steps[0] == 7));
  object.refresh(prepared, other, ctx);
  CHECK((prepared.geometry.steps.size() == 1 && prepared.geometry.steps[0] == 12 && object.q_rows(prepared) == 12));
}

TEST_CASE(
    "refresh: tables of a kernel keep their addresses, a pass that captured them reads the new batch, too little room is said") {
  using support::late_queue;
  std::atomic<int> good{0};
  sp::local<late_queue>::run(3, [&](sp::local<late_queue> const& ranks) {
    support::elsewhere_pool memory(ranks.queue());
    sp::context ctx(ranks.queue(), memory, memory);
    ctx.room = {.times = 1, .least = 32};
    auto batch = [&](std::vector<index_t> cu) { return sp::batch(sp::documents::packed(cu), sp::zigzag{}, ranks); };
    auto const a = batch({0, 9, 10, 31}), b = batch({0, 2, 15, 16, 17, 40}), large = batch(short_documents(40));
    for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q}) {
      sp::ring_attention const object{ranks, with_table{}, {.mask = sp::causal(), .schedule = how}};
      auto prepared = object.prepare(a, ctx);
      support::elsewhere_tensor<index_t, 1> read(memory, {24});
      auto& step = prepared.geometry.steps.back().numbers;
      captured_pass const pass{{step.values().data, {24}}, *read};
      auto replay = [&] {
        ranks.queue().for_each(read->extents, pass);
        auto list = read.download();
        list.resize(std::size_t(step.size()));
        return list;
      };
      auto const first = replay();
      auto as_prepared = [&](sp::batch const& x) {
        auto const anew = object.prepare(x, ctx);
        auto const& t = anew.geometry.steps.back().numbers;
        support::elsewhere_tensor<index_t, 1> values(memory, {t.size()});
        ranks.queue().for_each(values->extents, captured_pass{t.values(), *values});
        return values.download();
      };
      good += first == as_prepared(a) && first.size() > 2;
      {
        late_queue::hold const held(ranks.queue()); // refreshing waits for nothing
        object.refresh(prepared, b, ctx);
      }
      good += step.values().data == pass.table.data && replay() == as_prepared(b) && first != as_prepared(b);
      auto const e = failure_of([&] { return object.refresh(prepared, large, ctx), 0; });
      good += says(e, errc::workspace_too_small, "there is room for 32") && e.primitive == "ring_attention.refresh";
      object.refresh(prepared, a, ctx);
      good += step.values().data == pass.table.data && replay() == first;
    }
  });
  CHECK(good == 3 * 4 * 4);
}

TEST_CASE("refresh: whole documents in memory that faults on the host have the bits of the host [asan]") {
  using support::elsewhere;
  using support::operand;
  auto batch = [](std::vector<index_t> cu) { return sp::batch(sp::documents::packed(cu), sp::contiguous{}, sp::solo{}); };
  sp::batch const list[] = {batch({0, 5, 5, 12}), batch({0, 1, 20}), batch({0, 4})};
  support::late_queue const queue(5);
  support::elsewhere_pool memory(queue);
  sp::context const ctx(queue, memory, memory);
  sp::whole_attention<rows<elsewhere>> const object{rows<elsewhere>{}};
  sp::whole_attention<rows<sp::host_memory>> const on_host{rows<sp::host_memory>{}};
  decltype(on_host)::prepared host_prepared;
  decltype(object)::prepared prepared;
  sp::pool pool;
  sp::context const host_ctx(pool, pool);
  for (sp::batch const& b : list) {
    support::attention_tensors<float> host(b, {3, 3, 4, 4});
    std::vector<std::unique_ptr<support::elsewhere_tensor<float, 3>>> there;
    for (auto* v : {&host.q, &host.k, &host.v, &host.out, &host.dout, &host.dq, &host.dk, &host.dv})
      there.push_back(std::make_unique<support::elsewhere_tensor<float, 3>>(
          memory, v->extents, std::vector<float>(v->data, v->data + v->elements())));
    auto at = [&](operand name) { return **there[std::size_t(name)]; };
    object.refresh(prepared, b, ctx);
    auto saved = object.forward(prepared, ctx, at(operand::q), at(operand::k), at(operand::v), at(operand::out));
    object.backward(prepared, ctx, std::move(saved), at(operand::q), at(operand::k), at(operand::v), at(operand::out),
                    at(operand::dout), at(operand::dq), at(operand::dk), at(operand::dv));
    on_host.refresh(host_prepared, b, host_ctx);
    host.both(on_host, host_prepared, host_ctx);
    support::attention_tensors<float> anew(b, {3, 3, 4, 4});
    anew.both(on_host, on_host.prepare(b), host_ctx);
    CHECK(host.results() == anew.results());
    for (operand name : {operand::out, operand::dq, operand::dk, operand::dv})
      CHECK(there[std::size_t(name)]->download() == host[name]);
  }
}

} // namespace test_refresh
