// Per-head parameters where heads are cut over ranks: the exchange before the convolution gives what the convolution before it does.
// Outputs, gradients of rows, and gradients of weights, biases and gates added up over ranks, a key head on two ranks among them.
#include <doctest/doctest.h>

#include <sp/conv1d.hpp>
#include <sp/linear/head_share.hpp>
#include <sp/route.hpp>

#include "linear/conv1d_trial.hpp"
#include "support/failure.hpp"

namespace test_head_share {
namespace {

using namespace conv1d_trial;
using side = sp::head_cut::side;
template <int R>
using tensor = sp::view<double, R>;

constexpr index_t key_dim = 2, value_dim = 3;

/// Channels of one head of one of q, k and v in [q | k | v].
index_t channel_of(int which, index_t head, index_t k_heads) {
  return which == 2 ? 2 * k_heads * key_dim + head * value_dim : which * k_heads * key_dim + head * key_dim;
}

TEST_CASE(
    "head share: slices of [q | k | v] and of value heads, for every rank, cover what its value heads need and nothing else") {
  bool ok = true;
  for (index_t k_heads = 1; k_heads <= 4; ++k_heads)
    for (index_t each = 1; each <= 3; ++each)
      for (index_t ranks = 1; ranks <= 9; ++ranks) {
        index_t const v_heads = k_heads * each;
        std::vector<int> had(at(v_heads), 0);
        for (index_t rank = 0; rank < ranks; ++rank) {
          sp::head_share const share = sp::share_of_heads(k_heads, v_heads, rank, ranks);
          auto const conv = share.channels(key_dim, value_dim);
          std::vector<char> wanted(at(2 * k_heads * key_dim + v_heads * value_dim), 0), found = wanted;
          auto mark = [](std::vector<char>& list, index_t first, index_t count) {
            for (index_t i = 0; i < count; ++i) ++list[at(first + i)];
          };
          for (index_t h = 0; h < v_heads; ++h) {
            bool const mine = h >= rank * v_heads / ranks && h < (rank + 1) * v_heads / ranks;
            bool const first_of_key = h % each == 0 || h == rank * v_heads / ranks;
            if (!mine) continue;
            ++had[at(h)];
            mark(wanted, channel_of(2, h, k_heads), value_dim);
            for (int which = 0; which < 2 && first_of_key; ++which) mark(wanted, channel_of(which, h / each, k_heads), key_dim);
            ok = ok && h >= share.value_heads().first && h < share.value_heads().first + share.value_heads().count;
          }
          for (sp::parameter_slice const& x : {conv.q, conv.k, conv.v}) mark(found, x.first, x.count);
          ok = ok && found == wanted && share.key_heads().count * key_dim == conv.q.count;
        }
        for (int n : had) ok = ok && n == 1;
      }
  CHECK(ok);
  CHECK(support::says(support::failure_of([] { return sp::share_of_heads(2, 3, 0, 2); }), sp::errc::invalid_shape, "3", "2"));
}

/// What a rank has: gradients of its rows of [q | k | v] and of gates, its shares of those of parameters.
struct shares {
  numbers dx, da, dweights, dbias, dscale;
  bool outputs_agree = false;
};

/// q, k and v of a scene, as views of one tensor of rows [q | k | v].
std::array<tensor<3>, 3> parts_of(numbers& rows, index_t n, index_t k_heads, index_t v_heads) {
  index_t const keys = k_heads * key_dim, channels = 2 * keys + v_heads * value_dim;
  return {tensor<3>(rows.data(), {n, k_heads, key_dim}, {channels, key_dim, 1}),
          tensor<3>(rows.data() + keys, {n, k_heads, key_dim}, {channels, key_dim, 1}),
          tensor<3>(rows.data() + 2 * keys, {n, v_heads, value_dim}, {channels, value_dim, 1})};
}

struct layer {
  scene s;
  inputs in;        // of the convolution over the whole stream; dout is what ranks' shares add up to
  numbers a, scale; // (stream, value heads), (value heads): a gate scale * a
  index_t k_heads, v_heads;
};

/// Exchange first, then the convolution with slices; gradients back.
shares exchanged_first(sp::threads const& group, layer const& l, sp::batch const& b, results const& expected,
                       numbers const& dgate) {
  sp::head_share const share = sp::share_of_heads(l.k_heads, l.v_heads, group.rank(), group.size());
  sp::route const there = sp::rows_to_heads(b), home = there.transposed();
  sp::batch const whole = sp::whole_stream(b);
  index_t const n = b.tokens(), all = whole.tokens(), channels = l.s.channels;
  sp::pool memory;
  sp::context const ctx(memory, memory);
  auto move = [&](auto const& operand) { sp::exchange(group, "head share", ctx, operand).wait(); };
  auto cut_of = [&](int which, side s) { return which == 2 ? share.values(s) : share.keys(s); };
  auto const conv_slices = share.channels(key_dim, value_dim);
  std::array const slices{conv_slices.q, conv_slices.k, conv_slices.v};
  sp::causal_conv1d const conv{sp::solo{}, {.width = l.s.width, .activation = sp::activation::silu}};

  numbers x = local(l.s, b, l.in.x), dx(x.size(), rubbish), weights = l.in.weights, bias = l.in.bias;
  shares r;
  r.dweights.assign(weights.size(), 0), r.dbias.assign(bias.size(), 0); // slices alone are written
  tensor<2> const w(weights.data(), channels, l.s.width), dw(r.dweights.data(), channels, l.s.width);
  tensor<1> const bs(bias.data(), channels), dbs(r.dbias.data(), channels);
  auto const tokens = parts_of(x, n, l.k_heads, l.v_heads), gradients = parts_of(dx, n, l.k_heads, l.v_heads);
  r.outputs_agree = true;
  for (int which = 0; which < 3; ++which) {
    std::size_t const i = at(which);
    index_t const dim = tokens[i].extent(2), heads = slices[i].count / dim;
    numbers mine(at(all * heads * dim)), y(mine), dy(mine), dmine(mine);
    auto view = [&](numbers& v) { return tensor<3>(v.data(), all, heads, dim); };
    move(sp::routed(there, tokens[i], view(mine), cut_of(which, side::from)));
    auto saved = conv.forward(whole, {.x = view(mine), .weights = slices[i].of(w), .bias = slices[i].of(bs), .out = view(y)});
    for (index_t t = 0; t < all; ++t)
      for (index_t c = 0; c < heads * dim; ++c) {
        std::size_t const at_whole = at(t * channels + slices[i].first + c);
        r.outputs_agree = r.outputs_agree && std::fabs(y[at(t * heads * dim + c)] - expected.out[at_whole]) < 1e-13;
        int holders = 0, before = 0; // each holder of a head has a share of its gradient: of two, -1 and 2 times it
        for (int p = 0; p < group.size(); ++p) {
          auto const of = sp::share_of_heads(l.k_heads, l.v_heads, p, group.size()).channels(key_dim, value_dim);
          sp::parameter_slice const& theirs = which == 0 ? of.q : which == 1 ? of.k : of.v;
          bool const holds = slices[i].first + c >= theirs.first && slices[i].first + c < theirs.first + theirs.count;
          holders += holds, before += holds && p < group.rank();
        }
        double const factor = holders == 1 ? 1 : before == 0 ? holders : -1;
        dy[at(t * heads * dim + c)] = factor * l.in.dout[at_whole];
      }
    conv.backward(whole, std::move(saved),
                  {.x = view(mine),
                   .weights = slices[i].of(w),
                   .bias = slices[i].of(bs),
                   .dout = view(dy),
                   .dx = view(dmine),
                   .dweights = slices[i].of(dw),
                   .dbias = slices[i].of(dbs)});
    move(sp::routed(home, view(dmine), gradients[i], cut_of(which, side::to), sp::landing::sum));
  }
  r.dx = dx;

  sp::parameter_slice const values = share.value_heads(); // gates: scale * a, made of slices behind the exchange
  scene gate_rows = l.s;
  gate_rows.channels = l.v_heads;
  numbers a = local(gate_rows, b, l.a), my_a(at(all * values.count)), my_da(my_a);
  r.da.assign(a.size(), rubbish), r.dscale.assign(at(l.v_heads), 0);
  tensor<3> const of_tokens(a.data(), n, l.v_heads, 1), of_heads(my_a.data(), all, values.count, 1);
  move(sp::routed(there, of_tokens, of_heads, share.values(side::from)));
  numbers scale = l.scale;
  tensor<1> const my_scale = values.of(tensor<1>(scale.data(), l.v_heads)),
                  dscale = values.of(tensor<1>(r.dscale.data(), l.v_heads));
  for (index_t t = 0; t < all; ++t)
    for (index_t h = 0; h < values.count; ++h) {
      double const d = dgate[at(t * l.v_heads + values.first + h)];
      dscale(h) += d * of_heads(t, h, 0);
      my_da[at(t * values.count + h)] = d * my_scale(h);
    }
  move(sp::routed(home, tensor<3>(my_da.data(), all, values.count, 1), tensor<3>(r.da.data(), n, l.v_heads, 1),
                  share.values(side::to)));
  return r;
}

TEST_CASE("head share: the exchange before the convolution gives what the convolution before the exchange does, gradients too") {
  std::mt19937 random(3);
  for (int ranks : {3, 4}) {
    layer l{{sp::packed{0, 5, 6, 17, 30}, 3}, {}, {}, {}, 2, 4};
    l.s.channels = 2 * l.k_heads * key_dim + l.v_heads * value_dim, l.s.silu = l.s.bias = true;
    l.in = draw<double>(l.s, random);
    l.a = drawn<double>(30 * l.v_heads, random), l.scale = drawn<double>(l.v_heads, random);
    numbers const dgate = drawn<double>(30 * l.v_heads, random);
    results const expected = oracle(l.s, l.in);
    CHECK(sp::share_of_heads(l.k_heads, l.v_heads, 0, ranks).key_heads() ==
          sp::share_of_heads(l.k_heads, l.v_heads, 1, ranks).key_heads()); // one key head on two ranks
    support::any_sharding const how{ranks == 3 ? support::any_sharding::striped : support::any_sharding::zigzag};
    auto const all = support::on_all_ranks<support::host_place>(ranks, [&](support::host_place& here) {
      return exchanged_first(here.comm, l, sp::batch(l.s.docs, how, here.comm), expected, dgate);
    });
    numbers dx(l.in.x.size()), da(l.a.size()), dweights(l.in.weights.size()), dbias(l.in.bias.size()), dscale(l.scale.size());
    scene gate_rows = l.s;
    gate_rows.channels = l.v_heads;
    for (int p = 0; p < ranks; ++p) {
      shares const& x = all[at(p)];
      sp::batch const b(l.s.docs, how, p, ranks);
      CHECK(x.outputs_agree);
      put(l.s, b, x.dx, dx), put(gate_rows, b, x.da, da);
      auto add = [](numbers& sum, numbers const& share) {
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += share[i];
      };
      add(dweights, x.dweights), add(dbias, x.dbias), add(dscale, x.dscale);
    }
    CHECK(error(dx, expected.dx) < 1e-13);
    CHECK(error(dweights, expected.dweights) < 1e-13);
    CHECK(error(dbias, expected.dbias) < 1e-13);
    numbers expected_da(da.size()), expected_dscale(dscale.size());
    for (std::size_t i = 0; i < da.size(); ++i) {
      expected_da[i] = dgate[i] * l.scale[i % l.scale.size()];
      expected_dscale[i % l.scale.size()] += dgate[i] * l.a[i];
    }
    CHECK(error(da, expected_da) < 1e-13);
    CHECK(error(dscale, expected_dscale) < 1e-13);
  }
}

} // namespace
} // namespace test_head_share
