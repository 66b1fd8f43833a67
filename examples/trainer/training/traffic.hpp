// The closed forms of what attention sends, from token counts and head ranges alone; no communicator is asked.
// The ledger of a run must show exactly these bytes: the ratio in the table is 1.
#pragma once

#include "training/plans.hpp"

namespace trainer {

/// Heads of Ulysses rank `part`, by the one cut rule; kv heads that several ranks need are counted by each.
struct head_share {
  index_t q = 0, kv = 0;
};
inline head_share heads_of_rank(shape const& s, int part, int parts) {
  index_t group = s.q_heads / s.kv_heads, first = sp::cut(s.q_heads, part, parts), last = sp::cut(s.q_heads, part + 1, parts);
  return {last - first, first < last ? (last - 1) / group - first / group + 1 : 0};
}

/// Rows of keys that each ring rank sends in one pass, copies counted. A ring rank holds what its whole Ulysses group does.
inline std::vector<index_t> key_rows_sent(plan const& p, sp::layout const& who) {
  sp::layout const rings = who.grouped(p.ulysses, 1);
  auto const mask = sp::slices(sp::causal(), who.docs(), who.docs());
  std::vector<index_t> rows;
  for (int r = 0; r < p.ring; ++r)
    rows.push_back(p.schedule == sp::schedule::cast ? sp::key_cast(rings, rings, mask, r).rows_sent()
                                                    : (p.ring - 1) * rings.tokens(r));
  return rows;
}

/// Bytes of what attention sends, by number type: of the elements of tensors, and of gradients of keys and values that are sums of
/// several ranks': through a ring, and of kv heads that Ulysses ranks share.
struct sent_bytes {
  index_t element, sum;
};
inline sent_bytes bytes_of(std::string const& type) {
  if (type == "bf16") return {2, 4};
  return type == "double" ? sent_bytes{8, 8} : sent_bytes{4, 4};
}

/// Bytes that the ranks of one sequence group send for one step: all layers, forward and backward.
///
/// Ulysses, to each peer: q, k, v of my tokens for its heads, and outputs of its tokens for mine; the same sizes backward.
/// Ring over P ranks: keys and values take P - 1 hops forward, P - 1 backward, and their gradients P - 1. A cast sends the rows that
/// somebody sees, as often; a pull schedule sends none, because its ranks read each other's memory.
inline index_t attention_bytes(plan const& p, sp::layout const& who, shape const& s, sent_bytes of) {
  index_t bytes = 0, copies = 0; // of one layer; of its kv heads
  for (int part = 0; part < p.ulysses; ++part) copies += heads_of_rank(s, part, p.ulysses).kv;
  index_t const kv_and_gradient = of.element + (copies > s.kv_heads ? of.sum : of.element);
  auto const sent = key_rows_sent(p, who);
  for (int rank = 0; rank < p.sequence(); ++rank) {
    int first = rank / p.ulysses * p.ulysses, me = rank - first;
    head_share mine = heads_of_rank(s, me, p.ulysses);
    for (int peer = 0; peer < p.ulysses; ++peer) {
      if (peer == me) continue;
      head_share theirs = heads_of_rank(s, peer, p.ulysses);
      index_t const queries = who.tokens(rank) * theirs.q, outputs = who.tokens(first + peer) * mine.q;
      bytes += 2 * (queries + outputs) * s.head_dim * of.element;
      bytes += 2 * who.tokens(rank) * theirs.kv * s.head_dim * kv_and_gradient;
    }
    if (p.schedule == sp::schedule::pull) continue;
    bytes += sent[std::size_t(rank / p.ulysses)] * 2 * mine.kv * s.head_dim * (2 * of.element + of.sum);
  }
  return bytes * s.layers;
}

} // namespace trainer
