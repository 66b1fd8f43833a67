// Queries, keys and values that a model writes into one tensor, as three views: the layouts of the usual projections.
// Nothing is copied; extents that do not divide are invalid_shape.
#pragma once

#include <string>

#include <sp/core/adapt/tensor_traits.hpp>

namespace sp {

namespace detail {
/// narrow() that also serves empty tensors, whose pointer may be null.
template <class View>
View narrowed(View const& v, int d, index_t begin, index_t count) {
  return v.narrow(d, v.empty() ? 0 : begin, count);
}
} // namespace detail

/// Queries, keys and values that live in one tensor.
template <class T, class M = host_memory>
struct qkv_views {
  view<T, 3, M> q; ///< (tokens, q heads, dim)
  view<T, 3, M> k; ///< (tokens, kv heads, dim)
  view<T, 3, M> v; ///< (tokens, kv heads, dim)
};

/// One projection with all query heads, then all key heads, then all value heads: packed (tokens, q_heads + 2 kv_heads, dim).
template <class T, class M>
qkv_views<T, M> split_qkv(view<T, 3, M> const& packed, index_t q_heads, index_t kv_heads) {
  if (q_heads <= 0 || kv_heads <= 0 || packed.extent(1) != checked_add(q_heads, checked_mul(2, kv_heads)))
    fail({errc::invalid_shape,
          "packed heads of " + shape(packed) + " are not " + std::to_string(q_heads) + " + 2 x " + std::to_string(kv_heads),
          "The middle extent is q heads + 2 kv heads"});
  checked_view(packed);
  using detail::narrowed;
  return {narrowed(packed, 1, 0, q_heads), narrowed(packed, 1, q_heads, kv_heads),
          narrowed(packed, 1, q_heads + kv_heads, kv_heads)};
}

namespace detail {
/// Row entries (tokens, width) as (tokens, heads, width / heads).
template <class T, class M>
view<T, 3, M> heads_of_width(view<T, 2, M> const& packed, index_t heads) {
  if (heads <= 0 || packed.extent(1) % heads != 0)
    fail({errc::invalid_shape, "rows of " + shape(packed) + " do not hold " + std::to_string(heads) + " heads of equal size",
          "The row is (q heads + 2 kv heads) x dim entries"});
  index_t dim = packed.extent(1) / heads;
  return {packed.data, {packed.extent(0), heads, dim}, {packed.stride(0), checked_mul(dim, packed.stride(1)), packed.stride(1)}};
}
} // namespace detail

/// The same, as a projection writes it: packed (tokens, (q_heads + 2 kv_heads) dim).
template <class T, class M>
qkv_views<T, M> split_qkv(view<T, 2, M> const& packed, index_t q_heads, index_t kv_heads) {
  return split_qkv(detail::heads_of_width(packed, checked_add(q_heads, checked_mul(2, kv_heads))), q_heads, kv_heads);
}

/// One projection with a dimension of three: packed (tokens, 3, heads, dim).
template <class T, class M>
qkv_views<T, M> split_qkv(view<T, 4, M> const& packed) {
  if (packed.extent(1) != 3)
    fail({errc::invalid_shape, "extent 1 of packed " + shape(packed) + " is not 3", "The layout is (tokens, 3, heads, dim)"});
  checked_view(packed);
  auto part = [&](index_t i) {
    auto p = detail::narrowed(packed, 1, i, 1);
    return view<T, 3, M>(p.data, {p.extent(0), p.extent(2), p.extent(3)}, {p.stride(0), p.stride(2), p.stride(3)});
  };
  return {part(0), part(1), part(2)};
}

/// The layout of llm.c: packed (batch, tokens, 3, heads, dim), as views of one stream of batch x tokens rows.
template <class T, class M>
qkv_views<T, M> split_qkv(view<T, 5, M> const& packed) {
  return split_qkv(flatten(packed));
}

/// Queries, keys and values that are interleaved per kv head.
template <class T, class M = host_memory>
struct grouped_qkv_views {
  view<T, 4, M> q; ///< (tokens, kv heads, q_per_kv, dim)
  view<T, 3, M> k; ///< (tokens, kv heads, dim)
  view<T, 3, M> v; ///< (tokens, kv heads, dim)
};

/// The layout of Megatron: packed (tokens, kv_heads (q_per_kv + 2) dim), for each kv head its queries, its key and its value.
/// join_heads(q) is the usual (tokens, q heads, dim) where the strides allow one.
template <class T, class M>
grouped_qkv_views<T, M> split_interleaved_qkv(view<T, 2, M> const& packed, index_t q_heads, index_t kv_heads) {
  if (q_heads <= 0 || kv_heads <= 0 || q_heads % kv_heads != 0)
    fail({errc::invalid_shape, std::to_string(q_heads) + " q heads are no multiple of " + std::to_string(kv_heads) + " kv heads",
          "Every kv head serves the same number of q heads"});
  index_t q_per_kv = q_heads / kv_heads;
  // (tokens, kv_heads (q_per_kv + 2), dim)
  auto p = checked_view(detail::heads_of_width(packed, checked_add(q_heads, checked_mul(2, kv_heads))));
  view<T, 4, M> all(p.data, {p.extent(0), kv_heads, q_per_kv + 2, p.extent(2)},
                    {p.stride(0), (q_per_kv + 2) * p.stride(1), p.stride(1), p.stride(2)});
  auto entry = [&](index_t i) {
    auto x = detail::narrowed(all, 2, i, 1);
    return view<T, 3, M>(x.data, {x.extent(0), x.extent(1), x.extent(3)}, {x.stride(0), x.stride(1), x.stride(3)});
  };
  return {all.narrow(2, 0, q_per_kv), entry(q_per_kv), entry(q_per_kv + 1)};
}

/// (tokens, kv heads, q_per_kv, dim) as (tokens, kv heads x q_per_kv, dim) without a copy; invalid_shape if heads are unevenly spaced.
template <class T, class M>
view<T, 3, M> join_heads(view<T, 4, M> const& q) {
  index_t kv = q.extent(1), q_per_kv = q.extent(2);
  if (kv > 1 && q_per_kv > 1 && q.stride(1) != checked_mul(q_per_kv, q.stride(2)))
    fail({errc::invalid_shape,
          "the " + std::to_string(kv) + " x " + std::to_string(q_per_kv) + " heads of " + shape(q) + " are not evenly spaced",
          "Copy the queries into a dense tensor (sp::copy of as_piece), or call attention per kv head"});
  return {q.data,
          {q.extent(0), checked_mul(kv, q_per_kv), q.extent(3)},
          {q.stride(0), q_per_kv > 1 ? q.stride(2) : q.stride(1), q.stride(3)}};
}

} // namespace sp
