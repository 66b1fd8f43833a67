// One whole block of Qwen3-Next against what transformers computes: outputs, gradients of hidden states and of all parameters.
// Two sequences that were recorded one by one are two documents of one stream, on one rank and on three, by state and by heads.
// Fixture: tests/fixtures/linear/record_block.py.
#include <doctest/doctest.h>

#include <cmath>
#include <optional>

#include <sp/conv1d.hpp>
#include <sp/linear.hpp>
#include <sp/threads.hpp>

#include "support/json.hpp"
#include "support/sharding.hpp"

namespace test_qwen_block {
namespace {

using sp::index_t;
using numbers = std::vector<double>;

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

/// Parameters of a block, or their gradients, with the names that transformers has for them.
struct parameters {
  numbers dt_bias, a_log, conv, in_qkvz, in_ba, norm, out;

  explicit parameters(support::json const& all, char const* which) {
    each([&](char const* name, numbers parameters::*p) { this->*p = all[name][which].reals(); });
  }
  static void each(auto&& f) {
    f("dt_bias", &parameters::dt_bias), f("A_log", &parameters::a_log), f("conv1d.weight", &parameters::conv);
    f("in_proj_qkvz.weight", &parameters::in_qkvz), f("in_proj_ba.weight", &parameters::in_ba);
    f("norm.weight", &parameters::norm), f("out_proj.weight", &parameters::out);
  }
  parameters zeros() const {
    parameters z = *this;
    each([&](char const*, numbers parameters::*p) { (z.*p).assign((z.*p).size(), 0); });
    return z;
  }
  void add(parameters const& o) {
    each([&](char const*, numbers parameters::*p) {
      for (std::size_t i = 0; i < (this->*p).size(); ++i) (this->*p)[i] += (o.*p)[i];
    });
  }
};

struct recorded {
  support::json all = support::json::fixture("linear/qwen3_next_block.json");
  index_t of(char const* name) const { return all["config"][name].number(); }
  index_t hidden = of("hidden_size"), k_heads = of("linear_num_key_heads"), v_heads = of("linear_num_value_heads");
  index_t key_dim = of("linear_key_head_dim"), value_dim = of("linear_value_head_dim"), taps = of("linear_conv_kernel_dim");
  index_t keys = k_heads * key_dim, values = v_heads * value_dim, channels = 2 * keys + values;
  parameters weights{all["parameters"], "value"}, gradients{all["parameters"], "gradient"};
  std::vector<support::json> const& sequences() const { return all["sequences"].items(); }
  /// One tensor of all sequences, one behind the other.
  numbers stream(char const* name) const {
    numbers x;
    for (auto const& s : sequences())
      for (double e : s[name].reals()) x.push_back(e);
    return x;
  }
  sp::documents docs() const {
    std::vector<index_t> ends{0};
    for (auto const& s : sequences()) ends.push_back(ends.back() + index_t(s["hidden"].items().size()) / hidden);
    return sp::packed(std::span<index_t const>(ends));
  }
};

// ---- products with weights (outputs, inputs), row by row ------------------------------------------------------------------------------

numbers project(numbers const& x, numbers const& w, index_t from, index_t to) {
  numbers y(x.size() / at(from) * at(to), 0);
  for (index_t r = 0; r < index_t(x.size()) / from; ++r)
    for (index_t i = 0; i < to; ++i)
      for (index_t j = 0; j < from; ++j) y[at(r * to + i)] += w[at(i * from + j)] * x[at(r * from + j)];
  return y;
}
/// Adds to dw; the gradient of x.
numbers project_back(numbers const& x, numbers const& w, numbers const& dy, index_t from, index_t to, numbers& dw) {
  numbers dx(x.size(), 0);
  for (index_t r = 0; r < index_t(x.size()) / from; ++r)
    for (index_t i = 0; i < to; ++i)
      for (index_t j = 0; j < from; ++j) {
        dx[at(r * from + j)] += w[at(i * from + j)] * dy[at(r * to + i)];
        dw[at(i * from + j)] += x[at(r * from + j)] * dy[at(r * to + i)];
      }
  return dx;
}

/// The rows of one rank on their way through the block.
template <class Comm>
class block {
public:
  block(recorded const& fixture, Comm const& ranks, sp::batch const& batch, sp::linear_strategy how)
      : f(fixture), w(f.weights), conv(ranks, {.width = f.taps, .activation = sp::activation::silu}),
        attend(ranks, sp::gated_delta{{.normalise = true}}, {.strategy = how}), b(batch), rows(b.tokens()),
        qkv(at(rows * f.channels)), mixed(qkv), z(at(rows * f.values)), beta(at(rows * f.v_heads)), a(beta), g(beta),
        o(at(rows * f.values)) {}

