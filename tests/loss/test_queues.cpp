// Rows, labels, weights, gathers, relayouts and losses on queues whose work is done later, in memory that the host cannot touch.
// The bits of the host on 1 to 8 ranks, in every interleaving; nothing waits for the queue but what says so, and ranks compare alike.
#include <doctest/doctest.h>

#include "loss/moved_rows.hpp"
#include "support/failure.hpp"

namespace test_queues {
namespace {

using namespace moved_rows;
using support::host_place;
using support::interleaving;
using support::late_place;

/// What a rank is told that calls what others do not, and whether it can go on.
template <class Place>
std::string told(Place& here, int what) {
  bool const other = here.comm.rank() == 2;
  sp::batch const b{sp::packed{0, 9, 17}, sp::zigzag{}, here.comm};
  auto const ctx = here.context();
  float const nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> values(std::size_t(b.tokens()), 1);
  if (what == 3 && other) values[1] = nan;
  index_t const width = what == 1 && other ? 2 : 1;
  typename Place::template tensor<float, 1> l(here, {b.tokens()}, values);
  typename Place::template tensor<int, 1> n(here, {b.tokens()}, std::vector<int>(values.size(), 4));
  typename Place::template tensor<float, 2> g(here, {17, width}, std::vector<float>(std::size_t(17 * width), 1));
  std::vector<float> const local(std::size_t(b.tokens() * width), 1);
  typename Place::template tensor<float, 2> m(here, {b.tokens(), width}, local), moved(here, {b.tokens(), width}, local);
  sp::gather_loss const loss{here.comm, sp::summed{}, {.ignore_index = what == 0 && other ? -1 : -100, .checks = 3}};
  sp::gather_tokens const gather{here.comm, {.checks = 2}};
  auto const moves = sp::shift_map(b.docs(), what == 2 && other ? 2 : 1);
  sp::relayout const move(b.layout(), b.layout(), moves, b.part(), {.checks = 2});
  auto const e = support::failure_of([&] {
    if (what == 1) return gather.forward(b, ctx, *m, *g);
    if (what == 2) return move.apply(here.comm, ctx, *m, *moved);
    static_cast<void>(loss.forward(ctx, *l, *n));
  });
  sp::agree(here.comm, sp::fingerprint("after", ".all", here.comm.rank()), ctx);
  return std::string(sp::name(e.code)) + ": " + e.problem;
}

} // namespace

TEST_CASE("queues: what moves tokens and sums losses has the bits of the host on late queues, 1 to 8 ranks [asan][tsan]") {
  std::mt19937 g(11);
  for (int round = 0; round < 16; ++round) {
    CAPTURE(round);
    drawn const x = draw(g, round % 8 + 1, round < 8 ? 1 : 1 + round % 3);
    auto const wanted =
        support::on_all_ranks<host_place>(x.parts, [&](host_place& here) { return program<host_place>(x, here).run(); });
    auto const got = support::on_all_ranks<late_place>(
        x.parts, [&](late_place& here) { return program<late_place>(x, here).run(); }, interleaving(round % 3), unsigned(round));
    CHECK(got == wanted);
    double sum = 0, count = 0;
    for (results const& r : got) sum += r.own_sum, count += r.own_count;
    double const mean = count > 0 ? sum / count : 0;
    for (results const& r : got) {
      CHECK(std::abs(r.loss - mean) <= 1e-12 * (1 + std::abs(mean)));
      CHECK(r.scale == (count > 0 ? 2 * (1 / count) : 0));
      CHECK(r.largest_error <= 1e-3);
    }
  }
}

TEST_CASE("queues: ranks whose tensors the host cannot touch are told what ranks of the host are told, and go on [asan]") {
  for (int what = 0; what < 4; ++what) {
    auto const wanted = support::on_all_ranks<host_place>(4, [&](host_place& here) { return told(here, what); });
    CHECK(support::on_all_ranks<late_place>(4, [&](late_place& here) { return told(here, what); }) == wanted);
    char const* const named[] = {"ignore_index", "row shape", "map", "losses holds nan at row 1"};
    CHECK(wanted[2].find(named[what]) != std::string::npos);
    CHECK(wanted[0].find(what == 3 ? "rank 2 refused" : named[what]) != std::string::npos);
  }
}

} // namespace test_queues
