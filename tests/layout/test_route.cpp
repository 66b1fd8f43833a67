// Routes: rows between random layouts, stored and summed, whole and by heads, against maps written out position by position.
// Sums are compared bitwise: the oracle adds in the order that the page promises, rank after rank.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include <sp/batch.hpp>
#include <sp/counting.hpp>
#include <sp/relayout.hpp>
#include <sp/threads.hpp>

#include "support/failure.hpp"
#include "support/tensors.hpp"

namespace test_route {
namespace {

using sp::errc;
using sp::head_cut;
using sp::index_t;
using sp::landing;
using sp::layout;
using sp::mapping;
using sp::routed;
using support::failure_of;
using support::says;

/// A communicator of three functions, for which no piece may list its rows.
class three_functions {
public:
  using memory_type = sp::host_memory;
  explicit three_functions(sp::threads const& ranks) : ranks_(ranks) {}
  int rank() const { return ranks_.rank(); }
  int size() const { return ranks_.size(); }
  auto exchange(sp::traffic const& t) const {
    for (auto const& list : {t.sends, t.receives})
      for (sp::parcel const& p : list)
        for (sp::piece const& x : p.pieces)
          if (!x.rows.empty()) sp::fail({errc::bad_state, "a list of rows"});
    return ranks_.exchange(t);
  }

private:
  sp::threads ranks_;
};
static_assert(!sp::has_row_lists<three_functions> && sp::has_row_lists<sp::counting<sp::threads>>);

/// A row-major tensor with holes behind its rows, on memory of its own.
template <class T>
struct holed {
  std::vector<T> memory;
  sp::view<T, 3> v;
  explicit holed(std::array<index_t, 3> e, T value = T(9))
      : memory(std::size_t(e[0] * (e[1] * e[2] + 3)), value), v(memory.data(), e, {e[1] * e[2] + 3, e[2], 1}) {}
};

/// Values whose sums depend on the order.
double value(int what, index_t position, index_t head, index_t d) {
  return std::ldexp(double((what * 131 + position * 37 + head * 11 + d * 5) % 251 - 120), int(position * 7 + head) % 23 - 11);
}
template <class T>
T as(double x) {
  return sp::from_acc<T>(sp::accumulate_t<T>(x));
}

struct random_moves {
  std::mt19937 g;
  explicit random_moves(unsigned seed) : g(seed) {}
  index_t pick(index_t a, index_t b) { return a + index_t(g() % std::uint32_t(b - a + 1)); }

