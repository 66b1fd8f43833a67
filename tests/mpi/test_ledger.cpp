// What crosses real processes: every rank's ledger has the operations, messages and bytes that threads count for the same calls.
// Ranks are groups that split() makes out of eight processes; threads run inside each process, next to them.
// ranks: 8
// optimised: steps of eight processes
#include <doctest/doctest.h>

#include <sp/collective.hpp>
#include <sp/counting.hpp>

#include "conformance/simple.hpp"
#include "processes.hpp"

namespace conformance::test_ledger {
namespace {

struct scene {
  std::vector<index_t> cu_seqlens;
  int sharding;
  sp::attention_shape shape;
};
std::vector<scene> scenes() {
  return {{{0, 37}, 0, {7, 7, 5, 3}},
          {{0, 0, 11, 12, 12, 35}, 1, {12, 4, 8, 8}},
          {{0, 3}, 2, {5, 1, 4, 2}},      // fewer tokens than ranks
          {{0, 300}, 2, {8, 4, 64, 64}}}; // parcels above eager_limit
}

/// Forward, backward and sums over all ranks.
template <class Comm, class Make>
sp::ledger step_ledger(Comm const& plain_comm, scene const& s, Make const& make) {
  sp::ledger ledger;
  sp::counting comm(plain_comm, ledger);
  sp::batch b(sp::packed(std::span<index_t const>(s.cu_seqlens)), any_sharding{s.sharding}, comm);
  attention_tensors<float> x(b, s.shape);
  sp::pool memory;
  auto attn = make(comm);
  x.both(attn, attn.prepare(b), {memory, memory});
  std::vector<float> sums(600, 1.0f); // more than travel at once, and fewer
  sp::all_reduce(comm, sp::view<float, 1>(sums.data(), {600}), memory);
  sp::all_reduce(comm, sp::view<float, 1>(sums.data(), {6}), memory);
  sp::barrier(comm);
  return ledger;
}

std::string describe(sp::ledger const& l) {
  std::string s;
  for (auto const& [name, e] : l.entries())
    s += name + ": " + std::to_string(e.operations) + " operations, " + std::to_string(e.messages) + " messages, " +
         std::to_string(e.bytes_sent) + " bytes sent, " + std::to_string(e.bytes_received) + " received, " +
         std::to_string(e.publications) + " publications of " + std::to_string(e.bytes_published) + " bytes\n";
  return s;
}

/// Compares on every process that is a rank, for every scene; CHECKs that something was counted at all.
template <class Comm, class Make>
void compare(std::initializer_list<int> rank_counts, Make const& make) {
  sp::mpi const world(MPI_COMM_WORLD, {.deadline = std::chrono::seconds(30)});
  sp::ledger_entry all;
  for (int ranks : rank_counts) {
    sp::mpi const group = world.split(world.rank() < ranks ? 0 : 1, world.rank());
    if (world.rank() >= ranks) continue;
    Comm const comm(group);
    for (scene const& s : scenes()) {
      std::vector<sp::ledger> of_threads{std::size_t(ranks)};
      sp::threads::run(
          ranks, [&](sp::threads const& t) { of_threads[std::size_t(t.rank())] = step_ledger(t, s, make); }, impatient());
      sp::ledger const mine = step_ledger(comm, s, make), &theirs = of_threads[std::size_t(comm.rank())];
      INFO("threads count\n" << describe(theirs));
      INFO("processes count\n" << describe(mine));
      CHECK(mine.entries() == theirs.entries());
      all += mine.total();
    }
  }
  CHECK(all.operations > 0);
  CHECK(all.bytes_sent + all.bytes_published > 0);
}

} // namespace

TEST_CASE("ring rotates: the ledger of threads") {
  compare<sp::mpi>({2, 5, 8}, [](auto comm) { return sp::ring_attention{comm, sp::cpu{}, {.schedule = sp::schedule::rotate}}; });
}
TEST_CASE("ring casts: the ledger of threads") {
  compare<sp::mpi>({3, 8}, [](auto comm) {
    return sp::ring_attention{comm, sp::cpu{}, {.schedule = sp::schedule::cast, .head_chunks = 3}};
  });
}
TEST_CASE("ring passes queries: the ledger of threads") {
  compare<sp::mpi>({8}, [](auto comm) {
    return sp::ring_attention{comm, sp::cpu{}, {.schedule = sp::schedule::pass_q, .head_chunks = 3}};
  });
}
#ifdef SP_TEST_ALL // other objects over the same messages
TEST_CASE("ring pulls: the ledger of threads") {
  compare<sp::mpi_shared>({3, 8}, [](auto comm) {
    return sp::ring_attention{comm, sp::cpu{}, {.schedule = sp::schedule::pull}};
  });
}
TEST_CASE("ulysses: the ledger of threads") {
  compare<sp::mpi>({2, 3, 8}, [](auto comm) { return sp::ulysses_attention{comm, sp::cpu{}, {}, {sp::keep::output}}; });
}
TEST_CASE("usp: the ledger of threads") {
  compare<sp::mpi>({4, 6, 8}, [](auto comm) { return make_usp(comm, 2, sp::cpu{}, {.schedule = sp::schedule::rotate}); });
}
#endif

} // namespace conformance::test_ledger
