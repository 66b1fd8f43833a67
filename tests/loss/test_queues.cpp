// Rows, labels, weights, gathers, relayouts and losses on queues whose work is done later, in memory that the host cannot touch.
// The bits of the host on 1 to 8 ranks, in every interleaving; nothing waits for the queue but what says so, and ranks compare alike.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <random>

#include <sp/batch.hpp>
#include <sp/counting.hpp>
#include <sp/gather_loss.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/mesh.hpp>
#include <sp/relayout.hpp>

#include "support/failure.hpp"
#include "support/places.hpp"

namespace test_queues {
namespace {

using sp::index_t;
using support::host_place;
using support::interleaving;
using support::late_place;

/// A stream, who owns which of its tokens, and where they go.
struct drawn {
  sp::documents docs;
  int parts, sharding, checks;
  bool padded;
  std::vector<std::int64_t> tokens; ///< of the whole stream

  template <class Comm>
  sp::batch batch(Comm const& c, int which) const {
    sp::batch_options const how{.local = padded && which == sharding ? sp::shapes::padded : sp::shapes::ragged};
    if (which == 0) return {docs, sp::zigzag{}, c, how};
    if (which == 1) return {docs, sp::striped{}, c, how};
    return {docs, sp::contiguous{sp::scope::stream}, c, how};
  }
};

drawn draw(std::mt19937& g, int parts, int checks) {
  auto pick = [&](index_t a, index_t b) { return a + index_t(g() % std::uint32_t(b - a + 1)); };
  std::vector<sp::document> list;
  index_t at = 0;
  for (index_t d = pick(1, 60); d > 0; --d) { // some of them empty, and gaps between them
    index_t const count = pick(0, 4);
    list.push_back({at, count, count, index_t(list.size())});
    at += count + pick(0, 3) / 3;
  }
  drawn x{sp::documents(list, at + pick(0, 2)), parts, int(pick(0, 2)), checks, pick(0, 1) == 1, {}};
  for (index_t i = 0; i < x.docs.length(); ++i) x.tokens.push_back(pick(0, 3) ? pick(0, 999) : -100);
  return x;
}

template <class T>
std::vector<T> numbers(unsigned seed, index_t n) {
  std::minstd_rand g(seed + 1);
  std::vector<T> v;
  for (index_t i = 0; i < n; ++i) v.push_back(sp::from_acc<T>(sp::accumulate_t<T>(double(g() % 2001) / 7 - 143)));
  return v;
}

struct results {
  std::vector<double> values;         ///< of all tensors that were written
  double loss = 0, scale = 0;         ///< as read
  double own_sum = 0, own_count = 0;  ///< of this rank, in float64
  double largest_error = 0;           ///< of sums in float against sums in double
  std::vector<sp::ledger_entry> sent; ///< by gathers, relayouts and comparisons
  friend bool operator==(results const&, results const&) = default;
};

/// One rank: tensors first, then work that nobody may wait for, then what it computed.
template <class Place>
class program {
  template <class T, int R>
  using tensor = typename Place::template tensor<T, R>;
  using hold = typename Place::hold;
  using long_t = std::int64_t;
  static constexpr long_t ignored = -7;

public:
  program(drawn const& d, Place& place)
      : x(d), here(place), b(d.batch(place.comm, d.sharding)), c(d.batch(place.comm, (d.sharding + 1) % 3)) {}

