// Features of a kernel are types that it knows.
// EXPECT: sp: a kernel feature must be sp::softcap, sp::alibi or sp::dropout
#include <sp/reference.hpp>

struct rotary {};

int main() {
#ifdef SP_FAIL
  sp::reference kernel{rotary{}};
#else
  sp::reference kernel{sp::softcap{30}};
#endif
  static_cast<void>(kernel);
}
