// A segment as a map of the state: against the product of its tokens' maps, composed, transposed, and cut anywhere.
// The state that leaves, the outputs and all gradients of parts are those of the whole; one token, no token and one head among them.
// optimised: long products
#include <doctest/doctest.h>

#include "linear/linear_problem.hpp"

namespace test_maps {
namespace {

using namespace linear_tests;

setting some(unsigned i, index_t n) {
  setting s{.shape = {n, 2, 4, 10, 7}, .log_decays = decays(i % 5)};
  s.order = i, s.seed = i + 20;
  return s;
}

/// M as a matrix (key dim, key dim) of each value head, and B.
struct affine {
  std::vector<table<double>> m, b;
};

template <class K>
affine reduced(problem<K, double> const& p, index_t begin, index_t end) {
  sp::pool memory;
  sp::context const where(memory, memory);
  index_t const dim = p.s.key_dim, width = sp::map_width(K::form, dim);
  std::vector<double> m(std::size_t(p.s.v_heads * width) + 1, 77), b(std::size_t(p.s.v_heads * dim * p.s.value_dim), 77);
  p.kernel.template reduce<double>(p.call(begin, end),
                                   {{m.data(), p.s.v_heads, width}, {b.data(), p.s.v_heads, dim, p.s.value_dim}}, where);
  affine r;
  for (index_t h = 0; h < p.s.v_heads; ++h) {
    r.m.emplace_back(std::size_t(dim), std::size_t(dim));
    r.b.emplace_back(std::size_t(dim), std::size_t(p.s.value_dim));
    for (index_t i = 0; i < dim; ++i)
      for (index_t j = 0; j < dim; ++j)
        r.m.back()(std::size_t(i), std::size_t(j)) = K::form == sp::map_form::dense ? m[std::size_t(h * width + i * dim + j)]
                                                     : i != j                       ? 0
                                                     : width == 0                   ? 1
                                                                  : m[std::size_t(h * width + (width == 1 ? 0 : i))];
    for (std::size_t i = 0; i < r.b.back().x.size(); ++i) r.b.back().x[i] = b[std::size_t(h) * r.b.back().x.size() + i];
  }
  CHECK(m.back() == 77);
  return r;
}

table<double> times(table<double> const& a, table<double> const& b, bool transposed = false) {
  std::size_t const rows = a.columns; // a is square
  table<double> c(rows, b.columns);
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < rows; ++j)
      for (std::size_t x = 0; x < b.columns; ++x) c(i, x) += (transposed ? a(j, i) : a(i, j)) * b(j, x);
  return c;
}
table<double> plus(table<double> a, table<double> const& b) {
  for (std::size_t i = 0; i < a.x.size(); ++i) a.x[i] += b.x[i];
  return a;
}

/// What the recurrence makes of the unit matrix without values, and of zeros with them; and of a gradient of outputs.
template <class K>
void against_recurrence(problem<K, double> const& p) {
  affine const found = reduced(p, 0, p.s.rows);
  auto e = p.empty_state();
  sp::pool memory;
  sp::context const where(memory, memory);
  p.kernel.template backward_reduce<double>(p.call(0, p.s.rows), p.dout.read(), e.v, where);
  std::vector<double> const transposed = problem<K, double>::values(e.v);
  for (index_t h = 0; h < p.s.v_heads; ++h) {
    head_inputs<double> unit = p.inputs(h), zero = unit;
    std::size_t const dim = unit.q.columns, heads_size = dim * unit.v.columns;
    unit.v = table<double>(std::size_t(p.s.rows), dim);
    unit.s = table<double>(dim, dim);
    for (std::size_t d = 0; d < dim; ++d) unit.s(d, d) = 1;
    std::fill(zero.s.x.begin(), zero.s.x.end(), 0.0);
    CHECK(difference(found.m[std::size_t(h)].x, recurrence<double>(unit, p.set.normalise, 1).result.s.x) <= 1e-12);
    recurrence<double> const from_zero(zero, p.set.normalise, p.scale());
    CHECK(difference(found.b[std::size_t(h)].x, from_zero.result.s.x) <= 1e-12);
    head_outputs<double> d = p.output_gradients(h);
    std::fill(d.s.x.begin(), d.s.x.end(), 0.0);
    auto const first = transposed.begin() + std::ptrdiff_t(std::size_t(h) * heads_size);
    CHECK(difference(std::vector<double>(first, first + std::ptrdiff_t(heads_size)), from_zero.backward(d).s.x) <= 1e-12);
  }
}

#define SP_TEST_FORMS sp::gated_delta, sp::gated_linear, sp::scalar_decay, sp::plain_linear

TEST_CASE_TEMPLATE("linear maps: of tokens one by one, and transposed", K, SP_TEST_FORMS) {
  for (unsigned i = 0; i < 5; ++i) against_recurrence<K>(problem<K, double>(some(i, i == 0 ? 80 : 3 + i)));
}

TEST_CASE_TEMPLATE("linear maps: composed, they are the map of the whole", K, SP_TEST_FORMS) {
  problem<K, double> const p(some(3, 150));
  affine const whole = reduced(p, 0, 150);
  for (index_t const at : {0, 1, 64, 65, 149, 150}) {
    affine const a = reduced(p, 0, at), b = reduced(p, at, 150);
    for (std::size_t h = 0; h < 4; ++h) {
      CHECK(difference(times(b.m[h], a.m[h]).x, whole.m[h].x) <= 1e-12);
      CHECK(difference(plus(times(b.m[h], a.b[h]), b.b[h]).x, whole.b[h].x) <= 1e-12);
    }
  }
}

TEST_CASE_TEMPLATE("linear maps: they say what forward and backward make of states", K, SP_TEST_FORMS) {
  problem<K, double> const p(some(2, 70));
  numbers const all = p.run();
  affine const map = reduced(p, 0, 70);
  auto e = p.empty_state();
  sp::pool memory;
  p.kernel.template backward_reduce<double>(p.call(0, 70), p.dout.read(), e.v, sp::context(memory, memory));
  std::vector<double> leaving, entering, const_part = problem<K, double>::values(e.v);
  for (index_t h = 0; h < 4; ++h) {
    auto const state = plus(times(map.m[std::size_t(h)], p.inputs(h).s), map.b[std::size_t(h)]);
    leaving.insert(leaving.end(), state.x.begin(), state.x.end());
    auto const gradient = times(map.m[std::size_t(h)], p.output_gradients(h).s, true);
    entering.insert(entering.end(), gradient.x.begin(), gradient.x.end());
  }
  for (std::size_t i = 0; i < entering.size(); ++i) entering[i] += const_part[i];
  CHECK(difference(leaving, all.leaving) <= 1e-12);
  CHECK(difference(entering, all.dentering) <= 1e-12);
}

TEST_CASE_TEMPLATE("linear maps: a segment may be cut anywhere", K, SP_TEST_FORMS) {
  setting s = some(4, 140);
  s.options.keep_every = 64;
  problem<K, double> const p(s);
  numbers const whole = p.run();
  for (auto const& cuts :
       std::vector<std::vector<index_t>>{{0, 1}, {0, 64}, {0, 65, 66}, {0, 63, 63, 139}, {0, 0, 17, 40, 41, 100, 140}})
    numbers::each([&, parts = p.run(cuts)](char const* name, auto member) {
      INFO(name);
      CHECK(difference(parts.*member, whole.*member) <= 1e-12);
    });
}

TEST_CASE("linear maps: what is not wanted is not written") {
  problem<sp::gated_delta, double> const p(some(0, 20));
  sp::pool memory;
  sp::context const where(memory, memory);
  affine const both = reduced(p, 0, 20);
  std::vector<double> b(4 * 10 * 7), m(4 * 100);
  p.kernel.reduce<double>(p.call(0, 20), {{}, {b.data(), 4, 10, 7}}, where);
  p.kernel.reduce<double>(p.call(0, 20), {{m.data(), 4, 100}, {}}, where);
  for (std::size_t h = 0; h < 4; ++h) {
    CHECK(std::equal(both.b[h].x.begin(), both.b[h].x.end(), b.begin() + std::ptrdiff_t(70 * h)));
    CHECK(std::equal(both.m[h].x.begin(), both.m[h].x.end(), m.begin() + std::ptrdiff_t(100 * h)));
  }
  std::vector<double> only(4 * 10 * 7);
  sp::linear_grad<double, 2> g{p.dout.read(), {}, {}, {}, {}, {}, {}};
  g.dentering = {only.data(), 4, 10, 7};
  auto const saved = p.kernel.forward<double>(p.call(0, 20), p.start(), p.dout.v, {}, where);
  p.kernel.backward<double>(p.call(0, 20), p.start(), saved, g, where);
  CHECK(only != std::vector<double>(only.size()));
}

#undef SP_TEST_FORMS

} // namespace
} // namespace test_maps
