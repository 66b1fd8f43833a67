// What linear attention by heads holds of a call: its inputs and gradients by heads, and room in which a kernel adds up.
// The very structures of a call are built on an allocator that only counts, to say beforehand how many bytes it takes.
#pragma once

#include <sp/linear/by_heads_plan.hpp>

namespace sp::detail {

/// What goes into a call, by heads: (group's rows, my heads, ...).
template <class T, int Gates, class M>
struct linear_inputs_by_heads {
  using A = accumulate_t<T>;
  by_heads<T, M> q, k, v;
  std::array<by_heads<A, M>, std::size_t(Gates)> gates{};

  linear_inputs_by_heads() = default;
  template <class Width>
  linear_inputs_by_heads(basic_allocator<M>& from, ulysses_heads const& h, index_t rows, linear_shape const& s,
                         Width const& width)
      : q(from, room_for::all, h, head_cut::kind::kv, rows, s.key_dim),
        k(from, room_for::all, h, head_cut::kind::kv, rows, s.key_dim),
        v(from, room_for::all, h, head_cut::kind::q, rows, s.value_dim) {
    for (int g = 0; g < Gates; ++g)
      gates[std::size_t(g)] = by_heads<A, M>(from, room_for::all, h, head_cut::kind::q, rows, width(g, s.key_dim));
  }
};

/// A gradient by heads. Kernels add to the type of sums: where it travels in another one, a document at a time is rounded into its place.
template <class X, class M>
class gradient_by_heads {
public:
  using A = accumulate_t<X>;
  gradient_by_heads() = default;
  gradient_by_heads(basic_allocator<M>& from, ulysses_heads const& h, head_cut::kind kind, linear_heads_plan<M> const& p,
                    index_t dim)
      : all_(from, room_for::all, h, kind, p.rows.group(), dim) {
    if constexpr (!sums) document_ = owned<A, 3, M>(from, {p.longest, h.count(kind), dim});
  }
  /// `slack`: some rows are no document's.
  template <class Queue>
  void clear(Queue const& q, bool slack) const {
    if (sums || slack) sp::fill(q, all(), X{});
  }
  /// Zeros to add to, of a document: (tokens, my heads, dim).
  template <class Queue>
  view<A, 3, M> open(Queue const& q, linear_document const& d) const {
    if constexpr (sums) {
      return d.of(all());
    } else {
      view<A, 3, M> const v = document_.tensor.rows(0, d.count);
      sp::fill(q, v, A{});
      return v;
    }
  }
  template <class Queue>
  void close(Queue const& q, linear_document const& d, view<A, 3, M> const& v) const {
    if constexpr (!sums) sp::assign(q, d.of(all()), v);
  }
  [[nodiscard]] view<X, 3, M> const& all() const noexcept { return all_.all(); }

private:
  static constexpr bool sums = std::is_same_v<X, A>;
  by_heads<X, M> all_;
  owned<A, 3, M> document_;
};

/// All gradients of a call by heads. Share: how those of q and k travel.
template <class T, class Share, int Gates, class M>
struct linear_gradients_by_heads {
  using A = accumulate_t<T>;
  gradient_by_heads<Share, M> q, k;
  gradient_by_heads<T, M> v;
  std::array<gradient_by_heads<A, M>, std::size_t(Gates)> gates{};

  template <class Width>
  linear_gradients_by_heads(basic_allocator<M>& from, ulysses_heads const& h, linear_heads_plan<M> const& p,
                            linear_shape const& s, Width const& width)
      : q(from, h, head_cut::kind::kv, p, s.key_dim), k(from, h, head_cut::kind::kv, p, s.key_dim),
        v(from, h, head_cut::kind::q, p, s.value_dim) {
    for (int g = 0; g < Gates; ++g)
      gates[std::size_t(g)] = gradient_by_heads<A, M>(from, h, head_cut::kind::q, p, width(g, s.key_dim));
  }
  template <class Queue>
  void clear(Queue const& queue, bool slack) const {
    q.clear(queue, slack), k.clear(queue, slack), v.clear(queue, slack);
    for (auto const& g : gates) g.clear(queue, slack);
  }
  /// What a kernel adds to for one document: all my heads.
  template <class Queue>
  linear_grad<T, Gates, M> open(Queue const& queue, linear_document const& d) const {
    linear_grad<T, Gates, M> to{};
    to.dq = q.open(queue, d), to.dk = k.open(queue, d), to.dv = v.open(queue, d);
    for (std::size_t g = 0; g < gates.size(); ++g) to.dgates[g] = gates[g].open(queue, d);
    return to;
  }
  template <class Queue>
  void close(Queue const& queue, linear_document const& d, linear_grad<T, Gates, M> const& to) const {
    q.close(queue, d, to.dq), k.close(queue, d, to.dk), v.close(queue, d, to.dv);
  }
};

} // namespace sp::detail
