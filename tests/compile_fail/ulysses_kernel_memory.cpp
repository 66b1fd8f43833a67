// A kernel that does not say which memory it works on: the sentence names memory_type.
// EXPECT: sp::ulysses_attention: the second argument must be .* it also needs memory_type
#include <sp/ulysses.hpp>

struct kernel {
#ifdef SP_FAIL
#else
  using memory_type = sp::host_memory;
#endif
  void forward(sp::whole_call<float> const&) const {}
  void backward(sp::whole_grad<float> const&) const {}
};

int main() {
  sp::ulysses_attention attention{sp::solo{}, kernel{}};
  return attention.group().size() - 1;
}
