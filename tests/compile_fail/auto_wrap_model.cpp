// A model that names no parts.
// EXPECT: sp: this model names no parts, so nothing can be found in it: write `auto members\(model& m\)
#include <sp/auto_wrap.hpp>

struct model {
  sp::attention_slot<sp::text_role, float> attend;
};
#ifdef SP_FAIL
auto parts_of(model& m) { return sp::parts("attend", m.attend); } // a name that nobody looks for
#else
auto members(model& m) { return sp::parts("attend", m.attend); }
#endif

void use(model& m) { sp::auto_wrap(m, sp::solo{}, sp::reference{}); }
