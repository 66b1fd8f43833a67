// What moves tokens and sums losses, as one program for a rank: splits, labels, weights, gathers, relayouts, losses and their gradients.
// It runs on any place (support/places.hpp); what it computes has the same bits on all of them, but for sums whose order a queue chooses.
#pragma once

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

#include "support/places.hpp"

namespace moved_rows {

using sp::index_t;

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

inline drawn draw(std::mt19937& g, int parts, int checks) {
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

} // namespace moved_rows
