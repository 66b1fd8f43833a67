// Sums, broadcast and barrier as operations of queues whose work is done later, in memory that the host cannot touch.
// Fallbacks and a model's own operations have the bits of the host on 1 to 8 ranks, through groups and decorators; nothing waits.
#include <doctest/doctest.h>

#include <optional>
#include <random>

#include <sp/chaos.hpp>
#include <sp/collective.hpp>
#include <sp/counting.hpp>
#include <sp/mesh/group.hpp>

#include "support/failure.hpp"
#include "support/places.hpp"

namespace test_reductions {
namespace {

using sp::index_t;
using support::host_place;
using support::interleaving;
using support::late_place;

/// Has nothing but the base: every operation takes its fallback.
template <class Comm>
class bare {
public:
  using memory_type = typename Comm::memory_type;
  static constexpr bool own_queue = sp::has_own_queue<Comm>;
  explicit bare(Comm const& c) : inner_(c) {}
  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  auto exchange(sp::traffic const& t) const { return inner_.exchange(t); }
  auto const& queue() const { return inner_.queue(); }

private:
  Comm inner_;
};
static_assert(sp::has_all_reduce<late_place::ranks, float> && !sp::has_all_reduce<bare<late_place::ranks>, float>);

/// Values whose sum depends on its order.
template <class T>
std::vector<T> rough(int rank, index_t n, unsigned seed) {
  std::minstd_rand g(seed * 64 + unsigned(rank) + 1);
  std::vector<T> v(static_cast<std::size_t>(n));
  for (T& x : v) x = static_cast<T>((double(g() % 20001) - 10000) / 7 * (g() % 3 ? 1 : 1000));
  return v;
}

/// Every operation twice in a row, so that memory of the first is used again by the second.
template <class Place, class Comm>
std::vector<double> all_of(Place& here, Comm const& c, index_t n, unsigned seed) {
  auto const ctx = here.context();
  int const rank = c.rank(), size = c.size();
  index_t const mine = n / 3 + rank;
  typename Place::template tensor<double, 1> sums(here, {n}, rough<double>(rank, n, seed)),
      again(here, {n}, rough<double>(rank, n, seed + 1)), part(here, {mine}, std::vector<double>(std::size_t(mine), 7));
  typename Place::template tensor<float, 1> parts(here, {size * (n / 3 + size)},
                                                  rough<float>(rank, size * (n / 3 + size), seed + 2)),
      own(here, {mine}, std::vector<float>(std::size_t(mine), 7)), copied(here, {n}, rough<float>(rank, n, seed + 3));
  std::vector<sp::view<float, 1, typename Comm::memory_type>> list;
  for (int r = 0; r < size; ++r) list.push_back((*parts).rows(r * (n / 3 + size), n / 3 + r));
  sp::piece const all = sp::as_piece(*copied);
  {
    typename Place::hold const nobody_waits(here);
    auto first = sp::all_reduce(c, *sums, ctx);
    first.wait();
    auto second = sp::all_reduce(c, *again, ctx, "second");
    auto third = sp::reduce_scatter(c, {list.data(), list.size()}, *own, ctx); // two at once, waited for in another order
    third.wait();
    second.wait();
    sp::broadcast(c, {&all, 1}, size / 2, ctx.queue).wait();
    sp::barrier(c, ctx).wait();
    sp::all_reduce(c, *sums, ctx).wait();
  }
  std::vector<double> out;
  auto note = [&](auto const&... tensors) {
    auto one = [&](auto const& values) { out.insert(out.end(), values.begin(), values.end()); };
    (one(tensors.download()), ...);
  };
  note(sums, again, own, copied);
  return out;
}

} // namespace

TEST_CASE("reductions: on late queues sums, broadcast and barrier have the bits of the host, 1 to 8 ranks [asan][tsan]") {
  std::mt19937 g(5);
  for (int round = 0; round < 12; ++round) {
    int const parts = round % 8 + 1;
    index_t const n = std::array<index_t, 6>{0, 1, 17, 256, 257, 1000}[std::size_t(g() % 6)];
    unsigned const seed = unsigned(round);
    CAPTURE(round);
    auto const wanted =
        support::on_all_ranks<host_place>(parts, [&](host_place& here) { return all_of(here, bare(here.comm), n, seed); });
    auto late = [&](auto&& wrap) {
      return support::on_all_ranks<late_place>(
          parts, [&](late_place& here) { return wrap(here); }, interleaving(round % 3), seed);
    };
    CHECK(late([&](late_place& here) { return all_of(here, bare(here.comm), n, seed); }) == wanted);
    CHECK(late([&](late_place& here) { return all_of(here, here.comm, n, seed); }) == wanted);
    if (round % 2) continue;
    CHECK(late([&](late_place& here) {
            sp::ledger counts;
            sp::group const c{sp::counting{sp::chaos{bare(here.comm), {.seed = seed}}, counts}};
            static_assert(sp::has_own_queue<std::remove_const_t<decltype(c)>>);
            auto result = all_of(here, c, n, seed);
            CHECK(counts.of("second").operations == (parts == 1 ? 0 : n > 256 ? 2 : 1));
            return result;
          }) == wanted);
  }
}

namespace {

/// Takes the queue of each operation and writes down which it was given.
struct on_a_queue {
  using memory_type = support::elsewhere;
  std::string* log;
  using token = sp::solo::token;
  using queue = support::late_queue;
  using row = sp::view<float, 1, support::elsewhere>;
  int rank() const { return 0; }
  int size() const { return 1; }
  token exchange(sp::traffic const&) const { return *log += "exchange ", token(); }
  token exchange(sp::traffic const&, queue) const { return *log += "exchange* ", token(); }
  token all_to_all_v(sp::traffic const&, queue) const { return *log += "all_to_all_v* ", token(); }
  token all_gather_v(sp::traffic const&, queue) const { return *log += "all_gather_v* ", token(); }
  token all_reduce(row, queue) const { return *log += "all_reduce* ", token(); }
  void reduce_scatter(std::span<row const>, row, queue) const { *log += "reduce_scatter* "; }
  token broadcast(std::span<sp::piece const>, int, queue) const { return *log += "broadcast* ", token(); }
  void barrier(queue) const { *log += "barrier* "; }
};

std::string asked_of(auto const& c, std::string& log) {
  support::late_queue const q;
  support::elsewhere_pool memory(q);
  sp::context const ctx(q, memory, memory);
  support::elsewhere_tensor<float, 1> v(memory, {4}, {1, 2, 3, 4});
  sp::piece const p = sp::as_piece(*v);
  sp::parcel const own{0, {&p, 1}};
  sp::traffic const t{"x", {&own, 1}, {&own, 1}};
  log.clear();
  support::late_queue::hold const nobody_waits(q);
  sp::exchange(c, t, q).wait();
  sp::all_to_all_v(c, t, q).wait();
  sp::all_gather_v(c, "x", {&p, 1}, {&own, 1}, *ctx.lists, q).wait();
  sp::all_reduce(c, *v, ctx).wait();
  sp::reduce_scatter(c, {&*v, 1}, *v, ctx).wait();
  sp::broadcast(c, {&p, 1}, 0, q).wait();
  sp::barrier(c, ctx).wait();
  return log;
}

} // namespace

TEST_CASE("reductions: groups and decorators hand the queue on, and those that read bytes on the host refuse it") {
  std::string log;
  std::string const all = "exchange* all_to_all_v* all_gather_v* all_reduce* reduce_scatter* broadcast* barrier* ";
  on_a_queue const c{&log};
  sp::ledger counts;
  CHECK(asked_of(c, log) == all);
  CHECK(asked_of(sp::group{sp::counting{sp::chaos{c, sp::chaos_options{}}, counts}}, log) == all);
  CHECK((counts.of("x").operations == 3 && counts.of("barrier").operations == 1 && counts.of("all_reduce").operations == 1));
  auto const e = support::failure_of([&] { sp::chaos{c, sp::chaos_options{.corrupt_at = 0}}; });
  CHECK(support::says(e, sp::errc::unsupported, "flips bits on the host"));
  static_assert(!sp::has_exchange<sp::chaos<sp::threads>, sp::inline_queue> && sp::has_exchange<sp::chaos<sp::threads>>);
}

namespace {

/// Works on a queue of its own, with all abilities or with the base alone.
template <bool All>
struct on_its_own {
  using memory_type = support::elsewhere;
  static constexpr bool own_queue = true;
  using token = sp::solo::token;
  using row = sp::view<float, 1, support::elsewhere>;
  support::late_queue mine;
  support::late_queue const& queue() const { return mine; }
  int rank() const { return 1; }
  int size() const { return 2; }
  token exchange(sp::traffic const&) const { return {}; }
  token all_to_all_v(sp::traffic const&) const requires All { return {}; }
  token all_gather_v(sp::traffic const&) const requires All { return {}; }
  void all_reduce(row) const requires All {}
  void reduce_scatter(std::span<row const>, row) const requires All {}
  void broadcast(std::span<sp::piece const>, int) const requires All {}
  void barrier() const requires All {}
};

/// How many of the seven operations say that the context's queue is not the communicator's.
template <class C, class Queue>
int refused(C const& c, sp::context<Queue> const& ctx, sp::view<float, 1, support::elsewhere> const& v) {
  sp::piece const one[]{sp::as_piece(v)};
  sp::parcel const to[]{{1, one}}, from[]{{0, {}}, {1, one}};
  sp::traffic const t{"moved", to, to};
  sp::view<float, 1, support::elsewhere> const parts[]{v.rows(0, 2), v.rows(2, 2)};
  sp::pool lists;
  int count = 0;
  auto tried = [&](char const* primitive, auto&& start) {
    try {
      start().wait();
    } catch (sp::error const& e) {
      count += support::says(e.info(), sp::errc::bad_state, "queue is not the one on which this communicator works") &&
               e.info().primitive == primitive && e.info().rank == c.rank() && !e.info().remedy.empty();
    }
  };
  tried("moved", [&] { return sp::exchange(c, t, ctx.queue); });
  tried("moved", [&] { return sp::all_to_all_v(c, t, ctx.queue); });
  tried("gathered", [&] { return sp::all_gather_v(c, "gathered", one, from, lists, ctx.queue); });
  tried("spread", [&] { return sp::broadcast(c, one, 0, ctx.queue, "spread"); });
  tried("barrier", [&] { return sp::barrier(c, ctx); });
  tried("parts", [&] { return sp::reduce_scatter(c, parts, parts[std::size_t(c.rank())], ctx, "parts"); });
  tried("sums", [&] { return sp::all_reduce(c, v, ctx, "sums"); });
  return count;
}

} // namespace

TEST_CASE("reductions: a queue that is not the communicator's own is refused before anything is sent, through groups too") {
  support::late_queue const mine(1), other(2);
  support::elsewhere_pool memory(mine), others(other);
  sp::context const here(mine, memory, memory), there(other, others, others);
  support::elsewhere_tensor<float, 1> v(memory, {4});
  on_its_own<true> const all{mine};
  on_its_own<false> const base{mine};
  sp::ledger counts;
  auto wrapped = [&](auto const& c) { return sp::group{sp::counting{sp::chaos{c, {.seed = 1}}, counts}}; };
  CHECK((refused(all, there, *v) == 7 && refused(base, there, *v) == 7));
  CHECK((refused(wrapped(all), there, *v) == 7 && refused(wrapped(base), there, *v) == 7));
  CHECK((refused(all, here, *v) == 0 && refused(base, here, *v) == 0));
  CHECK((refused(wrapped(all), here, *v) == 0 && refused(wrapped(base), here, *v) == 0));
  CHECK((mine == here.queue && !(mine == other) && !(mine == mine.lane())));

  support::on_all_ranks<late_place>(2, [&](late_place& place) {
    CHECK(refused(place.comm, there, *v) == 7);
    CHECK(refused(place.comm.split(0, 0), there, *v) == 7);
    sp::barrier(place.comm, place.context()).wait(); // nobody has been told anything
    return 0;
  });
}

TEST_CASE("reductions: scratch of a queue's memory is what is promised, and lists are in context.lists [asan]") {
  support::on_all_ranks<late_place>(3, [&](late_place& here) {
    bare const c(here.comm);
    sp::pool lists;
    for (index_t n : {1, 256, 257, 2000}) {
      support::elsewhere_tensor<float, 1> v(here.memory, {n}, rough<float>(c.rank(), n, 1));
      auto const bytes = sp::all_reduce_scratch<float>(n, c.size(), here.comm.queue());
      support::elsewhere_tensor<char, 1> block(here.memory, {bytes});
      sp::basic_workspace<support::elsewhere> scratch(block->data, std::size_t(bytes));
      sp::context ctx(here.comm.queue(), scratch, scratch);
      ctx.lists = &lists;
      sp::all_reduce(c, *v, ctx).wait();
      CHECK(scratch.room() == std::size_t(bytes));
      if (n > 256) continue; // parts are uneven: less is enough for some ranks
      sp::basic_workspace<support::elsewhere> small(block->data, std::size_t(bytes) - 64);
      sp::context const less(here.comm.queue(), small, small);
      CHECK(support::failure_of([&] { sp::all_reduce(c, *v, less).wait(); }).code == sp::errc::workspace_too_small);
    }
    CHECK((lists.peak_bytes() > 0 && lists.bytes_in_use() == 0));
    return 0;
  });
}

} // namespace test_reductions
