// Losses over sharded sequences: parameter gradients of a small model equal those of one rank minimising sum(loss) / N.
// Gradients are compared, never loss curves: an optimizer hides a wrong scale. Double precision, 1e-12.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include <sp/batch.hpp>
#include <sp/collective/solo.hpp>
#include <sp/gather_loss.hpp>
#include <sp/mesh.hpp>
#include <sp/threads.hpp>
#include <sp/workers.hpp>

#include "support/failure.hpp"
#include "support/tensors.hpp"

namespace test_loss {
namespace {

using sp::errc;
using sp::index_t;
using support::failure_of;
using support::says;
using support::tensor;
using label_t = std::int64_t;
using weights_t = std::array<double, 3>;

constexpr label_t ignored = -100;
double const nan = std::numeric_limits<double>::quiet_NaN();

/// Tokens of a stream for the model loss_i = (w . x_i - y_i)^2; a label is only counted or ignored.
struct stream {
  index_t n;
  std::vector<double> x, y; // (tokens, 3), (tokens)
  std::vector<label_t> labels;
  stream(index_t tokens, unsigned seed, index_t valid_every, label_t ignore = ignored) : n(tokens) {
    std::mt19937 g(seed);
    std::normal_distribution<double> normal;
    for (index_t i = 0; i < 3 * n; ++i) x.push_back(normal(g));
    for (index_t i = 0; i < n; ++i) {
      y.push_back(normal(g));
      labels.push_back(valid_every > 0 && i % valid_every == 0 ? i : ignore);
    }
  }
};
weights_t const w{0.3, -0.7, 1.1};

double residual(double const* x, double y) { return w[0] * x[0] + w[1] * x[1] + w[2] * x[2] - y; }

/// One rank minimising sum(loss) over all streams: {sum of losses, count, d sum / d w}.
struct truth {
  double sum = 0;
  index_t count = 0;
  weights_t gradient{};
  void add(stream const& s, label_t ignore = ignored) {
    for (index_t i = 0; i < s.n; ++i) {
      if (s.labels[std::size_t(i)] == ignore) continue;
      double r = residual(&s.x[std::size_t(3 * i)], s.y[std::size_t(i)]);
      sum += r * r;
      ++count;
      for (std::size_t c = 0; c < 3; ++c) gradient[c] += 2 * r * s.x[std::size_t(3 * i) + c];
    }
  }
};

/// A rank's share of a stream and its part of the parameter gradient.
struct share {
  index_t n;
  std::vector<double> x, y, losses, dlosses;
  std::vector<label_t> labels;
  share(sp::batch const& b, stream const& s, label_t ignore = ignored)
      : n(b.tokens()), x(std::size_t(3 * n)), y(std::size_t(n)), losses(std::size_t(n)), dlosses(std::size_t(n), nan),
        labels(std::size_t(n)) {
    sp::split(b, tensor<2>(s.x, {s.n, 3}), tensor<2>(x, {n, 3}));
    sp::split(b, tensor<1>(s.y, {s.n}), tensor<1>(y, {n}));
    sp::split(b, tensor<1>(s.labels, {s.n}), tensor<1>(labels, {n}), ignore); // slack carries ignore_index
    for (index_t i = 0; i < n; ++i) {
      double r = residual(&x[std::size_t(3 * i)], y[std::size_t(i)]);
      losses[std::size_t(i)] = labels[std::size_t(i)] == ignore ? nan : r * r; // losses of ignored rows are not read
    }
  }
  auto loss_view() { return tensor<1>(losses, {n}); }
  auto label_view() { return tensor<1>(labels, {n}); }
  auto gradient_view() { return tensor<1>(dlosses, {n}); }
  /// Adds d loss / d w of these rows.
  void add_gradient(weights_t& g) const {
    for (index_t i = 0; i < n; ++i) {
      double r = residual(&x[std::size_t(3 * i)], y[std::size_t(i)]);
      for (std::size_t c = 0; c < 3; ++c) g[c] += dlosses[std::size_t(i)] * 2 * r * x[std::size_t(3 * i) + c];
    }
  }
};

/// What a trainer does with parameter gradients: sums them over `c`, or averages them.
template <class Comm>
weights_t reduced(Comm const& c, weights_t g, bool average) {
  sp::pool scratch;
  sp::all_reduce(c, sp::view<double, 1>(g.data(), {3}), scratch);
  if (average)
    for (double& x : g) x /= c.size();
  return g;
}

double distance(weights_t const& a, weights_t const& b) {
  double d = 0, n = 0;
  for (std::size_t c = 0; c < 3; ++c) d += (a[c] - b[c]) * (a[c] - b[c]), n += b[c] * b[c];
  return n == 0 ? std::sqrt(d) : std::sqrt(d / n);
}

/// Results of all ranks must have the same bits.
struct same_everywhere {
  std::mutex lock{};
  std::vector<sp::loss_result> seen{};
  void add(sp::loss_result const& r) {
    std::scoped_lock l(lock);
    seen.push_back(r);
  }
  bool all() const {
    for (auto const& r : seen)
      if (std::memcmp(&r.loss, &seen[0].loss, sizeof(double)) != 0 || r.num_tokens != seen[0].num_tokens) return false;
    return !seen.empty();
  }
};

/// One step on `s` over P sequence ranks with a contract: gradients, loss and count are one rank's, the same bits everywhere.
template <class Sharding>
void check_step(stream const& s, sp::documents const& docs, Sharding const& how, int parts, bool average,
                sp::loss_options options) {
  CAPTURE(parts);
  CAPTURE(average);
  truth t;
  t.add(s);
  bool mean = options.reduce == sp::reduction::mean;
  double divisor = mean && t.count > 0 ? double(t.count) : 1;
  weights_t want = t.gradient;
  for (double& x : want) x /= divisor;
  same_everywhere results[2]; // ragged and padded shares add up in another order
  std::atomic<int> good{0};
  sp::threads::run(parts, [&](sp::threads const& c) {
    for (auto shapes : {sp::shapes::ragged, sp::shapes::padded}) {
      sp::batch b(docs, how, c, {shapes});
      share mine(b, s);
      weights_t g{};
      auto step = [&](auto contract) {
        sp::gather_loss loss(c, contract, options);
        auto r = loss.forward(mine.loss_view(), mine.label_view());
        loss.backward(r, mine.label_view(), mine.gradient_view());
        mine.add_gradient(g);
        results[shapes == sp::shapes::padded].add(r);
        return r;
      };
      auto r = average ? step(sp::averaged{parts}) : step(sp::summed{});
      g = reduced(c, g, average);
      // the reported loss is the one-rank loss whatever the contract: eval loss is not multiplied by P
      good += distance(g, want) < 1e-13 && std::abs(r.loss - t.sum / divisor) <= 1e-13 * (1 + t.sum / divisor) &&
              r.num_tokens == t.count;
    }
  });
  CHECK(good == 2 * parts);
  CHECK(results[0].all());
  CHECK(results[1].all());
}

TEST_CASE("Megatron#673, #906: loss scale: unequal valid counts, summed and averaged gradients equal one rank's [asan]") {
  sp::documents docs = sp::packed{0, 0, 13, 14, 31};
  for (index_t valid_every : {1, 2, 7, 30})
    for (int parts = 1; parts <= 8; ++parts)
      for (bool average : {false, true})
        for (auto reduce : {sp::reduction::mean, sp::reduction::sum}) {
          check_step(stream(31, 1, valid_every), docs, sp::contiguous{}, parts, average, {.reduce = reduce});
          check_step(stream(31, 1, valid_every), docs, sp::zigzag{}, parts, average, {.reduce = reduce});
        }
}

TEST_CASE("VeOmni#338, ms-swift#10035: loss scale: a rank with no valid token; no valid token anywhere [asan]") {
  sp::documents docs = sp::packed{0, 24};
  for (int parts : {2, 3, 4, 8})
    for (bool average : {false, true}) {
      stream s(24, 2, 1);
      for (index_t i = 0; i < 24 / parts + 1; ++i) s.labels[std::size_t(i)] = ignored; // all of rank 0
      check_step(s, docs, sp::contiguous{}, parts, average, {});
      check_step(stream(24, 3, 0), docs, sp::contiguous{}, parts, average, {}); // nobody: loss 0, gradient 0, no NaN
      check_step(stream(24, 3, 0), docs, sp::contiguous{}, parts, average, {.reduce = sp::reduction::sum});
    }
}

TEST_CASE("loss: on several threads of each rank the bits of one, ragged and padded") {
  constexpr int parts = 3;
  stream const s(37, 5, 3);
  sp::workers const shared{parts + 2, {.ranks = parts, .smallest_share = 1}};
  std::atomic<int> good{0};
  sp::threads::run(parts, [&](sp::threads const& c) {
    for (auto shapes : {sp::shapes::ragged, sp::shapes::padded}) {
      sp::batch const b(sp::packed{0, 0, 13, 14, 37}, sp::zigzag{}, c, {shapes});
      share one(b, s), several(b, s);
      sp::gather_loss const loss(c, sp::averaged{parts});
      sp::pool memory;
      sp::context const here(memory, memory);
      sp::context const there(shared, memory, memory);
      auto const r = loss.forward(here, one.loss_view(), one.label_view());
      auto const q = loss.forward(there, several.loss_view(), several.label_view());
      loss.backward(here, r, one.label_view(), one.gradient_view());
      loss.backward(there, q, several.label_view(), several.gradient_view());
      double const x = sp::read(here.queue, r).loss, y = sp::read(there.queue, q).loss;
      good += std::memcmp(&x, &y, sizeof(double)) == 0 && support::same_bits(one.dlosses, several.dlosses);
    }
  });
  CHECK(good == 2 * parts);
}

TEST_CASE("loss: no valid token anywhere gives exact zeros") {
  sp::threads::run(3, [](sp::threads const& c) {
    std::vector<double> losses(4, nan), dlosses(4, nan);
    std::vector<label_t> labels(4, ignored);
    sp::gather_loss loss(c, sp::averaged{3});
    auto r = loss.forward(tensor<1>(losses, {4}), tensor<1>(labels, {4}));
    loss.backward(r, tensor<1>(labels, {4}), tensor<1>(dlosses, {4}));
    CHECK(r.loss == 0);
    CHECK(r.num_tokens == 0);
    for (double d : dlosses) CHECK(d == 0);
  });
}

/// One step over data x sequence with the mesh; gradients reduced over all ranks.
void check_mesh(sp::mesh const& mesh, bool average) {
  int const replicas = mesh.data_size();
  std::vector<stream> streams;
  truth t;
  for (int d = 0; d < replicas; ++d) {
    streams.emplace_back(17 + 5 * d, unsigned(10 + d), 1 + 2 * d); // unequal lengths and valid counts
    t.add(streams.back());
  }
  weights_t want = t.gradient;
  for (double& x : want) x /= double(t.count);
  std::atomic<int> good{0};
  sp::threads::run(mesh.size(), [&](sp::threads const& world) {
    auto sequence = mesh.sequence(world);
    auto everybody = mesh.along(world, {sp::axis_kind::data, sp::axis_kind::fsdp, sp::axis_kind::ring, sp::axis_kind::ulysses});
    stream const& s = streams[std::size_t(mesh.data_rank(world.rank()))];
    sp::batch b(sp::packed{0, 6, s.n}, sp::zigzag{}, sequence);
    share mine(b, s);
    weights_t g{};
    auto step = [&](auto contract) {
      sp::gather_loss loss(everybody, contract);
      auto r = loss.forward(mine.loss_view(), mine.label_view());
      loss.backward(r, mine.label_view(), mine.gradient_view());
      return r;
    };
    auto r = average ? step(sp::averaged{mesh.size()}) : step(sp::summed{});
    mine.add_gradient(g);
    g = reduced(world, g, average);
    good += distance(g, want) < 1e-13 && std::abs(r.loss - t.sum / double(t.count)) < 1e-13 && r.num_tokens == t.count;
  });
  CHECK(good == mesh.size());
}

TEST_CASE("loss: data 2 x sequence 2: x P of the sequence group alone would give half the gradient [asan]") {
  for (bool average : {false, true}) {
    check_mesh(sp::mesh{sp::axis::data{2}, sp::axis::ring{2}}, average);
    check_mesh(sp::mesh{sp::axis::data{2}, sp::axis::ulysses{2}}, average);
    check_mesh(sp::mesh{sp::axis::ring{2}, sp::axis::data{2}}, average);
    check_mesh(sp::mesh{sp::axis::data{2}, sp::axis::fsdp{2}, sp::axis::ring{2}}, average);
    check_mesh(sp::mesh{sp::axis::data{3}}, average);
  }
  // the wrong contract is visible here: averaged over the sequence group, then averaged over all four ranks
  sp::mesh mesh{sp::axis::data{2}, sp::axis::ring{2}};
  sp::threads::run(4, [&](sp::threads const& world) {
    std::vector<double> losses{1, 2}, dlosses(2);
    std::vector<label_t> labels{0, 1};
    sp::gather_loss right(world, sp::averaged{4}), wrong(world, sp::averaged{mesh.sequence_size()});
    auto r = right.forward(tensor<1>(losses, {2}), tensor<1>(labels, {2})),
         x = wrong.forward(tensor<1>(losses, {2}), tensor<1>(labels, {2}));
    CHECK(r.scale == 4.0 / 8);
    CHECK(x.scale == r.scale / 2);
    CHECK(x.loss == r.loss);
  });
}

TEST_CASE(
    "twinkle, transformers: gradient accumulation with unequal micro-batches: `later` equals one big batch to 1e-12 [asan]") {
  std::vector<stream> micro{{19, 5, 1}, {24, 6, 6}, {8, 7, 0}, {40, 8, 2}}; // 19, 4, none, 20 valid tokens
  truth t;
  for (stream const& s : micro) t.add(s);
  CHECK(t.count == 43);
  weights_t want = t.gradient;
  for (double& x : want) x /= double(t.count);
  for (int parts : {1, 2, 3, 5, 8})
    for (bool average : {false, true}) {
      std::atomic<int> good{0};
      std::atomic<int> now_differs{0};
      sp::threads::run(parts, [&](sp::threads const& c) {
        auto accumulate = [&](auto contract, sp::divide when, sp::loss_sum& total) {
          sp::gather_loss loss(c, contract, {.divide = when});
          weights_t g{};
          for (stream const& s : micro) {
            sp::batch b(sp::packed{0, s.n}, sp::zigzag{}, c);
            share mine(b, s);
            auto r = loss.forward(mine.loss_view(), mine.label_view());
            loss.backward(r, mine.label_view(), mine.gradient_view());
            mine.add_gradient(g);
            if (when == sp::divide::later) total.add(r);
          }
          return g;
        };
        auto run = [&](sp::divide when, sp::loss_sum& total) {
          weights_t g = average ? accumulate(sp::averaged{parts}, when, total) : accumulate(sp::summed{}, when, total);
          return reduced(c, g, average);
        };
        sp::loss_sum later, now;
        weights_t g = run(sp::divide::later, later), mean_of_means = run(sp::divide::now, now);
        for (double& x : g) x *= later.gradient_scale(); // once, at the optimizer step
        good +=
            distance(g, want) < 1e-12 && later.num_tokens == t.count && std::abs(later.mean() - t.sum / double(t.count)) < 1e-12;
        for (double& x : mean_of_means) x /= double(micro.size());
        now_differs += distance(mean_of_means, want) > 0.01;
      });
      CHECK(good == parts);
      CHECK(now_differs == parts); // why `later` exists
    }
}

TEST_CASE("loss: a sum over micro-batches refuses results that are divided already, and takes all others") {
  std::vector<double> const losses{2, 4, 6};
  std::vector<label_t> const labels{1, ignored, 3};
  auto forward = [&](sp::loss_options options) {
    return sp::gather_loss(sp::solo{}, sp::summed{}, options).forward(tensor<1>(losses, {3}), tensor<1>(labels, {3}));
  };
  sp::loss_sum step;
  step.add(forward({.divide = sp::divide::later}));
  auto e = failure_of([&] { return step.add(forward({.divide = sp::divide::now})), 0; });
  CHECK(says(e, errc::bad_state, "divided by its 2 tokens already"));
  CHECK(e.remedy.find("sp::divide::later") != e.remedy.npos);
  CHECK(e.primitive == "loss_sum.add");
  std::vector<label_t> const none(3, ignored); // a micro-batch without tokens is divided too, whatever its numbers say
  auto const empty = sp::gather_loss(sp::solo{}, sp::summed{}).forward(tensor<1>(losses, {3}), tensor<1>(none, {3}));
  CHECK(failure_of([&] { return step.add(empty), 0; }).code == errc::bad_state);
  step.add(forward({.reduce = sp::reduction::sum, .divide = sp::divide::now})); // a sum is never divided
  CHECK(step.sum == 16);
  CHECK(step.num_tokens == 4);
  CHECK(step.mean() == 4);
}

TEST_CASE("transformers#48167, ms-swift#9152: eval loss is not multiplied by P, whatever the contract") {
  stream const s(22, 9, 3);
  truth t;
  t.add(s);
  for (int parts : {1, 2, 5, 8})
    sp::threads::run(parts, [&](sp::threads const& c) {
      sp::batch b(sp::packed{0, 22}, sp::zigzag{}, c);
      share mine(b, s);
      auto one = sp::gather_loss(c, sp::summed{}).forward(mine.loss_view(), mine.label_view());
      auto two = sp::gather_loss(c, sp::averaged{parts}).forward(mine.loss_view(), mine.label_view());
      CHECK(one.loss == two.loss);
      CHECK(std::abs(one.loss - t.sum / double(t.count)) < 1e-13);
      CHECK(two.scale == parts * one.scale);
    });
}

TEST_CASE("twinkle: padded labels after the split: positions that padding adds carry ignore_index and count nowhere") {
  stream const s(13, 4, 1);
  for (int parts : {2, 3, 4}) {
    std::atomic<index_t> slack{0};
    sp::threads::run(parts, [&](sp::threads const& c) {
      sp::batch b(sp::packed{0, 13}, sp::zigzag{}, c, {sp::shapes::padded});
      std::vector<label_t> labels(std::size_t(b.tokens()), 1);
      sp::shifted_labels(b, tensor<1>(s.labels, {13}), tensor<1>(labels, {b.tokens()}), ignored);
      std::vector<double> losses(labels.size(), 1.0);
      auto r = sp::gather_loss(c, sp::summed{}).forward(tensor<1>(losses, {b.tokens()}), tensor<1>(labels, {b.tokens()}));
      CHECK(r.num_tokens == 12); // the last token has no next one, padding has no label
      for (label_t l : labels) slack += l == ignored;
    });
    CHECK(slack == (13 + 2 * parts - 1) / (2 * parts) * 2 * parts - 12);
  }
}

TEST_CASE("loss: ignore_index is the caller's, labels of any integer type, losses of any element type") {
  sp::threads::run(2, [](sp::threads const& c) {
    std::vector<float> losses{1.5f, 2.0f, 4.0f}, d(3, -1.0f);
    std::vector<std::int32_t> labels{7, 0, 7};
    if (c.rank() == 1) labels = {0, 0, 0};
    sp::gather_loss loss(c, sp::summed{}, {.ignore_index = 7});
    auto r = loss.forward(tensor<1>(losses, {3}), tensor<1>(labels, {3}));
    CHECK(r.num_tokens == 4);
    CHECK(r.loss == (2.0 + 7.5) / 4);
    loss.backward(r, tensor<1>(labels, {3}), tensor<1>(d, {3}), 8.0);
    CHECK(d[0] == (c.rank() == 0 ? 0.0f : 2.0f)); // upstream / N
    CHECK(d[1] == 2.0f);

    std::vector<sp::bf16> half(3, sp::bf16(0.5f)), dhalf(3);
    r = loss.forward(tensor<1>(half, {3}), tensor<1>(labels, {3}));
    CHECK(r.loss == 0.5);
    loss.backward(r, tensor<1>(labels, {3}), tensor<1>(dhalf, {3}));
    CHECK(float(dhalf[1]) == 0.25f);

    std::vector<label_t> none; // a rank without rows (more ranks than tokens)
    std::vector<double> empty;
    sp::gather_loss usual(c, sp::summed{});
    std::vector<double> one{3};
    std::vector<label_t> first{1};
    r = c.rank() == 0 ? usual.forward(tensor<1>(one, {1}), tensor<1>(first, {1}))
                      : usual.forward(tensor<1>(empty, {0}), tensor<1>(none, {0}));
    CHECK(r.loss == 3);
    CHECK(r.num_tokens == 1);
  });
}

TEST_CASE("loss: the long form takes its memory from the caller and gives it back") {
  sp::threads::run(3, [](sp::threads const& c) {
    std::vector<double> const losses(5, 2.0);
    std::vector<label_t> const labels(5, 1);
    alignas(64) std::byte memory[4096];
    sp::workspace scratch(memory, sizeof memory);
    sp::gather_loss loss(c, sp::summed{});
    for (int i = 0; i < 3; ++i) CHECK(loss.forward(tensor<1>(losses, {5}), tensor<1>(labels, {5}), scratch).loss == 2);
    sp::pool pool;
    CHECK(loss.forward(tensor<1>(losses, {5}), tensor<1>(labels, {5}), pool).num_tokens == 15);
    CHECK(pool.bytes_in_use() == 0);
  });
}

TEST_CASE("loss: a result of another object, of nobody, or of other labels is refused by backward and by a sum [asan]") {
  sp::threads::run(3, [](sp::threads const& c) {
    std::vector<double> const losses(5, 2.0);
    std::vector<label_t> const labels{1, ignored, 3, 4, 5}, other{1, ignored, ignored, 4, 5};
    std::vector<double> d(6, 7.0);
    sp::loss_options const later{.divide = sp::divide::later};
    sp::gather_loss loss(c, sp::summed{}, later), twin(c, sp::summed{}, later);
    sp::gather_loss alone(sp::solo{}, sp::summed{}, later);
    auto const r = loss.forward(tensor<1>(losses, {5}), tensor<1>(labels, {5}));
    auto refused = [&](auto const& object, sp::loss_result const& given, std::vector<label_t> const& with, char const* why) {
      auto const n = index_t(with.size());
      auto const e = failure_of([&] { return object.backward(given, tensor<1>(with, {n}), tensor<1>(d, {n})), 0; });
      return says(e, errc::bad_state, why) && e.primitive == "gather_loss" && e.rank == object.group().rank();
    };
    auto const place = "rank " + std::to_string(c.rank()) + " of 3";
    CHECK(refused(loss, {}, labels, "not made by forward"));
    CHECK(refused(alone, r, labels, (place + ", this one is rank 0 of 1").c_str()));
    CHECK(refused(twin, r, labels, "another gather_loss"));
    CHECK(refused(loss, r, {1, 2, 3, 4, 5, 6}, "forward was given 5 rows, backward 6"));
    for (double x : d) CHECK(x == 7); // nothing was computed
    CHECK(refused(loss, r, other, "in forward 4 of 5 rows counted, in backward 3 of 5"));
    CHECK(refused(loss, r, {1, 2, 3, 4, 5}, "in backward 5 of 5"));
    auto const copy = loss; // of equal right
    copy.backward(r, tensor<1>(labels, {5}), tensor<1>(d, {5}));
    CHECK(d == std::vector<double>{1, 0, 1, 1, 1, 7});
    copy.backward(r, tensor<1>(other, {3}), tensor<1>(d, {3}), 2); // a part of the rows at a time is fine
    CHECK(d == std::vector<double>{2, 0, 0, 1, 1, 7});

    sp::loss_sum step;
    step.add(r);
    step.add(twin.forward(tensor<1>(losses, {5}), tensor<1>(labels, {5}))); // another object of the same place
    auto const local = alone.forward(tensor<1>(losses, {5}), tensor<1>(labels, {5}));
    auto const e = failure_of([&] { return step.add(local), 0; });
    CHECK(says(e, errc::bad_state, "rank 0 of 1", place.c_str()));
    CHECK(e.primitive == "loss_sum.add");
    CHECK(step.num_tokens == 24);
    sp::loss_sum resumed;
    sp::loss_result const by_hand{.loss = 3, .num_tokens = 2};
    resumed.add(by_hand); // before and behind what forward made
    resumed.add(r);
    resumed.add(by_hand);
    CHECK(resumed.num_tokens == r.num_tokens + 4);
    CHECK(says(failure_of([&] { return resumed.add(local), 0; }), errc::bad_state, "rank 0 of 1", place.c_str()));
  });
}

TEST_CASE("loss: one label per token, a contract that scales, or an error with the numbers") {
  sp::threads::run(2, [](sp::threads const& c) {
    std::vector<double> losses(5), d(4);
    std::vector<label_t> labels(4);
    sp::gather_loss loss(c, sp::summed{});
    auto e = failure_of([&] { return loss.forward(tensor<1>(losses, {5}), tensor<1>(labels, {4})); });
    CHECK(says(e, errc::invalid_shape, "5 losses", "4 labels"));
    CHECK(e.primitive == "gather_loss");
    CHECK(e.rank == c.rank());
    CHECK(says(failure_of([&] {
                 loss.backward({}, tensor<1>(labels, {4}), tensor<1>(losses, {5}));
                 return 0;
               }),
               errc::invalid_shape, "5 losses", "4 labels"));
    std::vector<std::int8_t> small(5);
    sp::gather_loss far(c, sp::summed{}, {.ignore_index = -1000}); // which no label of eight bits can be
    e = failure_of([&] { return far.forward(tensor<1>(losses, {5}), tensor<1>(small, {5})); });
    CHECK(says(e, errc::invalid_shape, "8 bits", "ignore_index -1000"));
    e = failure_of([&] { return far.backward({}, tensor<1>(small, {5}), tensor<1>(losses, {5})), 0; });
    CHECK(says(e, errc::invalid_shape, "8 bits", "ignore_index -1000"));
    e = failure_of([&] { return sp::gather_loss(c, sp::averaged{0}).group().rank(); });
    CHECK(says(e, errc::invalid_shape, "factor 0"));
  });
}

} // namespace
} // namespace test_loss
