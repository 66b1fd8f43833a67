// What a specialisation of sp::role says: what the type is, and how to reach the slots in it.
// EXPECT: sp: a specialisation of sp::role<T> says how to reach the slots of T
// EXPECT: sp: a specialisation of sp::role<T> says what T is
// EXPECT: sp: a specialisation of sp::role<T> gives T another role than the slot that it returns has
#include <sp/auto_wrap.hpp>

namespace theirs {
struct tower {
  sp::attention_slot<sp::vision_role, float> attend;
};
struct decoder : tower {};
struct mixed : tower {};
} // namespace theirs

template <>
struct sp::role<theirs::tower> {
  using type = sp::vision_role;
#ifndef SP_FAIL
  static auto& slot(theirs::tower& t) { return t.attend; }
#endif
};
template <>
struct sp::role<theirs::decoder> {
#ifndef SP_FAIL
  using type = sp::vision_role;
#endif
  static auto members(theirs::decoder& t) { return sp::parts("attend", t.attend); }
};
template <>
struct sp::role<theirs::mixed> {
#ifdef SP_FAIL
  using type = sp::text_role;
#else
  using type = sp::vision_role;
#endif
  static auto& slot(theirs::mixed& t) { return t.attend; }
};

sp::model_report use(theirs::tower& t) { return sp::inspect(t); }
sp::model_report use(theirs::decoder& t) { return sp::inspect(t); }
sp::model_report use(theirs::mixed& t) { return sp::inspect(t); }