  numbers forward(numbers const& x) {
    hidden = x;
    split(project(hidden, w.in_qkvz, f.hidden, 2 * f.keys + 2 * f.values), project(hidden, w.in_ba, f.hidden, 2 * f.v_heads));
    conv_saved.emplace(conv.forward(b, {.x = flat(qkv), .weights = taps(w.conv), .out = flat(mixed)}));
    for (std::size_t i = 0; i < beta.size(); ++i) {
      std::size_t const h = i % at(f.v_heads);
      beta[i] = sigmoid(beta[i]);
      g[i] = -std::exp(w.a_log[h]) * softplus(a[i] + w.dt_bias[h]);
    }
    saved.emplace(
        attend.forward(b, {.q = q(mixed), .k = k(mixed), .v = v(mixed), .gates = {gate(g), gate(beta)}, .out = heads(o)}));
    return project(gated_norm(), w.out, f.values, f.hidden);
  }

  /// The gradient of forward's argument; adds this rank's share of the parameters' to d.
  numbers backward(numbers const& dout, parameters& d) {
    numbers const y = gated_norm();
    numbers const dy = project_back(y, w.out, dout, f.values, f.hidden, d.out);
    numbers dz(z.size()), doo(o.size()), dmixed(mixed.size(), 0), dqkv(mixed.size()), dg(g.size(), 0), dbeta(g.size(), 0),
        da(g.size());
    gated_norm_back(dy, dz, doo, d.norm);
    attend.backward(b, std::move(*saved),
                    {.q = q(mixed),
                     .k = k(mixed),
                     .v = v(mixed),
                     .gates = {gate(g), gate(beta)},
                     .dout = heads(doo),
                     .dq = q(dmixed),
                     .dk = k(dmixed),
                     .dv = v(dmixed),
                     .dgates = {gate(dg), gate(dbeta)}});
    for (std::size_t i = 0; i < g.size(); ++i) {
      std::size_t const h = i % at(f.v_heads);
      da[i] = -dg[i] * std::exp(w.a_log[h]) * sigmoid(a[i] + w.dt_bias[h]);
      d.a_log[h] += dg[i] * g[i], d.dt_bias[h] += da[i];
      dbeta[i] *= beta[i] * (1 - beta[i]);
    }
    numbers dtaps(d.conv.size());
    conv.backward(b, std::move(*conv_saved),
                  {.x = flat(qkv), .weights = taps(w.conv), .dout = flat(dmixed), .dx = flat(dqkv), .dweights = taps(dtaps)});
    for (std::size_t i = 0; i < dtaps.size(); ++i) d.conv[i] += dtaps[i];
    auto const [dqkvz, dba] = joined(dqkv, dz, dbeta, da);
    numbers dx = project_back(hidden, w.in_qkvz, dqkvz, f.hidden, 2 * f.keys + 2 * f.values, d.in_qkvz);
    numbers const more = project_back(hidden, w.in_ba, dba, f.hidden, 2 * f.v_heads, d.in_ba);
    for (std::size_t i = 0; i < dx.size(); ++i) dx[i] += more[i];
    return dx;
  }

private:
  recorded const& f;
  parameters const& w;
  sp::causal_conv1d<Comm> conv;
  sp::linear_attention<Comm, sp::gated_delta> attend;
  sp::batch const& b;
  index_t rows;
  numbers hidden, qkv, mixed, z, beta, a, g, o;
  std::optional<typename sp::causal_conv1d<Comm>::template saved<double>> conv_saved{};
  std::optional<typename sp::linear_attention<Comm, sp::gated_delta>::template saved<double>> saved{};

