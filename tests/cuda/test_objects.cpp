// Attention objects on cuda_local, over a fake of the runtime: every schedule of the ring, Ulysses, USP and Ulysses around USP, forward and
// backward, P 1 to 8, have the bits of the same object on the host and the numbers of the oracle. SP_TEST_SECONDS: more trials.
// needs: context cuda
// with all: takes long to compile
#include "conformance/check.hpp"
#include "cuda/ranks.hpp"

namespace test_objects {

using namespace conformance;
using cuda_tests::in_cuda_threads;
using support::interleaving;

namespace {

using device_kernel = sp::basic_reference<sp::device_memory>;

template <class T, object_kind Object>
void same_on_device(trial const& t, interleaving how) {
  inputs<T> in(t);
  outcome<T> host(t, t.ranks), device(t, t.ranks);
  run<Object>(t, in, sp::basic_reference<sp::host_memory>{}, host);
  run<Object>(t, in, device_kernel{}, device, as_it_is{}, in_cuda_threads{unsigned(t.seed), how});
  std::string wrong = differing(device, host, true); // but for sums of many terms: the order on a device is another one
  if constexpr (std::is_same_v<T, double>) {
    auto const truth = expected(t, in);
    wrong += judge<T>(t, measure_all(t, device, truth), {}, truth.largest_score);
  }
  INFO(t.describe());
  INFO("interleaving " << int(how) << ", seed " << t.seed);
  CHECK(wrong == "");
}

/// One trial of each number of ranks, and of each object or schedule.
template <class Trial>
void trials(unsigned least, Trial const& trial) {
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds());
  unsigned done = 0;
  for (; done < least || std::chrono::steady_clock::now() < end; ++done) trial(done);
  MESSAGE(done << " trials");
}

} // namespace

TEST_CASE("cuda objects: rings of every schedule have the bits of the host and the numbers of the oracle") {
  trials(16, [](unsigned n) {
    trial t = on_queues(1 + n * 7919u, object_kind::ring, 1 + int(n % 8));
    static constexpr sp::schedule schedules[] = {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull,
                                                 sp::schedule::pass_q};
    t.how = schedules[(n + n / 8) % 4];
    auto const how = interleaving((n + n / 3) % 3);
    same_on_device<double, object_kind::ring>(t, how);
  });
}

TEST_CASE("cuda objects: ulysses and usp have the bits of the host and the numbers of the oracle") {
  trials(12, [](unsigned n) {
    trial const t = on_queues(1 + n * 7919u, n % 2 ? object_kind::usp : object_kind::ulysses, 1 + int(n / 2 * 3 % 8));
    auto const how = interleaving(n / 2 % 3);
    if (t.object == object_kind::ulysses) same_on_device<double, object_kind::ulysses>(t, how);
    if (t.object == object_kind::usp) same_on_device<sp::bf16, object_kind::usp>(t, how);
  });
}

#ifdef SP_TEST_ALL
TEST_CASE("cuda objects: bf16 rings and ulysses around usp have the bits of the host and the numbers of the oracle") {
  trials(16, [](unsigned n) {
    trial const t = on_queues(1 + n * 7919u, n % 2 ? object_kind::nested : object_kind::ring, 1 + int(n / 2 * 3 % 8));
    auto const how = interleaving(n / 2 % 3);
    if (t.object == object_kind::ring) same_on_device<sp::bf16, object_kind::ring>(t, how);
    if (t.object == object_kind::nested) same_on_device<double, object_kind::nested>(t, how);
  });
}
#endif

} // namespace test_objects
