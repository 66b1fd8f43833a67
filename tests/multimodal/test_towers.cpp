// A tower of two layers, one with windows and one without, over images of several sizes on several ranks: no row moves between them.
// Results and gradients against the float64 oracle over patches in raster order, which knows of windows and frames by coordinates alone.
#include <doctest/doctest.h>

#include <vector>

#include <sp/reference.hpp>
#include <sp/vision.hpp>

#include "support/attention_tensors.hpp"
#include "support/oracle.hpp"
#include "vit_trial.hpp"

namespace test_towers {
namespace {

using sp::index_t;
using support::operand;
using tensors = support::attention_tensors<double>;

constexpr index_t heads = 2, dim = 3, width = heads * dim, merge = 2, window = 2;

std::vector<sp::patch_grid> const grids{{1, 6, 10}, {2, 4, 6}, {1, 2, 2}, {1, 8, 2}};

/// Where the patches of a batch stand, in raster order.
struct place {
  index_t frame, y, x;
};
std::vector<place> places() {
  std::vector<place> out;
  index_t frame = 0;
  for (auto const& g : grids)
    for (index_t t = 0; t < g.frames; ++t, ++frame)
      for (index_t i = 0; i < g.height * g.width; ++i) out.push_back({frame, i / g.width, i % g.width});
  return out;
}

/// What one rank computes: the second layer attends over what the first gave; gradients of the first layer's input.
struct truth {
  std::vector<double> input, dout, out, dinput; // (patches, heads, dim)

  truth() {
    auto const at = places();
    index_t const n = index_t(at.size());
    std::mt19937 g(3);
    std::normal_distribution<double> normal;
    for (index_t i = 0; i < n * width; ++i) input.push_back(normal(g)), dout.push_back(normal(g));
    auto layer = [&](std::vector<double> const& x, index_t side) {
      support::oracle o(n, n, heads, heads, dim, dim);
      o.q = o.k = o.v = x;
      o.see([&](index_t i, index_t j) {
        place const &a = at[std::size_t(i)], &b = at[std::size_t(j)];
        return a.frame == b.frame && a.y / side == b.y / side && a.x / side == b.x / side;
      });
      return o;
    };
    auto const first = layer(input, merge * window), second = layer(first.forward().out, 1000);
    auto const of_second = second.backward(dout);
    out = of_second.out;
    std::vector<double> between = of_second.dq;
    for (std::size_t i = 0; i < between.size(); ++i) between[i] += of_second.dk[i] + of_second.dv[i];
    auto const of_first = first.backward(between);
    dinput = of_first.dq;
    for (std::size_t i = 0; i < dinput.size(); ++i) dinput[i] += of_first.dk[i] + of_first.dv[i];
  }
};

/// Rows of a tensor in raster order.
std::vector<double> rows_of(std::vector<double> const& all, std::vector<index_t> const& rows) {
  std::vector<double> out;
  for (index_t row : rows)
    for (index_t c = 0; c < width; ++c) out.push_back(all[std::size_t(row * width + c)]);
  return out;
}
/// dq + dk + dv
std::vector<double> gradient(tensors const& x) {
  std::vector<double> out = x[operand::dq];
  for (std::size_t i = 0; i < out.size(); ++i) out[i] += x[operand::dk][i] + x[operand::dv][i];
  return out;
}

/// Relative errors of out and of the input's gradient on a rank that loads patches in the order `loads`.
template <class Object>
std::array<double, 2> errors(Object const& object, sp::images const& all, vit::comm const& c, truth const& want,
                             std::vector<index_t> const& loads) {
  sp::grained const how{sp::contiguous{}, all.grain()};
  sp::batch const by_window{all.windows(), how, c}, by_frame{all.frames(), how, c};
  std::vector<index_t> loaded, mine;
  for (index_t row : sp::tower_rows(all, by_window))
    loaded.push_back(loads[std::size_t(row)]), mine.push_back(all.raster_rows()[std::size_t(row)]);
  sp::attention_shape const shape{heads, heads, dim, dim};
  tensors first(by_window, shape), second(by_frame, shape);
  auto feed = [](tensors& x, std::vector<double> const& values) {
    for (operand name : {operand::q, operand::k, operand::v}) std::copy(values.begin(), values.end(), x[name].begin());
  };
  sp::pool memory;
  sp::context const ctx(memory, memory);
  auto const windows = object.prepare(by_window), frames = object.prepare(by_frame);
  feed(first, rows_of(want.input, loaded));
  auto saved_first = first.forward(object, windows, ctx);
  feed(second, first[operand::out]); // the same rows
  auto saved_second = second.forward(object, frames, ctx);
  auto const dout = rows_of(want.dout, loaded);
  std::copy(dout.begin(), dout.end(), second[operand::dout].begin());
  second.backward(object, frames, ctx, std::move(saved_second));
  auto const between = gradient(second);
  std::copy(between.begin(), between.end(), first[operand::dout].begin());
  first.backward(object, windows, ctx, std::move(saved_first));
  return {support::relative_error(second[operand::out], rows_of(want.out, mine)),
          support::relative_error(gradient(first), rows_of(want.dinput, mine))};
}

TEST_CASE(
    "towers: layers with windows and without on the same rows, by every strategy and schedule, forward and backward [asan]") {
  sp::images const all(grids, {.merge = merge, .window = window});
  truth const want;
  struct cut {
    int ring, ulysses;
    sp::schedule how;
  };
  for (cut const& x : std::vector<cut>{{3, 1, sp::schedule::rotate},
                                       {3, 1, sp::schedule::cast},
                                       {3, 1, sp::schedule::pull},
                                       {3, 1, sp::schedule::pass_q},
                                       {1, 3, sp::schedule::automatic},
                                       {2, 2, sp::schedule::rotate},
                                       {8, 1, sp::schedule::cast}}) {
    vit::trial t{1};
    t.ring = x.ring, t.ulysses = x.ulysses, t.how = x.how;
    t.q_heads = t.kv_heads = heads, t.dim = t.value_dim = dim;
    sp::threads::run(
        t.ranks(),
        [&](sp::threads const& c) {
          sp::ledger counts;
          vit::comm const ranks(c, counts);
          auto const object = vit::nested(t, ranks, sp::reference{sp::dropout{0}});
          auto const [out, gradient] = errors(object, all, ranks, want, all.raster_rows());
          CHECK(out < 1e-12);
          CHECK(gradient < 1e-12);
        },
        vit::patience());
  }
}

TEST_CASE("towers: two rows that are swapped inside one image are found") {
  sp::images const all(grids, {.merge = merge, .window = window});
  truth const want;
  std::vector<index_t> swapped = all.raster_rows();
  std::swap(swapped[0], swapped[40]); // of the first image, in other windows
  vit::trial t{1};
  t.ring = 3;
  double worst[2] = {};
  std::mutex lock;
  sp::threads::run(
      3,
      [&](sp::threads const& c) {
        sp::ledger counts;
        vit::comm const ranks(c, counts);
        auto const found = errors(vit::nested(t, ranks, sp::reference{sp::dropout{0}}), all, ranks, want, swapped);
        std::lock_guard const hold(lock);
        for (std::size_t i = 0; i < 2; ++i) worst[i] = std::max(worst[i], found[i]);
      },
      vit::patience());
  CHECK(worst[0] > 1e-3);
  CHECK(worst[1] > 1e-3);
}

} // namespace
} // namespace test_towers
