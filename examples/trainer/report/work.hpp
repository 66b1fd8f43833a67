// Which rank computes what in a step: layouts, the blocks of every ring step, and how unequal the shares are.
// All of it comes from the library's layouts and its one intersection, so a picture cannot disagree with the program.
#pragma once

#include "training/plans.hpp"

namespace trainer {

/// One sequence group of a plan: its layout, its first rank, and where its share of the step begins.
struct group_layout {
  sp::layout who;
  int first_rank = 0;
  index_t begin = 0;
};

/// One entry per data rank: each trains on other documents of the step.
std::vector<group_layout> layouts_of(plan const& p, step_text const& step);

/// Instead of a ring step: the keys of all ranks at once, as cast and pull see them.
inline constexpr int all_keys = -1;

/// Calls f(ring rank, block) for the blocks of one ring step, or of all keys.
template <class F>
void for_each_step_block(plan const& p, sp::layout const& who, int step, F&& f) {
  sp::layout rings = who.grouped(p.ulysses, 1); // what a ring rank holds while its Ulysses group has exchanged heads for tokens
  auto mask = sp::slices(sp::causal(), who.docs(), who.docs());
  for (int r = 0; r < p.ring; ++r) {
    auto keys = step == all_keys ? sp::table_of(rings) : sp::place(rings.runs((r - step + p.ring) % p.ring));
    sp::for_each_block(sp::place(rings.runs(r)), keys, mask, [&](sp::block const& b) { f(r, b); });
  }
}

/// (query, key) pairs times query heads of the busiest rank over the mean of all ranks: 1 is perfect balance.
double imbalance(plan const& p, step_text const& step, shape const& model);

} // namespace trainer
