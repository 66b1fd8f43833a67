// A slot of another interface.
// EXPECT: sp: a slot of this model has another interface than sp::attention_slot: it lacks seat\(\) or seated\(\)
#include <sp/auto_wrap.hpp>

struct my_slot {
#ifdef SP_FAIL
  static constexpr sp::slot_kind kind = sp::slot_kind::attention;
#endif
  using role = sp::text_role;
  void forward(sp::batch const&) const;
};
struct model {
  my_slot attend;
};
auto members(model& m) { return sp::parts("attend", m.attend); }

sp::model_report use(model& m) { return sp::inspect(m); }
