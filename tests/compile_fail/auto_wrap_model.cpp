// A model that names no parts, and one that is const.
// EXPECT: sp: this model names no parts, so nothing can be found in it: write `auto members\(model& m\)
// EXPECT: sp: this model is const, and its members\(\) takes no const one: pass the model itself
#include <sp/auto_wrap.hpp>

struct model {
  sp::attention_slot<sp::text_role, float> attend;
};
#ifdef SP_FAIL
auto parts_of(model& m) { return sp::parts("attend", m.attend); } // a name that nobody looks for
#else
auto members(model& m) { return sp::parts("attend", m.attend); }
#endif

struct other {
  sp::attention_slot<sp::text_role, float> attend;
};
auto members(other& m) { return sp::parts("attend", m.attend); }
#ifdef SP_FAIL
sp::model_report use(other const& m) { return sp::inspect(m); }
#else
sp::model_report use(other& m) { return sp::inspect(m); }
#endif

void use(model& m) { sp::auto_wrap(m, sp::solo{}, sp::reference{}); }
