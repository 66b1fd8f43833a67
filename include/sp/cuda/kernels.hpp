// Kernels behind for_each() and sums() of a cuda_queue: bodies and terms over the threads of a grid.
// One thread an index, and sums in an order that depends on the number of terms only.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include <sp/cuda/block.hpp>
#include <sp/cuda/divider.hpp>

namespace sp::detail {

/// Indices of one launch are counted in 31 bits: more are several launches.
inline constexpr index_t most_indices = (index_t(1) << 31) - 1;

/// body(i0, i1, ...) for every index of a box, the last one fastest, so that neighbours of a row are neighbours of a warp.
template <std::size_t Rank, class Body>
struct each_index {
  static constexpr int threads = 256;
  static constexpr bool independent_threads = true;
  index_t first[Rank];   ///< where the box begins
  divider extents[Rank]; ///< how long it is
  std::uint32_t indices; ///< in the box
  Body body;

  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    std::uint32_t const n = std::uint32_t(b.index()) * std::uint32_t(threads) + std::uint32_t(b.thread());
    if (n < indices) call(n, std::make_index_sequence<Rank>());
  }

private:
  template <std::size_t... D>
  SP_DEVICE void call(std::uint32_t n, std::index_sequence<D...>) const {
    index_t at[Rank];
    for (std::size_t d = Rank; d-- > 0;) {
      std::uint32_t const q = d > 0 ? extents[d].quotient(n) : 0;
      at[d] = first[d] + index_t(n - q * extents[d].divisor);
      n = q;
    }
    body(at[D]...);
  }
};

/// Calls launch(kernel) for boxes of at most `most` indices that make up those within the extents: halves, and halves of these.
template <class Kernel, std::size_t Rank, class Launch>
void plan_indices(Kernel kernel, std::array<index_t, Rank> extents, index_t most, Launch const& launch) {
  index_t indices = 1;
  std::size_t longest = 0;
  for (std::size_t d = 0; d < Rank; ++d) {
    indices = checked_mul(indices, max(extents[d], 0));
    if (extents[d] > extents[longest]) longest = d;
  }
  if (indices == 0) return;
  if (indices > most) {
    index_t const all = extents[longest], first = all / 2;
    extents[longest] = first;
    plan_indices(kernel, extents, most, launch);
    extents[longest] = all - first;
    kernel.first[longest] += first;
    return plan_indices(kernel, extents, most, launch);
  }
  for (std::size_t d = 0; d < Rank; ++d) kernel.extents[d] = divider(std::uint32_t(extents[d]));
  kernel.indices = std::uint32_t(indices);
  launch(kernel);
}

/// How the terms of a sum are cut: into at most `most` groups of equal size, the last one shorter. Each group is added up by a block of
/// threads, thread j taking terms j, j + threads, ... of it in turn and the sums of threads meeting in pairs; groups are added in order.
/// All of it follows from the number of terms, so any number of blocks may share the groups of one sum.
struct sum_groups {
  static constexpr int threads = 256;
  static constexpr index_t least = index_t(16) * threads, most = 64; ///< terms of a group; groups
  index_t terms, size, count;

  constexpr explicit sum_groups(index_t n) : terms(n), size(max(least, round_up((n + most - 1) / most, index_t(threads)))) {
    count = (n + size - 1) / size;
  }
};

/// The sum of group g of sum i, for thread 0 of the block; the others get none.
template <class Sum, class Block, class Term>
SP_DEVICE Sum sum_of_group(Block& b, sum_groups const& groups, Term const& term, index_t i, index_t g) {
  index_t const begin = g * groups.size, end = min(begin + groups.size, groups.terms);
  Sum sum{};
  for (index_t t = begin + b.thread(); t < end; t += sum_groups::threads) sum = sum + term(i, t);
  Sum* const all = b.template shared<Sum>(0);
  all[b.thread()] = sum;
  b.barrier();
  for (int n = sum_groups::threads / 2; n > 0; n /= 2) {
    if (b.thread() < n) all[b.thread()] = all[b.thread()] + all[b.thread() + n];
    b.barrier();
  }
  return b.thread() == 0 ? all[0] : Sum{}; // thread 0 writes it again for the next group, with no barrier between
}

/// One block a sum.
template <class Sum, class Term, class Store>
struct whole_sums {
  static constexpr int threads = sum_groups::threads;
  sum_groups groups;
  Term term;
  Store store;

  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    Sum sum{};
    for (index_t g = 0; g < groups.count; ++g) {
      Sum const next = sum_of_group<Sum>(b, groups, term, b.index(), g);
      sum = g == 0 ? next : sum + next;
    }
    if (b.thread() == 0) store(b.index(), sum);
  }
};

/// One block a group, for few sums of many terms: parts(i * groups + g) ...
template <class Sum, class Term>
struct part_sums {
  static constexpr int threads = sum_groups::threads;
  sum_groups groups;
  Term term;
  Sum* parts;

  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    Sum const sum = sum_of_group<Sum>(b, groups, term, b.index() / groups.count, b.index() % groups.count);
    if (b.thread() == 0) parts[b.index()] = sum;
  }
};
/// ... and the groups of each sum in order.
template <class Sum, class Store>
struct joined_sums {
  static constexpr int threads = 32;
  static constexpr bool independent_threads = true;
  index_t outputs, groups;
  Sum const* parts;
  Store store;

  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    index_t const i = b.index() * threads + b.thread();
    if (i >= outputs) return;
    Sum sum = parts[i * groups];
    for (index_t g = 1; g < groups; ++g) sum = sum + parts[i * groups + g];
    store(i, sum);
  }
};

} // namespace sp::detail
