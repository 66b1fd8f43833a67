// Calls on a queue of the caller's: the bits of calls without one, in memory of any kind, and every pass over a tensor given to it.
// Counts are exact, so that a loop beside the queue, or a kernel that is not handed the queue, is missed.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <memory>

#include <sp/attention/ring/pull.hpp>
#include <sp/gather_loss.hpp>
#include <sp/local.hpp>
#include <sp/reference.hpp>
#include <sp/ulysses.hpp>

#include "support/attention_tensors.hpp"
#include "support/counting_queue.hpp"
#include "support/failure.hpp"
#include "support/late_queue.hpp"
#include "support/tensors.hpp"

namespace test_queues {
namespace {

using sp::index_t;
using support::apart;
using support::counted_work;
using support::counting_queue;
using support::in_memory;
using support::operand;
using support::plain_memory;
using support::same_bits;
using host_queue = counting_queue<sp::host_memory>;

/// A kernel without lse for any memory: element-wise, on the queue it is given or on the caller's thread. What forward returns comes back.
template <class M>
struct rows {
  using memory_type = M;
  template <class T, class Queue = sp::inline_queue>
  int forward(sp::whole_call<T, M> const& c, Queue const& q = {}) const {
    sp::assign(q, c.out, c.q);
    return int(c.where.rows);
  }
  template <class T, class Queue = sp::inline_queue>
  void backward(sp::whole_grad<T, M> const& g, int seen, Queue const& q = {}) const {
    if (seen != g.where.rows) return;
    sp::assign(q, g.dq, g.dout);
    sp::assign(q, g.dk, g.k);
    sp::assign(q, g.dv, g.v);
  }
};

/// forward and backward with every tensor said to lie in M; a workspace of scratch_bytes is enough.
template <class M, class T, class Object>
void step(Object const& o, sp::batch const& b, support::attention_tensors<T>& x, counted_work& work) {
  auto const prepared = o.prepare(b);
  counting_queue<M> const queue(work);
  std::vector<std::byte> block(std::size_t(o.template scratch_bytes<T>(prepared, x.shape, queue)) + 64);
  sp::basic_workspace<M> scratch(block.data(), block.size());
  plain_memory<M> kept;
  sp::context const ctx(queue, scratch, kept);
  auto on = [](sp::view<T, 3> const& v) { return in_memory<M>(v); };
  auto saved = o.forward(prepared, ctx, on(x.q), on(x.k), on(x.v), on(x.out));
  o.backward(prepared, ctx, std::move(saved),
             {.q = on(x.q),
              .k = on(x.k),
              .v = on(x.v),
              .out = on(x.out),
              .dout = on(x.dout),
              .dq = on(x.dq),
              .dk = on(x.dk),
              .dv = on(x.dv)});
}

/// A rank of memory M that is alone.
template <class M>
struct alone {
  using memory_type = M;
  struct token {
    void wait() {}
  };
  int rank() const { return 0; }
  int size() const { return 1; }
  template <class... Queue>
  token exchange(sp::traffic const&, Queue const&...) const {
    return {};
  }
  template <class T, class... Queue>
  void all_reduce(sp::view<T, 1, M>, Queue const&...) const {}
};

template <class T>
void check_whole() {
  sp::batch const b{sp::packed{0, 5, 5, 12}, sp::contiguous{}, sp::solo{}};
  sp::attention_shape const shape{3, 3, 4, 4};
  support::attention_tensors<T> plain(b, shape), host(b, shape), other(b, shape);
  sp::whole_attention<rows<sp::host_memory>> const on_host{rows<sp::host_memory>{}};
  auto saved = on_host.forward(b, plain.q, plain.k, plain.v, plain.out);
  on_host.backward(b, std::move(saved), plain.q, plain.k, plain.v, plain.out, plain.dout, plain.dq, plain.dk, plain.dv);

  counted_work a, c;
  step<sp::host_memory>(on_host, b, host, a);
  step<apart>(sp::whole_attention<rows<apart>>{rows<apart>{}}, b, other, c);
  CHECK(same_bits(host.results(), plain.results()));
  CHECK(same_bits(other.results(), plain.results()));
  // forward: zeros and two documents; backward: three sums begun, three gradients of each document written and added, and the sums
  // rounded where they are not the caller's tensors
  index_t const elements = 12 * 3 * 4, rounded = std::is_same_v<T, float> ? 0 : 3;
  counted_work const all{1 + 2 + 3 + 2 * 6 + rounded, elements * (1 + 1 + 3 + 6 + rounded), 0, 0, 0, 0};
  CHECK(a == all);
  CHECK(c.passes == all.passes);
  CHECK(c.indices < all.indices); // fills, sums and roundings take four or eight elements at once
  CHECK(c.indices >= all.indices / 8);
  CHECK((c.sums == 0 && c.copies == 0 && c.waits == 0));
}

} // namespace

TEST_CASE("queues: whole documents give the same bits on any queue and memory, and all their work to it [asan]") {
  check_whole<float>();
  check_whole<sp::bf16>();
}

TEST_CASE("queues: row arithmetic of a ring gives the same bits on the caller's queue, and all its passes to it [asan]") {
  sp::batch const b{sp::packed{0, 4, 10}, sp::contiguous{}, sp::solo{}};
  sp::attention_shape const shape{4, 2, 3, 5};
  std::vector<float> sinks{0.5F, -1, 0.25F, 2}, dsinks(4), dsinks_of_queue(4);
  auto run = [&](auto const& object, auto& x, auto const& ctx, std::vector<float>& gradient) {
    sp::attention_extras<sp::bf16> extras;
    extras.sinks = sp::view<float const, 1>(sinks.data(), 4);
    extras.dsinks = sp::view(gradient.data(), 4);
    auto const prepared = object.prepare(b);
    auto saved = x.forward(object, prepared, ctx, extras);
    x.backward(object, prepared, ctx, std::move(saved), extras);
  };
  sp::ring_attention const ring{sp::solo{}, sp::reference{}};
  support::attention_tensors<sp::bf16> plain(b, shape), counted(b, shape), given(b, shape);
  sp::pool memory;
  counted_work work;
  run(ring, plain, sp::context(memory, memory), dsinks);
  index_t& delta = support::indices_of<sp::detail::delta_body<sp::bf16, sp::host_memory>>;
  delta = 0;
  run(ring, counted, sp::context(host_queue(work), memory, memory), dsinks_of_queue);
  CHECK(same_bits(counted.results(), plain.results()));
  CHECK(same_bits(dsinks_of_queue, dsinks));
  run(ring, given, sp::context(sp::inline_queue{}, memory, memory), dsinks_of_queue);
  CHECK(same_bits(given.results(), plain.results()));

  // Beside what the kernel is given: zeros of out and -inf of lse, sinks, out rounded; dsinks zero, delta, three sums begun and rounded.
  index_t const lse = 10 * 4, q = lse * 3, out = lse * 5, k = 10 * 2 * 3, v = 10 * 2 * 5;
  CHECK(work.indices >= out + lse + lse + out + 4 + lse + 2 * (q + k + v));
  CHECK(work.passes >= 4 + 2 + 2 * 3);
  CHECK(delta == lse);
  CHECK((work.sums == 4 && work.terms == 4 * 10)); // the gradient of each sink
}

TEST_CASE("queues: backends merge and kernels compute on the queue they are given, in memory of any kind [asan]") {
  auto run = [](auto backend, auto memory_of, auto const&... queue) {
    using M = decltype(memory_of);
    std::vector<sp::placed_run> const six{{{0, 6, 1}, 0, 0}};
    sp::problem const p{six, six, {{0, 6, 0, 6, -sp::unbounded, 0}}};
    auto const plan = backend.prepare(p);
    std::vector<float> q(6 * 2 * 3), k(6 * 3), v(6 * 2), out(6 * 2 * 2), lse(12, sp::detail::minus_infinity<float>),
        delta(12, 0.5F), dq(36), dk(18), dv(12), dout(24);
    float next = 0;
    for (auto* x : {&q, &k, &v, &dout})
      for (float& y : *x) y = std::sin(next += 1);
    plain_memory<M> scratch;
    sp::call_params const n{{0, 2, 0, 1, 2}, 0.5, {}};
    auto at = [](auto& values, auto... extents) {
      return sp::view<float, int(sizeof...(extents)), M>(values.data(), extents...);
    };
    sp::kv_views<float, M> const keys{at(k, 6, 1, 3), at(v, 6, 1, 2)};
    sp::attention_state<float, M> const state{at(out, 6, 2, 2), at(lse, 6, 2)};
    backend.template forward<float>(plan, scratch, n, at(q, 6, 2, 3), std::span(&keys, 1), state, queue...);
    sp::query_grad<float, M> const queries{at(q, 6, 2, 3), at(out, 6, 2, 2), at(dout, 6, 2, 2),
                                           at(lse, 6, 2),  at(delta, 6, 2),  at(dq, 6, 2, 3)};
    sp::key_grad<float, M> const gradients{keys.k, keys.v, at(dk, 6, 1, 3), at(dv, 6, 1, 2)};
    backend.template backward<float>(plan, scratch, n, std::span(&queries, 1), std::span(&gradients, 1), {}, queue...);
    for (auto* x : {&lse, &dq, &dk, &dv}) out.insert(out.end(), x->begin(), x->end());
    return out;
  };
  counted_work here, there;
  auto const want = run(sp::reference{}, sp::host_memory{});
  CHECK(same_bits(run(sp::reference{}, sp::host_memory{}, host_queue(here)), want));
  CHECK(same_bits(run(sp::basic_reference<apart>{}, apart{}, counting_queue<apart>(there)), want));
  // a pass for each head: rows forward, the head backward; and merging
  counted_work const all{2 + 2 + 1, 2 * 6 + 2 + 12, 0, 0, 0, 0};
  CHECK(here == all);
  CHECK(there == all);
  static_assert(sp::attention_backend<sp::basic_reference<apart>, float>);
  static_assert(!sp::detail::computes_tables<sp::basic_reference<apart>, float>); // the caller's thread cannot
  static_assert(sp::takes_queue<sp::reference<>, float, host_queue> &&
                !sp::takes_queue<sp::reference<>, float, counting_queue<apart>>);
}

TEST_CASE("queues: losses and their gradients give the same bits in memory of any kind, and only a read waits [asan]") {
  std::vector<sp::bf16> losses{sp::bf16(1), sp::bf16(2.5), sp::bf16(std::numeric_limits<float>::quiet_NaN()), sp::bf16(-3)},
      want(4), got(4), far(4);
  std::vector<int> labels{3, 0, -100, 7};
  auto row = [](auto& v) { return sp::view(v.data(), index_t(v.size())); };
  sp::gather_loss const loss{sp::solo{}, sp::averaged{2}};
  sp::gather_loss const loss_apart{alone<apart>{}, sp::averaged{2}};
  auto const r = loss.forward(row(losses), row(labels));
  CHECK((r.loss == 0.5 / 3 && r.num_tokens == 3));
  loss.backward(r, row(labels), row(want), 3.0);
  CHECK((float(want[0]) == 2 && float(want[2]) == 0));

  counted_work here, there;
  sp::pool memory;
  plain_memory<apart> other;
  sp::context const ctx(host_queue(here), memory, memory);
  sp::context const away(counting_queue<apart>(there), other, other);
  auto const s = loss.forward(ctx, row(losses), row(labels));
  auto t = loss_apart.forward(away, in_memory<apart>(row(losses)), in_memory<apart>(row(labels)));
  CHECK(here == counted_work{1, 1, 1, 4, 0, 0});
  CHECK(there == counted_work{1, 1, 1, 4, 0, 0});
  loss.backward(ctx, s, row(labels), row(got), 3.0);
  loss_apart.backward(away, t, in_memory<apart>(row(labels)), in_memory<apart>(row(far)), 3.0);
  CHECK((same_bits(got, want) && same_bits(far, want)));
  CHECK(here == counted_work{1, 1, 2, 8, 0, 0});  // written and counted at once
  CHECK(there == counted_work{2, 5, 1, 4, 0, 0}); // and nothing is waited for
  sp::loss_result const s_here = sp::read(ctx.queue, s), t_here = sp::read(away.queue, t);
  CHECK((s_here.loss == r.loss && t_here.loss == r.loss && s_here.num_tokens == 3 && t_here.num_tokens == 3));
  CHECK((s_here.scale == r.scale && t_here.scale == r.scale && t_here.divided && t_here.from.counted == 3));
  CHECK(here == counted_work{1, 1, 2, 8, 0, 0});
  CHECK(there == counted_work{2, 5, 1, 4, 1, 1});
  loss_apart.backward(away, t_here, in_memory<apart>(row(labels)), in_memory<apart>(row(far)), 1.5);
  CHECK(float(far[0]) == 1);
  CHECK(there == counted_work{3, 9, 1, 4, 1, 1}); // nor here
  CHECK(other.blocks == 1);                       // the numbers of t
  auto const kept = [&, taken = std::move(t)] { return sp::read(away.queue, taken).loss; };
  CHECK(kept() == r.loss);
  CHECK(support::says(support::failure_of([&] { return sp::read(away.queue, t); }), sp::errc::bad_state, "moved away"));
}

TEST_CASE(
    "queues: in memory that faults on the host, whole documents and losses of three ranks have the bits of the host [asan]") {
  using support::elsewhere;
  sp::batch const b{sp::packed{0, 5, 5, 12}, sp::contiguous{}, sp::solo{}};
  sp::attention_shape const shape{3, 3, 4, 4};
  support::attention_tensors<sp::bf16> host(b, shape);
  support::late_queue const queue(3);
  support::elsewhere_pool memory(queue);
  std::vector<std::unique_ptr<support::elsewhere_tensor<sp::bf16, 3>>> there;
  for (auto* v : {&host.q, &host.k, &host.v, &host.out, &host.dout, &host.dq, &host.dk, &host.dv})
    there.push_back(std::make_unique<support::elsewhere_tensor<sp::bf16, 3>>(
        memory, v->extents, std::vector<sp::bf16>(v->data, v->data + v->elements())));
  auto at = [&](operand name) { return **there[std::size_t(name)]; };
  {
    sp::whole_attention<rows<elsewhere>> const object{rows<elsewhere>{}};
    auto const prepared = object.prepare(b);
    sp::context const ctx(queue, memory, memory);
    auto saved = object.forward(prepared, ctx, at(operand::q), at(operand::k), at(operand::v), at(operand::out));
    object.backward(prepared, ctx, std::move(saved), at(operand::q), at(operand::k), at(operand::v), at(operand::out),
                    at(operand::dout), at(operand::dq), at(operand::dk), at(operand::dv));
  }
  sp::whole_attention<rows<sp::host_memory>> const on_host{rows<sp::host_memory>{}};
  sp::pool pool;
  host.both(on_host, on_host.prepare(b), sp::context(pool, pool));
  for (operand name : {operand::out, operand::dq, operand::dk, operand::dv})
    CHECK(same_bits(there[std::size_t(name)]->download(), host[name]));
  CHECK(memory.blocks_out() == 8);

  std::atomic<int> good{0};
  sp::local<support::late_queue>::run(3, [&](sp::local<support::late_queue> const& ranks) {
    int const rank = ranks.rank();
    support::elsewhere_pool mine(ranks.queue());
    std::vector<float> const losses{float(rank), 2, 8};
    std::vector<int> const labels{1, rank == 1 ? -100 : 5, 2};
    support::elsewhere_tensor<float, 1> l(mine, {3}, losses), d(mine, {3});
    support::elsewhere_tensor<int, 1> n(mine, {3}, labels);
    sp::gather_loss const loss{ranks, sp::summed{}};
    sp::context const ctx(ranks.queue(), mine, mine);
    auto const r = loss.forward(ctx, *l, *n);
    loss.backward(ctx, r, *n, *d);
    auto const x = sp::read(ranks.queue(), r);
    good += x.loss == (0 + 1 + 2 + 2 * 2 + 3 * 8) / 8.0 && x.num_tokens == 8;
    good += d.download() == std::vector<float>{0.125F, rank == 1 ? 0 : 0.125F, 0.125F};
  });
  CHECK(good == 6);
}

TEST_CASE("queues: what pull shows to other ranks is refused for a queue that is not theirs") {
  using ranks = sp::local<support::late_queue>;
  struct call {
    using communicator_type = ranks;
    ranks const& comm;
    sp::context<support::late_queue> const& ctx;
  };
  ranks::run(1, [](ranks const& comm) {
    support::late_queue const other(9);
    support::elsewhere_pool own(comm.queue()), others(other);
    sp::context const here(comm.queue(), own, own), there(other, others, others);
    auto show = [&](auto const& ctx) { sp::detail::shown<call>(call{comm, ctx}, "pull", {}).release(); };
    auto const e = support::failure_of([&] { return show(there), 0; });
    CHECK((support::says(e, sp::errc::bad_state, "queue is not the one") && e.primitive == "pull"));
    show(here);
  });
}

TEST_CASE("queues: check level 3 searches on the queue, in memory of any kind") {
  sp::batch const b{sp::packed{0, 3}, sp::contiguous{}, sp::solo{}};
  support::attention_tensors<float> x(b, {1, 1, 2, 2});
  counted_work work;
  sp::pool memory;
  sp::context const ctx(host_queue(work), memory, memory);
  sp::attention_options const searched{.checks = 3};
  sp::whole_attention<rows<sp::host_memory>> const object{rows<sp::host_memory>{}, searched};
  auto const prepared = object.prepare(b);
  x.both(object, prepared, ctx);
  CHECK(
      (work.sums == 3 + 1 + 5 + 3 && work.terms == 12 * 3)); // q, k, v; out; those, out and dout; gradients: lines of three rows
  x.memory[1][3] = -std::numeric_limits<float>::infinity();
  auto const e = support::failure_of([&] { return x.forward(object, prepared, ctx); });
  CHECK(support::says(e, sp::errc::non_finite, "k holds -inf at row 1, head 0, channel 1: position 1 of the stream, document 0"));

  sp::whole_attention<rows<apart>> const other{rows<apart>{}, searched};
  plain_memory<apart> there;
  sp::context const away(counting_queue<apart>(work), there, there);
  auto on = [](sp::view<float, 3> const& v) { return in_memory<apart>(v); };
  auto const made = other.prepare(b, away);
  auto call = [&] { return other.forward(made, away, on(x.q), on(x.k), on(x.v), on(x.out)); };
  auto const there_too = support::failure_of(call);
  CHECK(support::says(there_too, sp::errc::non_finite, "k holds -inf at row 1, head 0, channel 1: position 1"));
  x.memory[1][3] = 1;
  work = {};
  call();
  CHECK((work.sums == 4 && work.copies >= 4 && work.waits == work.copies)); // only searches wait: ranks are alone
  CHECK(there.blocks == 0);
}

} // namespace test_queues
