// Weights of losses: the loss is sum(w l) / sum(w) over the rows of all ranks, and gradients are those of it, against float64 on one rank.
// In host memory and elsewhere; weights of 1 change no bit, weights of 0 are ignored rows, and whatever does not fit is refused.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <random>

#include <sp/collective/solo.hpp>
#include <sp/gather_loss.hpp>

#include "support/failure.hpp"
#include "support/places.hpp"
#include "support/tensors.hpp"

namespace test_weights {
namespace {

using sp::errc;
using sp::index_t;
using support::failure_of;
using support::host_place;
using support::late_place;
using support::says;
using support::tensor;

constexpr int ignored = -100;
double const nan = std::numeric_limits<double>::quiet_NaN();

/// Rows of every rank, one rank without any.
struct rows {
  std::vector<std::vector<double>> losses{};
  std::vector<std::vector<float>> weights{};
  std::vector<std::vector<int>> labels{};
  rows(unsigned seed, int parts) {
    std::mt19937 g(seed);
    for (int r = 0; r < parts; ++r) {
      std::size_t const n = r == 1 ? 0 : 5 + g() % 7;
      losses.emplace_back(n), weights.emplace_back(n), labels.emplace_back(n);
      for (std::size_t i = 0; i < n; ++i) {
        labels.back()[i] = g() % 4 ? 3 : ignored;
        weights.back()[i] = float(g() % 5) / 3; // some are 0
        bool const counts = labels.back()[i] != ignored && weights.back()[i] != 0;
        losses.back()[i] = counts ? double(g() % 1000) / 77 : nan; // of other rows none is read
      }
    }
  }
};

struct outcome {
  double loss = 0, weight = 0, scale = 0;
  index_t num_tokens = 0;
  std::vector<double> dlosses{};
};

/// The same on one rank, naively: sums in float64 over all rows, in rank order.
std::vector<outcome> oracle(rows const& x, sp::loss_options how, double contract, double upstream) {
  double sum = 0, weight = 0, count = 0;
  for (std::size_t r = 0; r < x.losses.size(); ++r)
    for (std::size_t i = 0; i < x.losses[r].size(); ++i)
      if (x.labels[r][i] != ignored && x.weights[r][i] > 0)
        sum += x.losses[r][i] * double(x.weights[r][i]), weight += double(x.weights[r][i]), count += 1;
  double const by = how.reduce == sp::reduction::mean && how.divide == sp::divide::now ? weight : 1;
  std::vector<outcome> all;
  for (std::size_t r = 0; r < x.losses.size(); ++r) {
    all.push_back({sum / by, weight, contract / by, index_t(count), {}});
    for (std::size_t i = 0; i < x.losses[r].size(); ++i)
      all.back().dlosses.push_back(x.labels[r][i] == ignored ? 0 : upstream * contract * double(x.weights[r][i]) / by);
  }
  return all;
}

template <class Place>
outcome pass(Place& here, rows const& x, sp::loss_options how) {
  auto const r = std::size_t(here.comm.rank());
  auto const n = index_t(x.losses[r].size());
  auto const ctx = here.context();
  typename Place::template tensor<double, 1> losses(here, {n}, x.losses[r]),
      d(here, {n}, std::vector<double>(x.losses[r].size(), 7));
  typename Place::template tensor<float, 1> weights(here, {n}, x.weights[r]);
  typename Place::template tensor<int, 1> labels(here, {n}, x.labels[r]);
  sp::gather_loss const loss{here.comm, sp::averaged{2}, how};
  auto const queued = loss.forward(ctx, *losses, *labels, *weights);
  loss.backward(ctx, queued, *labels, *weights, *d, 0.75);
  sp::loss_result const got = sp::read(ctx.queue, queued);
  return {got.loss, got.weight, got.scale, got.num_tokens, d.download()};
}

bool near(double a, double b) { return std::abs(a - b) <= 1e-13 * (1 + std::abs(b)); }
bool near(outcome const& a, outcome const& b) {
  bool good = near(a.loss, b.loss) && near(a.weight, b.weight) && near(a.scale, b.scale) && a.num_tokens == b.num_tokens &&
              a.dlosses.size() == b.dlosses.size();
  for (std::size_t i = 0; good && i < a.dlosses.size(); ++i) good = near(a.dlosses[i], b.dlosses[i]);
  return good;
}

template <class Place>
int wrong_ranks(rows const& x, int parts, sp::loss_options how) {
  auto const want = oracle(x, how, 2, 0.75);
  auto const got = support::on_all_ranks<Place>(parts, [&](Place& here) { return pass(here, x, how); });
  int wrong = 0;
  for (std::size_t r = 0; r < want.size(); ++r) wrong += !near(got[r], want[r]) || got[r].loss != got[0].loss;
  return wrong;
}

} // namespace

TEST_CASE("loss weights: loss and gradients are the oracle's on 1 to 5 ranks, here and elsewhere [asan]") {
  for (int parts : {1, 3, 4, 5})
    for (auto reduce : {sp::reduction::mean, sp::reduction::sum})
      for (auto divide : {sp::divide::now, sp::divide::later}) {
        CAPTURE(parts);
        rows const x(unsigned(parts), parts);
        sp::loss_options const how{.reduce = reduce, .divide = divide, .checks = parts % 4};
        CHECK(wrong_ranks<host_place>(x, parts, how) == 0);
        CHECK(wrong_ranks<late_place>(x, parts, how) == 0);
      }
}

TEST_CASE("loss weights: of 1 they change no bit, all 0 are all ignored, and a sum of 0 gives no gradient") {
  std::atomic<int> good{0};
  sp::threads::run(3, [&](sp::threads const& c) {
    rows const x(9, 3);
    auto const r = std::size_t(c.rank());
    auto const n = index_t(x.losses[r].size());
    std::vector<double> d(x.losses[r].size(), 7), e(d);
    std::vector<int> labels(x.labels[r]);
    for (std::size_t i = 0; i < d.size(); ++i)
      if (x.weights[r][i] == 0) labels[i] = ignored;
    sp::gather_loss const loss{c, sp::averaged{3}};
    auto const losses = tensor<1>(x.losses[r], {n});
    auto const known = tensor<1>(labels, {n});
    auto with = [&](float first, float others, std::vector<double>& to) {
      std::vector<float> w(x.losses[r].size(), others);
      if (!w.empty()) w[0] = first;
      auto const result = loss.forward(losses, known, tensor<1>(w, {n}));
      loss.backward(result, known, tensor<1>(w, {n}), tensor<1>(to, {n}));
      return result;
    };
    auto const plain = loss.forward(losses, known);
    loss.backward(plain, known, tensor<1>(d, {n}));
    auto const ones = with(1, 1, e);
    good += plain.loss == ones.loss && plain.scale == ones.scale && plain.num_tokens == ones.num_tokens && d == e &&
            ones.weight == double(ones.num_tokens) && ones.divisor() == plain.divisor() && plain.num_tokens > 3;
    auto const nothing = with(0, 0, e);
    good += nothing.loss == 0 && nothing.num_tokens == 0 && nothing.scale == 0 && e == std::vector<double>(d.size(), 0);
    std::vector<double> const two{1, 2};
    std::vector<int> const both{1, 1};
    std::vector<float> const apart{1, -1}; // which cancel
    auto const none = loss.forward(tensor<1>(two, {2}), tensor<1>(both, {2}), tensor<1>(apart, {2}));
    good += none.loss == 0 && none.scale == 0 && none.num_tokens == 6;
  });
  CHECK(good == 9);
}

TEST_CASE("loss weights: a sum over micro-batches divides by all weights, tokens without any weigh 1") {
  std::vector<double> const losses{2, 4, 6};
  std::vector<int> const labels{1, ignored, 3};
  std::vector<float> const weights{0.5F, 9, 2};
  sp::gather_loss const loss{sp::solo{}, sp::summed{}, {.divide = sp::divide::later}};
  sp::loss_sum step;
  step.add(loss.forward(tensor<1>(losses, {3}), tensor<1>(labels, {3})));
  CHECK(step.mean() == 4);
  step.add(loss.forward(tensor<1>(losses, {3}), tensor<1>(labels, {3}), tensor<1>(weights, {3})));
  step.add({.loss = 3, .num_tokens = 1}); // by hand
  CHECK(step.num_tokens == 5);
  CHECK(step.divisor() == 2 + 2.5 + 1);
  CHECK(step.mean() == (8 + 13 + 3) / 5.5);
  CHECK(step.gradient_scale() == 1 / 5.5);
}

TEST_CASE("loss weights: of another shape, only in one of two passes, not finite, or only on some ranks: refused") {
  sp::threads::run(3, [](sp::threads const& c) {
    std::vector<double> const losses{1, 2, 3};
    std::vector<double> d(3, 7);
    std::vector<int> const labels{1, 1, ignored};
    std::vector<float> weights{1, float(nan), float(nan)};
    auto const l = tensor<1>(losses, {3});
    auto const n = tensor<1>(labels, {3});
    auto const w = tensor<1>(weights, {3});
    sp::gather_loss const loss{c, sp::summed{}};
    auto e = failure_of([&] { return loss.forward(l, n, tensor<1>(weights, {2})); });
    CHECK(says(e, errc::invalid_shape, "3 losses", "2 loss weights"));
    auto const plain = loss.forward(l, n), weighted = loss.forward(l, n, w);
    CHECK(std::isnan(weighted.loss)); // not hidden
    e = failure_of([&] { return loss.backward(weighted, n, tensor<1>(d, {3})), 0; });
    CHECK(says(e, errc::bad_state, "with weights, backward without weights"));
    e = failure_of([&] { return loss.backward(plain, n, w, tensor<1>(d, {3})), 0; });
    CHECK(says(e, errc::bad_state, "without weights, backward with weights"));
    e = failure_of([&] { return loss.backward(weighted, n, tensor<1>(weights, {2}), tensor<1>(d, {3})), 0; });
    CHECK(says(e, errc::invalid_shape, "3 losses", "2 loss weights"));
    CHECK(d == std::vector<double>(3, 7));
    sp::gather_loss const strict{c, sp::summed{}, {.checks = 3}};
    e = failure_of([&] { return strict.forward(l, n, w); });
    CHECK(says(e, errc::non_finite, "weights holds nan at row 1"));
    e = failure_of([&] { return c.rank() == 1 ? strict.forward(l, n) : strict.forward(l, n, tensor<1>(d, {3})); });
    CHECK(says(e, errc::rank_mismatch, "loss weights"));
  });
}

} // namespace test_weights
