// What is no kernel of linear attention is refused in a sentence that names those there are.
// EXPECT: sp::linear_attention: the second argument must be a kernel of linear attention: sp::gated_delta
#include <sp/counting.hpp>
#include <sp/linear.hpp>

int main() {
#ifdef SP_FAIL
  sp::linear_attention attention{sp::solo{}, sp::linear_options{}};
#else
  sp::linear_attention attention{sp::solo{}, sp::plain_linear{}};
#endif
  return attention.group().size() - 1;
}
