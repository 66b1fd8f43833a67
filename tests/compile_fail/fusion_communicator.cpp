// Something that is no communicator where a fusion wants its group.
// EXPECT: sp::fusion: the group must be a communicator: copyable, with memory_type, rank\(\), size\(\) and exchange\(traffic\)
#include <sp/collective/solo.hpp>
#include <sp/fusion.hpp>

int main() {
#ifdef SP_FAIL
  sp::fusion const fusion(4, sp::splice::prefix{});
#else
  sp::fusion const fusion(sp::solo{}, sp::splice::prefix{});
#endif
  return fusion.splice().prompt_end + 1;
}
