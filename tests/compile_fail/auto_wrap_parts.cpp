// members() that returns something else, and a part without its name.
// EXPECT: sp: members\(model\) returns what sp::parts\("name", part, ...\) returned
// EXPECT: sp::parts takes names and parts in turns
#include <sp/auto_wrap.hpp>

struct model {
  sp::attention_slot<sp::text_role, float> attend, second;
};
struct other {
  sp::attention_slot<sp::text_role, float> attend;
};
#ifdef SP_FAIL
auto members(model& m) { return sp::parts("attend", m.attend, m.second); }
auto members(other& m) { return &m.attend; }
#else
auto members(model& m) { return sp::parts("attend", m.attend, "second", m.second); }
auto members(other& m) { return sp::parts("attend", m.attend); }
#endif

sp::model_report use(model& m) { return sp::inspect(m); }
sp::model_report use(other& m) { return sp::inspect(m); }
