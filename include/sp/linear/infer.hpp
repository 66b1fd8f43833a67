// A call of a kernel of which nothing is kept for a backward pass, and the bytes that it takes.
// By the kernel's own infer where it has one, otherwise by forward: the same bits.
#pragma once

#include <sp/linear/concepts.hpp>

namespace sp::detail {

/// Writes `out` and, unless null, `leaving`. What forward keeps is in where.kept until this returns.
template <class T, class Kernel, class Queue, class M = typename Kernel::memory_type>
void infer_segment(Kernel const& kernel, linear_call_t<Kernel, T> const& call, view<accumulate_t<T> const, 3, M> const& entering,
                   view<T, 3, M> const& out, view<accumulate_t<T>, 3, M> const& leaving, context<Queue> const& where) {
  if constexpr (has_infer<Kernel, T>)
    kernel.template infer<T>(call, entering, out, leaving, where);
  else
    static_cast<void>(kernel.template forward<T>(call, entering, out, leaving, where));
}

/// The most bytes it takes where scratch and kept are one.
template <class T, class Kernel, class Queue>
index_t infer_bytes(Kernel const& kernel, linear_shape const& s, Queue const& queue) {
  index_t const scratch = kernel.template scratch_bytes<T>(s, queue);
  if constexpr (has_infer<Kernel, T>)
    return scratch;
  else
    return scratch + kernel.template saved_bytes<T>(s);
}

} // namespace sp::detail
