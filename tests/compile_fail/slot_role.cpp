// A slot of attention in a projection, which holds none.
// EXPECT: sp::attention_slot: the role of attention is sp::vision_role, sp::text_role, or a struct with `static constexpr char const\* name` and `static sp::mask usual_mask\(\)`
#include <sp/auto_wrap.hpp>

#ifdef SP_FAIL
using role = sp::projection_role;
#else
using role = sp::vision_role;
#endif

sp::seating use(sp::attention_slot<role, float> const& slot) { return slot.seated(); }
