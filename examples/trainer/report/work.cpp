// Counts what every rank computes in a step.
// A rank's work is its ring rank's (query, key) pairs times the query heads that Ulysses gives it.
#include "report/work.hpp"

#include "training/traffic.hpp"

namespace trainer {

std::vector<group_layout> layouts_of(plan const& p, step_text const& step) {
  std::vector<group_layout> out;
  for (int d = 0; d < p.data; ++d) {
    step_text mine = share(step, d, p.data);
    out.push_back({make_batch(p, documents_of(mine), 0).layout(), d * p.sequence(), mine.first});
  }
  return out;
}

double imbalance(plan const& p, step_text const& step, shape const& model) {
  double busiest = 0, all = 0;
  for (group_layout const& group : layouts_of(p, step)) {
    std::vector<double> pairs(std::size_t(p.ring), 0.0);
    for_each_step_block(p, group.who, all_keys,
                        [&](int ring_rank, sp::block const& b) { pairs[std::size_t(ring_rank)] += double(sp::pair_count(b)); });
    for (double n : pairs)
      for (int part = 0; part < p.ulysses; ++part) {
        double work = n * double(heads_of_rank(model, part, p.ulysses).q);
        busiest = std::max(busiest, work);
        all += work;
      }
  }
  return busiest * p.ranks() / all;
}

} // namespace trainer
