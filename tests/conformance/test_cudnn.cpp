// The cuDNN backend over a fake of cuDNN that refuses what cuDNN cannot do: rings, Ulysses and both nested on 1 to 8 ranks, on late queues
// in memory that faults on the host, forward and backward, against the float64 oracle. SP_TEST_SECONDS: more trials.
// with all: takes long to compile
#include <sp/backend/cudnn/kernel.hpp>

#include "kernel_trials.hpp"
#include "support/failure.hpp"
#include "support/fake_cudnn.hpp"

namespace conformance::test_cudnn {
namespace {

using kernel = sp::basic_cudnn<elsewhere, support::fake_cudnn>;
using support::interleaving;

/// The trial on its ranks, whose kernels have these options.
template <class T>
void run_on(trial const& t, inputs<T> const& in, support::fake_cudnn_report& report, outcome<T>& to, interleaving how) {
  support::fake_cudnn engine(report);
  sp::cudnn_options const lengths{.fixed_multiple = 1 + index_t(mixed(t.seed, 6) % 7), .least_length = 4};
  run<object_kind::usp>(t, in, kernel(engine, lengths), to, as_it_is{}, in_late_threads{unsigned(t.seed), how});
}

template <class T>
void conforms(trial const& t, support::fake_cudnn_report& report, interleaving how) {
  std::string const wrong =
      wrong_of<T>(t, [&](trial const& on, inputs<T> const& in, outcome<T>& to) { run_on(on, in, report, to, how); });
  INFO(t.describe());
  INFO("seed " << t.seed);
  CHECK(wrong == "");
  CHECK(report.wrong == "");
}

} // namespace

TEST_CASE("cudnn: rings, ulysses and both on late queues have the numbers of the oracle, and cuDNN meets no hazard [asan]") {
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds());
  support::fake_cudnn_report report;
  unsigned done = 0;
  for (; done < 16 || std::chrono::steady_clock::now() < end; ++done) {
    trial const t = for_cudnn(1 + done * 7919u, 1 + int(done % 8));
    conforms<sp::bf16>(t, report, interleaving(mixed(t.seed, 5) % 3));
  }
  for (auto const& direction : report.calls)
    for (auto const& calls : direction) CHECK(calls > 25);
  MESSAGE(done << " trials, " << int(report.calls[0][0]) << " forward calls without lists and " << int(report.calls[0][1])
               << " with, " << int(report.sequences) << " sequences");
}

} // namespace conformance::test_cudnn
