// Rows are gathered into a tensor that must not be written.
// EXPECT-SOON: sp: rows move between tensors of one element type, and the tensor that is written must not be const
#include <sp/collective/solo.hpp>
#include <sp/gather_tokens.hpp>

void use(sp::batch const& b, sp::view<float, 2> x, [[maybe_unused]] sp::view<float const, 2> fixed) {
  sp::gather_tokens gather{sp::solo{}};
#ifdef SP_FAIL
  gather.forward(b, x, fixed);
#else
  gather.forward(b, fixed, x);
#endif
}
