// The closed forms of what attention sends, from token counts and head ranges alone; no communicator is asked.
// The ledger of a run must show exactly these bytes: the ratio in the table is 1.
#pragma once

#include "training/plans.hpp"

namespace trainer {

/// Attention over the ranks of one sequence, as its closed forms see it.
struct attention_split {
  int ring = 1, ulysses = 1;
  sp::schedule schedule = sp::schedule::rotate;
  index_t q_heads = 1, kv_heads = 1, head_dim = 1;

  int ranks() const { return ring * ulysses; }
};
inline attention_split split_of(plan const& p, shape const& s) {
  return {p.ring, p.ulysses, p.schedule, s.q_heads, s.kv_heads, s.head_dim};
}

/// Heads of Ulysses rank `part`, by the one cut rule; kv heads that several ranks need are counted by each.
struct head_share {
  index_t q = 0, kv = 0;
};
template <class Shape>
head_share heads_of_rank(Shape const& s, int part, int parts) {
  index_t group = s.q_heads / s.kv_heads, first = sp::cut(s.q_heads, part, parts), last = sp::cut(s.q_heads, part + 1, parts);
  return {last - first, first < last ? (last - 1) / group - first / group + 1 : 0};
}

/// Rows of keys that each ring rank sends in one pass, copies counted. A ring rank holds what its whole Ulysses group does.
inline std::vector<index_t> key_rows_sent(attention_split const& a, sp::layout const& who) {
  sp::layout const rings = who.grouped(a.ulysses, 1);
  auto const mask = sp::slices(sp::causal(), who.docs(), who.docs());
  std::vector<index_t> rows;
  for (int r = 0; r < a.ring; ++r)
    rows.push_back(a.schedule == sp::schedule::cast ? sp::key_cast(rings, rings, mask, r).rows_sent()
                                                    : (a.ring - 1) * rings.tokens(r));
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

/// Bytes that the ranks of one sequence group send for one layer, forward and backward. tokens: of each rank; key_rows: of each ring
/// rank, key_rows_sent().
///
/// Ulysses, to each peer: q, k, v of my tokens for its heads, and outputs of its tokens for mine; the same sizes backward.
/// Ring over P ranks: keys and values take P - 1 hops forward, P - 1 backward, and their gradients P - 1. A cast sends the rows that
/// somebody sees, as often; a pull schedule sends none, because its ranks read each other's memory.
inline index_t attention_bytes(attention_split const& a, std::vector<index_t> const& tokens, std::vector<index_t> const& key_rows,
                               sent_bytes of) {
  index_t bytes = 0, copies = 0; // copies: of its kv heads
  for (int part = 0; part < a.ulysses; ++part) copies += heads_of_rank(a, part, a.ulysses).kv;
  index_t const kv_and_gradient = of.element + (copies > a.kv_heads ? of.sum : of.element);
  for (int rank = 0; rank < a.ranks(); ++rank) {
    int first = rank / a.ulysses * a.ulysses, me = rank - first;
    head_share mine = heads_of_rank(a, me, a.ulysses);
    for (int peer = 0; peer < a.ulysses; ++peer) {
      if (peer == me) continue;
      head_share theirs = heads_of_rank(a, peer, a.ulysses);
      index_t const queries = tokens[std::size_t(rank)] * theirs.q, outputs = tokens[std::size_t(first + peer)] * mine.q;
      bytes += 2 * (queries + outputs) * a.head_dim * of.element;
      bytes += 2 * tokens[std::size_t(rank)] * theirs.kv * a.head_dim * kv_and_gradient;
    }
    if (a.schedule == sp::schedule::pull) continue;
    bytes += key_rows[std::size_t(rank / a.ulysses)] * 2 * mine.kv * a.head_dim * (2 * of.element + of.sum);
  }
  return bytes;
}

inline std::vector<index_t> tokens_of_ranks(sp::layout const& who) {
  std::vector<index_t> tokens;
  for (int r = 0; r < who.parts(); ++r) tokens.push_back(who.tokens(r));
  return tokens;
}

/// [row of the stream] -> the rank that owns it.
inline std::vector<int> owners_of(sp::layout const& who) {
  std::vector<int> owners(std::size_t(who.docs().length()));
  for (int r = 0; r < who.parts(); ++r)
    for (sp::run const& run : who.runs(r))
      for (index_t i = 0; i < run.count; ++i) owners[std::size_t(run.at(i))] = r;
  return owners;
}

} // namespace trainer
