// A tensor of an exchange along a route: the rows that are sent, the tensor in which rows land, and how they land there.
// Where one of the two holds all heads and the other a share of them, each peer gets its heads of every row.
#pragma once

#include <sp/core/elementwise.hpp>
#include <sp/core/memory.hpp>
#include <sp/geometry/heads.hpp>
#include <sp/layout/landing_table.hpp>

namespace sp {

/// Which of the two tensors is cut along dimension 1, by the heads of each peer; the other one holds the heads of one rank: of this one
/// if `from` is cut, of the sender if `to` is.
struct head_cut {
  enum class side { none, from, to };
  enum class kind { q, kv };
  side of = side::none;
  heads all{}; ///< of the tensor that is cut
  kind heads_of_rows = kind::q;
  index_t chunk = 0, chunks = 1; ///< of each peer's heads this chunk alone, see chunk_of()

  struct range {
    index_t first = 0, count = 0;
  };
  /// What a peer has of the tensor that is cut.
  [[nodiscard]] SP_BOTH constexpr range of_peer(index_t peer, index_t peers) const {
    heads share = detail::share_of(all, peer, peers);
    if (chunks > 1) share = chunk_of(share, chunk, chunks);
    if (heads_of_rows == kind::q) return {share.q_begin - all.q_begin, share.q_count};
    return {share.kv_begin - all.kv_begin, share.kv_count};
  }
  [[nodiscard]] constexpr index_t count() const noexcept { return heads_of_rows == kind::q ? all.q_count : all.kv_count; }
  /// Heads of all peers together, in whatever chunk: more than count() where peers share kv heads.
  [[nodiscard]] constexpr index_t copies(int peers) const {
    head_cut whole = *this;
    whole.chunks = 1;
    index_t n = 0;
    for (int p = 0; p < peers; ++p) n += whole.of_peer(p, peers).count;
    return n;
  }
};

/// How rows land. Rows that nobody sends to stay as they are with `store` and become 0 with `sum`.
enum class landing {
  store,  ///< each element once; of two, either may stay
  sum,    ///< what arrives for an element is added in order of rank, then of the route, in the type of sums, and rounded once
  sum_to, ///< the same, added to what `to` holds
};

/// One tensor of an exchange along a route. The route and both tensors stay alive until the token has been waited for. Rows are stored,
/// in the type that they have, unless a landing is named: Sums.
template <class From, class To, int R, bool Sums = false, class Memory = host_memory>
struct routed {
  static_assert(Sums || std::is_same_v<From, To>,
                "sp: rows move between tensors of one element type, and the tensor that is written must not be const.");
  static_assert(!Sums || (element<From> && element<To>), "sp::routed: sums run over float, double, bf16 and fp16.");
  static constexpr bool sums = Sums;

  route const* along;
  view<From const, R, Memory> from; // (rows of the route's source, ...)
  view<To, R, Memory> to;           // (rows of its destination, ...)
  head_cut cut{};
  landing lands = landing::store;
  landing_table<Memory> const* table = nullptr; ///< of the route, where there is one; stays alive as the route does

  template <class A>
  routed(route const& rows, view<A, R, Memory> sent, view<To, R, Memory> landed, head_cut by = {})
      : along(&rows), from(sent), to(landed), cut(by) {}
  template <class A>
    requires(Sums)
  routed(route const& rows, view<A, R, Memory> sent, view<To, R, Memory> landed, head_cut by, landing how,
         landing_table<Memory> const* inverse = nullptr)
      : along(&rows), from(sent), to(landed), cut(by), lands(how), table(inverse) {}
  template <class... More>
  routed(route const&&, More const&...) = delete; // a route that would be gone before the rows have landed
};
template <class A, class To, int R, class M>
routed(route const&, view<A, R, M>, view<To, R, M>) -> routed<std::remove_const_t<A>, To, R, false, M>;
template <class A, class To, int R, class M>
routed(route const&, view<A, R, M>, view<To, R, M>, head_cut) -> routed<std::remove_const_t<A>, To, R, false, M>;
template <class A, class To, int R, class M>
routed(route const&, view<A, R, M>, view<To, R, M>, head_cut, landing, landing_table<M> const* = nullptr)
    -> routed<std::remove_const_t<A>, To, R, true, M>;

namespace detail {

/// What moves with a peer of the `all` entries of dimension 1, on one side.
inline head_cut::range heads_with(int peer, int peers, head_cut const& cut, head_cut::side side, index_t all) {
  return cut.of == side ? cut.of_peer(peer, peers) : head_cut::range{0, all};
}

/// The part of `whole` (rows, heads, ...) that moves with a peer; without bytes, if there is none.
inline piece piece_of(piece const& whole, head_cut::range const& part, index_t rows, row_list const& list) {
  piece p = whole;
  p.extents[0] = rows;
  p.extents[1] = part.count;
  if (p.bytes() == 0) return p;
  if (p.rank > 1) p.data += part.first * p.strides[1];
  if (list.size() > 1) {
    p.rows = list;
  } else { // no list: for any communicator
    p.data += list[0].first * p.strides[0];
    p.strides[0] *= list[0].step;
  }
  return p;
}

} // namespace detail
} // namespace sp
