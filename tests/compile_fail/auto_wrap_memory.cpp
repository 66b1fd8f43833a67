// A slot whose tensors lie in another memory than the communicator's.
// EXPECT: sp::auto_wrap: a slot of this model holds tensors of one memory and the communicator moves those of another
#include <sp/auto_wrap.hpp>

struct elsewhere {};
struct elsewhere_queue : sp::inline_queue {
  using memory_type = elsewhere;
  static constexpr bool finished_on_return = false;
  elsewhere_queue lane() const { return {}; }
};
static_assert(sp::queue<elsewhere_queue>);
#ifdef SP_FAIL
using queue = elsewhere_queue;
#else
using queue = sp::inline_queue;
#endif

struct model {
  sp::attention_slot<sp::text_role, float, queue>* attend;
};
auto members(model& m) { return sp::parts("attend", m.attend); }

void use(model& m) { sp::auto_wrap(m, sp::solo{}, sp::reference{}); }
