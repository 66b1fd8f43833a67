// Conformance over real processes: the trials of the other conformance programs, their oracle and their bounds, P = 1..8.
// A communicator joins by one line in `communicators`; those whose ranks share memory are asked for the pull schedule too.
// ranks: 8
// optimised: hundreds of trials
#include "processes.hpp"

#include <sp/chaos.hpp>

#include "conformance/bits.hpp"
#include "conformance/check.hpp"

TYPE_TO_STRING(sp::mpi);
TYPE_TO_STRING(sp::mpi_shared);

namespace conformance::test_conformance {
namespace {

using communicators = std::tuple<sp::mpi, //
                                 sp::mpi_shared>;

template <class Comm, class T, object_kind Object>
void matrix() {
  conformance_of<T, Object, sp::cpu, false>(seconds() / 8, in_processes<Comm>{});
}

/// Processes and threads give the same bits for the same trial, however the calls of processes are decorated; compared on process 0.
template <object_kind Object, class Wrap = as_it_is>
void same_bits_as_threads(int trials, Wrap const& wrap = {}) {
  in_processes<sp::mpi> world;
  for (int i = 0; i < trials; ++i) {
    trial t = plain(std::uint64_t(i) * 7919 + 1, Object, false);
    if (t.how == sp::schedule::automatic) t.how = sp::schedule::rotate; // threads would pull
    inputs<double> in(t);
    outcome<double> got(t, t.ranks);
    run<Object>(t, in, sp::cpu{}, got, wrap, world);
    std::string const wrong = world.decide([&] {
      outcome<double> want(t, t.ranks);
      run<Object>(t, in, sp::cpu{}, want);
      return differing(got, want, true) + (got.dsinks == want.dsinks ? "" : " dsinks");
    });
    INFO(t.describe());
    CHECK(wrong == "");
  }
}

} // namespace

#ifdef SP_TEST_ALL
TEST_CASE_TEMPLATE_DEFINE("double ring", Comm, ring_in_double) { matrix<Comm, double, object_kind::ring>(); }
TEST_CASE_TEMPLATE_DEFINE("double ulysses", Comm, ulysses_in_double) { matrix<Comm, double, object_kind::ulysses>(); }
TEST_CASE_TEMPLATE_DEFINE("double usp", Comm, usp_in_double) { matrix<Comm, double, object_kind::usp>(); }
TEST_CASE_TEMPLATE_APPLY(ring_in_double, communicators);
TEST_CASE_TEMPLATE_APPLY(ulysses_in_double, communicators);
TEST_CASE_TEMPLATE_APPLY(usp_in_double, communicators);

TEST_CASE("bf16 usp") { matrix<sp::mpi, sp::bf16, object_kind::usp>(); }
#else // one of each: the ring and Ulysses over either are instantiated below or in both together
TEST_CASE("double usp") { matrix<sp::mpi, double, object_kind::usp>(); }
TEST_CASE("double ring, shared memory") { matrix<sp::mpi_shared, double, object_kind::ring>(); }
#endif

TEST_CASE("processes give the bits of threads") {
  same_bits_as_threads<object_kind::ring>(12);
  same_bits_as_threads<object_kind::ulysses>(8);
  same_bits_as_threads<object_kind::usp>(8);
}

#ifdef SP_TEST_ALL
TEST_CASE("processes give the bits of threads under delays") {
  same_bits_as_threads<object_kind::ring>(
      12, [](sp::mpi const& comm) { return sp::chaos(comm, {.seed = 7, .max_delay = std::chrono::microseconds(500)}); });
}
#endif

} // namespace conformance::test_conformance
