// From blocks to the calls of a kernel that knows one block: the pieces it accepts, ranges of GQA heads, and the views of both.
// The pieces hold exactly the pairs of the block; calls come block by block, and in a block by ascending heads.
#pragma once

#include <sp/backend/concepts.hpp>
#include <sp/geometry/square_causal.hpp>

namespace sp::detail {

/// Whether a kernel has a call accepts(block), const or not, whatever it returns.
template <class Kernel>
concept says_accepts = requires(Kernel& kernel, block const& b) {
  kernel.accepts(b);
};
/// Whether that call is what the library asks.
template <class Kernel>
concept answers_accepts = requires(Kernel const& kernel, block const& b) {
  { kernel.accepts(b) } -> std::convertible_to<bool>;
};

/// What the kernel's own accepts(block) says. A kernel without one takes every block.
template <class Kernel>
[[nodiscard]] bool accepts([[maybe_unused]] Kernel const& kernel, [[maybe_unused]] block const& b) {
  if constexpr (says_accepts<Kernel>) {
    static_assert(answers_accepts<Kernel>,
                  "sp: a kernel's accepts(block) must be const and return bool, or it could not refuse a block.");
    if constexpr (answers_accepts<Kernel>) return kernel.accepts(b);
  }
  return true;
}

/// Calls f(piece, accepted) with the block itself if the kernel accepts it, and otherwise with the full and square causal pieces it
/// can be cut into, or with the block again where there is no such cut.
template <class Kernel, class F>
void for_each_piece(Kernel const& kernel, block const& b, F&& f) {
  bool accepted = accepts(kernel, b);
  auto pieces = accepted ? std::nullopt : to_square_causal(b);
  if (!pieces) return f(b, accepted);
  for (block const& piece : *pieces) f(piece, accepts(kernel, piece));
}

/// Calls f(call, block, range) for every block and every range of heads that is an ordinary GQA call. Call is block_call, block_grad,
/// whole_call or whole_grad; f fills in the tensors.
template <class Call, class F>
void for_each_call(std::span<block const> blocks, call_params const& n, F&& f) {
  gqa_ranges ranges = uniform_gqa(n.heads);
  for (block const& b : blocks)
    for (gqa_range const& g : ranges) {
      Call c;
      c.where = b;
      c.heads = global_heads(n.heads, g);
      c.scale = n.scale;
      c.random = n.random;
      f(c, b, g);
    }
}

/// The query rows of a block and the q heads of a range: (rows, q heads) or (rows, q heads, dim). A view of null stays one.
template <class V>
[[nodiscard]] V query_rows(V const& v, block const& b, gqa_range const& g) {
  return v.data ? v.rows(b.q, b.rows).narrow(1, g.q_begin, g.q_count) : v;
}

/// The key rows of a block and the kv heads of a range: (keys, kv heads, dim). A view of null stays one.
template <class V>
[[nodiscard]] V key_rows(V const& v, block const& b, gqa_range const& g) {
  return v.data ? v.rows(b.k, b.keys).narrow(1, g.kv_begin, g.kv_count) : v;
}

} // namespace sp::detail
