// What moves tokens and sums losses, and sums over ranks, on cuda_local over a fake of the runtime: the bits of the host, 1 to 8 ranks.
// The loss itself is summed in the order of the device: it has the numbers of the host.
// needs: context cuda
#include <doctest/doctest.h>

#include <sp/collective.hpp>

#include "cuda/ranks.hpp"
#include "loss/moved_rows.hpp"

namespace test_rows {

using namespace moved_rows;
using cuda_tests::rank_place;
using support::host_place;
using support::interleaving;

namespace {

/// Sums over ranks that read each other's memory, and a broadcast.
template <class Place>
std::vector<float> summed(Place& here, index_t n) {
  auto const ctx = here.context();
  int const ranks = here.comm.size(), rank = here.comm.rank();
  typename Place::template tensor<float, 1> all(here, {n}, numbers<float>(unsigned(rank), n)),
      own(here, {n}, numbers<float>(50, n)), parts(here, {n * ranks}, numbers<float>(unsigned(100 + rank), n * ranks)),
      told(here, {n}, numbers<float>(unsigned(rank), n));
  std::vector<sp::view<float, 1, typename std::remove_cvref_t<decltype(*all)>::memory_type>> views;
  for (int r = 0; r < ranks; ++r) views.push_back((*parts).rows(r * n, n));
  sp::all_reduce(here.comm, *all, ctx).wait();
  sp::reduce_scatter(here.comm, views, *own, ctx).wait();
  sp::piece const from_last = sp::as_piece(*told);
  sp::broadcast(here.comm, {&from_last, 1}, ranks - 1, ctx.queue).wait();
  sp::barrier(here.comm, ctx).wait();
  std::vector<float> got = all.download();
  for (auto const* more : {&own, &told})
    for (float x : more->download()) got.push_back(x);
  return got;
}

} // namespace

TEST_CASE("cuda rows: splits, labels, gathers, relayouts and losses have the bits of the host, 1 to 8 ranks") {
  std::mt19937 g(11);
  for (int round = 0; round < 8; ++round) {
    CAPTURE(round);
    drawn const x = draw(g, round % 8 + 1, 1 + round % 3);
    auto const wanted =
        support::on_all_ranks<host_place>(x.parts, [&](host_place& here) { return program<host_place>(x, here).run(); });
    auto const got = support::on_all_ranks<rank_place>(
        x.parts, [&](rank_place& here) { return program<rank_place>(x, here).run(); }, interleaving(round % 3), unsigned(round));
    for (std::size_t r = 0; r < got.size(); ++r) {
      CHECK(got[r].values == wanted[r].values);
      CHECK((got[r].scale == wanted[r].scale && got[r].sent == wanted[r].sent));
      CHECK(std::abs(got[r].loss - wanted[r].loss) <= 1e-12 * (1 + std::abs(wanted[r].loss)));
    }
  }
}

TEST_CASE("cuda rows: sums over ranks have the bits of the host") {
  for (int ranks : {1, 3, 4}) {
    auto const wanted = support::on_all_ranks<host_place>(ranks, [](host_place& here) { return summed(here, 37); });
    CHECK(support::on_all_ranks<rank_place>(
              ranks, [](rank_place& here) { return summed(here, 37); }, interleaving(ranks % 3), 7) == wanted);
  }
}

} // namespace test_rows
