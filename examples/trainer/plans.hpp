// The ways the trainer spreads one model's tokens over ranks: data x ring x ulysses degrees and a sharding. Plain data.
// A plan with all degrees 1 is the one-rank run that every other plan is compared with.
#pragma once

#include <sp/batch.hpp>
#include <sp/ring.hpp>

#include "data.hpp"

namespace trainer {

/// Which tokens of a document (or of the stream) a rank of the sequence group owns.
enum class sharding { contiguous, zigzag, striped };

struct plan {
  std::string name;
  int data = 1, ring = 1, ulysses = 1;
  sharding how = sharding::contiguous;
  sp::schedule schedule = sp::schedule::rotate;

  int sequence() const { return ring * ulysses; }
  int ranks() const { return data * sequence(); }
};

inline std::vector<plan> all_plans() {
  using enum sharding;
  return {
      {"one rank"},
      {"ulysses 4", 1, 1, 4, contiguous},
      {"zigzag ring 4", 1, 4, 1, zigzag, sp::schedule::rotate},
      {"striped ring 3", 1, 3, 1, striped, sp::schedule::rotate},
      {"usp 2 x 2", 1, 2, 2, zigzag, sp::schedule::rotate},
      {"data 2 x sequence 2", 2, 2, 1, contiguous, sp::schedule::gather},
  };
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
