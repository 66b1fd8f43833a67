// A sharding without runs(n, part, parts): the concept that failed is named.
// EXPECT: no matching (function for call to|constructor for initialization of) .*sp::batch
// EXPECT: sharding
// EXPECT: runs\(n, part, parts\)
#include <sp/batch.hpp>
#include <sp/collective/solo.hpp>

struct by_hand {
  sp::scope over = sp::scope::document;
#ifdef SP_FAIL
#else
  std::vector<sp::run> runs(sp::index_t n, sp::index_t part, sp::index_t parts) const {
    return sp::contiguous{}.runs(n, part, parts);
  }
#endif
};

int main() {
  sp::batch batch{sp::packed{0, 8}, by_hand{}, sp::solo{}};
  return int(batch.tokens()) - 8;
}
