// A list that cannot grow: a sentence says what a list is before the compiler says which line needs it.
// EXPECT-SOON: sp: a list of these entries grows
// EXPECT: needs push_back\(entry\), size\(\), \[\] and a loop
#include <span>

#include <sp/batch.hpp>

int main() {
  std::vector<sp::block> blocks(2);
#ifdef SP_FAIL
  auto const less = sp::coalesce(std::span<sp::block>(blocks));
#else
  auto const less = sp::coalesce(blocks);
#endif
  return int(less.size()) - 1;
}
