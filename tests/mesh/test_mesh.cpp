// Meshes as arithmetic, their groups over a communicator that only remembers how it was split, and adoption with its errors.
// Coordinates, groups and strides are compared with enumerations over all ranks.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include <sp/mesh.hpp>

#include "support/failure.hpp"

namespace test_mesh {
namespace {

using sp::axis_kind;
using support::failure_of;
using support::says;

/// A communicator that moves nothing and counts its calls.
struct mock {
  using memory_type = sp::host_memory;
  struct done {
    void wait() {}
  };
  struct shown {
    std::span<sp::piece const> of(int) { return {}; }
    void release() {}
  };
  int me = 0;
  std::vector<int> ranks{};
  int* calls = nullptr;

  int rank() const { return int(std::find(ranks.begin(), ranks.end(), me) - ranks.begin()); }
  int size() const { return int(ranks.size()); }
  done exchange(sp::traffic const&) const { return count<done>(); }

  template <class R>
  R count() const {
    if (calls) ++*calls;
    return {};
  }
};

// a group is no communicator of what it wraps, and traits and overload resolution know it
static_assert(!std::is_convertible_v<sp::group<mock>, mock> && !std::is_constructible_v<mock, sp::group<mock>>);
struct anything {
  template <class T>
  anything(T const&) {}
};
[[maybe_unused]] std::false_type taken(mock const&) { return {}; }
[[maybe_unused]] std::true_type taken(anything const&) { return {}; }
static_assert(decltype(taken(std::declval<sp::group<mock>>()))::value);

/// The same with every ability.
struct able : mock {
  done all_to_all_v(sp::traffic const&) const { return count<done>(); }
  done all_gather_v(sp::traffic const&) const { return count<done>(); }
  void all_reduce(sp::view<double, 1> v) const {
    count<int>();
    v(0) *= 2;
  }
  void reduce_scatter(std::span<sp::view<float, 1> const>, sp::view<float, 1>) const { count<int>(); }
  void broadcast(std::span<sp::piece const>, int) const { count<int>(); }
  void barrier() const { count<int>(); }
  able split(int, int) const { return *this; }
  shown publish(char const*, std::span<sp::piece const>) const { return count<shown>(); }
  void abort(sp::error_info const&) const { count<int>(); }
};

/// A world rank whose split() returns what it was asked for, so that tests can compare it with the arithmetic.
struct recorder : mock {
  int color = -1, key = -1;
  recorder split(int c, int k) const {
    recorder r = *this;
    r.color = c;
    r.key = k;
    return r;
  }
};

recorder world_of(int size, int me) {
  recorder c;
  c.me = me;
  c.ranks.resize(std::size_t(size));
  std::iota(c.ranks.begin(), c.ranks.end(), 0);
  return c;
}

constexpr sp::mesh cube{sp::axis::data{2}, sp::axis::ring{3}, sp::axis::ulysses{4}};
static_assert(cube.size() == 24 && cube.extent(axis_kind::ring) == 3 && cube.extent(axis_kind::fsdp) == 1);
static_assert(cube.coordinate(23, axis_kind::data) == 1 && cube.coordinate(23, axis_kind::ring) == 2 &&
              cube.coordinate(23, axis_kind::ulysses) == 3 && cube.coordinate(23, "expert") == 0);
static_assert(cube.members(17, {axis_kind::ulysses}) == std::vector<int>{16, 17, 18, 19});
static_assert(cube.members(17, {axis_kind::ring}) == std::vector<int>{13, 17, 21});
static_assert(cube.members(17, {axis_kind::data}) == std::vector<int>{5, 17});
static_assert(cube.members(17, {axis_kind::ulysses, axis_kind::data}) == std::vector<int>{4, 5, 6, 7, 16, 17, 18, 19});
static_assert(cube.sequence_size() == 12 && cube.sequence_rank(17) == 5 && cube.data_size() == 2 && cube.data_rank(17) == 1);
static_assert(cube.stride({axis_kind::ring}) == 4 && cube.stride({axis_kind::ulysses}) == 1);
static_assert(cube.stride({axis_kind::ring, axis_kind::ulysses}) == 1 && cube.stride({axis_kind::data}) == 1);
static_assert(cube.rank_of(cube.coordinates(19)) == 19);
static_assert(sp::mesh{}.size() == 1 && sp::mesh{}.sequence_size() == 1);

constexpr sp::mesh ring_last{sp::axis::ulysses{4}, sp::axis::named{"tensor", 2}, sp::axis::ring{3}, sp::axis::fsdp{2}};
static_assert(ring_last.stride({axis_kind::ring}) == 1 && ring_last.stride({axis_kind::ulysses}) == 3);
static_assert(ring_last.extent("tensor") == 2 && ring_last.extent(axis_kind::custom) == 2);

static_assert(sp::communicator<sp::group<mock>> && !sp::has_all_to_all_v<sp::group<mock>> && !sp::has_barrier<sp::group<mock>>);
static_assert(!sp::has_all_gather_v<sp::group<mock>> && !sp::has_all_reduce<sp::group<mock>, double> &&
              !sp::splittable<sp::group<mock>>);
static_assert(!sp::has_broadcast<sp::group<mock>> && !sp::peer_memory<sp::group<mock>> && !sp::abortable<sp::group<mock>>);
static_assert(!sp::has_reduce_scatter<sp::group<mock>, float>);
static_assert(sp::has_all_to_all_v<sp::group<able>> && sp::has_all_gather_v<sp::group<able>> && sp::has_barrier<sp::group<able>>);
static_assert(sp::has_all_reduce<sp::group<able>, double> && !sp::has_all_reduce<sp::group<able>, float>);
static_assert(sp::has_reduce_scatter<sp::group<able>, float> && !sp::has_reduce_scatter<sp::group<able>, double>);
static_assert(sp::has_broadcast<sp::group<able>> && sp::splittable<sp::group<able>> && sp::peer_memory<sp::group<able>>);
static_assert(sp::abortable<sp::group<able>>);

/// Everything the arithmetic says about one choice of axes, checked from coordinates alone.
bool groups_right(sp::mesh const& m, std::vector<bool> const& chosen, sp::axes along) {
  bool ok = true;
  for (int r = 0; r < m.size(); ++r) {
    auto mine = m.coordinates(r);
    std::vector<int> expected;
    for (int other = 0; other < m.size(); ++other) {
      auto c = m.coordinates(other);
      bool together = true;
      for (std::size_t a = 0; a < c.size(); ++a) together = together && (chosen[a] || c[a] == mine[a]);
      if (together) expected.push_back(other);
    }
    auto got = m.members(r, along);
    ok = ok && got == expected && int(got.size()) == m.group_size(along);
    ok = ok && got[std::size_t(m.index_in(r, along))] == r;
    for (int other : got) ok = ok && m.group_of(other, along) == m.group_of(r, along);
    auto c = m.along(world_of(m.size(), r), along);
    ok = ok && c.inner().color == m.group_of(r, along) && c.inner().key == m.index_in(r, along);
  }
  return ok;
}

TEST_CASE("mesh: rank and coordinates are inverse, the last axis is the fastest") {
  for (int r = 0; r < cube.size(); ++r) {
    auto c = cube.coordinates(r);
    CHECK(cube.rank_of(c) == r);
    CHECK((c[0] * 3 + c[1]) * 4 + c[2] == r);
  }
}

TEST_CASE("mesh: groups along every choice of axes") {
  CHECK(groups_right(cube, {false, false, false}, {}));
  CHECK(groups_right(cube, {true, false, false}, {axis_kind::data}));
  CHECK(groups_right(cube, {false, true, false}, {axis_kind::ring}));
  CHECK(groups_right(cube, {false, false, true}, {axis_kind::ulysses}));
  CHECK(groups_right(cube, {false, true, true}, {axis_kind::ulysses, axis_kind::ring}));
  CHECK(groups_right(cube, {true, false, true}, {axis_kind::data, axis_kind::ulysses}));
  CHECK(groups_right(cube, {true, true, true}, {axis_kind::data, axis_kind::ring, axis_kind::ulysses}));
  CHECK(groups_right(cube, {false, false, false}, {"expert"})); // an axis the mesh does not have: everybody alone
  CHECK(groups_right(ring_last, {false, true, false, true}, {"tensor", axis_kind::fsdp}));
  CHECK(groups_right(ring_last, {true, false, true, false}, {axis_kind::ulysses, axis_kind::ring}));
}

TEST_CASE("mesh: the stride of a group is the distance of neighbours in the sequence group") {
  for (sp::mesh const* m : {&cube, &ring_last})
    for (int r = 0; r < m->size(); ++r)
      for (axis_kind k : {axis_kind::ring, axis_kind::ulysses}) {
        auto members = m->members(r, {k});
        for (std::size_t i = 1; i < members.size(); ++i)
          CHECK(m->sequence_rank(members[i]) - m->sequence_rank(members[i - 1]) == m->stride({k}));
        // what a sharding needs: ring and ulysses place from the sequence rank alone
        CHECK(m->sequence_rank(r) / m->stride({k}) % m->extent(k) == m->coordinate(r, k));
      }
}

TEST_CASE("mesh: ring, ulysses, sequence and data groups carry their strides") {
  auto comm = world_of(24, 17);
  CHECK(cube.ring(comm).stride() == 4);
  CHECK(cube.ring(comm).inner().key == 1);
  CHECK(cube.ulysses(comm).stride() == 1);
  CHECK(cube.ulysses(comm).inner().key == 1);
  CHECK(cube.sequence(comm).stride() == 1);
  CHECK(cube.sequence(comm).inner().key == 5);
  CHECK(cube.data(comm).inner().key == 1);
  CHECK(sp::group_stride(cube.ring(comm)) == 4);
  CHECK(sp::group_stride(comm) == 1); // a plain communicator
  CHECK(sp::group(comm).stride() == 1);
}

TEST_CASE("mesh: data ranks and sequence ranks split the world between them") {
  constexpr sp::mesh m{sp::axis::fsdp{2}, sp::axis::ring{2}, sp::axis::data{3}, sp::axis::ulysses{2}};
  CHECK(m.data_size() * m.sequence_size() == m.size());
  std::vector<int> seen(std::size_t(m.size()));
  for (int r = 0; r < m.size(); ++r) ++seen[std::size_t(m.data_rank(r) * m.sequence_size() + m.sequence_rank(r))];
  CHECK(seen == std::vector<int>(std::size_t(m.size()), 1));

  constexpr sp::mesh with_tensor{sp::axis::data{2}, sp::axis::ring{2}, sp::axis::named{"tensor", 4}};
  CHECK(with_tensor.data_size() == 2); // tensor ranks read the same data
  CHECK(with_tensor.sequence_size() == 2);
}

TEST_CASE("mesh: a second factorisation of the same ranks") {
  constexpr sp::mesh experts{sp::axis::named{"expert", 6}, sp::axis::named{"replica", 4}};
  CHECK(experts.same_ranks(cube));
  CHECK_FALSE(experts.same_ranks(ring_last));
  CHECK(experts.members(17, {"expert"}) == std::vector<int>{1, 5, 9, 13, 17, 21});
  CHECK(experts.along(world_of(24, 17), {"expert"}).inner().key == 4);
}

TEST_CASE("mesh: axes may be a list made at run time") {
  std::vector<sp::axis::named> list{sp::axis::data{1}, sp::axis::ring{5}};
  sp::mesh m{std::span<sp::axis::named const>(list)};
  CHECK(m.size() == 5);
  CHECK(m.list().size() == 2);
  CHECK(m.coordinate(3, "ring") == 3);
}

TEST_CASE("mesh: a communicator of another size is refused with both numbers") {
  CHECK(says(failure_of([] { return cube.ring(world_of(8, 0)); }), sp::errc::invalid_shape, "24 ranks", "has 8"));
}

TEST_CASE("mesh: the caller's communicators are adopted when they fit") {
  auto ring = cube.adopt<axis_kind::ring>(world_of(3, 1), 17);
  CHECK(ring.stride() == 4);
  CHECK(ring.size() == 3);
  CHECK(ring.rank() == 1);
  auto sequence = cube.adopt<axis_kind::ring, axis_kind::ulysses>(world_of(12, 5), 17);
  CHECK(sequence.stride() == 1);
  CHECK(ring_last.adopt(world_of(2, 1), {"tensor"}).size() == 2); // the world rank is not known: the size alone is checked

  CHECK(says(failure_of([] { return cube.adopt<axis_kind::ring>(world_of(4, 1)); }), sp::errc::invalid_shape, "ring",
             "has 4 ranks", "has 3 there"));
  CHECK(says(failure_of([] { return cube.adopt<axis_kind::ring>(world_of(3, 2), 17); }), sp::errc::invalid_shape, "world rank 17",
             "has rank 2", "at 1"));
  CHECK(says(failure_of([] {
               return cube.adopt(world_of(5, 0), {axis_kind::ring, "tensor"});
             }),
             sp::errc::invalid_shape, "ring x tensor"));
  CHECK(
      says(failure_of([] { return cube.adopt<axis_kind::ring>(world_of(3, 2), 24); }), sp::errc::invalid_shape, "rank 24", "24"));
}

TEST_CASE("mesh: impossible meshes and coordinates") {
  CHECK(says(failure_of([] { return sp::mesh{sp::axis::ring{0}}; }), sp::errc::invalid_shape, "ring", "size 0"));
  CHECK(says(failure_of([] {
               return sp::mesh{sp::axis::ring{2}, sp::axis::ring{2}};
             }),
             sp::errc::invalid_shape, "ring is there twice"));
  CHECK(says(failure_of([] {
               return sp::mesh{sp::axis::named{"x", 2}, sp::axis::named{"x", 2}};
             }),
             sp::errc::invalid_shape, "x is there"));
  CHECK(failure_of([] { return sp::mesh{sp::axis::ring{65536}, sp::axis::data{65536}}; }).code == sp::errc::size_overflow);
  std::vector<sp::axis::named> many(9, sp::axis::named{"a", 1});
  CHECK(
      says(failure_of([&] { return sp::mesh{std::span<sp::axis::named const>(many)}; }), sp::errc::invalid_shape, "9 axes", "8"));
  CHECK(says(failure_of([] { return cube.sequence_rank(24); }), sp::errc::invalid_shape, "rank 24", "mesh of 24"));
  CHECK(says(failure_of([] { return cube.coordinates(-1); }), sp::errc::invalid_shape, "rank -1"));
  CHECK(says(failure_of([] {
               return cube.rank_of(std::vector<int>{0, 0});
             }),
             sp::errc::invalid_shape, "2 coordinates", "3 axes"));
  CHECK(says(failure_of([] {
               return cube.rank_of(std::vector<int>{0, 3, 0});
             }),
             sp::errc::invalid_shape, "coordinate 3", "ring of 3"));
}

TEST_CASE("group: every ability of the communicator is forwarded") {
  int calls = 0;
  able c;
  c.ranks = {0, 1};
  c.me = 1;
  c.calls = &calls;
  sp::group g(c, 3);
  CHECK(g.rank() == 1);
  CHECK(g.size() == 2);
  g.exchange({}).wait();
  g.all_to_all_v({}).wait();
  g.all_gather_v({}).wait();
  double x[1] = {4};
  g.all_reduce(sp::view<double, 1>(x, {1}));
  CHECK(x[0] == 8);
  sp::view<float, 1> none;
  g.reduce_scatter(std::span<sp::view<float, 1> const>{}, none);
  g.broadcast({}, 0);
  g.barrier();
  g.publish("test", {}).release();
  g.abort({});
  CHECK(calls == 9);
  CHECK(sp::group_stride(g.split(0, 0)) == 1); // a group made by hand follows no axis
  CHECK(says(failure_of([&] { return sp::group(c, 0); }), sp::errc::invalid_shape, "stride 0"));
}

} // namespace
} // namespace test_mesh
