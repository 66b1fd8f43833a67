// What a queue does around a call of cuDNN: writes the lists of its sequences, and moves partial results into the tensors of the library.
// Partial results are added and merged in the accumulate type.
#pragma once

#include <sp/backend/cudnn/call.hpp>
#include <sp/backend/merge.hpp>

namespace sp::detail {

/// Where a sequence stands: in the tensors of the library, and one behind the other in ours.
struct sequence_place {
  std::int32_t q, k, rows, keys, packed_q, packed_k;
};

/// Which row of a sequence an offset of a tensor points to.
enum class sequence_start : std::int32_t { q, k, packed_q, packed_k };

/// Writes the lists of a ragged call: they travel in the body, so that no memory of the host is read later, and a graph replays them.
template <class M>
struct place_sequences {
  static constexpr index_t most = 128;
  sequence_place list[most];
  index_t first = 0, count = 0; ///< the number of list[0], and of all sequences; behind the last one stands the end of all
  int tensors = 0;
  index_t row_strides[sdpa_tensor_count]{};
  sequence_start starts[sdpa_tensor_count]{};
  view<sequence_place, 1, M> places; ///< (count + 1)
  view<std::int32_t, 2, M> lengths;  ///< (2, count)
  view<std::int64_t, 2, M> offsets;  ///< (tensors, count + 1)

  SP_BOTH void operator()(index_t i) const {
    sequence_place const& s = list[i];
    index_t const at = first + i;
    places(at) = s;
    if (at < count) {
      lengths(0, at) = s.rows;
      lengths(1, at) = s.keys;
    }
    for (int t = 0; t < tensors; ++t) {
      index_t row = s.q;
      if (starts[t] == sequence_start::k) row = s.k;
      if (starts[t] == sequence_start::packed_q) row = s.packed_q;
      if (starts[t] == sequence_start::packed_k) row = s.packed_k;
      offsets(t, at) = row * row_strides[t];
    }
  }
};

/// Rows, or keys, of the sequences of a call.
template <class M>
struct sequence_rows {
  view<sequence_place const, 1, M> places; ///< null: all as long as the call, `step` rows apart
  index_t step = 0, length = 0;
  bool keys = false;

  /// Row i of sequence b in the tensors of the library and in ours; false if there is none.
  SP_BOTH bool find(index_t b, index_t i, index_t& row, index_t& packed) const {
    if (!places.data) {
      row = b * step + i;
      packed = b * length + i;
      return true;
    }
    sequence_place const s = places(b);
    row = (keys ? s.k : s.q) + i;
    packed = (keys ? s.packed_k : s.packed_q) + i;
    return i < (keys ? s.keys : s.rows);
  }
};

/// stats(b, h, i) = lse of row i of sequence b, 0 where there is none: cuDNN may read those.
template <class M>
struct lse_to_stats {
  sequence_rows<M> rows;
  view<float const, 2, M> lse; ///< (rows, q heads)
  view<float, 3, M> stats;
  SP_BOTH void operator()(index_t b, index_t h, index_t i) const {
    index_t row = 0, packed = 0;
    stats(b, h, i) = rows.find(b, i, row, packed) ? lse(row, h) : 0.0f;
  }
};

/// Folds the output of a call into the state; before lse_into_state, which its weights still need the old lse of.
/// Index c counts fours of elements: weights cost more than the memory they are for.
template <class T, class M>
struct out_into_state {
  sequence_rows<M> rows;
  attention_state<T, M> state;   ///< elements of a head one behind the other, as of all accumulators
  view<T const, 3, M> out;       ///< (rows of all sequences, q heads, value dim)
  view<float const, 3, M> stats; ///< (batch, q heads, rows)
  SP_BOTH void operator()(index_t b, index_t i, index_t h, index_t c) const {
    index_t row = 0, packed = 0;
    if (!rows.find(b, i, row, packed)) return;
    auto const w = merge_weights(state.lse(row, h), stats(b, h, i));
    if (w.second == 0) return;
    index_t const first = four_elements<float>::count * c;
    merge_four(w, &state.out(row, h, first), &out(packed, h, first));
  }
};
template <class M>
struct lse_into_state {
  sequence_rows<M> rows;
  view<float, 2, M> lse;
  view<float const, 3, M> stats;
  SP_BOTH void operator()(index_t b, index_t i, index_t h) const {
    index_t row = 0, packed = 0;
    if (rows.find(b, i, row, packed)) lse(row, h) = merge_weights(lse(row, h), stats(b, h, i)).lse;
  }
};

/// Adds a gradient of a call to that of the library; index c counts fours of elements.
template <class T, class M>
struct add_gradient {
  sequence_rows<M> rows;
  view<T const, 3, M> from; ///< (rows of all sequences, heads, dim)
  view<float, 3, M> to;     ///< elements of a head one behind the other
  SP_BOTH void operator()(index_t b, index_t i, index_t h, index_t c) const {
    index_t row = 0, packed = 0;
    if (!rows.find(b, i, row, packed)) return;
    using four = four_elements<float>;
    float* const grad = &to(row, h, four::count * c);
    four sum(grad);
    four_elements<T> const of_call(&from(packed, h, four::count * c));
    for (int n = 0; n < four::count; ++n) sum.now.of[n] += to_acc(of_call.now.of[n]);
    sum.store(grad);
  }
};

} // namespace sp::detail
