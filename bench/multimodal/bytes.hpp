// The model's prediction of bytes: closed forms of what every stage sends, from who owns which row; no communicator and no route is asked.
// What sp::counting counted must be exactly this.
#pragma once

#include <array>

#include "multimodal/path.hpp"

namespace multimodal {

/// How ranks share attention.
enum class strategy { ulysses, ring };

/// Bytes that all ranks together send, by stage.
using stage_bytes = std::array<index_t, std::size_t(stages)>;

/// Heads of rank `part`, by the one cut rule; kv heads that several ranks need are counted by each.
struct head_share {
  index_t q = 0, kv = 0;
};
inline head_share heads_of_rank(sp::attention_shape const& s, int part, int parts) {
  index_t const group = s.q_heads / s.kv_heads, first = sp::cut(s.q_heads, part, parts),
                last = sp::cut(s.q_heads, part + 1, parts);
  return {last - first, first < last ? (last - 1) / group - first / group + 1 : 0};
}

/// Forward and backward of one attention call, whose ranks have these rows. Ulysses: q, k, v of my rows for my peer's heads, and out of its
/// rows for mine, the same back. A ring that rotates: keys and values take P - 1 hops, and P - 1 once more with their gradients.
inline std::array<index_t, 2> attention_bytes(strategy how, std::vector<index_t> const& rows, sp::attention_shape const& s,
                                              index_t element) {
  int const ranks = int(rows.size());
  index_t forward = 0, backward = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    index_t const mine = rows[std::size_t(rank)];
    if (how == strategy::ring) {
      index_t const keys = (ranks - 1) * mine * s.kv_heads * (s.dim + s.value_dim) * element;
      forward += keys, backward += 2 * keys;
    }
    for (int peer = 0; peer < ranks && how == strategy::ulysses; ++peer) {
      if (peer == rank) continue;
      head_share const own = heads_of_rank(s, rank, ranks), theirs = heads_of_rank(s, peer, ranks);
      index_t const one =
          (mine * theirs.q * s.dim + rows[std::size_t(peer)] * own.q * s.value_dim + mine * theirs.kv * (s.dim + s.value_dim)) *
          element;
      forward += one, backward += one;
    }
  }
  return {forward, backward};
}

/// Rows of the decoder, from text and from images, whose owner is not the one that has them before the fusion: counted row by row.
struct rows_that_move {
  index_t text = 0, visual = 0;
};
inline rows_that_move moving_rows(workload const& w, sp::layout const& text, sp::layout const& features,
                                  sp::layout const& fused) {
  rows_that_move n;
  index_t at = 0, feature = 0; // in the decoder's stream; in raster order of all images
  std::size_t image = 0;
  for (std::size_t t = 0; t < w.ids.size(); ++t) {
    if (w.ids[t] != image_token) {
      n.text += text.owner_of(index_t(t)).part != fused.owner_of(at++).part;
      continue;
    }
    for (index_t i = w.items[image++].rows(); i-- > 0; ++feature)
      n.visual += features.owner_of(w.pictures.merged_rows()[std::size_t(feature)]).part != fused.owner_of(at++).part;
  }
  return n;
}

/// All stages. The tower's prefix rows are rank 0's.
template <class Path>
stage_bytes predicted_bytes(workload const& w, Path const& p, strategy how, int ranks, index_t element) {
  std::vector<index_t> tower, decoder;
  for (int r = 0; r < ranks; ++r) {
    tower.push_back(p.patches().layout().tokens(r) + (r == 0 ? w.prefix_rows() : 0));
    decoder.push_back(p.fused().layout().tokens(r));
  }
  sp::attention_shape const seen{heads, heads, dim, dim}, read{heads, kv_heads, dim, dim};
  auto const vision = attention_bytes(how, tower, seen, element), text = attention_bytes(how, decoder, read, element);
  auto const cls = sp::vit_attention_bytes(sp::shares{}, ranks, w.prefix_rows(), seen, element);
  auto const moved = moving_rows(w, p.tokens().layout(), p.features().layout(), p.fused().layout());
  stage_bytes b{};
  b[vision_forward] = vision[0] + cls.forward, b[vision_backward] = vision[1] + cls.backward;
  b[text_forward] = text[0], b[text_backward] = text[1];
  b[fusion_forward] = b[fusion_backward] = (moved.text + moved.visual) * width * element;
  b[deepstack_forward] = b[deepstack_backward] = moved.visual * width * element;
  return b;
}

} // namespace multimodal
