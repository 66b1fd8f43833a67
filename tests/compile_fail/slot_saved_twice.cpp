// What forward of a slot returned is moved into backward.
// EXPECT: sp: backward consumes what forward returned; pass std::move\(saved\)
#include <sp/auto_wrap.hpp>

void use(sp::attention_slot<sp::text_role, float> const& slot, sp::batch const& b, sp::view<float, 3> x) {
  auto saved = slot.forward(b, {.q = x, .k = x, .v = x, .out = x});
#ifdef SP_FAIL
  slot.backward(b, saved, {.q = x, .k = x, .v = x, .out = x, .dout = x, .dq = x, .dk = x, .dv = x});
#else
  slot.backward(b, std::move(saved), {.q = x, .k = x, .v = x, .out = x, .dout = x, .dq = x, .dk = x, .dv = x});
#endif
}
