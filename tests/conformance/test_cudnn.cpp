// The cuDNN backend over a fake of cuDNN that refuses what cuDNN cannot do: rings, Ulysses and both nested on 1 to 8 ranks, on late queues
// in memory that faults on the host, forward and backward, against the float64 oracle. SP_TEST_SECONDS: more trials.
// with all: takes long to compile
#include <sp/backend/cudnn/kernel.hpp>

#include "check.hpp"
#include "elsewhere.hpp"
#include "support/failure.hpp"
#include "support/fake_cudnn.hpp"

namespace conformance::test_cudnn {
namespace {

using kernel = sp::basic_cudnn<elsewhere, support::fake_cudnn>;
using support::interleaving;

/// What cuDNN can do of a drawn trial.
trial within_limits(std::uint64_t seed, int ranks) {
  trial t = draw(seed, object_kind::usp, false, true);
  std::uint64_t const degrees = mixed(seed, 1);
  t.ranks = ranks, t.ring = 1;
  for (int d = 1; d <= ranks; ++d)
    if (ranks % d == 0 && (degrees >> d) % 2) t.ring = d;
  t.ulysses = ranks / t.ring;
  if (t.sharding.inner > 1) t.sharding.inner = t.ulysses, t.sharding.stride = t.ring_is_fast ? t.ring : 1;
  if (t.key_sharding.inner > 1) t.key_sharding.inner = t.ulysses, t.key_sharding.stride = t.ring_is_fast ? t.ring : 1;
  static constexpr sp::schedule schedules[] = {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull,
                                               sp::schedule::pass_q};
  t.how = schedules[mixed(seed, 2) % 4];
  t.dim = 8 + 8 * index_t(mixed(seed, 3) % 2), t.value_dim = 8 + 8 * index_t(mixed(seed, 4) % 2);
  t.scale = t.scale > 0 ? t.scale : 0;
  if (t.mask_kind != 1 && t.mask_kind != 4) t.mask_kind = 0, t.mask = sp::causal(t.mask.at);
  if (t.mask_kind != 1) t.key_sharding = t.sharding, t.key_padded = t.padded; // steps of equal sizes
  t.plain = true;
  t.short_form = t.twice = false;
  return t;
}

/// The trial on its ranks, whose kernels have these options.
template <class T>
void run_on(trial const& t, inputs<T> const& in, support::fake_cudnn_report& report, outcome<T>& to, interleaving how) {
  support::fake_cudnn engine(report);
  sp::cudnn_options const lengths{.fixed_multiple = 1 + index_t(mixed(t.seed, 6) % 7), .least_length = 4};
  run<object_kind::usp>(t, in, kernel(engine, lengths), to, as_it_is{}, in_late_threads{unsigned(t.seed), how});
}

template <class T>
void conforms(trial const& t, support::fake_cudnn_report& report, interleaving how) {
  inputs<T> in(t);
  outcome<T> got(t, t.ranks), alone(t, 1);
  trial one = t;
  one.ranks = one.ring = one.ulysses = 1;
  one.padded = one.key_padded = false, one.sharding = one.key_sharding = {};
  std::string wrong;
  try {
    run_on(t, in, report, got, how);
    run_on(one, in, report, alone, how);
    auto const truth = expected(t, in);
    auto of_one = measure_all(t, alone, truth);
    of_one[5].norm = std::fmax(of_one[5].norm, 0x1p-8 * of_one[5].truth_norm); // a few sums, which rounding meets by luck
    for (std::size_t gradient : {2, 3, 4}) of_one[gradient].norm *= 2; // calls round theirs before they are added, and may cancel
    wrong = judge<T>(t, measure_all(t, got, truth), of_one, truth.largest_score);
  } catch (std::exception const& e) {
    wrong = e.what();
  }
  for (auto const& c : got.complaints) wrong += c;
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
    trial const t = within_limits(1 + done * 7919u, 1 + int(done % 8));
    conforms<sp::bf16>(t, report, interleaving(mixed(t.seed, 5) % 3));
  }
  for (auto const& direction : report.calls)
    for (auto const& calls : direction) CHECK(calls > 25);
  MESSAGE(done << " trials, " << int(report.calls[0][0]) << " forward calls without lists and " << int(report.calls[0][1])
               << " with, " << int(report.sequences) << " sequences");
}

} // namespace conformance::test_cudnn