  results run() {
    auto const ctx = here.context();
    sp::ledger counts;
    sp::mesh const mesh{sp::axis::data{1}, sp::axis::ring{x.parts}};
    sp::counting const ranks{mesh.ring(here.comm), counts};
    sp::gather_tokens const gather{ranks, {.checks = x.checks}};
    sp::gather_loss const loss{ranks, sp::averaged{2}, {.ignore_index = ignored, .checks = x.checks}};
    sp::relayout const move(b.layout(), c.layout(), sp::document_map(b.docs(), c.docs()), b.part(), {.checks = x.checks});
    auto const plan = gather.prepare(b, ctx);
    std::optional<hold> nobody_waits;
    if (x.checks == 1) nobody_waits.emplace(here);
    per_token(ctx.queue);
    gather.forward(b, plan, ctx, *local, *gathered, sp::bf16(3));
    gather.backward(b, ctx, *gathered, *dlocal);
    gather.forward(b, ctx, *weights, *all_weights, -1);
    move.apply(ranks, ctx, *local, *moved, sp::bf16(5));
    move.apply_transposed(ranks, ctx, *back_from, *back);
    auto const who_lands = move.transposed_table(ctx); // uploaded, and one pass instead of one for each range
    move.apply_transposed(ranks, ctx, *wide_from, *wide, &who_lands);
    auto const queued = loss.forward(ctx, *losses, *shifted);
    loss.backward(ctx, queued, *shifted, *dlosses, 0.75);
    if (nobody_waits) nobody_waits->end();

    sp::loss_result const r = sp::read(ctx.queue, queued);
    loss.backward(ctx, r, *shifted, *dlosses_again, 0.75);
    results out = all_that_was_written();
    out.loss = r.loss, out.scale = r.scale;
    for (char const* name : {"gather_tokens", "relayout", "check"}) out.sent.push_back(counts.of(name));
    return out;
  }

private:
  template <class Queue>
  void per_token(Queue const& q) {
    sp::split(q, b, *tokens, *labels, -100);
    sp::shifted_labels(q, b, *tokens, *shifted, ignored);
    sp::positions(q, b, *in_document);
    sp::positions(q, b, *in_stream, sp::positions_in::stream);
    sp::loss_weights(q, b, *shifted, *weights, ignored);
    sp::split(q, b, *rows, *local, sp::bf16(2));
  }

  results all_that_was_written() {
    results out;
    auto note = [&](auto const&... list) {
      auto one = [&](auto const& values) {
        for (auto const& v : values) out.values.push_back(number(v));
      };
      (one(list.download()), ...);
    };
    note(labels, shifted, in_document, in_stream, weights, local, gathered, dlocal, all_weights, moved, back, dlosses,
         dlosses_again);
    auto const share = losses.download();
    auto const known = shifted.download();
    for (std::size_t i = 0; i < share.size(); ++i)
      if (known[i] != ignored) out.own_sum += double(share[i]), ++out.own_count;
    auto const narrow_sums = back.download();
    auto const wide_sums = wide.download();
    for (std::size_t i = 0; i < narrow_sums.size(); ++i)
      out.largest_error = std::max(out.largest_error, std::abs(double(narrow_sums[i]) - wide_sums[i]));
    return out;
  }
  template <class T>
  static double number(T const& v) {
    if constexpr (sp::element<T>)
      return double(sp::to_acc(v));
    else
      return double(v);
  }

  template <class T, int R>
  tensor<T, R> of(std::array<index_t, std::size_t(R)> extents, unsigned seed) {
    return {here, extents, numbers<T>(seed, sp::view<T, R>(nullptr, extents).elements())};
  }
  template <class T>
  tensor<T, 1> row(index_t count) {
    return {here, {count}, std::vector<T>(std::size_t(count), T(77))};
  }

  drawn const& x;
  Place& here;
  sp::batch b, c;
  index_t n = x.docs.length(), mine = b.tokens(), theirs = c.tokens();
  unsigned rank = unsigned(b.part());
  tensor<long_t, 1> tokens{here, {n}, x.tokens};
  tensor<long_t, 1> labels = row<long_t>(mine), shifted = row<long_t>(mine);
  tensor<index_t, 1> in_document = row<index_t>(mine), in_stream = row<index_t>(mine);
  tensor<float, 1> weights = row<float>(mine), all_weights = row<float>(n);
  tensor<sp::bf16, 3> rows = of<sp::bf16, 3>({n, 2, 3}, 1), local = of<sp::bf16, 3>({mine, 2, 3}, 2);
  tensor<sp::bf16, 3> gathered = of<sp::bf16, 3>({n, 2, 3}, 3), dlocal = of<sp::bf16, 3>({mine, 2, 3}, 4);
  tensor<sp::bf16, 3> moved = of<sp::bf16, 3>({theirs, 2, 3}, 5);
  tensor<float, 2> back_from = of<float, 2>({theirs, 3}, 16 + rank), back = of<float, 2>({mine, 3}, 6);
  tensor<double, 2> wide_from = of<double, 2>({theirs, 3}, 16 + rank), wide = of<double, 2>({mine, 3}, 7);
  tensor<float, 1> losses = of<float, 1>({mine}, 32 + rank);
  tensor<sp::bf16, 1> dlosses = of<sp::bf16, 1>({mine}, 8);
  tensor<double, 1> dlosses_again = of<double, 1>({mine}, 9);
};

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
