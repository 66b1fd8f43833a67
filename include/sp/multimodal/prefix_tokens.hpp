// Prefix tokens of a vision tower (cls, registers): what a document with them looks like, who owns which of its rows, what moves.
// Pure integers and no communication; the rows of all prefix tokens stand in front of a rank's patches, document by document.
#pragma once

#include <sp/attention/call/options.hpp>
#include <sp/layout/layout.hpp>

namespace sp {

/// What becomes of the gradients of prefix tokens, which every rank holds: they leave as they come. With `shares` the upstream gradient of
/// a prefix token is the sum of what all ranks give, and its dq, dk and dv are whole on rank 0 and 0 on the others: right where
/// gradients of parameters are summed over ranks.
struct shares {};
/// With `same` every rank gives the same upstream gradient, which counts once, and every rank gets the same bits: the caller counts the
/// gradients of parameters of these rows once. Gradients that are added to hold the same on every rank, too: those of rank 0 count.
struct same {};

/// What a vit_attention is made with, besides its communicator and what runs inside. One value for all ranks.
struct vit_options {
  index_t prefix = 1; ///< tokens per document that stand in front of its patches and that every rank holds: 0, 1 or more
};

/// Bytes that all ranks together send to others, besides those of the attention inside.
struct vit_bytes {
  index_t forward = 0, backward = 0;
  friend constexpr bool operator==(vit_bytes const&, vit_bytes const&) = default;
};

/// Of a vit_attention over `ranks` ranks with `rows` prefix rows (documents x prefix) and elements of `element` bytes: out goes to
/// everybody; back come dout (shares), or dq, dk and dv go to everybody (same).
template <class Contract>
[[nodiscard]] constexpr vit_bytes vit_attention_bytes(Contract, index_t ranks, index_t rows, attention_shape const& s,
                                                      index_t element) {
  index_t const of_one = checked_mul(checked_mul(max(ranks - 1, 0), rows), element), out = s.q_heads * s.value_dim;
  index_t const gradients = s.q_heads * s.dim + s.kv_heads * (s.dim + s.value_dim);
  return {checked_mul(of_one, out), checked_mul(of_one, std::is_same_v<Contract, same> ? gradients : out)};
}

namespace detail {

inline constexpr char const* contract_words[] = {"shares", "same"};
inline constexpr int prefix_owner = 0; ///< the rank whose rows of prefix tokens are the ones that count

/// The same documents, each with `prefix` tokens in front; gaps and rooms behind stay.
inline documents with_prefix(documents const& docs, index_t prefix) {
  std::vector<document> list;
  index_t more = 0;
  for (document const& d : docs) {
    list.push_back({checked_add(d.begin, more), checked_add(d.count, prefix), checked_add(d.room, prefix), d.id});
    more = checked_add(more, prefix);
  }
  return {std::move(list), checked_add(docs.length(), more)};
}

/// Who owns what of these: patches whoever owned them, prefix tokens all the owner, in rows before its patches.
inline layout with_prefix(layout const& patches, index_t prefix) {
  std::vector<std::vector<run>> parts(std::size_t(patches.parts()));
  documents docs = with_prefix(patches.docs(), prefix);
  for (document const& d : docs) append(parts[prefix_owner], {d.begin, prefix, 1});
  for (int p = 0; p < patches.parts(); ++p)
    for (run const& r : patches.runs(p))
      for_each_document(patches.docs(), r, [&](std::size_t d, interval in) {
        run moved = r.sub(in.first, in.count);
        moved.begin += checked_mul(index_t(d) + 1, prefix);
        append(parts[std::size_t(p)], moved);
      });
  return {std::move(docs), parts};
}

} // namespace detail
} // namespace sp