  sp::view<double, 2> flat(numbers& x) const { return {x.data(), {rows, f.channels}}; }
  sp::view<double const, 2> taps(numbers const& x) const { return {x.data(), {f.channels, f.taps}}; }
  sp::view<double, 2> taps(numbers& x) const { return {x.data(), {f.channels, f.taps}}; }
  sp::view<double, 2> gate(numbers& x) const { return {x.data(), {rows, f.v_heads}}; }
  sp::view<double, 3> heads(numbers& x) const { return {x.data(), {rows, f.v_heads, f.value_dim}}; }
  /// q, k and v lie beside each other in each row.
  sp::view<double, 3> part(numbers& x, index_t begin, index_t n, index_t dim) const {
    return {x.data() + begin, {rows, n, dim}, {f.channels, dim, 1}};
  }
  sp::view<double, 3> q(numbers& x) const { return part(x, 0, f.k_heads, f.key_dim); }
  sp::view<double, 3> k(numbers& x) const { return part(x, f.keys, f.k_heads, f.key_dim); }
  sp::view<double, 3> v(numbers& x) const { return part(x, 2 * f.keys, f.v_heads, f.value_dim); }

  /// What stands at entry i of a row of [q | k | v | z], and of [b | a]: key head after key head, with the value heads of each.
  void each_projected(auto&& take_qkvz, auto&& take_ba) {
    index_t const each = f.v_heads / f.k_heads, wide = each * f.value_dim;
    for (index_t r = 0; r < rows; ++r)
      for (index_t head = 0; head < f.k_heads; ++head) {
        index_t from = (r * f.k_heads + head) * 2 * (f.key_dim + wide);
        auto run = [&](numbers& x, index_t to, index_t n) {
          for (index_t i = 0; i < n; ++i) take_qkvz(x, at(to + i), at(from++));
        };
        run(qkv, r * f.channels + head * f.key_dim, f.key_dim);
        run(qkv, r * f.channels + f.keys + head * f.key_dim, f.key_dim);
        run(qkv, r * f.channels + 2 * f.keys + head * wide, wide);
        run(z, r * f.values + head * wide, wide);
        for (index_t i = 0; i < 2 * each; ++i)
          take_ba(i < each ? beta : a, at(r * f.v_heads + head * each + i % each), at((r * f.k_heads + head) * 2 * each + i));
      }
  }
  void split(numbers const& qkvz, numbers const& ba) {
    each_projected([&](numbers& x, std::size_t to, std::size_t from) { x[to] = qkvz[from]; },
                   [&](numbers& x, std::size_t to, std::size_t from) { x[to] = ba[from]; });
  }
  std::pair<numbers, numbers> joined(numbers const& dqkv, numbers const& dz, numbers const& db, numbers const& da) {
    numbers qkvz(at(rows * 2 * (f.keys + f.values))), ba(at(rows * 2 * f.v_heads));
    each_projected([&](numbers& x, std::size_t to, std::size_t from) { qkvz[from] = (&x == &z ? dz : dqkv)[to]; },
                   [&](numbers& x, std::size_t to, std::size_t from) { ba[from] = (&x == &a ? da : db)[to]; });
    return {std::move(qkvz), std::move(ba)};
  }

