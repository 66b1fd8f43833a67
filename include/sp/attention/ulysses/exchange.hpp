// The two ways of an Ulysses exchange as operands along routes: from a rank's tokens to its heads of the group's tokens, and back.
// Gradients are added up where ranks share heads; everything else lands once.
#pragma once

#include <sp/attention/ulysses/memory.hpp>

namespace sp::detail {

/// Chunk i of (tokens, heads, dim) -> (group's tokens, my heads of it, dim)
template <class E, class T, class M>
auto to_heads(ulysses_rows const& x, view<E, 3, M> const& from, by_heads<T, M> const& to, ulysses_heads const& h,
              head_cut::kind of, index_t i = 0) {
  return routed(x.to_heads, from, to.chunk(h, i), h.cut(head_cut::side::from, of, i));
}
/// The way back of gradients, which are added up where ranks share kv heads, or to what is there.
template <class E, class T, class M>
auto to_tokens(ulysses_rows const& x, landing_table<M> const& who_lands, view<E, 3, M> const& from, view<T, 3, M> const& to,
               head_cut cut, bool add, bool shared) {
  return routed(x.to_tokens, from, to, cut, add ? landing::sum_to : shared ? landing::sum : landing::store, &who_lands);
}

} // namespace sp::detail
