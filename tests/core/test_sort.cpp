// The merge sort of lists: against std::stable_sort on random lists full of equal keys, and when compiled.
// Sorted, reversed and empty lists are among them.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include <sp/core/sort.hpp>

namespace test_sort {
namespace {

struct entry {
  int key = 0, place = 0;
  friend bool operator==(entry const&, entry const&) = default;
};
constexpr auto by_key = [](entry const& a, entry const& b) { return a.key < b.key; };

constexpr bool sorts_when_compiled() {
  std::vector<int> list{3, 1, 2, 5, 4, 0};
  sp::detail::sort(list, [](int a, int b) { return a < b; });
  for (int i = 0; i < 6; ++i)
    if (list[std::size_t(i)] != i) return false;
  return true;
}
static_assert(sorts_when_compiled());

} // namespace

TEST_CASE("sort: every list as std::stable_sort has it") {
  std::mt19937 random(1);
  int wrong = 0;
  for (int n = 0; n < 200; ++n)
    for (int shape = 0; shape < 4; ++shape) { // random, ascending, descending, three ascending lists behind each other
      std::vector<entry> list;
      for (int i = 0; i < n; ++i) {
        int const keys[] = {int(random() % unsigned(1 + n / 4)), i / 2, -i / 2, i % (1 + n / 3)};
        list.push_back({keys[shape], i});
      }
      auto expected = list;
      std::stable_sort(expected.begin(), expected.end(), by_key);
      sp::detail::sort(list, by_key);
      wrong += list == expected ? 0 : 1;
    }
  CHECK(wrong == 0);
}

} // namespace test_sort
