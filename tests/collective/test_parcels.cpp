// parcel_builder: the parcels it collects, and what it says when its room is used up.
// A builder that is too small writes nothing behind its memory.
#include <doctest/doctest.h>

#include <sp/collective/parcels.hpp>

#include "support/failure.hpp"

namespace test_parcels {

using support::failure_of;
using support::says;

TEST_CASE("parcel_builder: pieces come to the peer opened last, and clear() makes room again [asan]") {
  sp::pool memory;
  sp::parcel_builder b(memory, 2, 3);
  int x[3] = {};
  sp::view<int, 1> const all(x, {3});
  for (int again = 0; again < 2; ++again) {
    b.open(4);
    b.add(all);
    b.open(1);
    b.add(all.rows(0, 1));
    b.add(all.rows(2, 1));
    auto const p = b.parcels();
    REQUIRE(p.size() == 2);
    CHECK((p[0].peer == 4 && p[0].pieces.size() == 1 && sp::total_bytes(p[0].pieces) == 12));
    CHECK((p[1].peer == 1 && p[1].pieces.size() == 2 && sp::total_bytes(p[1].pieces) == 8));
    b.clear();
    CHECK(b.parcels().empty());
  }
}

TEST_CASE("parcel_builder: more parcels or pieces than it was made for are bad_state, and so is a piece without a peer [asan]") {
  sp::pool memory;
  sp::parcel_builder b(memory, 2, 3);
  int x[1] = {};
  sp::view<int, 1> const one(x, {1});
  CHECK(says(failure_of([&] { b.add(one); }), sp::errc::bad_state, "before a peer was opened"));
  b.open(0);
  for (int i = 0; i < 3; ++i) b.add(one);
  CHECK(says(failure_of([&] { b.add(one); }), sp::errc::bad_state, "room for 3 pieces is full"));
  b.open(1);
  CHECK(says(failure_of([&] { b.open(2); }), sp::errc::bad_state, "room for 2 parcels is full"));
  CHECK(b.parcels().size() == 2); // what was there stays
  CHECK(b.parcels()[0].pieces.size() == 3);
}

} // namespace test_parcels
