// A kernel that does not compute on the element type of a slot.
// EXPECT: sp::auto_wrap: this kernel does not compute on the element type of a slot of this model
#include <sp/auto_wrap.hpp>

struct only_float {
  using memory_type = sp::host_memory;
  void forward(sp::block_call<float> const&) const;
  void backward(sp::block_grad<float> const&) const;
};
#ifdef SP_FAIL
using element = double;
#else
using element = float;
#endif

void use(sp::attention_slot<sp::text_role, element>& slot) { sp::auto_wrap(slot, sp::solo{}, only_float{}); }
