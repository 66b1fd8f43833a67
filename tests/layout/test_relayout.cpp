// Relayout: rows move along any map between two layouts of one stream or of two, and its transpose sums; on real thread ranks.
// Compared with the map written out position by position; the transpose is proved by <A x, y> = <x, A^T y> in exact integers.
#include <doctest/doctest.h>

#include <atomic>
#include <random>
#include <string>
#include <vector>

#include <sp/batch.hpp>
#include <sp/relayout.hpp>
#include <sp/threads.hpp>

#include "support/failure.hpp"
#include "support/row_order.hpp"
#include "support/tensors.hpp"

namespace test_relayout {
namespace {

using sp::documents;
using sp::errc;
using sp::index_t;
using sp::layout;
using sp::mapping;
using support::failure_of;
using support::says;
using support::tensor;

/// A movement under test: two streams and a map between them.
struct movement {
  documents from, to;
  std::vector<mapping> map;
  /// For each position of `to`: where it comes from, or -1.
  std::vector<index_t> sources() const {
    std::vector<index_t> out(std::size_t(to.length()), -1);
    for (mapping const& m : map)
      for (index_t i = 0; i < m.count; ++i) out[std::size_t(m.to + i)] = m.from + i;
    return out;
  }
};

std::vector<movement> movements() {
  documents text = sp::packed{0, 0, 9, 10, 23}, image = sp::packed{0, 6, 14};
  documents gaps({{2, 5, 6, 7}, {9, 0, 0, 8}, {10, 8, 11, 9}}, 25);
  return {
      {text, text, {sp::identity_map(23)}},
      {text, text, sp::shift_map(text, 1)},
      {text, text, sp::shift_map(text, 4)},
      {text, text.padded(8), sp::document_map(text, text.padded(8))},
      {gaps, gaps.padded(4), sp::document_map(gaps, gaps.padded(4))},
      {text, text, {{0, 14, 9}, {10, 0, 13}, {9, 13, 1}}},           // documents in another order
      {image, text, {{0, 2, 6}, {6, 11, 8}}},                        // splice: two images into the text
      {text, image, {{2, 0, 6}, {11, 6, 8}}},                        // and their places back out
      {image, text, {{0, 0, 6}, {0, 6, 3}, {2, 10, 4}, {0, 17, 6}}}, // one to many: an image used several times
      {text, image, {}},                                             // nothing moves
  };
}

template <class F>
void for_each_pair_of_shardings(F&& f) {
  auto with = [&](auto const& to) {
    f(sp::contiguous{}, to);
    f(sp::zigzag{}, to);
    f(sp::striped{sp::scope::stream}, to);
  };
  with(sp::contiguous{sp::scope::document});
  with(sp::zigzag{sp::scope::stream});
  with(sp::striped{});
}

/// One layout's rows of a global tensor (positions, width).
template <class T>
std::vector<T> rows_of(layout const& l, int part, std::vector<T> const& global, index_t width) {
  std::vector<T> out;
  for (sp::run const& r : l.runs(part))
    for (index_t i = 0; i < r.count; ++i)
      for (index_t c = 0; c < width; ++c) out.push_back(global[std::size_t(r.at(i) * width + c)]);
  return out;
}

std::vector<double> small_integers(index_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<double> v(static_cast<std::size_t>(n));
  for (double& x : v) x = double(int(generator() % 17) - 8);
  return v;
}

/// Ranks on which apply or its transpose are not what the map says.
int wrong_ranks(movement const& m, int parts, auto const& from_how, auto const& to_how) {
  index_t const width = 3;
  auto const x = small_integers(m.from.length() * width, 1), y = small_integers(m.to.length() * width, 2);
  auto const source = m.sources();
  std::vector<double> moved(y.size(), 100), summed(x.size(), 0); // A x and A^T y, position by position
  layout from(m.from, from_how, parts), to(m.to, to_how, parts);
  if (parts % 3 == 2) from = support::shuffled(from, 3), to = support::shuffled(to, 5); // rows in any order
  auto owned = [](layout const& l, index_t p) { return l.owner_of(p).part >= 0; };
  for (index_t p = 0; p < m.to.length(); ++p)
    if (index_t s = source[std::size_t(p)]; s >= 0 && owned(to, p) && owned(from, s))
      for (index_t c = 0; c < width; ++c) {
        moved[std::size_t(p * width + c)] = x[std::size_t(s * width + c)];
        summed[std::size_t(s * width + c)] += y[std::size_t(p * width + c)];
      }
  std::atomic<int> wrong{0};
  std::atomic<long> left{0}, right{0}; // <A x, y> and <x, A^T y>
  sp::threads::run(parts, [&](sp::threads const& c) {
    sp::relayout move(from, to, m.map, c.rank());
    sp::pool scratch;
    auto in = rows_of(from, c.rank(), x, width), dout = rows_of(to, c.rank(), y, width);
    std::vector<double> out(dout.size(), -5), din(in.size(), -5);
    index_t a = from.tokens(c.rank()), b = to.tokens(c.rank());
    move.apply(c, tensor<2>(std::as_const(in), {a, width}), tensor<2>(out, {b, width}), scratch, 100);
    move.apply_transposed(c, tensor<2>(std::as_const(dout), {b, width}), tensor<2>(din, {a, width}), scratch);
    if (out != rows_of(to, c.rank(), moved, width) || din != rows_of(from, c.rank(), summed, width) ||
        scratch.bytes_in_use() != 0)
      ++wrong;
    long l = 0, r = 0;
    for (std::size_t i = 0; i < out.size(); ++i)
      if (out[i] != 100) l += long(out[i] * dout[i]);
    for (std::size_t i = 0; i < in.size(); ++i) r += long(in[i] * din[i]);
    left += l;
    right += r;
  });
  return wrong + (left != right ? 1 : 0);
}

TEST_CASE("relayout: every map between every two layouts, and its transpose, 1 to 8 ranks [asan]") {
  int cases = 0, wrong = 0;
  for (movement const& m : movements())
    for (int parts = 1; parts <= 8; ++parts)
      for_each_pair_of_shardings([&](auto const& from, auto const& to) {
        if ((parts + cases) % 2 == 1 && parts > 4) { // half of the large groups
          ++cases;
          return;
        }
        ++cases;
        wrong += wrong_ranks(m, parts, from, to);
      });
  CHECK(wrong == 0);
  CHECK(cases == 720);
}

TEST_CASE("relayout: many to one is the transpose of one to many") {
  // every position of a text takes part in one of three sums
  documents text = sp::packed{0, 12}, sums = sp::packed{0, 3};
  std::vector<mapping> spread;
  for (index_t i = 0; i < 4; ++i) spread.push_back({0, 3 * i, 3});
  for (int parts : {1, 2, 3, 5, 8}) {
    layout from(sums, sp::contiguous{}, parts), to(text, sp::zigzag{}, parts);
    std::atomic<int> good{0};
    sp::threads::run(parts, [&](sp::threads const& c) {
      sp::relayout move(from, to, spread, c.rank());
      std::vector<double> in(std::size_t(to.tokens(c.rank()))), out(std::size_t(from.tokens(c.rank())), -1);
      std::size_t row = 0;
      for (sp::run const& r : to.runs(c.rank()))
        for (index_t i = 0; i < r.count; ++i) in[row++] = double(r.at(i));
      sp::pool scratch;
      move.apply_transposed(c, tensor<1>(std::as_const(in), {index_t(in.size())}), tensor<1>(out, {index_t(out.size())}),
                            scratch);
      bool ok = true;
      row = 0;
      for (sp::run const& r : from.runs(c.rank()))
        for (index_t i = 0; i < r.count; ++i) ok = ok && out[row++] == double(4 * r.at(i) + 18); // x + x+3 + x+6 + x+9
      good += ok;
    });
    CHECK(good == parts);
  }
}

TEST_CASE("relayout: labels shifted across ranks are shifted_labels, without a global tensor [asan]") {
  documents docs = sp::packed{0, 0, 9, 10, 23};
  for (int parts = 1; parts <= 8; ++parts) {
    std::atomic<int> good{0};
    sp::threads::run(parts, [&](sp::threads const& c) {
      sp::batch b(docs, sp::zigzag{}, c);
      std::vector<std::int64_t> tokens(23), mine(std::size_t(b.tokens())), want(mine), got(mine);
      for (index_t i = 0; i < 23; ++i) tokens[std::size_t(i)] = 500 + i;
      sp::split(b, tensor<1>(tokens, {23}), tensor<1>(mine, {b.tokens()}));
      sp::shifted_labels(b, tensor<1>(std::as_const(tokens), {23}), tensor<1>(want, {b.tokens()}), -100);
      sp::relayout move(b.layout(), b.layout(), sp::shift_map(docs, 1), c.rank());
      sp::pool scratch;
      move.apply(c, tensor<1>(std::as_const(mine), {b.tokens()}), tensor<1>(got, {b.tokens()}), scratch, -100);
      good += got == want;
    });
    CHECK(good == parts);
  }
}

TEST_CASE("relayout: one preparation serves tensors of any type and width, bitwise") {
  documents docs = sp::packed{0, 7, 20};
  layout from(docs, sp::contiguous{}, 3), to(docs, sp::striped{}, 3);
  auto const half = support::random_bits<sp::bf16>(20 * 4, 1);
  auto const ids = support::random_bits<std::int64_t>(20, 2);
  auto const heads = support::random_bits<float>(20 * 6, 3);
  std::atomic<int> good{0};
  sp::threads::run(3, [&](sp::threads const& c) {
    mapping const all = sp::identity_map(20);
    sp::relayout move(from, to, {&all, 1}, c.rank());
    sp::pool scratch;
    auto same = [&](auto const& global, index_t width, auto rank) {
      auto in = rows_of(from, c.rank(), global, width), want = rows_of(to, c.rank(), global, width), out = want;
      std::fill(out.begin(), out.end(), typename decltype(out)::value_type{});
      index_t a = from.tokens(c.rank()), b = to.tokens(c.rank());
      if constexpr (rank == 1)
        move.apply(c, tensor<1>(std::as_const(in), {a}), tensor<1>(out, {b}), scratch);
      else if constexpr (rank == 2)
        move.apply(c, tensor<2>(std::as_const(in), {a, width}), tensor<2>(out, {b, width}), scratch);
      else
        move.apply(c, tensor<3>(std::as_const(in), {a, 2, width / 2}), tensor<3>(out, {b, 2, width / 2}), scratch);
      return support::same_bits(out, want);
    };
    good += same(half, 4, std::integral_constant<int, 2>{}) && same(ids, 1, std::integral_constant<int, 1>{}) &&
            same(heads, 6, std::integral_constant<int, 3>{});
  });
  CHECK(good == 3);
}

TEST_CASE("relayout: what does not fit is refused before anything is sent") {
  documents docs = sp::packed{0, 10};
  layout two(docs, sp::zigzag{}, 2), three(docs, sp::zigzag{}, 3);
  mapping const all = sp::identity_map(10);
  CHECK(says(failure_of([&] { return sp::relayout(two, three, {&all, 1}, 0); }), errc::invalid_shape, "2 and 3 ranks"));

  std::vector<mapping> twice{{0, 0, 6}, {3, 5, 4}};
  CHECK(says(failure_of([&] { return sp::relayout(two, two, twice, 0); }), errc::invalid_shape, "position 5"));

  sp::threads::run(2, [&](sp::threads const& c) {
    sp::relayout move(two, two, {&all, 1}, c.rank());
    sp::pool scratch;
    std::vector<float> x(40);
    auto e = failure_of([&] {
      move.apply(c, tensor<2>(std::as_const(x), {4, 2}), tensor<2>(x, {5, 2}), scratch);
      return 0;
    });
    CHECK(says(e, errc::invalid_shape, "4 and 5", "5 and 5"));
    CHECK(e.primitive == "relayout");
    CHECK(e.rank == c.rank());
    e = failure_of([&] {
      move.apply(c, tensor<2>(std::as_const(x), {5, 2}), tensor<2>(x, {5, 3}), scratch);
      return 0;
    });
    CHECK(says(e, errc::invalid_shape, "(5, 2)", "(5, 3)"));
  });
}

TEST_CASE("relayout: a part out of range, another group and in-place calls are refused [asan]") {
  documents docs = sp::packed{0, 12};
  layout two(docs, sp::zigzag{}, 2), three(docs, sp::zigzag{}, 3);
  mapping const all = sp::identity_map(12);
  CHECK(says(failure_of([&] { return sp::relayout(two, two, {&all, 1}, 2); }), errc::invalid_shape, "part 2 of 2"));
  CHECK(says(failure_of([&] { return sp::relayout(two, two, {&all, 1}, -1); }), errc::invalid_shape, "part -1 of 2"));
  CHECK(says(failure_of([&] { return sp::relayout(three, two, {&all, 1}, 2); }), errc::invalid_shape, "3 and 2 ranks"));

  sp::threads::run(2, [&](sp::threads const& c) {
    sp::pool scratch;
    std::vector<float> x(12), y(12);
    auto failure = [&](sp::relayout const& move, auto in, auto out) {
      return failure_of([&] {
        move.apply(c, in, out, scratch);
        return 0;
      });
    };
    sp::relayout const mine(two, two, {&all, 1}, c.rank()), other(two, two, {&all, 1}, 1 - c.rank()),
        large(three, three, {&all, 1}, c.rank());
    auto e = failure(other, tensor<2>(std::as_const(x), {6, 1}), tensor<2>(y, {6, 1}));
    CHECK(says(e, errc::bad_state, "the relayout was made for rank " + std::to_string(1 - c.rank()) + " of 2",
               "this is rank " + std::to_string(c.rank()) + " of 2"));
    e = failure(large, tensor<2>(std::as_const(x), {4, 1}), tensor<2>(y, {4, 1}));
    CHECK(says(e, errc::bad_state, "of 3", "of 2"));

    e = failure(mine, tensor<2>(std::as_const(x), {6, 1}), tensor<2>(x, {6, 1}));
    CHECK(says(e, errc::aliasing, "out overlaps in"));
    CHECK(e.primitive == "relayout");
    CHECK(e.rank == c.rank());
    CHECK(says(failure_of([&] {
                 mine.apply_transposed(c, tensor<2>(std::as_const(x), {6, 1}), sp::view<float, 2>(x.data() + 5, {6, 1}), scratch);
                 return 0;
               }),
               errc::aliasing));
    mine.apply(c, sp::view<float const, 2>(x.data(), {6, 1}, {2, 1}), sp::view<float, 2>(x.data() + 1, {6, 1}, {2, 1}),
               scratch); // side by side
  });
}

} // namespace
} // namespace test_relayout
