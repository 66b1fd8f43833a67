// Heads of an Ulysses call in chunks: while one is computed, the inputs of the next and the results of the one before are on their way.
// Every rank has the same number of chunks, so that ranks make the same exchanges; where a rank has fewer kv heads, some are empty.
#pragma once

#include <optional>
#include <type_traits>

#include <sp/attention/ring/head_chunk.hpp>
#include <sp/layout/routed.hpp>

namespace sp::detail {

/// The heads of a call: of all ranks, of this one, and in how many chunks they are exchanged: in no more than some rank has kv heads,
/// because a chunk takes kv heads whole.
struct ulysses_heads {
  heads all, mine;
  index_t chunks = 1;

  ulysses_heads(heads whole, int rank, int ranks, index_t wanted) : all(whole), mine(heads_of(whole, rank, ranks)) {
    if (wanted <= 1) return;
    index_t most = 1;
    for (int r = 0; r < ranks; ++r) most = max(most, heads_of(whole, r, ranks).kv_count);
    chunks = min(wanted, most);
  }
  [[nodiscard]] head_chunk chunk(index_t i) const { return chunks == 1 ? head_chunk{mine} : head_chunk::of(mine, i, chunks); }
  [[nodiscard]] index_t count(head_cut::kind kind) const noexcept {
    return kind == head_cut::kind::q ? mine.q_count : mine.kv_count;
  }
  /// Local heads of chunk i.
  [[nodiscard]] head_cut::range range(head_cut::kind kind, index_t i) const {
    if (chunks == 1) return {0, count(kind)};
    head_chunk const c = chunk(i);
    return kind == head_cut::kind::q ? head_cut::range{c.q, c.on.q_count} : head_cut::range{c.kv, c.on.kv_count};
  }
  [[nodiscard]] index_t widest(head_cut::kind kind) const {
    index_t n = 0;
    for (index_t i = 0; i < chunks; ++i) n = max(n, range(kind, i).count);
    return n;
  }
  /// The tensor that holds all heads is `side`: chunk i of each peer's moves.
  [[nodiscard]] head_cut cut(head_cut::side side, head_cut::kind kind, index_t i) const { return {side, all, kind, i, chunks}; }
  /// The same for all chunks at once.
  [[nodiscard]] head_cut uncut(head_cut::side side, head_cut::kind kind) const { return {side, all, kind}; }
};

/// What make() returns, made where it stays: tokens are large.
template <class Make>
struct made_in_place {
  Make const& make;
  operator std::invoke_result_t<Make const&>() const { return make(); }
};

/// An exchange on its way, of either of two kinds, or none.
template <class First, class Second = First>
class in_flight {
public:
  template <class Make>
  void start_first(Make const& make) {
    first_.emplace(made_in_place<Make>{make});
  }
  template <class Make>
  void start_second(Make const& make) {
    second_.emplace(made_in_place<Make>{make});
  }
  void wait() {
    wait(first_);
    wait(second_);
  }

private:
  template <class Token>
  static void wait(std::optional<Token>& flight) {
    if (!flight) return;
    flight->wait();
    flight.reset();
  }
  std::optional<First> first_;
  std::optional<Second> second_;
};

/// For each chunk: arrive(i) starts `inputs`, compute(i), leave(i) starts `results`. While chunk i is computed, the inputs of i + 1 and the
/// results of i - 1 are on their way; no more than these two exchanges ever are.
template <class Inputs, class Results, class Arrive, class Compute, class Leave>
void overlapped(index_t chunks, Inputs& inputs, Results& results, Arrive const& arrive, Compute const& compute,
                Leave const& leave) {
  arrive(0);
  for (index_t i = 0; i < chunks; ++i) {
    inputs.wait();
    if (i + 1 < chunks) arrive(i + 1);
    compute(i);
    results.wait();
    leave(i);
  }
  results.wait();
}

} // namespace sp::detail
