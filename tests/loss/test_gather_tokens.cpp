// The differentiable gather: stream order with padding trimmed forward, the rank's own rows backward.
// A loss that mixes all tokens is proved by central differences in double, with the parameter gradients it gives.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include <sp/batch.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/mesh.hpp>
#include <sp/threads.hpp>

#include "support/failure.hpp"
#include "support/tensors.hpp"

namespace test_gather_tokens {
namespace {

using sp::errc;
using sp::index_t;
using support::failure_of;
using support::says;
using support::tensor;

TEST_CASE("gather_tokens: stream order, padding trimmed, gaps filled; the own rows come back [asan]") {
  sp::documents docs({{1, 7, 7, 0}, {8, 0, 0, 1}, {9, 12, 12, 2}}, 23);
  std::vector<float> global(23 * 2);
  for (std::size_t i = 0; i < global.size(); ++i) global[i] = float(i + 1);
  for (int parts = 1; parts <= 8; ++parts) {
    std::atomic<int> good{0};
    sp::threads::run(parts, [&](sp::threads const& c) {
      sp::gather_tokens gather(c);
      for (auto shapes : {sp::shapes::ragged, sp::shapes::padded}) {
        sp::batch b(docs, sp::zigzag{}, c, {shapes});
        std::vector<float> local(std::size_t(b.tokens() * 2)), all(global.size(), -3.0f), back(local.size(), -3.0f);
        sp::split(b, tensor<2>(global, {23, 2}), tensor<2>(local, {b.tokens(), 2}), 9999.0f); // slack holds rubbish
        auto prepared = gather.prepare(b);
        for (int twice = 0; twice < 2; ++twice) {
          sp::pool scratch;
          gather.forward(b, prepared, tensor<2>(std::as_const(local), {b.tokens(), 2}), tensor<2>(all, {23, 2}), scratch, -1.0f);
          bool ok = scratch.bytes_in_use() == 0;
          for (index_t i = 0; i < 46; ++i) {
            index_t t = i / 2;
            bool real = (t >= 1 && t < 8) || (t >= 9 && t < 21);
            ok = ok && all[std::size_t(i)] == (real ? global[std::size_t(i)] : -1.0f);
          }
          good += ok;
        }
        gather.backward(b, tensor<2>(std::as_const(global), {23, 2}), tensor<2>(back, {b.tokens(), 2}));
        bool ok = true;
        for (std::size_t i = 0; i < back.size(); ++i)
          ok = ok && back[i] == (local[i] == 9999.0f ? 0.0f : local[i]); // slack: gradient 0
        good += ok;
      }
    });
    CHECK(good == 6 * parts);
  }
}

/// A loss that mixes all tokens: sum c_i softmax(z)_i + log sum exp z, of z (tokens).
struct mixing_loss {
  std::vector<double> c;
  double value(std::vector<double> const& z) const {
    double top = *std::max_element(z.begin(), z.end()), sum = 0, dot = 0;
    for (std::size_t i = 0; i < z.size(); ++i) {
      double e = std::exp(z[i] - top);
      sum += e;
      dot += c[i] * e;
    }
    return dot / sum + top + std::log(sum);
  }
  std::vector<double> gradient(std::vector<double> const& z) const {
    double top = *std::max_element(z.begin(), z.end()), sum = 0, dot = 0;
    for (std::size_t i = 0; i < z.size(); ++i) sum += std::exp(z[i] - top), dot += c[i] * std::exp(z[i] - top);
    std::vector<double> g(z.size());
    for (std::size_t i = 0; i < z.size(); ++i) {
      double p = std::exp(z[i] - top) / sum;
      g[i] = p * (c[i] - dot / sum) + p;
    }
    return g;
  }
};

TEST_CASE("gather_tokens: a softmax over all gathered tokens: central differences, and parameter gradients summed once [asan]") {
  index_t const n = 13;
  mixing_loss loss;
  std::vector<double> x;
  for (index_t i = 0; i < n; ++i) {
    loss.c.push_back(std::cos(double(3 * i)));
    x.push_back(std::sin(double(5 * i + 1)));
  }
  for (int parts : {1, 3, 5, 8}) {
    // z_i = w x_i, computed by the rank that owns token i; every rank then sees the same loss
    auto run = [&](double w, index_t bumped, double by, std::vector<double>* dz, double* dw) {
      std::vector<double> values(static_cast<std::size_t>(parts)), partial(static_cast<std::size_t>(parts));
      std::vector<double> collected(std::size_t(n), 0);
      sp::threads::run(parts, [&](sp::threads const& comm) {
        sp::batch b(sp::packed{0, 4, n}, sp::zigzag{}, comm, {sp::shapes::padded});
        std::vector<double> mine(std::size_t(b.tokens())), z(mine), all(static_cast<std::size_t>(n)), d(mine);
        sp::split(b, tensor<1>(std::as_const(x), {n}), tensor<1>(mine, {b.tokens()}));
        for (std::size_t i = 0; i < z.size(); ++i) z[i] = w * mine[i];
        if (sp::owner o = sp::owner_of(b, bumped); o.part == comm.rank()) z[std::size_t(o.row)] += by;
        sp::gather_tokens gather(comm);
        gather.forward(b, tensor<1>(std::as_const(z), {b.tokens()}), tensor<1>(all, {n}));
        auto r = std::size_t(comm.rank());
        values[r] = loss.value(all);
        auto const g = loss.gradient(all);
        gather.backward(b, tensor<1>(g, {n}), tensor<1>(d, {b.tokens()}));
        for (std::size_t i = 0; i < d.size(); ++i) partial[r] += d[i] * mine[i];
        if (dz) {
          std::vector<double> whole(static_cast<std::size_t>(n));
          gather.forward(b, tensor<1>(std::as_const(d), {b.tokens()}), tensor<1>(whole, {n}));
          if (comm.rank() == 0) collected = whole;
        }
      });
      for (double v : values) CHECK(v == values[0]);
      if (dz) *dz = collected;
      if (dw) {
        *dw = 0;
        for (double p : partial) *dw += p;
      }
      return values[0];
    };
    double const w = 0.8, h = 1e-5;
    std::vector<double> dz;
    double dw = 0;
    run(w, 0, 0, &dz, &dw);
    double worst = 0;
    for (index_t i = 0; i < n; ++i) {
      double slope = (run(w, i, h, nullptr, nullptr) - run(w, i, -h, nullptr, nullptr)) / (2 * h);
      worst = std::max(worst, std::abs(slope - dz[std::size_t(i)]));
    }
    CHECK(worst < 1e-9);
    CHECK(std::abs((run(w + h, 0, 0, nullptr, nullptr) - run(w - h, 0, 0, nullptr, nullptr)) / (2 * h) - dw) < 1e-9);
  }
}

TEST_CASE("gather_tokens: hidden states of any rank and element type") {
  auto const global = support::random_bits<sp::fp16>(9 * 2 * 5, 4);
  for (int parts : {2, 4}) {
    std::atomic<int> good{0};
    sp::threads::run(parts, [&](sp::threads const& c) {
      sp::batch b(sp::packed{0, 3, 9}, sp::striped{}, c);
      std::vector<sp::fp16> local(std::size_t(b.tokens() * 10)), back(global.size());
      sp::split(b, tensor<3>(global, {9, 2, 5}), tensor<3>(local, {b.tokens(), 2, 5}));
      sp::gather_tokens(c).forward(b, tensor<3>(std::as_const(local), {b.tokens(), 2, 5}), tensor<3>(back, {9, 2, 5}));
      good += support::same_bits(back, global);
    });
    CHECK(good == parts);
  }
}

TEST_CASE("gather_tokens: a batch of another group and tensors that disagree are refused on every rank") {
  sp::threads::run(2, [](sp::threads const& c) {
    std::vector<float> x(40);
    sp::gather_tokens gather(c);
    sp::batch other(sp::packed{0, 10}, sp::zigzag{}, c.rank(), 3), mirrored(sp::packed{0, 10}, sp::zigzag{}, 1 - c.rank(), 2),
        b(sp::packed{0, 10}, sp::zigzag{}, c);
    auto e = failure_of([&] { return gather.prepare(other); });
    CHECK(says(e, errc::invalid_shape, "made for rank " + std::to_string(c.rank()) + " of 3",
               "is rank " + std::to_string(c.rank()) + " of 2"));
    CHECK(e.primitive == "gather_tokens");
    CHECK(says(failure_of([&] { return gather.prepare(mirrored); }), errc::invalid_shape,
               "made for rank " + std::to_string(1 - c.rank()) + " of 2"));
    CHECK(says(failure_of([&] {
                 gather.forward(b, tensor<1>(std::as_const(x), {5}), tensor<1>(x, {11}));
                 return 0;
               }),
               errc::bad_documents, "11 rows", "10"));
    CHECK(says(failure_of([&] {
                 gather.forward(b, tensor<1>(std::as_const(x), {6}), tensor<1>(x, {10}));
                 return 0;
               }),
               errc::invalid_shape, "6 rows", "owns 5"));
    std::vector<float> y(5);
    sp::view<float, 1> const one_place(x.data(), {10}, {0});
    CHECK(says(failure_of([&] { return gather.forward(b, tensor<1>(std::as_const(y), {5}), one_place), 0; }), errc::aliasing,
               "global overlaps itself"));
    CHECK(says(failure_of([&] {
                 gather.backward(b, tensor<1>(std::as_const(x), {9}), tensor<1>(x, {5}));
                 return 0;
               }),
               errc::bad_documents, "9 rows", "10"));
  });
}

TEST_CASE("gather_tokens: a plan of another place or batch is refused, and the short form makes its own") {
  sp::threads_options const patience{.deadline = std::chrono::seconds(3)};
  auto body = [](sp::threads const& c) {
    constexpr sp::mesh mesh{sp::axis::ring{2}, sp::axis::ulysses{2}};
    auto const u = mesh.ulysses(c), r = mesh.ring(c); // ranks 1 and 2 are the first in one and the second in the other
    sp::gather_tokens const along_u(u), along_r(r);
    sp::batch b(sp::packed{0, 9}, sp::contiguous{}, u), twin(sp::packed{0, 9}, sp::contiguous{}, u); // 4 and 5 rows
    std::vector<float> mine(std::size_t(b.tokens()), float(u.rank() + 1)), all(9);
    sp::pool scratch;
    auto refused = [&](auto const& object, sp::batch const& batch, auto const& plan, char const* why) {
      auto const e = failure_of([&] {
        object.forward(batch, plan, tensor<1>(std::as_const(mine), {b.tokens()}), tensor<1>(all, {9}), scratch);
        return 0;
      });
      return says(e, errc::bad_state, why) && e.primitive == "gather_tokens" && e.size == 2 && e.rank == object.group().rank();
    };
    auto const plan = along_u.prepare(b);
    CHECK(refused(along_u, twin, plan, "another batch"));
    CHECK(refused(along_u, b, typename decltype(along_u)::prepared{}, "not made by prepare()"));
    along_u.forward(b, tensor<1>(std::as_const(mine), {b.tokens()}), tensor<1>(all, {9})); // its plan stays with the batch
    CHECK(all == std::vector<float>{1, 1, 1, 1, 2, 2, 2, 2, 2});
    sp::gather_tokens const comparing(u, {.checks = 2}); // it would compare nothing with nothing
    CHECK(refused(comparing, b, plan, "made at a check level below 2, this object is at 2"));
    along_u.forward(b, comparing.prepare(b), tensor<1>(std::as_const(mine), {b.tokens()}), tensor<1>(all, {9}), scratch);
    if (u.rank() == r.rank()) return;
    CHECK(refused(along_r, b, plan, u.rank() == 0 ? "by rank 0 of 2" : "by rank 1 of 2"));
    auto const e = failure_of([&] { // the plan that b keeps is not of this object
      along_r.forward(b, tensor<1>(std::as_const(mine), {b.tokens()}), tensor<1>(all, {9}));
      return 0;
    });
    CHECK(says(e, errc::invalid_shape, "this is rank " + std::to_string(r.rank())));
  };
  sp::threads::run(4, body, patience);
}

TEST_CASE("gather_tokens: two groups in which a rank has the same place prepare together at check level 2") {
  sp::threads_options const patience{.deadline = std::chrono::seconds(3)};
  auto body = [](sp::threads const& c) {
    auto const u = c.split(c.rank() / 2, c.rank()), r = c.split(c.rank() % 2, c.rank());
    sp::gather_tokens const along_u(u, {.checks = 2}), along_r(r, {.checks = 2});
    sp::batch const parts[] = {{sp::packed{0, 8}, sp::contiguous{}, 0, 2}, {sp::packed{0, 8}, sp::contiguous{}, 1, 2}};
    std::vector<float> const mine(4, float(c.rank()));
    std::vector<float> all(8);
    for (int step = 0; step < 2; ++step) {
      along_u.forward(parts[u.rank()], tensor<1>(mine, {4}), tensor<1>(all, {8}));
      CHECK(all[7] == float(c.rank() / 2 * 2 + 1));
      along_r.forward(parts[r.rank()], tensor<1>(mine, {4}), tensor<1>(all, {8}));
      CHECK(all[7] == float(c.rank() % 2 + 2));
    }
  };
  sp::threads::run(4, body, patience);
}

} // namespace
} // namespace test_gather_tokens
