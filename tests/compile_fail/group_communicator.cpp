// A mesh group of something that is no communicator.
// EXPECT: sp::group wraps a communicator: memory_type, rank\(\), size\(\) and exchange\(traffic\)
#include <sp/collective/solo.hpp>
#include <sp/mesh.hpp>

int main() {
#ifdef SP_FAIL
  sp::group ranks{3};
#else
  sp::group ranks{sp::solo{}};
#endif
  return ranks.size() - 1;
}
