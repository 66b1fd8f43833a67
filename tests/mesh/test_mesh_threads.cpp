// Groups of a mesh over real threads: members, order and strides seen from inside, messages within a group, adoption.
// Every rank checks its own place; decorators around a group keep it.
#include <doctest/doctest.h>

#include <atomic>
#include <vector>

#include <sp/chaos.hpp>
#include <sp/counting.hpp>
#include <sp/mesh.hpp>
#include <sp/threads.hpp>

namespace test_mesh_threads {
namespace {

using sp::axis_kind;
using sp::index_t;

static_assert(sp::communicator<sp::group<sp::threads>> && sp::peer_memory<sp::group<sp::threads>>);
static_assert(sp::splittable<sp::group<sp::threads>> && sp::abortable<sp::group<sp::threads>> &&
              sp::has_barrier<sp::group<sp::threads>>);

/// Everybody's world rank, in the order of the group.
template <class Comm>
std::vector<index_t> world_ranks(Comm const& c, index_t mine) {
  std::vector<index_t> all(std::size_t(c.size()));
  sp::view<index_t, 1> from(&mine, {1});
  sp::piece out = sp::as_piece(from);
  std::vector<sp::piece> in;
  for (index_t& x : all) in.push_back(sp::as_piece(sp::view<index_t, 1>(&x, {1})));
  std::vector<sp::parcel> sends, receives;
  for (int r = 0; r < c.size(); ++r) {
    sends.push_back({r, {&out, 1}});
    receives.push_back({r, {&in[std::size_t(r)], 1}});
  }
  c.exchange({"world_ranks", sends, receives}).wait();
  return all;
}

bool same(std::vector<index_t> const& a, std::vector<int> const& b) { return std::vector<index_t>(b.begin(), b.end()) == a; }

/// Number of ranks on which something about some group is wrong.
int wrong_ranks(sp::mesh const& mesh) {
  std::atomic<int> wrong{0};
  sp::threads::run(mesh.size(), [&](sp::threads const& world) {
    int const me = world.rank();
    auto right = [&](auto const& g, sp::axes along) {
      return same(world_ranks(g, me), mesh.members(me, along)) && g.rank() == mesh.index_in(me, along) &&
             g.stride() == mesh.stride(along);
    };
    bool ok = right(mesh.ring(world), {axis_kind::ring}) && right(mesh.ulysses(world), {axis_kind::ulysses});
    auto sequence = mesh.sequence(world);
    ok = ok && right(sequence, {axis_kind::ring, axis_kind::ulysses}) && sequence.rank() == mesh.sequence_rank(me);
    auto data = mesh.data(world);
    ok = ok && right(data, {axis_kind::data, axis_kind::fsdp}) && data.rank() == mesh.data_rank(me) &&
         data.size() == mesh.data_size();
    ok = ok && right(mesh.along(world, {"expert", axis_kind::ring}), {"expert", axis_kind::ring});

    // the same ring as a communicator that the caller made
    auto own = world.split(mesh.group_of(me, {axis_kind::ring}), me);
    ok = ok && right(mesh.adopt<axis_kind::ring>(own, me), {axis_kind::ring});
    if (!ok) ++wrong;
  });
  return wrong;
}

TEST_CASE("mesh: groups over threads are the members the arithmetic names") {
  CHECK(wrong_ranks(sp::mesh{sp::axis::data{2}, sp::axis::ring{2}, sp::axis::ulysses{2}}) == 0);
  CHECK(wrong_ranks(sp::mesh{sp::axis::ulysses{2}, sp::axis::fsdp{2}, sp::axis::ring{3}}) == 0); // the other order
  CHECK(wrong_ranks(sp::mesh{sp::axis::named{"expert", 2}, sp::axis::ring{3}}) == 0);
  CHECK(wrong_ranks(sp::mesh{sp::axis::ring{1}}) == 0);
}

TEST_CASE("mesh: two factorisations of the same ranks are alive at once") {
  sp::mesh const attention{sp::axis::ring{2}, sp::axis::ulysses{2}}, experts{sp::axis::named{"expert", 4}};
  REQUIRE(attention.same_ranks(experts));
  std::atomic<int> wrong{0};
  sp::threads::run(4, [&](sp::threads const& world) {
    auto ring = attention.ring(world);
    auto expert = experts.along(world, {"expert"});
    auto both = world_ranks(ring, world.rank());
    if (!same(both, attention.members(world.rank(), {axis_kind::ring}))) ++wrong;
    if (!same(world_ranks(expert, world.rank()), {0, 1, 2, 3})) ++wrong;
  });
  CHECK(wrong == 0);
}

} // namespace

TEST_CASE("decorators keep the place of a mesh group in the sequence") {
  sp::threads::run(4, [](sp::threads const& world) {
    sp::mesh const mesh{sp::axis::ulysses{2}, sp::axis::ring{2}}; // ring ranks are neighbours
    sp::ledger sent;
    sp::counting counted{mesh.ulysses(world), sent};
    sp::chaos delayed{mesh.ulysses(world), sp::chaos_options{}};
    CHECK(sp::group_stride(counted) == 2);
    CHECK(sp::group_stride(delayed) == 2);
    CHECK(sp::group_stride(mesh.ulysses(sp::counting{world, sent})) == 2);
    CHECK(sp::group_stride(world) == 1);
  });
}

} // namespace test_mesh_threads
