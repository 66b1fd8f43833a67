// Metamorphic relations: what a change of the inputs must do to the results, whatever the results are. Forward and backward,
// for the ring's three schedules and Ulysses over three ranks and more, with no oracle that could share an error with the library.
#include <doctest/doctest.h>

#include "differential.hpp"

namespace metamorphic::test_metamorphic {
namespace {

using conformance::object_kind;
using conformance::trial;
using sp::index_t;
using inputs = conformance::inputs<double>;
using outcome = conformance::outcome<double>;

/// Cases that the relations are tried on: ring and Ulysses, over three ranks and more.
constexpr char const* lines[] = {
    "case seed=1 run=rotate,cast,pull,ulysses P=3 docs=13,1,0,22 hq=3 hkv=3 dim=5 vdim=3",
    "case seed=2 run=rotate,cast,pull,pass_q,ulysses P=4 docs=9,30,2 hq=6 hkv=2 dim=8 vdim=8 shard=zigzag groups=2",
    "case seed=3 run=rotate,cast,pull,ulysses P=5 docs=-2,17,-1,8,-3 hq=5 dim=4 vdim=4 shard=striped padded=1",
    "case seed=4 run=rotate,pull,ulysses P=3 docs=70,5 hq=4 hkv=4 dim=4 vdim=4 shard=zigzag keep_output=1 order=4",
    "case seed=5 run=rotate,cast,ulysses P=8 docs=33,3,11 hq=8 hkv=4 dim=4 vdim=4 stream=1",
};

outcome& compute(trial const& t, inputs const& in, outcome& to) {
  if (t.object == object_kind::ring)
    conformance::run<object_kind::ring>(t, in, sp::cpu<>{}, to);
  else
    conformance::run<object_kind::ulysses>(t, in, sp::cpu<>{}, to);
  CHECK(to.complaints.empty());
  return to;
}

/// Calls f(trial, inputs, results) for every strategy of every line.
template <class F>
void for_each_case(F&& f) {
  int cases = 0;
  for (char const* line : lines) {
    fuzz::recipe const r = fuzz::parse(line);
    for (fuzz::number s : r.run) {
      trial t = fuzz::trial_of(r, s);
      t.featured = false;
      inputs const in(t);
      outcome first(t, t.ranks);
      INFO(line << ", " << fuzz::strategy_names[std::size_t(s)]);
      f(t, in, compute(t, in, first));
      ++cases;
    }
  }
  CHECK(cases >= 17);
}

/// The results of changed inputs under the same trial.
template <class Change, class F>
void changed(trial const& t, inputs in, Change&& change, F&& f) {
  change(in);
  outcome to(t, t.ranks);
  f(compute(t, in, to));
}

/// b is `factor` times a, bit by bit; rows in no document aside.
bool scaled(std::vector<double> const& a, std::vector<double> const& b, sp::documents const& docs, index_t width, double factor) {
  for (auto const& d : docs)
    for (auto i = std::size_t(d.begin * width); i < std::size_t(d.end() * width); ++i)
      if (factor * a[i] != b[i]) return false;
  return a.size() == b.size();
}

/// Rows [begin, end) of both have the same bits.
template <class T>
bool same_rows(std::vector<T> const& a, std::vector<T> const& b, index_t begin, index_t end, index_t width) {
  return begin >= end || std::memcmp(&a[std::size_t(begin * width)], &b[std::size_t(begin * width)],
                                     std::size_t((end - begin) * width) * sizeof(T)) == 0;
}

void multiply(std::vector<double>& x, double by) {
  for (double& e : x) e *= by;
}

/// The largest difference over documents.
double furthest(std::vector<double> const& a, std::vector<double> const& b, sp::documents const& docs, index_t width) {
  double worst = 0;
  for (auto const& d : docs)
    for (auto i = std::size_t(d.begin * width); i < std::size_t(d.end() * width); ++i)
      if (!(std::fabs(a[i] - b[i]) <= worst)) worst = std::fabs(a[i] - b[i]);
  return worst;
}

} // namespace

TEST_CASE("v times a power of two: out, dq and dk grow by it bit by bit, lse and dv do not move") {
  for_each_case([](trial const& t, inputs const& in, outcome const& a) {
    changed(
        t, in, [](inputs& x) { multiply(x.v, -8); },
        [&](outcome const& b) {
          CHECK(scaled(a.out, b.out, t.docs, t.q_heads * t.value_dim, -8));
          CHECK(scaled(a.lse, b.lse, t.docs, t.q_heads, 1));
          CHECK(scaled(a.dq, b.dq, t.docs, t.q_heads * t.dim, -8));
          CHECK(scaled(a.dk, b.dk, t.keys(), t.kv_heads * t.dim, -8));
          CHECK(scaled(a.dv, b.dv, t.keys(), t.kv_heads * t.value_dim, 1));
        });
  });
}

TEST_CASE("dout times a power of two: all gradients grow by it bit by bit, the forward pass does not move") {
  for_each_case([](trial const& t, inputs const& in, outcome const& a) {
    changed(
        t, in, [](inputs& x) { multiply(x.dout, 0.25); },
        [&](outcome const& b) {
          CHECK(scaled(a.out, b.out, t.docs, t.q_heads * t.value_dim, 1));
          CHECK(scaled(a.dq, b.dq, t.docs, t.q_heads * t.dim, 0.25));
          CHECK(scaled(a.dk, b.dk, t.keys(), t.kv_heads * t.dim, 0.25));
          CHECK(scaled(a.dv, b.dv, t.keys(), t.kv_heads * t.value_dim, 0.25));
        });
  });
}

TEST_CASE("q times four and the scale by a quarter: the same attention, dq a quarter, bit by bit") {
  for_each_case([](trial t, inputs in, outcome const& a) {
    t.scale = t.score_scale() / 4;
    multiply(in.q, 4);
    outcome b(t, t.ranks);
    compute(t, in, b);
    CHECK(scaled(a.out, b.out, t.docs, t.q_heads * t.value_dim, 1));
    CHECK(scaled(a.lse, b.lse, t.docs, t.q_heads, 1));
    CHECK(scaled(a.dq, b.dq, t.docs, t.q_heads * t.dim, 0.25));
    CHECK(scaled(a.dk, b.dk, t.keys(), t.kv_heads * t.dim, 1));
    CHECK(scaled(a.dv, b.dv, t.keys(), t.kv_heads * t.value_dim, 1));
  });
}

TEST_CASE("another token j: rows before it and all other documents keep their bits") {
  for_each_case([](trial const& t, inputs const& in, outcome const& a) {
    for (auto const& d : t.docs) {
      if (d.count < 2) continue;
      index_t const j = d.begin + d.count / 2;
      auto disturb = [&](inputs& x) {
        for (index_t c = 0; c < t.kv_heads * t.dim; ++c) x.k[std::size_t(j * t.kv_heads * t.dim + c)] += 1;
        for (index_t c = 0; c < t.kv_heads * t.value_dim; ++c) x.v[std::size_t(j * t.kv_heads * t.value_dim + c)] -= 3;
        for (index_t c = 0; c < t.q_heads * t.dim; ++c) x.q[std::size_t(j * t.q_heads * t.dim + c)] *= 2;
      };
      changed(t, in, disturb, [&](outcome const& b) {
        CHECK(same_rows(a.out, b.out, 0, j, t.q_heads * t.value_dim));
        CHECK(same_rows(a.lse, b.lse, 0, j, t.q_heads));
        CHECK(same_rows(a.dq, b.dq, 0, j, t.q_heads * t.dim));
        CHECK(!same_rows(a.out, b.out, j, j + 1, t.q_heads * t.value_dim)); // the change was felt
        CHECK(!same_rows(a.dv, b.dv, d.begin, j, t.kv_heads * t.value_dim));
        index_t const length = t.docs.length();
        for (auto [begin, end] : {std::pair(index_t(0), d.begin), std::pair(d.end(), length)}) {
          CHECK(same_rows(a.out, b.out, begin, end, t.q_heads * t.value_dim));
          CHECK(same_rows(a.dq, b.dq, begin, end, t.q_heads * t.dim));
          CHECK(same_rows(a.dk, b.dk, begin, end, t.kv_heads * t.dim));
          CHECK(same_rows(a.dv, b.dv, begin, end, t.kv_heads * t.value_dim));
        }
      });
    }
  });
}

TEST_CASE("another query and dout at token j: only its own row of out and dq moves, and no key behind it") {
  for_each_case([](trial const& t, inputs const& in, outcome const& a) {
    auto const& d = t.docs[0];
    index_t const j = d.begin + d.count / 3, length = t.docs.length();
    auto disturb = [&](inputs& x) {
      for (index_t c = 0; c < t.q_heads * t.dim; ++c) x.q[std::size_t(j * t.q_heads * t.dim + c)] += 1;
      for (index_t c = 0; c < t.q_heads * t.value_dim; ++c) x.dout[std::size_t(j * t.q_heads * t.value_dim + c)] -= 2;
    };
    changed(t, in, disturb, [&](outcome const& b) {
      for (auto [begin, end] : {std::pair(index_t(0), j), std::pair(j + 1, length)}) {
        CHECK(same_rows(a.out, b.out, begin, end, t.q_heads * t.value_dim));
        CHECK(same_rows(a.lse, b.lse, begin, end, t.q_heads));
        CHECK(same_rows(a.dq, b.dq, begin, end, t.q_heads * t.dim));
      }
      CHECK(!same_rows(a.dq, b.dq, j, j + 1, t.q_heads * t.dim));
      CHECK(same_rows(a.dk, b.dk, j + 1, length, t.kv_heads * t.dim));
      CHECK(same_rows(a.dv, b.dv, j + 1, length, t.kv_heads * t.value_dim));
    });
  });
}

TEST_CASE("a constant added to every key: lse moves by its product with the query, nothing else does") {
  for_each_case([](trial const& t, inputs const& in, outcome const& a) {
    auto shift = [](index_t c) { return 0.5 - 0.25 * double(c % 4); };
    auto disturb = [&](inputs& x) {
      for (std::size_t i = 0; i < x.k.size(); ++i) x.k[i] += shift(index_t(i) % t.dim);
    };
    changed(t, in, disturb, [&](outcome const& b) {
      auto lse = b.lse;
      for (auto const& d : t.docs)
        for (index_t i = d.begin; i < d.end(); ++i)
          for (index_t h = 0; h < t.q_heads; ++h)
            for (index_t c = 0; c < t.dim; ++c)
              lse[std::size_t(i * t.q_heads + h)] -=
                  t.score_scale() * shift(c) * in.q[std::size_t((i * t.q_heads + h) * t.dim + c)];
      CHECK(furthest(a.out, b.out, t.docs, t.q_heads * t.value_dim) < 1e-13);
      CHECK(furthest(a.lse, lse, t.docs, t.q_heads) < 1e-13);
      CHECK(furthest(a.dq, b.dq, t.docs, t.q_heads * t.dim) < 1e-12);
      CHECK(furthest(a.dk, b.dk, t.keys(), t.kv_heads * t.dim) < 1e-12);
      CHECK(furthest(a.dv, b.dv, t.keys(), t.kv_heads * t.value_dim) < 1e-12);
    });
  });
}

TEST_CASE("documents in another order: results move with them, bit by bit where promised") {
  for_each_case([](trial const& t, inputs const& in, outcome const& a) {
    std::vector<sp::document> list;
    index_t at = 2;
    for (std::size_t d = t.docs.size(); d-- > 0;) {
      list.push_back({at, t.docs[d].count, t.docs[d].count, t.docs[d].id});
      at += t.docs[d].count + index_t(d % 2);
    }
    trial other = t;
    other.docs = sp::documents(list, at);
    auto move = [&](auto const& from, auto to, index_t width) { // rows of `t` to their places in `other`
      for (std::size_t d = 0; d < t.docs.size(); ++d)
        std::copy_n(from.begin() + t.docs[d].begin * width, t.docs[d].count * width,
                    to.begin() + other.docs[t.docs.size() - 1 - d].begin * width);
      return to;
    };
    inputs moved(other);
    moved.q = move(in.q, moved.q, t.q_heads * t.dim);
    moved.k = move(in.k, moved.k, t.kv_heads * t.dim);
    moved.v = move(in.v, moved.v, t.kv_heads * t.value_dim);
    moved.dout = move(in.dout, moved.dout, t.q_heads * t.value_dim);
    outcome b(other, t.ranks), want(other, t.ranks);
    compute(other, moved, b);
    want.out = move(a.out, want.out, t.q_heads * t.value_dim);
    want.lse = move(a.lse, want.lse, t.q_heads);
    want.dq = move(a.dq, want.dq, t.q_heads * t.dim);
    want.dk = move(a.dk, want.dk, t.kv_heads * t.dim);
    want.dv = move(a.dv, want.dv, t.kv_heads * t.value_dim);
    if (auto [rows, keys] = fuzz::promised_bits(t); rows) CHECK(conformance::differing(b, want, keys) == "");
    CHECK(furthest(b.out, want.out, other.docs, t.q_heads * t.value_dim) < 1e-13);
    CHECK(furthest(b.lse, want.lse, other.docs, t.q_heads) < 1e-13);
    CHECK(furthest(b.dq, want.dq, other.docs, t.q_heads * t.dim) < 1e-12);
    CHECK(furthest(b.dk, want.dk, other.docs, t.kv_heads * t.dim) < 1e-12);
    CHECK(furthest(b.dv, want.dv, other.docs, t.kv_heads * t.value_dim) < 1e-12);
  });
}

TEST_CASE("heads in another order: results move with them") {
  for_each_case([](trial const& t, inputs const& in, outcome const& a) {
    auto turn = [&](std::vector<double> const& x, index_t heads, index_t width) { // head h to heads - 1 - h
      std::vector<double> y(x.size());
      for (index_t i = 0; i < index_t(x.size()) / width; ++i)
        std::copy_n(x.begin() + i * width, width, y.begin() + (i / heads * heads + heads - 1 - i % heads) * width);
      return y;
    };
    auto disturb = [&](inputs& x) {
      x.q = turn(x.q, t.q_heads, t.dim);
      x.k = turn(x.k, t.kv_heads, t.dim);
      x.v = turn(x.v, t.kv_heads, t.value_dim);
      x.dout = turn(x.dout, t.q_heads, t.value_dim);
    };
    changed(t, in, disturb, [&](outcome const& b) {
      CHECK(scaled(turn(a.out, t.q_heads, t.value_dim), b.out, t.docs, t.q_heads * t.value_dim, 1));
      CHECK(scaled(turn(a.lse, t.q_heads, 1), b.lse, t.docs, t.q_heads, 1));
      CHECK(scaled(turn(a.dq, t.q_heads, t.dim), b.dq, t.docs, t.q_heads * t.dim, 1));
      CHECK(furthest(turn(a.dk, t.kv_heads, t.dim), b.dk, t.keys(), t.kv_heads * t.dim) <
            1e-12); // sums over a group's heads turn
      CHECK(furthest(turn(a.dv, t.kv_heads, t.value_dim), b.dv, t.keys(), t.kv_heads * t.value_dim) < 1e-12);
    });
  });
}

} // namespace metamorphic::test_metamorphic
