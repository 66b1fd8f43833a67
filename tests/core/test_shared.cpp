// A shared object lives as long as one of its owners, in whatever order they go and in whatever threads they are.
#include <doctest/doctest.h>

#include <thread>

#include <sp/core/shared.hpp>

namespace test_shared {
namespace {

using sp::detail::shared;

struct counted { // tells how many of its kind there are
  int* alive;
  explicit counted(int& n) : alive(&n) { ++*alive; }
  counted(counted&& o) noexcept : alive(o.alive) { ++*alive; }
  counted& operator=(counted&&) = delete;
  ~counted() { --*alive; }
};

TEST_CASE("shared: the object goes with its last owner, and only then [asan]") {
  int alive = 0;
  {
    shared<counted> const nothing, copy_of_nothing(nothing); // owns nothing, and may be copied like the others
    shared<counted> first{counted(alive)}, other{counted(alive)};
    REQUIRE(alive == 2);
    {
      shared<counted> const copy = first;
      CHECK(&*copy == &*first);
      CHECK(copy->alive == &alive);
    }
    CHECK(alive == 2);
    shared<counted> moved = std::move(first); // takes the object along
    first = other;                            // into one that was moved from
    CHECK(alive == 2);
    moved = first; // nobody has the first object any more
    CHECK(alive == 1);
    shared<counted> const& same = moved;
    moved = same; // its own: still there
    CHECK(alive == 1);
    moved = nothing;
    other = copy_of_nothing;
    CHECK(alive == 1);
    first = shared<counted>();
    CHECK(alive == 0);
  }
  CHECK(alive == 0);
}

TEST_CASE("shared: owners may come and go in two threads, and the last of them deletes the object once [tsan]") {
  for (int round = 0; round < 100; ++round) {
    int alive = 0;
    shared<counted> first{counted(alive)};
    auto use = [](shared<counted> const& given) {
      shared<counted> mine = given;
      for (int i = 0; i < 1000; ++i) {
        shared<counted> const copy = mine;
        mine = copy;
      }
    };
    std::thread other(use, first);
    use(first);
    first = {};
    other.join();
    CHECK(alive == 0);
  }
}

} // namespace
} // namespace test_shared
