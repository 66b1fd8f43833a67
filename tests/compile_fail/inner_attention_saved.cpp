// What runs inside Ulysses and saves something that does not tell its element type is told so, where a call is made.
// Alone in its file: the sentences about members that take what was saved follow from this one.
// EXPECT: type `saved<T>`; add it, with `using element_type = T` and a member `sp::detail::saved_token token`
#include "../attention/near_misses.hpp"

template <class Inner>
void use(Inner inner, sp::batch const& b, sp::view<sp::bf16, 3> x) {
  sp::ulysses_attention attn{sp::solo{}, inner};
  auto saved = attn.forward(b, {.q = x, .k = x, .v = x, .out = x});
}

using namespace near_miss;
void call(sp::batch const& b, sp::view<sp::bf16, 3> x) {
  use(complete{}, b, x);
#ifdef SP_FAIL
  use(saved_of_no_type{}, b, x);
#endif
}
