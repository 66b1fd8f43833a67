// The parts of a segment of shared memory that are free, against a picture of every unit: drawn takes and gives in any order.
// What is given back joins with its neighbours on both sides and with nothing else, so that whatever fits is found.
#include <doctest/doctest.h>

#include <random>
#include <utility>
#include <vector>

#include <sp/collective/mpi/node_memory.hpp>

namespace test_ranges {
namespace {

using sp::index_t;

/// Which units are in use, and where a request must go: to the lowest free stretch that is long enough.
struct picture {
  std::vector<bool> used;
  index_t place_for(index_t n) const {
    for (std::size_t begin = 0, end = 0; begin < used.size(); begin = end + 1) {
      for (end = begin; end < used.size() && !used[end];) ++end;
      if (index_t(end - begin) >= n) return index_t(begin);
    }
    return -1;
  }
  void paint(index_t at, index_t n, bool on) {
    for (index_t i = at; i < at + n; ++i) {
      REQUIRE(used[std::size_t(i)] != on); // nobody else has it
      used[std::size_t(i)] = on;
    }
  }
};

} // namespace

TEST_CASE("free ranges: drawn takes and gives go where the picture of all units says, and join on both sides [asan]") {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 g(seed);
    index_t const size = 1 + index_t(g() % 60);
    sp::detail::free_ranges ranges(size);
    picture seen{std::vector<bool>(std::size_t(size), false)};
    std::vector<std::pair<index_t, index_t>> blocks; // begin, length
    index_t refused = 0, wrong = 0;
    for (int step = 0; step < 300; ++step) {
      if (blocks.empty() || g() % 2 == 0) {
        index_t const n = 1 + index_t(g() % (g() % 4 == 0 ? unsigned(size) : 6)), want = seen.place_for(n), at = ranges.take(n);
        wrong += at != want;
        refused += at < 0;
        if (at < 0 || at != want) continue;
        seen.paint(at, n, true);
        blocks.emplace_back(at, n);
      } else {
        std::swap(blocks[g() % blocks.size()], blocks.back());
        auto const [at, n] = blocks.back();
        blocks.pop_back();
        seen.paint(at, n, false);
        ranges.give(at, n);
      }
      wrong += ranges.all_free() != blocks.empty();
    }
    for (auto const& [at, n] : blocks) ranges.give(at, n);
    CAPTURE(seed);
    CHECK(wrong == 0);
    CHECK(refused > 0);
    CHECK(ranges.all_free());
    CHECK(ranges.take(size) == 0); // in one piece again
    CHECK(!ranges.all_free());
    CHECK(ranges.take(1) == -1);
  }
}

} // namespace test_ranges
