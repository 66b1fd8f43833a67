// backward consumes what forward returned: a saved that is not moved is refused.
// EXPECT: sp: backward consumes what forward returned; pass std::move\(saved\)
#include <sp/reference.hpp>
#include <sp/ring.hpp>

void use(sp::batch const& b, sp::view<float, 3> x) {
  sp::ring_attention attn{sp::solo{}, sp::reference{}};
  auto saved = attn.forward(b, x, x, x, x);
#ifdef SP_FAIL
  attn.backward(b, saved, x, x, x, x, x, x, x, x);
#else
  attn.backward(b, std::move(saved), x, x, x, x, x, x, x, x);
#endif
}
