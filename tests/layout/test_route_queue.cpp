// Routes on queues whose work is done later, over memory that the host cannot touch: the bits of threads and host memory, in every
// interleaving, with tables of who lands where and without; what is sent by a communicator that knows no queue is there before it is called.
// A table serves the route that it was assigned, and no other.
#include <doctest/doctest.h>

#include <atomic>
#include <mutex>
#include <random>

#include <sp/batch.hpp>
#include <sp/local.hpp>
#include <sp/relayout.hpp>
#include <sp/route.hpp>
#include <sp/threads.hpp>

#include "support/counting_queue.hpp"
#include "support/failure.hpp"
#include "support/places.hpp"
#include "support/tensors.hpp"

namespace test_route_queue {
namespace {

using sp::errc;
using sp::head_cut;
using sp::index_t;
using sp::landing;
using sp::landing_table;
using sp::mapping;
using sp::routed;
using support::failure_of;
using support::host_place;
using support::interleaving;
using support::late_place;
using support::late_queue;
using support::on_all_ranks;
using support::says;
using late_ranks = sp::local<late_queue>;

template <class T>
std::vector<T> numbers(unsigned seed, index_t n) {
  std::minstd_rand g(seed + 1);
  std::vector<T> v;
  for (index_t i = 0; i < n; ++i) v.push_back(sp::from_acc<T>(sp::accumulate_t<T>(double(g() % 2001) / 7 - 143)));
  return v;
}

struct moves {
  sp::layout fine, other;
  std::vector<mapping> map;
  sp::heads on;
  bool tables = true; ///< sums are one pass
};

/// Rows between two layouts stored, and summed on their way back in three types at once; heads to everybody and back.
template <class Place, class Wrap>
std::vector<double> results_of(moves const& m, typename Place::ranks const& comm, Wrap&& wrap) {
  Place here(comm);
  auto const sends = wrap(comm);
  int const me = comm.rank(), size = comm.size();
  auto ctx = here.context();
  ctx.room.least = 256;
  sp::route const there = sp::route::between(m.fine, m.other, m.map, me), back = there.transposed();
  index_t const a = there.from_rows(), b = there.to_rows(), h = m.on.kv_count;
  auto make = [&]<class T>(T, int what, index_t rows, index_t heads, index_t dim = 3) {
    return
        typename Place::template tensor<T, 3>(here, {rows, heads, dim}, numbers<T>(unsigned(what * 16 + me), rows * heads * dim));
  };
  landing_table<typename Place::ranks::memory_type> back_table, home_table;
  if (m.tables) {
    back_table.assign(ctx, there);
    back_table.assign(ctx, back); // of the route that was assigned last
  }
  auto x = make(1.0F, 1, a, h), y = make(1.0F, 2, b, h), dx = make(1.0F, 3, a, h);
  auto narrow = make(sp::bf16{}, 4, b, h), dnarrow = make(sp::bf16{}, 5, a, h);
  auto wide = make(1.0, 6, b, h), dwide = make(1.0, 7, a, h);
  sp::exchange(sends, "there", ctx, routed(there, *x, *y)).wait();
  {
    auto two_at_once = sp::exchange(sends, "back", ctx, routed(back, *y, *dx, head_cut{}, landing::sum_to, &back_table),
                                    routed(back, *narrow, *dnarrow, head_cut{}, landing::sum_to, &back_table));
    sp::exchange(sends, "back", ctx, routed(back, *wide, *dwide, head_cut{}, landing::sum, &back_table)).wait();
    two_at_once.wait();
  }
  mapping const all = sp::identity_map(sp::unbounded);
  sp::route const out = sp::route::to_everybody(m.fine, 0, 1, size, me, m.fine.grouped(size, 1).runs(0), {&all, 1}),
                  home = out.transposed();
  head_cut const cut{head_cut::side::from, m.on, head_cut::kind::kv}, arriving{head_cut::side::to, m.on, head_cut::kind::kv};
  index_t const share = cut.of_peer(me, size).count;
  auto by_heads = make(1.0F, 8, out.to_rows(), share);
  auto rows = make(sp::bf16{}, 9, a, h), everybody = make(sp::bf16{}, 10, out.to_rows(), h);
  sp::exchange(sends, "heads", ctx, routed(out, *dx, *by_heads, cut)).wait();
  if (m.tables) home_table.assign(ctx, home);
  auto dheads = make(sp::bf16{}, 17, a, h);
  sp::exchange(sends, "tokens", ctx, routed(home, *by_heads, *dheads, arriving, landing::sum, &home_table)).wait();
  // each element once: added to what is there, in the type of the tensor; a last dimension of more than one pass of a body
  head_cut const of_q{head_cut::side::to, m.on, head_cut::kind::q};
  auto by_q = make(1.0F, 11, out.to_rows(), of_q.of_peer(me, size).count, 19);
  auto dq = make(sp::bf16{}, 12, a, m.on.q_count, 19);
  sp::exchange(sends, "tokens", ctx, routed(home, *by_q, *dq, of_q, landing::sum_to, &home_table)).wait();
  typename Place::template tensor<float, 2> lse(here, {b, h}, numbers<float>(unsigned(13 * 16 + me), b * h));
  typename Place::template tensor<sp::fp16, 2> dlse(here, {a, h}, numbers<sp::fp16>(unsigned(14 * 16 + me), a * h));
  typename Place::template tensor<double, 1> plain(here, {b}, numbers<double>(unsigned(15 * 16 + me), b)),
      done(here, {a}, numbers<double>(unsigned(16 * 16 + me), a));
  sp::exchange(sends, "lower ranks", ctx, routed(back, *lse, *dlse, head_cut{}, landing::sum, &back_table),
               routed(back, *plain, *done, head_cut{}, landing::sum_to, &back_table))
      .wait();
  sp::exchange_with_everybody(sends, "everybody", ctx, routed(out, *rows, *everybody)).wait();

  std::vector<double> result;
  auto note = [&](auto const&... tensors) {
    auto one = [&](auto const& values) {
      for (auto const& v : values) result.push_back(double(sp::to_acc(v)));
    };
    (one(tensors.download()), ...);
  };
  note(y, dx, dnarrow, dwide, by_heads, everybody, dheads, dq, dlse, done);
  return result;
}

/// Of all ranks, in their order.
template <class Place, class Wrap, class... More>
std::vector<std::vector<double>> all_results(moves const& m, Wrap&& wrap, More&&... more) {
  std::vector<std::vector<double>> all(std::size_t(m.fine.parts()));
  Place::ranks::run(
      m.fine.parts(), [&](auto const& comm) { all[std::size_t(comm.rank())] = results_of<Place>(m, comm, wrap); }, more...);
  return all;
}

moves random_moves(std::mt19937& g, int parts) {
  auto pick = [&](index_t a, index_t b) { return a + index_t(g() % std::uint32_t(b - a + 1)); };
  auto cut = [&](index_t n) {
    std::vector<index_t> cu{0};
    while (cu.back() < n) cu.push_back(sp::min(n, cu.back() + pick(1, n / 2 + 1)));
    sp::documents const docs = sp::packed(std::span<index_t const>(cu));
    return pick(0, 1) ? sp::layout(docs, sp::zigzag{}, parts) : sp::layout(docs, sp::striped{sp::scope::stream}, parts);
  };
  index_t const a = pick(1, 30), b = pick(1, 30);
  moves m{cut(a), cut(b), {}, sp::all_heads(6, pick(1, 3))};
  for (index_t at = pick(0, 2); at < b;) {
    index_t const first = pick(0, a - 1), count = pick(1, sp::min(a - first, b - at));
    m.map.push_back({first, at, count});
    at += count + pick(0, 2);
  }
  return m;
}

/// A rank of other memory that is alone: nothing is sent.
struct alone {
  using memory_type = support::apart;
  struct token {
    void wait() {}
  };
  int rank() const { return 0; }
  int size() const { return 1; }
  token exchange(sp::traffic const&) const { return {}; }
};

/// Knows no queue: what it is told to send is in memory, and what it received is so after wait().
class blocking {
public:
  using memory_type = support::elsewhere;
  explicit blocking(late_ranks const& ranks, std::atomic<int>* early) : ranks_(ranks), early_(early) { watch(); }
  int rank() const { return ranks_.rank(); }
  int size() const { return ranks_.size(); }
  struct token {
    late_ranks::token inner;
    blocking const* of;
    void wait() {
      inner.wait();
      of->ranks_.queue().synchronize();
      of->watch();
    }
  };
  token exchange(sp::traffic const& t) const {
    *early_ += given_->load() != done_->load();
    return {ranks_.exchange(t), this};
  }

private:
  /// From now on the queue has work that is not done before somebody waits for it.
  void watch() const {
    ++*given_;
    ranks_.queue().give([done = done_] { ++*done; });
  }
  late_ranks ranks_;
  std::atomic<int>* early_;
  std::shared_ptr<std::atomic<int>> given_ = std::make_shared<std::atomic<int>>(0), done_ = std::make_shared<std::atomic<int>>(0);
};
static_assert(sp::has_own_queue<late_ranks> && !sp::has_own_queue<blocking> && !sp::has_own_queue<sp::threads>);

} // namespace

TEST_CASE("route: on late queues rows land and are added up with the bits of host memory, 1 to 8 ranks [asan][tsan]") {
  std::mt19937 g(3);
  auto as_it_is = [](auto const& comm) { return comm; };
  std::atomic<int> early{0};
  for (int round = 0; round < 16; ++round) {
    int const parts = round % 8 + 1;
    CAPTURE(round);
    moves m = random_moves(g, parts);
    auto const wanted = all_results<host_place>(m, as_it_is);
    auto const how = interleaving(round % 3);
    m.tables = round % 2 == 0;
    auto queue_of = [&](int r) { return late_queue(unsigned(round * 8 + r), how); };
    sp::threads_options options;
    CHECK(all_results<late_place>(m, as_it_is, options, queue_of) == wanted);
    if (round >= 8) continue;
    m.tables = !m.tables;
    CHECK(all_results<late_place>(
              m, [&](late_ranks const& comm) { return blocking(comm, &early); }, options, queue_of) == wanted);
  }
  CHECK(early == 0);
}

TEST_CASE("route: with a table a sum is one pass, however many ranges of rows land, and takes no memory for sums") {
  sp::layout const l(sp::packed{0, 12}, sp::contiguous{}, 1);
  std::vector<mapping> const map{{9, 0, 3}, {5, 3, 2}, {2, 6, 2}, {0, 0, 6}};
  sp::route const back = sp::route::between(l, l, map, 0).transposed();
  REQUIRE(back.lands().ranges() == 4);
  std::vector<sp::bf16> from(12 * 2 * 3), to(from.size());
  using view = sp::view<sp::bf16, 3, support::apart>;
  support::plain_memory<support::apart> memory;
  auto sum = [&](landing_table<support::apart> const* table) {
    support::counted_work work;
    sp::context const ctx(support::counting_queue<support::apart>(work), memory, memory);
    auto operand = routed(back, view(from.data(), 12, 2, 3), view(to.data(), 12, 2, 3), head_cut{}, landing::sum_to, table);
    index_t const bytes = sp::exchange_scratch(alone{}, ctx.queue, operand);
    sp::exchange(alone{}, "sum", ctx, operand).wait();
    return std::pair(work.passes, bytes);
  };
  support::counted_work uploads;
  landing_table<support::apart> table;
  auto const [passes, bytes] = sum(&table); // not assigned yet: as without
  CHECK(passes == 1 + 4 + 1);
  table.assign(sp::context(support::counting_queue<support::apart>(uploads), memory, memory), back);
  CHECK(uploads.uploads == 2);
  auto const [passes_by_table, bytes_by_table] = sum(&table);
  CHECK(passes_by_table == 1);
  CHECK(bytes_by_table < bytes);
  CHECK(sum(nullptr) == std::pair(passes, bytes));
}

TEST_CASE("route: rows that land in one row by a step of 0 are added up in the order of rank, then of the rows, on any queue") {
  auto both_ways = []<class Place>(Place& here, bool with_table) {
    // row 1 of mine goes three times to each of two ranks, whose six rows come home to it
    auto const copies = [](int, auto&& add) { add(1, 0, 3); };
    auto const apart = [](int p, auto&& add) { add(3 * p, 1, 3); };
    sp::route const there = sp::route::of_rows(here.comm.rank(), 2, 2, 6, copies, apart), back = there.transposed();
    auto const ctx = here.context();
    landing_table<typename Place::ranks::memory_type> table;
    if (with_table) table.assign(ctx, back);
    typename Place::template tensor<float, 1> own(here, {2}, {-5, 7}), spread(here, {6}, std::vector<float>(6)),
        found(here, {6}, {1e8F, -1e8F, 1, 1e8F, -1e8F, 1}), sum(here, {2}, {3, 4});
    sp::exchange(here.comm, "there", ctx, routed(there, *own, *spread)).wait();
    sp::exchange(here.comm, "back", ctx, routed(back, *found, *sum, head_cut{}, landing::sum, &table)).wait();
    auto values = spread.download();
    for (float x : sum.download()) values.push_back(x);
    return values;
  };
  // each rank finds the first half, or the second, of what both found: 1e8 - 1e8 + 1, then 1e8 more and less, and 1
  std::vector<float> const wanted{7, 7, 7, 7, 7, 7, 0, 1};
  for (auto const& values : on_all_ranks<host_place>(2, [&](auto& here) { return both_ways(here, false); }))
    CHECK(values == wanted);
  for (unsigned seed = 0; seed < 24; ++seed)
    for (auto const& values : on_all_ranks<late_place>(
             2, [&](auto& here) { return both_ways(here, seed % 2 == 1); }, interleaving(seed % 3), seed / 2))
      CHECK(values == wanted);
  auto const r = sp::route::of_rows(
      0, 1, 3, 2, [](int, auto&& add) { add(0, 1, 3); }, [](int, auto&& add) { add(1, 0, 3); });
  CHECK(r.lands().rows(0) == 3);
  CHECK(r.lands().ranges() == 3);
  CHECK_FALSE(r.lands().distinct());
}

TEST_CASE("route: a table is refused by another route, and stays as it was where it has no room for one") {
  sp::layout const l(sp::packed{0, 8}, sp::contiguous{}, 1);
  std::vector<mapping> const all{{0, 0, 8}}, twice{{0, 0, 4}, {0, 4, 4}}, few{{0, 0, 4}};
  auto back = [&](std::vector<mapping> const& map) { return sp::route::between(l, l, map, 0).transposed(); };
  sp::route const a = back(few), b = back(twice), c = back(all);
  std::vector<float> from(8, 1), to(8);
  support::plain_memory<support::apart> memory;
  support::counted_work work;
  sp::context const ctx(support::counting_queue<support::apart>(work), memory, memory);
  landing_table<support::apart> table;
  auto sum = [&](sp::route const& r) {
    using view = sp::view<float, 1, support::apart>;
    sp::exchange(alone{}, "sum", ctx, routed(r, view(from.data(), 8), view(to.data(), 8), head_cut{}, landing::sum, &table))
        .wait();
    return 0;
  };
  CHECK(says(failure_of([&] { return table.assign(ctx, sp::route()), 0; }), errc::bad_state, "a route without ranks"));
  CHECK_FALSE(table.made());
  table.assign(ctx, a);
  sp::route const copy = a, same = a.transposed().transposed();
  CHECK(sum(copy) + sum(same) == 0);
  auto const passes = work.passes;
  auto const e = failure_of([&] { return sum(b); });
  CHECK((says(e, errc::bad_state, "of another route") && e.primitive == "sum" && e.rank == 0));
  CHECK(work.passes == passes);

  auto const uploads = work.uploads;
  auto const full = failure_of([&] { return table.assign(ctx, c), 0; }); // as many rows, but more of them land
  CHECK(says(full, errc::workspace_too_small, "tables of 9 and 8 entries", "room for 9 and 4"));
  CHECK(work.uploads == uploads);
  CHECK(sum(a) == 0);
  sp::landing_table<sp::host_memory> on_host;
  sp::pool pool;
  sp::context const host(pool, pool);
  CHECK(says(failure_of([&] { return on_host.assign(host, sp::route()), 0; }), errc::bad_state, "a route without ranks"));
  on_host.assign(host, a);
  on_host.require_route(same, "sum");
  CHECK(says(failure_of([&] { return on_host.require_route(b, "sum"), 0; }), errc::bad_state, "of another route"));
}

TEST_CASE("relayout: the table of another one is refused by all ranks, then rewritten at its addresses") {
  auto body = []<class Place>(Place& here) {
    auto const& comm = here.comm;
    sp::documents const docs = sp::packed{0, 8};
    sp::layout const near(docs, sp::contiguous{}, 2), far(docs, sp::striped{}, 2);
    mapping const all{0, 0, 8}, two[] = {{0, 0, 4}, {0, 4, 4}};
    sp::relayout const before(near, far, {&all, 1}, comm.rank()), now(near, far, two, comm.rank()),
        compared(near, far, two, comm.rank(), {.checks = 2});
    auto ctx = here.context();
    ctx.room.least = 16;
    float const x = float(4 * comm.rank());
    typename Place::template tensor<float, 1> dout(here, {4}, {x + 1, x + 2, x + 3, x + 4}), din(here, {4}, {9, 9, 9, 9});
    auto table = before.transposed_table(ctx);
    auto refusal = [&](sp::relayout const& r, auto const* t) {
      return failure_of([&] { return r.apply_transposed(comm, ctx, *dout, *din, t), 0; });
    };
    auto const e = refusal(now, &table);
    bool good = says(e, errc::bad_state, "of another route") && e.primitive == "relayout";
    // from level 2 on all are told, also those whose own table is good
    auto const told = refusal(compared, comm.rank() == 1 ? &table : nullptr);
    good = good && (comm.rank() == 0 ? told.peer == 1 : says(told, errc::bad_state, "of another route"));
    bool const unwritten = din.download() == std::vector<float>(4, 9);
    if constexpr (requires { table.read(); }) {
      auto const at = table.read();
      now.assign_transposed_table(table, ctx);
      good = good && table.read().first.data == at.first.data && table.read().arrivals.data == at.arrivals.data;
    } else {
      now.assign_transposed_table(table, ctx);
    }
    now.apply_transposed(comm, ctx, *dout, *din, &table);
    auto values = din.download();
    values.push_back(float(good) + 2 * float(unwritten));
    return values;
  };
  // dout of positions 0, 2, 4, 6 is on rank 0 (striped), of the others on rank 1; two positions were made of each of rank 0's rows
  std::vector<std::vector<float>> const wanted{{1 + 3, 5 + 7, 2 + 4, 6 + 8, 3}, {0, 0, 0, 0, 3}};
  CHECK(on_all_ranks<host_place>(2, body) == wanted);
  for (unsigned seed = 0; seed < 3; ++seed) CHECK(on_all_ranks<late_place>(2, body, interleaving(seed), seed) == wanted);
}

} // namespace test_route_queue