  layout cut(index_t length, int parts) {
    std::vector<index_t> cu{0};
    while (cu.back() < length) cu.push_back(sp::min(length, cu.back() + pick(0, length / 2 + 1)));
    sp::documents docs = sp::packed(std::span<index_t const>(cu));
    switch (pick(0, 3)) {
    case 0:
      return {docs, sp::contiguous{}, parts};
    case 1:
      return {docs, sp::zigzag{}, parts};
    case 2:
      return {docs, sp::striped{}, parts};
    default:
      return {docs, sp::striped{sp::scope::stream}, parts};
    }
  }
  /// From a stream of `from` to one of `to` positions: some positions go to several places, some to none.
  std::vector<mapping> map(index_t from, index_t to) {
    std::vector<mapping> out;
    for (index_t at = pick(0, 2); at < to && from > 0;) {
      index_t const first = pick(0, from - 1), count = pick(1, sp::min(from - first, to - at));
      out.push_back({first, at, count});
      at += count + pick(0, 2);
    }
    std::shuffle(out.begin(), out.end(), g);
    return out;
  }
};

/// What the exchange named a route must make of `to` when the rows of `from` were filled by value(): stored, or summed over ranks in
/// order, and of one rank in the order of the map.
template <class From, class To>
double expected(layout const& from, std::vector<mapping> const& map, bool back, landing lands, index_t position, index_t h,
                index_t d) {
  using A = sp::accumulate_t<To>;
  A const old = sp::to_acc(as<To>(value(2, position, h, d)));
  A sum = lands == landing::sum_to && std::is_same_v<To, A> ? old : A(0); // 16 bits: rounded once, the old value added last
  bool any = false;
  for (int p = 0; p < from.parts(); ++p)
    for (mapping const& m : map) {
      index_t const mine = back ? m.from : m.to, theirs = back ? m.to : m.from;
      if (position < mine || position >= mine + m.count) continue;
      index_t const source = theirs + position - mine;
      if (from.owner_of(source).part != p) continue;
      A const x = A(sp::to_acc(as<From>(value(1, source, h, d))));
      if (lands == landing::store) return double(x);
      sum = sum + x;
      any = true;
    }
  if (lands == landing::store) return double(old);
  if (lands == landing::sum_to && !std::is_same_v<To, A>) sum = any ? old + sum : old + A(0);
  return double(sp::to_acc(sp::from_acc<To>(sum)));
}

/// Elements that are not what they must be, over all ranks. `back`: along the transposed route.
template <class From, class To, class Wrap>
int wrong_elements(layout const& from, layout const& to, std::vector<mapping> const& map, bool back, landing lands, Wrap&& wrap) {
  std::atomic<int> wrong{0};
  sp::threads::run(from.parts(), [&](sp::threads const& ranks) {
    auto const comm = wrap(ranks);
    int const me = ranks.rank();
    sp::route const there = sp::route::between(from, to, map, me), r = back ? there.transposed() : there;
    layout const &source = back ? to : from, &target = back ? from : to;
    index_t const heads = 2, dim = 3;
    holed<From> in({source.tokens(me), heads, dim});
    holed<To> out({target.tokens(me), heads, dim});
    auto each = [&](layout const& l, auto&& f) {
      index_t row = 0;
      for (sp::run const& run : l.runs(me))
        for (index_t i = 0; i < run.count; ++i, ++row)
          for (index_t h = 0; h < heads; ++h)
            for (index_t d = 0; d < dim; ++d) f(row, run.at(i), h, d);
    };
    each(source, [&](index_t row, index_t at, index_t h, index_t d) { in.v(row, h, d) = as<From>(value(1, at, h, d)); });
    each(target, [&](index_t row, index_t at, index_t h, index_t d) { out.v(row, h, d) = as<To>(value(2, at, h, d)); });
    sp::pool scratch;
    auto const moved = [&] {
      if constexpr (std::is_same_v<From, To>)
        if (lands == landing::store && me % 2 == 0) { // with or without a landing: both are stores
          routed const x(r, in.v, out.v);
          sp::exchange(comm, "route", scratch, x).wait();
          return sp::exchange_scratch(comm, x);
        }
      routed const x(r, in.v, out.v, head_cut{}, lands);
      sp::exchange(comm, "route", scratch, x).wait();
      return sp::exchange_scratch(comm, x);
    }();
    wrong += std::size_t(moved) != scratch.peak_bytes() || scratch.bytes_in_use() != 0;
    each(target, [&](index_t row, index_t at, index_t h, index_t d) {
      wrong += double(sp::to_acc(out.v(row, h, d))) != expected<From, To>(source, map, back, lands, at, h, d);
    });
    for (index_t row = 0; row < target.tokens(me); ++row) // nothing between the rows
      for (index_t i = heads * dim; i < heads * dim + 3; ++i)
        wrong += sp::to_acc(out.memory[std::size_t(row * (heads * dim + 3) + i)]) != 9;
  });
  return wrong;
}

TEST_CASE("route: rows of random layouts along random maps, stored and summed, there and back [asan]") {
  random_moves random(5);
  int wrong = 0;
  auto listed = [](sp::threads const& c) { return c; };
  auto plain = [](sp::threads const& c) { return three_functions(c); };
  for (int round = 0; round < 48; ++round) {
    int const parts = round % 8 + 1;
    index_t const a = random.pick(0, 40), b = random.pick(0, 40);
    layout const from = random.cut(a, parts), to = random.cut(b, parts);
    auto const map = random.map(a, b);
    auto const sum = round % 2 ? landing::sum : landing::sum_to;
    wrong += wrong_elements<double, double>(from, to, map, false, landing::store, listed);
    wrong += wrong_elements<float, float>(from, to, map, false, landing::store, plain);
    wrong += wrong_elements<double, double>(from, to, map, true, sum, plain);
    wrong += wrong_elements<sp::bf16, sp::bf16>(from, to, map, true, sum, listed);
    wrong += wrong_elements<float, sp::bf16>(from, to, map, true, sum, listed);
    wrong += wrong_elements<sp::bf16, float>(from, to, map, false, sum, listed);
  }
  CHECK(wrong == 0);
}

TEST_CASE("route: transposed twice it is itself, and lists are joined and shared") {
  random_moves random(7);
  layout const from = random.cut(60, 4), to = random.cut(50, 4);
  auto const map = random.map(60, 50);
  sp::route const r = sp::route::between(from, to, map, 2), back = r.transposed(), again = back.transposed();
  for (int p = 0; p < 4; ++p) {
    CHECK(back.sends().of(p).data() == r.lands().of(p).data());
    CHECK(again.sends().of(p).data() == r.sends().of(p).data());
    CHECK(again.lands().of(p).size() == r.lands().of(p).size());
  }
  CHECK(back.from_rows() == to.tokens(2));
  CHECK(again.from_rows() == from.tokens(2));

  std::vector<index_t> cu;
  for (index_t i = 0; i <= 1000; ++i) cu.push_back(64 * i);
  layout const fine(sp::packed(std::span<index_t const>(cu)), sp::zigzag{}, 8);
  mapping const all = sp::identity_map(sp::unbounded);
  auto const heads = sp::route::to_everybody(fine, 0, 1, 8, 3, fine.grouped(8, 1).runs(0), {&all, 1});
  for (int p = 0; p < 8; ++p) CHECK(heads.sends().of(p).size() == 1); // all of mine, in their order
  CHECK(heads.sends().ranges() == 8);
  CHECK(heads.sends().alike());
  CHECK(heads.sends().distinct());
  CHECK_FALSE(heads.lands().alike());
  CHECK(heads.lands().of(3).size() == 2000);
  CHECK(heads.lands().rows(3) == 8000);
}

TEST_CASE("route: made of lists of rows it is the route between the layouts that the lists are of") {
  random_moves random(11);
  layout const from = random.cut(60, 4), to = random.cut(50, 4);
  sp::route const r = sp::route::between(from, to, random.map(60, 50), 1);
  auto listed = [](sp::detail::row_lists const& all) {
    return [&all](int part, auto&& add) {
      for (sp::row_range const& x : all.of(part)) add(x.first, x.step, x.count);
    };
  };
  auto const same = sp::route::of_rows(1, 4, r.from_rows(), r.to_rows(), listed(r.sends()), listed(r.lands()));
  CHECK((same.place() == r.place() && same.from_rows() == from.tokens(1) && same.to_rows() == to.tokens(1)));
  for (int p = 0; p < 4; ++p) {
    CHECK(std::ranges::equal(same.sends().of(p), r.sends().of(p)));
    CHECK(std::ranges::equal(same.lands().of(p), r.lands().of(p)));
  }
  auto refused = [](index_t first, index_t step, index_t count) {
    return failure_of([=] {
      static_cast<void>(sp::route::of_rows(
          0, 1, 9, 9, [](int, auto&&) {}, [=](int, auto&& add) { add(first, step, count); }));
    });
  };
  static_cast<void>(sp::route::of_rows(
      0, 1, 9, 9, [](int, auto&& add) { add(8, -4, 3); }, [](int, auto&& add) { add(9, 1, 0), add(0, 4, 3); }));
  CHECK(says(refused(7, 1, 3), errc::invalid_shape, "3 rows from row 7 on, 1 apart, are listed of 9"));
  CHECK(says(refused(1, -1, 3), errc::invalid_shape, "3 rows from row 1 on, -1 apart"));
  CHECK(says(refused(0, 1, -1), errc::invalid_shape, "-1 rows from row 0 on"));
}

TEST_CASE("route: ranges that continue each other are one, others are not") {
  sp::detail::row_lists l;
  l.open();
  for (auto [first, step, count] : {std::array<index_t, 3>{0, 1, 3},
                                    {3, 1, 2},
                                    {5, 2, 1},
                                    {7, 2, 2},
                                    {9, 2, 2},
                                    {20, 5, 1},
                                    {24, 4, 2},
                                    {50, 1, 1},
                                    {52, 3, 2}})
    l.add(first, step, count);
  // 0..5 go on by ones, 7 and 9 by twos; 9 comes again, 20 and 24 and 28 go on by fours; 52 and 55 do not go on from 50
  std::vector<sp::row_range> const want{{0, 1, 6}, {7, 2, 2}, {9, 2, 2}, {20, 4, 3}, {50, 1, 1}, {52, 3, 2}};
  CHECK(std::vector<sp::row_range>(l.of(0).begin(), l.of(0).end()) == want);
  CHECK(l.rows(0) == 16);
  CHECK_FALSE(l.distinct()); // row 9
  l.repeat();
  CHECK(l.alike());
  l.open();
  l.add(4, 1, 2);
  l.add(0, 1, 0);
  l.add(6, 1, 2);
  CHECK(l.of(2).size() == 1);
  CHECK_FALSE(l.alike());
  CHECK(l.ranges() == 13);
}

/// Ranks whose heads, or gradients, are not what the cut says: rows to everybody by heads and back, of q or kv heads.
template <class T, class Wire, class Wrap>
int wrong_heads(layout const& fine, sp::heads whole, head_cut::kind kind, landing lands, Wrap&& wrap) {
  int const parts = fine.parts();
  std::atomic<int> wrong{0};
  sp::threads::run(parts, [&](sp::threads const& ranks) {
    auto const comm = wrap(ranks);
    int const me = ranks.rank();
    auto const coarse = fine.grouped(parts, 1);
    mapping const all = sp::identity_map(sp::unbounded);
    auto const out_route = sp::route::to_everybody(fine, 0, 1, parts, me, coarse.runs(0), {&all, 1}),
               back = out_route.transposed();
    head_cut const cut{head_cut::side::from, whole, kind}, arriving{head_cut::side::to, whole, kind};
    auto const share = cut.of_peer(me, parts);
    index_t const dim = 2, rows = fine.tokens(me), group = coarse.tokens(0);
    holed<T> x({rows, cut.count(), dim}), dx({rows, cut.count(), dim});
    holed<T> y({group, share.count, dim});
    holed<Wire> dy({group, share.count, dim});
    auto mine = [&](auto&& f) {
      index_t row = 0;
      for (sp::run const& run : fine.runs(me))
        for (index_t i = 0; i < run.count; ++i, ++row)
          for (index_t h = 0; h < cut.count(); ++h)
            for (index_t d = 0; d < dim; ++d) f(row, run.at(i), h, d);
    };
    auto share_of = [&](int rank, index_t at, index_t h, index_t d) { return as<Wire>(value(3 + rank, at, h, d)); };
    mine([&](index_t row, index_t at, index_t h, index_t d) {
      x.v(row, h, d) = as<T>(value(1, at, h, d));
      dx.v(row, h, d) = as<T>(value(2, at, h, d));
    });
    index_t row = 0;
    for (sp::run const& run : coarse.runs(0))
      for (index_t i = 0; i < run.count; ++i, ++row)
        for (index_t h = 0; h < share.count; ++h)
          for (index_t d = 0; d < dim; ++d) dy.v(row, h, d) = share_of(me, run.at(i), share.first + h, d);
    sp::pool scratch;
    sp::exchange(comm, "route.heads", scratch, routed(out_route, x.v, y.v, cut)).wait();
    routed const grad(back, dy.v, dx.v, arriving, lands);
    sp::exchange(comm, "route.tokens", scratch, grad).wait();
    holed<T> other(dx.v.extents);
    routed const again(back, dy.v, other.v, arriving, landing::sum);
    std::vector<std::byte> exact(std::size_t(sp::exchange_scratch(comm, again) + sp::allocator::alignment));
    sp::workspace enough(exact.data(), exact.size()); // never too small
    sp::exchange(comm, "route.again", enough, again).wait();
    row = 0;
    for (sp::run const& run : coarse.runs(0))
      for (index_t i = 0; i < run.count; ++i, ++row)
        for (index_t h = 0; h < share.count; ++h)
          for (index_t d = 0; d < dim; ++d) wrong += !(y.v(row, h, d) == as<T>(value(1, run.at(i), share.first + h, d)));
    mine([&](index_t at_row, index_t at, index_t h, index_t d) {
      using A = sp::accumulate_t<T>;
      A const old = sp::to_acc(as<T>(value(2, at, h, d)));
      bool const wide = std::is_same_v<T, A>, single = cut.copies(parts) == cut.count();
      A sum = lands == landing::sum_to && (wide || single) ? old : A(0);
      for (int p = 0; p < parts; ++p) {
        auto const theirs = cut.of_peer(p, parts);
        if (h >= theirs.first && h < theirs.first + theirs.count) sum = sum + A(sp::to_acc(share_of(p, at, h, d)));
      }
      if (lands == landing::sum_to && !wide && !single) sum = old + sum;
      wrong += !(dx.v(at_row, h, d) == sp::from_acc<T>(sum));
    });
  });
  return wrong;
}

TEST_CASE("route: heads are cut by peer, and what shared kv heads receive is summed in rank order [asan]") {
  random_moves random(11);
  int wrong = 0;
  auto listed = [](sp::threads const& c) { return c; };
  auto plain = [](sp::threads const& c) { return three_functions(c); };
  sp::heads const shapes[] = {sp::all_heads(4, 2), sp::all_heads(5, 1), sp::all_heads(7, 7), sp::all_heads(12, 3)};
  for (int round = 0; round < 32; ++round) {
    layout const fine = random.cut(random.pick(0, 30), round % 8 + 1);
    sp::heads const on = shapes[round / 8];
    auto const sum = round % 2 ? landing::sum : landing::sum_to;
    wrong += wrong_heads<float, float>(fine, on, head_cut::kind::q, round % 2 ? landing::store : landing::sum_to, listed);
    wrong += wrong_heads<sp::bf16, float>(fine, on, head_cut::kind::kv, sum, listed);
    wrong += wrong_heads<float, float>(fine, on, head_cut::kind::kv, sum, plain);
  }
  CHECK(wrong == 0);
}

/// Notes the longest list of pieces.
struct watched {
  using memory_type = sp::host_memory;
  static constexpr bool row_lists = true;
  sp::threads const* ranks;
  std::atomic<std::size_t>* most;
  int rank() const { return ranks->rank(); }
  int size() const { return ranks->size(); }
  auto exchange(sp::traffic const& t) const {
    for (auto const& list : {t.sends, t.receives})
      for (sp::parcel const& p : list)
        if (std::size_t n = *most; p.pieces.size() > n) most->compare_exchange_strong(n, p.pieces.size());
    return ranks->exchange(t);
  }
};

TEST_CASE("route: keys of 16 bits and gradients of 32 share an exchange, with one piece for each peer and tensor") {
  std::vector<index_t> cu;
  for (index_t i = 0; i <= 50; ++i) cu.push_back(20 * i);
  sp::documents const docs = sp::packed(std::span<index_t const>(cu));
  layout const from(docs, sp::zigzag{}, 4), to(docs, sp::contiguous{sp::scope::document}, 4);
  mapping const all = sp::identity_map(1000);
  std::atomic<int> good{0};
  std::atomic<std::size_t> most{0};
  sp::threads::run(4, [&](sp::threads const& c) {
    sp::route const there = sp::route::between(from, to, {&all, 1}, c.rank()), back = there.transposed();
    index_t const a = from.tokens(c.rank()), b = to.tokens(c.rank());
    std::vector<sp::bf16> keys(static_cast<std::size_t>(a)), moved(static_cast<std::size_t>(b));
    std::vector<float> grads(std::size_t(b) * 2, 0.5f), sums(std::size_t(a) * 2, 7.0f);
    std::vector<sp::bf16> want;
    index_t row = 0;
    for (sp::run const& run : from.runs(c.rank()))
      for (index_t i = 0; i < run.count; ++i) keys[std::size_t(row++)] = sp::bf16(float(run.at(i) % 200));
    for (sp::run const& run : to.runs(c.rank()))
      for (index_t i = 0; i < run.count; ++i) want.push_back(sp::bf16(float(run.at(i) % 200)));
    sp::pool scratch;
    auto token =
        sp::exchange(watched{&c, &most}, "hop", scratch,
                     routed(there, sp::view<sp::bf16 const, 1>(keys.data(), {a}), sp::view<sp::bf16, 1>(moved.data(), {b})),
                     routed(back, sp::view<float, 2>(grads.data(), {b, 2}), sp::view<float, 2>(sums.data(), {a, 2}), head_cut{},
                            landing::sum_to));
    auto carried = std::move(token); // tokens move
    carried.wait();
    good += support::same_bits(moved, want) && sums == std::vector<float>(sums.size(), 7.5f);
  });
  CHECK(good == 4);
  CHECK(most == 2);
}

TEST_CASE("route: what does not fit is refused before anything is sent") {
  sp::documents const docs = sp::packed{0, 10};
  layout const one(docs, sp::zigzag{}, 1), two(docs, sp::zigzag{}, 2);
  mapping const all = sp::identity_map(10);
  auto const r = sp::route::between(one, one, {&all, 1}, 0);
  std::vector<float> a(100), b(100);
  sp::pool scratch;
  sp::solo const comm;
  auto refusal = [&](sp::route const& along, std::array<index_t, 3> from, std::array<index_t, 3> to, head_cut cut = {}) {
    return failure_of([&] {
      sp::exchange(comm, "move", scratch,
                   routed(along, sp::view<float, 3>(a.data(), from), sp::view<float, 3>(b.data(), to), cut))
          .wait();
    });
  };
  CHECK(says(refusal(r, {9, 2, 2}, {10, 2, 2}), errc::invalid_shape, "rows given 9 and 10, the route has 10 and 10"));
  CHECK(says(refusal(r, {10, 2, 2}, {11, 2, 2}), errc::invalid_shape, "rows given 10 and 11"));
  CHECK(says(refusal(r, {10, 2, 2}, {10, 2, 3}), errc::invalid_shape, "(10, 2, 2) and (10, 2, 3) do not fit"));
  CHECK(says(refusal(r, {10, 2, 2}, {10, 1, 2}), errc::invalid_shape, "do not fit"));
  head_cut const cut{head_cut::side::from, sp::all_heads(4, 2), head_cut::kind::kv};
  CHECK(says(refusal(r, {10, 4, 2}, {10, 4, 2}, cut), errc::invalid_shape, "do not fit"));
  CHECK(says(refusal(sp::route::between(two, two, {&all, 1}, 1), {5, 2, 2}, {5, 2, 2}), errc::bad_state,
             "made for rank 1 of 2, this is rank 0 of 1"));
  CHECK(says(refusal({}, {5, 2, 2}, {5, 2, 2}), errc::bad_state, "made for rank -1 of 0"));
  auto const uneven = failure_of([&] {
    sp::exchange(comm, "move", scratch,
                 routed(r, sp::view<float, 1>(a.data(), {10}), sp::view<double, 1>(nullptr, {10}), head_cut{}, landing::store))
        .wait();
  });
  CHECK(says(uneven, errc::invalid_shape, "stored as another"));
  CHECK(scratch.bytes_in_use() == 0);
  // the same extents fit where the one rank has all heads
  head_cut const whole{head_cut::side::to, sp::all_heads(2, 2), head_cut::kind::q};
  a[7] = 3;
  sp::exchange(comm, "move", scratch,
               routed(r, sp::view<float, 3>(a.data(), {10, 2, 2}), sp::view<float, 3>(b.data(), {10, 2, 2}), whole))
      .wait();
  CHECK(b[7] == 3);
}

TEST_CASE("route: what is to be sent to everybody alike is") {
  std::atomic<int> good{0};
  sp::threads::run(2, [&](sp::threads const& c) {
    layout const two(sp::packed{0, 10}, sp::zigzag{}, 2);
    mapping const all = sp::identity_map(10);
    auto const r = sp::route::between(two, two, {&all, 1}, c.rank());
    std::vector<float> a(5), b(5);
    sp::pool scratch;
    good += says(failure_of([&] {
                   sp::exchange_with_everybody(c, "all", scratch,
                                               routed(r, sp::view<float, 1>(a.data(), {5}), sp::view<float, 1>(b.data(), {5})))
                       .wait();
                 }),
                 errc::bad_state, "different rows or heads");
    sp::row_range const rows[] = {{1, 1, 1}, {0, 1, 1}};
    sp::piece p = sp::as_piece(sp::view<float, 1>(a.data(), {2}));
    p.rows = rows;
    sp::parcel const to{1 - c.rank(), {&p, 1}};
    good += says(failure_of([&] {
                   sp::exchange(three_functions(c), {"listed", {&to, 1}, {}}).wait();
                 }),
                 errc::bad_state, "lists its rows");
  });
  CHECK(good == 4);
}

} // namespace
} // namespace test_route