  /// weight RMSNorm(o) silu(z) of each value head, and what it makes of one.
  void each_norm(auto&& body) {
    for (index_t i = 0; i < rows * f.v_heads; ++i) {
      double sum = 0;
      for (index_t d = 0; d < f.value_dim; ++d) sum += o[at(i * f.value_dim + d)] * o[at(i * f.value_dim + d)];
      body(i * f.value_dim, 1 / std::sqrt(sum / double(f.value_dim) + 1e-6));
    }
  }
  numbers gated_norm() {
    numbers y(o.size());
    each_norm([&](index_t first, double by) {
      for (index_t d = 0; d < f.value_dim; ++d) {
        std::size_t const i = at(first + d);
        y[i] = w.norm[at(d)] * o[i] * by * z[i] * sigmoid(z[i]);
      }
    });
    return y;
  }
  void gated_norm_back(numbers const& dy, numbers& dz, numbers& doo, numbers& dweight) {
    each_norm([&](index_t first, double by) {
      double along = 0;
      for (index_t d = 0; d < f.value_dim; ++d) {
        std::size_t const i = at(first + d);
        double const s = sigmoid(z[i]), unit = o[i] * by;
        dweight[at(d)] += dy[i] * unit * z[i] * s;
        dz[i] = dy[i] * w.norm[at(d)] * unit * s * (1 + z[i] * (1 - s));
        doo[i] = dy[i] * w.norm[at(d)] * z[i] * s; // of the normalised
        along += doo[i] * unit / double(f.value_dim);
      }
      for (index_t d = 0; d < f.value_dim; ++d) doo[at(first + d)] = by * (doo[at(first + d)] - o[at(first + d)] * by * along);
    });
  }
};

/// The largest difference over the largest number of the tensor.
double error(numbers const& x, numbers const& expected) {
  double worst = x.size() == expected.size() ? 0 : 1e300, largest = 0;
  for (double e : expected) largest = std::max(largest, std::abs(e));
  for (std::size_t i = 0; i < x.size() && i < expected.size(); ++i) {
    double const d = std::abs(x[i] - expected[i]);
    if (!(d <= worst)) worst = d;
  }
  return worst / largest;
}

/// Outputs, gradients of hidden states and those of parameters, all ranks together.
struct outcome {
  numbers out, dhidden;
  parameters d;
};

void require_recorded(recorded const& f, outcome const& found) {
  CHECK(error(found.out, f.stream("out")) <= 1e-10);
  CHECK(error(found.dhidden, f.stream("dhidden")) <= 1e-10);
  parameters::each([&](char const* name, numbers parameters::*p) {
    INFO(name);
    CHECK(error(found.d.*p, f.gradients.*p) <= 1e-10);
  });
}

/// Rows of this rank; and what a rank has, at its place in the stream.
numbers split(sp::batch const& b, numbers const& whole, index_t width) {
  numbers x(at(b.tokens() * width));
  sp::split(b, sp::view<double const, 2>(whole.data(), {b.docs().length(), width}),
            sp::view<double, 2>(x.data(), {b.tokens(), width}));
  return x;
}
void put(sp::batch const& b, numbers const& mine, numbers& whole, index_t width) {
  sp::for_each_row(b, [&](sp::local_row const& row) {
    for (index_t i = 0; i < width; ++i) whole[at(sp::source_position(b, row) * width + i)] = mine[at(row.row * width + i)];
  });
}

outcome run(recorded const& f, int parts, support::any_sharding how, sp::linear_strategy strategy) {
  numbers const hidden = f.stream("hidden"), dout = f.stream("dout");
  outcome all{numbers(hidden.size()), numbers(hidden.size()), f.weights.zeros()};
  std::vector<outcome> of(at(parts), all);
  sp::threads::run(parts, [&](sp::threads const& ranks) {
    outcome& mine = of[at(ranks.rank())];
    sp::batch const b(f.docs(), how, ranks);
    block<sp::threads> one(f, ranks, b, strategy);
    put(b, one.forward(split(b, hidden, f.hidden)), mine.out, f.hidden);
    put(b, one.backward(split(b, dout, f.hidden), mine.d), mine.dhidden, f.hidden);
  });
  for (outcome const& mine : of) {
    all.d.add(mine.d);
    for (std::size_t i = 0; i < hidden.size(); ++i) all.out[i] += mine.out[i], all.dhidden[i] += mine.dhidden[i];
  }
  return all;
}

TEST_CASE("a block of Qwen3-Next: two documents of one stream give what transformers gives for each alone") {
  recorded const f;
  REQUIRE(f.sequences().size() == 2);
  using support::any_sharding;
  require_recorded(f, run(f, 1, {}, sp::linear_strategy::automatic));
  require_recorded(f, run(f, 3, {any_sharding::contiguous, sp::scope::stream}, sp::linear_strategy::state));
  require_recorded(f, run(f, 3, {any_sharding::zigzag}, sp::linear_strategy::state));
  require_recorded(f, run(f, 3, {any_sharding::striped}, sp::linear_strategy::heads)); // 4 value heads: shares of 1, 1 and 2
}

} // namespace
} // namespace test_qwen_block
