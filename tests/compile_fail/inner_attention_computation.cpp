// What runs inside Ulysses and does not compute on the tensors of a call is told what to add, where that call is made.
// EXPECT: add `saved<T> run_forward<T>\(prepared, context, forward_io<T>\) const`
// EXPECT: add `run_backward<T>\(prepared, context, saved<T> const&, backward_io<T, G>\) const` for G = T and G = accumulate_t<T>
// EXPECT: add `scratch_for<T>` and `saved_for<T>\(prepared, sp::heads, attention_shape\) const`
// EXPECT: add `each_lse\(saved<T>, f\) const`
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
  use(no_run_forward{}, b, x);
  use(no_backward_of_sums{}, b, x);
  use(no_scratch{}, b, x);
  use(no_each_lse{}, b, x);
#endif
}
