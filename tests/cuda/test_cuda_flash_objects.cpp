// cuda_flash on cuda_local, over a fake of the runtime: rings of every schedule, Ulysses and USP, P 1 to 8, any mask, sinks, softcap, ALiBi
// and dropout, forward and backward, against the float64 oracle and one rank of the reference that rounds as tensor cores do.
// SP_TEST_SECONDS: more trials.
// needs: context cuda
// with all: takes long to compile
#include <sp/cuda_flash.hpp>

#include "conformance/check.hpp"
#include "cuda/ranks.hpp"
#include "cuda/rounded_reference.hpp"

namespace test_cuda_flash_objects {
namespace {

using namespace conformance;
using cuda_tests::in_cuda_threads;
using support::interleaving;

/// Tiles so small that a few rows are several.
struct tiny {
  static constexpr sp::detail::flash_shape shape{.forward_rows = 32, .backward_rows = 16, .keys = 16, .slabs = 2};
  using dims = sp::detail::head_dims<16>;
};
using kernel = sp::basic_cuda_flash<tiny, sp::softcap, sp::alibi, sp::dropout>;

} // namespace
} // namespace test_cuda_flash_objects

template <class Outer, class Inner>
inline constexpr bool conformance::prepares_without_context<
    sp::ulysses_attention<Outer, sp::ring_attention<Inner, test_cuda_flash_objects::kernel>>> = false;

namespace test_cuda_flash_objects {
namespace {

/// A drawn trial as this kernel takes it.
trial drawn(std::uint64_t seed, int ranks) {
  trial t = draw(seed, object_kind::usp, true, true);
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
  t.sinks = mixed(seed, 7) % 2;
  t.plain = true;
  t.short_form = t.twice = false;
  return t;
}

template <class T>
std::string faults(trial const& t, interleaving how) {
  inputs<T> in(t);
  outcome<T> got(t, t.ranks), alone(t, 1);
  sp::softcap const cap{t.softcap};
  sp::alibi const biases{in.slopes};
  sp::dropout const dropout{t.dropout};
  sp::flash_options const options{.deterministic = mixed(t.seed, 5) % 2 == 0, .blocks = index_t(mixed(t.seed, 6) % 3)};
  try {
    run<object_kind::usp>(t, in, kernel(options, cap, biases, dropout), got, as_it_is{}, in_cuda_threads{unsigned(t.seed), how});
    run_alone<T>(t, in, backend_tests::rounded_reference{cap, biases, dropout}, alone);
    auto const truth = expected(t, in);
    auto of_one = measure_all(t, alone, truth);
    of_one[5].norm = std::fmax(of_one[5].norm, 0x1p-8 * of_one[5].truth_norm); // a few sums, which rounding meets by luck
    return judge<T>(t, measure_all(t, got, truth), of_one, truth.largest_score);
  } catch (std::exception const& e) {
    return e.what();
  }
}

} // namespace

TEST_CASE("cuda_flash objects: rings, ulysses and usp have the numbers of the oracle, with sinks and every feature") {
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds());
  unsigned done = 0, with_sinks = 0;
  for (; done < 24 || std::chrono::steady_clock::now() < end; ++done) {
    trial const t = drawn(1 + done * 7919u, 1 + int(done % 8));
    with_sinks += t.sinks;
    std::string const wrong = faults<sp::bf16>(t, interleaving(mixed(t.seed, 8) % 3));
    INFO(t.describe());
    INFO("seed " << t.seed);
    CHECK(wrong == "");
  }
  CHECK(with_sinks > 6);
  MESSAGE(done << " trials, " << with_sinks << " with sinks");
}

} // namespace test_cuda_flash_objects
