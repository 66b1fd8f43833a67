// The closed forms of what gated delta nets send: the convolution's halo, and heads for tokens or states and their maps.
// From owners, runs and head ranges alone, counted token by token; no communicator and no route is asked.
#pragma once

#include <set>

#include "training/traffic.hpp"

namespace trainer {

/// Rows that ranks need of others for a convolution: those up to taps - 1 before their own, each counted for every rank that needs it.
inline index_t halo_rows(sp::layout const& who, index_t taps) {
  std::vector<int> const owners = owners_of(who);
  index_t rows = 0;
  for (std::size_t d = 0; d < who.docs().size(); ++d) {
    index_t const end = who.docs()[d].end();
    for (index_t t = who.docs()[d].begin; t < end; ++t) {
      auto const own = owners.begin() + t;
      std::set<int> readers(own + 1, own + std::min(taps, end - t));
      readers.erase(*own);
      rows += index_t(readers.size());
    }
  }
  return rows;
}

/// States, and matrices that take them through somebody's tokens, that ranks send one way through all documents.
struct states_sent {
  index_t states = 0, maps = 0;
};
/// Where a rank's tokens end and another's begin, the state, or what makes it out of one that comes later, goes to all ranks with tokens
/// further on. The first of a document has a state to send; others have a map for each of their runs, and the last one nothing.
inline states_sent states_through(sp::layout const& who, bool backwards) {
  struct stretch {
    int owner;
    index_t runs;
  };
  std::vector<int> const owners = owners_of(who);
  std::vector<char> begins(owners.size());
  for (int r = 0; r < who.parts(); ++r)
    for (sp::run const& run : who.runs(r))
      if (run.count > 0) begins[std::size_t(run.begin)] = 1;
  states_sent sent;
  for (std::size_t d = 0; d < who.docs().size(); ++d) {
    std::vector<stretch> way;
    for (index_t t = who.docs()[d].begin; t < who.docs()[d].end(); ++t) {
      int const owner = owners[std::size_t(t)];
      if (way.empty() || way.back().owner != owner)
        way.push_back({owner, 1});
      else
        way.back().runs += begins[std::size_t(t)];
    }
    if (backwards) std::reverse(way.begin(), way.end());
    for (std::size_t i = 0; i + 1 < way.size(); ++i) {
      std::set<int> readers;
      for (std::size_t later = i + 1; later < way.size(); ++later) readers.insert(way[later].owner);
      readers.erase(way[i].owner);
      sent.states += index_t(readers.size()) * (i == 0 ? 1 : way[i].runs);
      sent.maps += index_t(readers.size()) * (i == 0 ? 0 : way[i].runs);
    }
  }
  return sent;
}

/// Numbers that the ranks of one sequence group exchange for one layer's delta rule by heads, forward and backward: q, k, v and both gates of
/// my tokens for the heads of each peer, outputs of its tokens for mine, and as many gradients.
inline index_t numbers_by_heads(delta_shape const& d, std::vector<index_t> const& tokens) {
  attention_split const heads{.q_heads = d.v_heads, .kv_heads = d.k_heads};
  int const ranks = int(tokens.size());
  index_t numbers = 0;
  for (int me = 0; me < ranks; ++me)
    for (int peer = 0; peer < ranks; ++peer) {
      if (peer == me) continue;
      head_share const mine = heads_of_rank(heads, me, ranks), theirs = heads_of_rank(heads, peer, ranks);
      numbers += 2 * tokens[std::size_t(me)] * (2 * theirs.kv * d.key_dim + theirs.q * (d.value_dim + 2));
      numbers += 2 * tokens[std::size_t(peer)] * mine.q * d.value_dim;
    }
  return numbers;
}
/// The same by state.
inline index_t numbers_by_state(delta_shape const& d, sp::layout const& who) {
  index_t numbers = 0;
  for (bool backwards : {false, true}) {
    states_sent const n = states_through(who, backwards);
    numbers += d.v_heads * d.key_dim * (n.states * d.value_dim + n.maps * d.key_dim);
  }
  return numbers;
}

/// Bytes that the ranks of one sequence group send for one gated delta net, forward and backward; a number has `size` bytes.
inline index_t delta_bytes(plan const& p, sp::layout const& who, delta_shape const& d, index_t size) {
  index_t const rule = p.delta == delta_by::heads ? numbers_by_heads(d, tokens_of_ranks(who)) : numbers_by_state(d, who);
  return size * (2 * halo_rows(who, d.taps) * d.mixed_width() + rule);
}

/// Bytes of one step of the decoder: all layers.
inline index_t step_bytes(plan const& p, sp::layout const& who, shape const& s, sent_bytes of) {
  attention_split const a = split_of(p, s);
  index_t const delta = s.delta_layers();
  index_t bytes = (s.layers - delta) * attention_bytes(a, tokens_of_ranks(who), key_rows_sent(a, who), of);
  if (delta > 0) bytes += delta * delta_bytes(p, who, s.delta, of.element);
  return bytes;
}

} // namespace trainer
