// Sums over ranks that read each other's memory, as work of their queues: no scratch, no message, and nothing waits for the work.
// Each value is added up in the order of ranks by one of them, as the fallbacks of operations.hpp do it: the same bits on every rank.
#pragma once

#include <sp/collective/concepts.hpp>

namespace sp::detail {

/// to(i) = the sum over r < ranks of from[r](i), in the order of r. `to` may be one of them.
template <class T, class M>
struct sum_of_ranks {
  static constexpr int most = 64; ///< ranks: so many views fit into the parameters of a kernel

  view<T, 1, M> to;
  view<T const, 1, M> from[most];
  int ranks;

  SP_BOTH constexpr void operator()(index_t i) const {
    T sum = from[0](i);
    for (int r = 1; r < ranks; ++r) sum = static_cast<T>(sum + from[r](i));
    to(i) = sum;
  }
};

/// The work of a rank that adds up what the others have published.
template <class T, class Comm>
class peer_sums {
  using M = typename Comm::memory_type;
  using body = sum_of_ranks<T, M>;

public:
  peer_sums(Comm const& c, char const* primitive) : comm_(c), primitive_(primitive) {
    if (c.size() > body::most)
      fail({errc::unsupported, "a sum over " + std::to_string(c.size()) + " ranks of one process",
            "At most " + std::to_string(body::most) + " ranks can add up each other's memory: split the group", primitive,
            c.rank(), c.size()});
  }

  /// Rank r ends with the sum of everybody's parts[r] in `mine`, which may be its own part.
  void reduce_scatter(std::span<view<T, 1, M> const> parts, view<T, 1, M> const& mine) const {
    std::array<piece, std::size_t(body::most)> pieces;
    for (std::size_t r = 0; r < parts.size(); ++r) pieces[r] = as_piece(parts[r]);
    auto shown = comm_.publish(primitive_, {pieces.data(), parts.size()});
    add(shown, std::size_t(comm_.rank()), mine.extent(0), 0, mine);
    shown.release();
  }

  /// Rank r adds up part r of everybody's v, where it stands in its own, and everybody takes it from there.
  void all_reduce(view<T, 1, M> const& v) const {
    piece const all = as_piece(v);
    auto shown = comm_.publish(primitive_, {&all, 1});
    add(shown, 0, v.extent(0), first(v, comm_.rank()), part(v, comm_.rank()));
    comm_.barrier();
    for (int r = 0; r < comm_.size(); ++r) {
      if (r == comm_.rank()) continue;
      piece const to = as_piece(part(v, r)), from = as_piece(part(of(shown, r, 0, v.extent(0)), r));
      comm_.queue().copy({&to, 1}, {&from, 1});
    }
    shown.release();
  }

private:
  index_t first(view<T, 1, M> const& v, int r) const { return cut(v.extent(0), r, comm_.size()); }
  view<T, 1, M> part(view<T, 1, M> const& v, int r) const { return v.rows(first(v, r), first(v, r + 1) - first(v, r)); }

  /// to = the sum over ranks of what stands from `begin` on in their i-th pieces, each of n values.
  template <class Shown>
  void add(Shown const& shown, std::size_t i, index_t n, index_t begin, view<T, 1, M> const& to) const {
    body sums{to, {}, comm_.size()};
    for (int r = 0; r < comm_.size(); ++r) sums.from[r] = of(shown, r, i, n).rows(begin, to.extent(0));
    comm_.queue().for_each(to.extents, sums);
  }

  /// The i-th piece that rank r has published, of n values; short_message if it is another number.
  template <class Shown>
  view<T, 1, M> of(Shown const& shown, int r, std::size_t i, index_t n) const {
    std::span<piece const> const theirs = shown.of(r);
    index_t const values = i < theirs.size() ? theirs[i].extents[0] : 0;
    if (i >= theirs.size() || values != n)
      fail({errc::short_message,
            "rank " + std::to_string(comm_.rank()) + " adds up " + std::to_string(n) + " values, rank " + std::to_string(r) +
                " gives " + std::to_string(values),
            "Give as many values on every rank", primitive_, comm_.rank(), comm_.size(), -1, r});
    return as_view<T, 1, M>(theirs[i]);
  }

  Comm const& comm_;
  char const* primitive_;
};

} // namespace sp::detail
