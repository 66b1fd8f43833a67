// Attention objects on sp::nccl, over fakes of NCCL and of the runtime: every schedule of the ring that sends, Ulysses and USP, forward
// and backward, P 1 to 8, have the bits of the same object on the host and the numbers of the oracle.
// needs: context cuda nccl
// optimised: trials compute a lot, emulated thread by thread
// with all: takes long to compile
#include "conformance/check.hpp"
#include "cuda/ranks.hpp"
#include "support/nccl_ranks.hpp"

namespace test_nccl_objects {

using namespace conformance;
using support::interleaving;

namespace {

/// As conformance::in_threads.
struct in_nccl_ranks {
  static constexpr bool peers_share_memory = false;
  unsigned seed;
  interleaving how;

  template <class T, class Body>
  void run(int ranks, outcome<T>& to, Body const& body) const {
    support::run_nccl(ranks, [&](sp::nccl const& comm, ncclComm_t) { body(comm, to); }, {.seed = seed, .how = how});
  }
};

template <class T, object_kind Object>
void same_on_nccl(trial const& t, interleaving how) {
  inputs<T> in(t);
  outcome<T> host(t, t.ranks), device(t, t.ranks);
  run<Object>(t, in, sp::basic_reference<sp::host_memory>{}, host);
  run<Object>(t, in, sp::basic_reference<sp::device_memory>{}, device, as_it_is{}, in_nccl_ranks{unsigned(t.seed), how});
  std::string wrong = differing(device, host, true); // but for sums of many terms: the order on a device is another one
  if constexpr (std::is_same_v<T, double>) {
    auto const truth = expected(t, in);
    wrong += judge<T>(t, measure_all(t, device, truth), {}, truth.largest_score);
  }
  INFO(t.describe());
  INFO("interleaving " << int(how) << ", seed " << t.seed);
  CHECK(wrong == "");
}

template <class Trial>
void trials(unsigned least, Trial const& trial) {
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds());
  unsigned done = 0;
  for (; done < least || std::chrono::steady_clock::now() < end; ++done) trial(done);
  MESSAGE(done << " trials");
}

} // namespace

TEST_CASE("nccl objects: rings of every schedule that sends have the bits of the host and the numbers of the oracle") {
  trials(8, [](unsigned n) {
    trial t = on_queues(1 + n * 7919u, object_kind::ring, 1 + int(n % 8));
    static constexpr sp::schedule schedules[] = {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pass_q};
    t.how = schedules[n % 3];
    same_on_nccl<double, object_kind::ring>(t, interleaving((n + n / 3) % 3));
  });
}

TEST_CASE("nccl objects: ulysses has the bits of the host and the numbers of the oracle") {
  trials(8, [](unsigned n) {
    trial const t = on_queues(1 + n * 7919u, object_kind::ulysses, 1 + int(n % 8));
    same_on_nccl<double, object_kind::ulysses>(t, interleaving((n + n / 3) % 3));
  });
}

#ifdef SP_TEST_ALL
TEST_CASE("nccl objects: usp has the bits of the host") {
  trials(8, [](unsigned n) {
    trial t = on_queues(1 + n * 7919u, object_kind::usp, 1 + int(n * 3 % 8));
    if (t.how == sp::schedule::pull) t.how = n % 4 == 1 ? sp::schedule::rotate : sp::schedule::cast; // pull reads others' memory
    same_on_nccl<sp::bf16, object_kind::usp>(t, interleaving(n % 3));
  });
}
#endif

} // namespace test_nccl_objects
