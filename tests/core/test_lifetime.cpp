// A life lasts as long as its object or a copy of it, in whatever order they go; a watcher sees it and does not prolong it.
#include <doctest/doctest.h>

#include <optional>
#include <thread>

#include <sp/core/lifetime.hpp>

namespace test_lifetime {
namespace {

using sp::detail::lifetime;
using sp::detail::lifetime_watch;

TEST_CASE("lifetime: copies share a life, moves hand it on, watchers outlive it [asan]") {
  CHECK_FALSE(lifetime().lasts());
  CHECK_FALSE(lifetime_watch().lasts());
  CHECK_FALSE(lifetime_watch(lifetime()).lasts());
  lifetime_watch seen;
  {
    std::optional<lifetime> first(lifetime::begin());
    seen = lifetime_watch(*first);
    lifetime_watch const also = seen;
    CHECK(seen.lasts());
    lifetime copy = *first, moved = std::move(*first);
    first.reset();
    CHECK(also.lasts());
    moved = lifetime::begin(); // leaves the first life to the copy
    CHECK(seen.lasts());
    copy = moved;
    CHECK_FALSE(seen.lasts());
    CHECK_FALSE(also.lasts());
    CHECK(lifetime_watch(copy).lasts());
  }
  CHECK_FALSE(seen.lasts());
}

TEST_CASE("lifetime: copies and watchers may come and go in two threads, and the last to go ends the life [tsan]") {
  for (int round = 0; round < 200; ++round) {
    lifetime first = lifetime::begin();
    lifetime_watch const seen(first);
    auto use = [&seen](lifetime mine) {
      for (int i = 0; i < 100; ++i) {
        lifetime const copy = mine;
        lifetime_watch const watch(copy);
        if (!watch.lasts() || !seen.lasts()) mine = lifetime();
      }
    };
    std::thread other(use, first);
    use(std::move(first));
    other.join();
    CHECK_FALSE(seen.lasts());
  }
}

} // namespace
} // namespace test_lifetime
