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

TEST_CASE("reductions: scratch of a queue's memory is what is promised, and lists are in tables [asan]") {
  support::on_all_ranks<late_place>(3, [&](late_place& here) {
    bare const c(here.comm);
    sp::pool tables;
    for (index_t n : {1, 256, 257, 2000}) {
      support::elsewhere_tensor<float, 1> v(here.memory, {n}, rough<float>(c.rank(), n, 1));
      auto const bytes = sp::all_reduce_scratch<float>(n, c.size(), here.comm.queue());
      support::elsewhere_tensor<char, 1> block(here.memory, {bytes});
      sp::basic_workspace<support::elsewhere> scratch(block->data, std::size_t(bytes));
      sp::context ctx(here.comm.queue(), scratch, scratch);
      ctx.tables = &tables;
      sp::all_reduce(c, *v, ctx).wait();
      CHECK(scratch.room() == std::size_t(bytes));
      if (n > 256) continue; // parts are uneven: less is enough for some ranks
      sp::basic_workspace<support::elsewhere> small(block->data, std::size_t(bytes) - 64);
      sp::context const less(here.comm.queue(), small, small);
      CHECK(support::failure_of([&] { sp::all_reduce(c, *v, less).wait(); }).code == sp::errc::workspace_too_small);
    }
    CHECK((tables.peak_bytes() > 0 && tables.bytes_in_use() == 0));
    return 0;
  });
}

} // namespace test_reductions
