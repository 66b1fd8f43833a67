// The ways the trainer spreads one model's tokens over ranks: data x ring x ulysses degrees and a sharding. Plain data.
// A plan with all degrees 1 is the one-rank run that every other plan is compared with.
#pragma once

#include <sp/batch.hpp>
#include <sp/ring.hpp>

#include "data/steps.hpp"

namespace trainer {

/// Which tokens of a document (or of the stream) a rank of the sequence group owns.
enum class sharding { contiguous, zigzag, striped };

/// What the ranks of a sequence do for gated delta nets: exchange tokens for heads, or pass on maps of the state.
enum class delta_by { heads, state };

struct plan {
  std::string name;
  int data = 1, ring = 1, ulysses = 1;
  sharding how = sharding::contiguous;
  sp::schedule schedule = sp::schedule::rotate;
  delta_by delta = delta_by::state;

  int sequence() const { return ring * ulysses; }
  int ranks() const { return data * sequence(); }
};

/// Plans for at most n ranks; rings by `schedule` where one is given.
inline std::vector<plan> all_plans(int n, std::optional<sp::schedule> schedule = {}) {
  using enum sharding;
  auto name = [](char const* what, int ranks) { return what + std::to_string(ranks); };
  std::vector<plan> plans{
      {"one rank"},
      {name("ulysses ", n), 1, 1, n, contiguous, sp::schedule::rotate, delta_by::heads},
      {name("zigzag ring ", n), 1, n, 1, zigzag, sp::schedule::rotate},
  };
  if (n > 2) plans.push_back({name("striped ring ", n - 1), 1, n - 1, 1, striped, sp::schedule::rotate, delta_by::heads});
  if (n > 3) plans.push_back({"usp " + name("", n / 2) + " x 2", 1, n / 2, 2, zigzag, sp::schedule::rotate});
  plans.push_back({name("data 2 x sequence ", n / 2), 2, n / 2, 1, contiguous, sp::schedule::cast});
  if (schedule)
    for (plan& p : plans) p.schedule = *schedule;
  return plans;
}

inline sp::documents documents_of(step_text const& text) { return sp::documents::packed(text.cu_seqlens); }

/// A step's documents as seen by one rank of a sequence group. Ulysses ranks cut their ring rank's shard once more
/// (nested); with degree 1 that is the shard itself.
inline sp::batch make_batch(plan const& p, sp::documents const& documents, int sequence_rank) {
  switch (p.how) {
  case sharding::zigzag:
    return {documents, sp::nested{sp::zigzag{}, p.ulysses}, sequence_rank, p.sequence()};
  case sharding::striped:
    return {documents, sp::nested{sp::striped{}, p.ulysses}, sequence_rank, p.sequence()};
  default:
    return {documents, sp::contiguous{}, sequence_rank, p.sequence()};
  }
}

} // namespace trainer
