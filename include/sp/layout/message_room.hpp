// How much memory an exchange along routes brings for messages that are not contiguous where they are sent from or land.
// Integers of route, heads and strides only; a tensor without data may turn out to have any strides, so all of it is counted.
#pragma once

#include <sp/collective/concepts.hpp>
#include <sp/layout/routed.hpp>

namespace sp::detail {

/// Bytes that the part of a tensor that moves with one peer takes: none if it is contiguous there.
inline index_t packed_bytes(piece const& whole, head_cut::range const& part, index_t rows, row_list const& list) {
  piece p = whole;
  p.data = nullptr; // no address is formed: a null one has no parts
  p.extents[0] = rows;
  if (p.rank > 1) p.extents[1] = part.count;
  index_t const bytes = p.bytes();
  if (bytes == 0) return 0;
  bool plain = whole.data && list.size() == 1;
  if (plain) p.strides[0] *= list[0].step;
  return plain && in_one_block(p) ? 0 : round_up(bytes, message_form::alignment);
}

/// Of one operand, both ways, to and from everybody else. What is added up arrives where it is contiguous. Rows that everybody is sent may
/// be gathered in one call: then this rank's are among those that come, all of them side by side.
template <class From, class To, int R, bool Sums, class M>
index_t packed_bytes(routed<From, To, R, Sums, M> const& o) {
  route const& r = *o.along;
  piece const from = as_piece(o.from), to = as_piece(o.to);
  bool const gathered = o.cut.of != head_cut::side::from && r.sends().alike();
  index_t sent = 0, landing_here = 0;
  bool all_plain = true;
  for (int p = 0; p < r.size(); ++p) {
    auto const out = heads_with(p, r.size(), o.cut, head_cut::side::from, from.extents[1]);
    auto const in = heads_with(p, r.size(), o.cut, head_cut::side::to, to.extents[1]);
    bool const own = p == r.place().rank;
    if (!own) sent += packed_bytes(from, out, r.sends().rows(p), r.sends().of(p));
    if (o.lands != landing::store || (own && !gathered)) continue;
    index_t const packed = packed_bytes(to, in, r.lands().rows(p), r.lands().of(p));
    all_plain = all_plain && packed == 0;
    landing_here += gathered ? round_up(to.bytes() / max(to.extents[0], 1) * r.lands().rows(p), message_form::alignment) : packed;
  }
  return sent + (all_plain ? 0 : landing_here);
}

/// The room that C is given, in scratch; nothing for a communicator that packs nothing.
template <class C, class M>
struct message_room {
  template <class... Operands>
  message_room(basic_allocator<M>&, Operands const&...) {}
  [[nodiscard]] message_form form() const { return {true}; }
};
template <class C, class M>
  requires(packs_messages<C>)
struct message_room<C, M> {
  owned<std::byte, 1, M> bytes;

  template <class... Operands>
  message_room(basic_allocator<M>& scratch, Operands const&... o) : bytes(scratch, {(packed_bytes(o) + ...)}) {}
  [[nodiscard]] message_form form() const { return {true, {bytes.tensor.data, std::size_t(bytes.tensor.extent(0))}}; }
};

} // namespace sp::detail
