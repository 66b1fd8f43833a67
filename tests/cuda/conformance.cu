// Attention objects on a device (or, compiled by g++, over fakes): rings of every schedule, Ulysses, USP, P 1 to 8, forward and backward,
// against the oracle in float64. SP_TEST_KERNEL (reference, flash, cudnn) names the kernel, SP_TEST_NCCL takes NCCL for cuda_local.
#include "conformance/kernel_trials.hpp"
#include "cuda/ranks.hpp"

#define SP_TEST_IS_reference 1
#define SP_TEST_IS_flash 2
#define SP_TEST_IS_cudnn 3
#define SP_TEST_NUMBER_OF(kernel) SP_TEST_IS_##kernel
#define SP_TEST_NUMBER(kernel) SP_TEST_NUMBER_OF(kernel)
#define SP_TEST_WITH(kernel) (SP_TEST_NUMBER(SP_TEST_KERNEL) == SP_TEST_IS_##kernel)

#if SP_TEST_WITH(flash)
#include <sp/cuda_flash.hpp>
#elif SP_TEST_WITH(cudnn)
#include <sp/cudnn.hpp>
#endif
#ifdef SP_TEST_NCCL
#include "support/nccl_ranks.hpp"
#endif

namespace test_device_conformance {

using namespace conformance;
using support::interleaving;

namespace {

#ifdef SP_TEST_NCCL
/// As conformance::in_threads.
struct world {
  static constexpr bool peers_share_memory = false;
  unsigned seed;
  interleaving how;

  static int most() { return support::most_nccl_ranks(); }
  template <class T, class Body>
  void run(int ranks, outcome<T>& to, Body const& body) const {
    support::run_nccl(ranks, [&](sp::nccl const& comm, ncclComm_t) { body(comm, to); }, {.seed = seed, .how = how});
  }
};
#else
struct world : cuda_tests::in_cuda_threads {
  static int most() { return 8; }
};
#endif

/// The trial of a number: each number of ranks that there can be, one after the other.
template <class Draw>
trial numbered(unsigned n, Draw const& drawn) {
  trial t = drawn(1 + n * 7919u, 1 + int(n % unsigned(world::most())));
  if (t.how == sp::schedule::pull && !world::peers_share_memory) t.how = sp::schedule::rotate;
  return t;
}
world world_of(trial const& t) { return {unsigned(t.seed), interleaving(mixed(t.seed, 5) % 3)}; }

/// SP_TEST_TRIALS of them, or more as long as SP_TEST_SECONDS lasts.
template <class Trial>
void trials(unsigned least, Trial const& trial) {
  if (char const* const s = std::getenv("SP_TEST_TRIALS")) least = unsigned(std::atoi(s));
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds());
  unsigned done = 0;
  for (; done < least || std::chrono::steady_clock::now() < end; ++done) trial(done);
  MESSAGE(done << " trials on up to " << world::most() << " ranks");
}
void check(trial const& t, std::string const& wrong) {
  INFO(t.describe());
  INFO("seed " << t.seed);
  CHECK(wrong == "");
}

/// A trial of 16 bits, by the kernel that make(trial, inputs) gives.
template <class T, class Make>
void conforms(trial const& t, Make const& make) {
  check(t, wrong_of<T>(t, [&](trial const& on, inputs<T> const& in, outcome<T>& to) {
          run<object_kind::usp>(on, in, make(on, in), to, as_it_is{}, world_of(on));
        }));
}

#if SP_TEST_WITH(reference)
template <object_kind Object>
void conforms_in_double(trial const& t) {
  inputs<double> in(t);
  outcome<double> got(t, t.ranks);
  std::string wrong;
  try {
    sp::basic_reference<sp::device_memory, sp::softcap, sp::alibi, sp::dropout> const kernel{
        sp::softcap{t.softcap}, sp::alibi{in.slopes}, sp::dropout{t.dropout}};
    run<Object>(t, in, kernel, got, as_it_is{}, world_of(t));
    auto const truth = expected(t, in);
    wrong = judge<double>(t, measure_all(t, got, truth), {}, truth.largest_score);
  } catch (std::exception const& e) {
    wrong = e.what();
  }
  for (auto const& c : got.complaints) wrong += c;
  check(t, wrong);
}
trial featured(std::uint64_t seed, object_kind object, int ranks) {
  trial t = draw(seed, object, true, true);
  (object == object_kind::ring ? t.ring : t.ulysses) = ranks;
  t.ranks = ranks;
  static constexpr sp::schedule schedules[] = {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull,
                                               sp::schedule::pass_q};
  t.how = schedules[mixed(seed, 4) % 4];
  t.short_form = t.twice = false;
  return t;
}
#endif

#if SP_TEST_WITH(flash)
using flash = sp::cuda_flash<sp::softcap, sp::alibi, sp::dropout>;
template <class T>
flash flash_for(trial const& t, inputs<T> const& in, bool deterministic = false) {
  index_t const blocks = t.seed % 3 == 0 ? 1 + index_t(t.seed) / 3 % 9 : 0; // now and then a few, which share the work
  return flash{sp::flash_options{.deterministic = deterministic, .blocks = blocks}, sp::softcap{t.softcap}, sp::alibi{in.slopes},
               sp::dropout{t.dropout}};
}
trial flash_trial(unsigned n) {
  return numbered(n, [](std::uint64_t seed, int ranks) {
    static constexpr index_t dims[] = {64, 128, 256, 128, 96, 40};
    static constexpr index_t emulated[] = {16, 64};
    static bool const few = std::getenv("SP_TEST_FEW_DIMS") != nullptr; // under a tool that is slow
    std::span<index_t const> const of_device(dims, few ? 2 : std::size(dims));
    return for_flash(seed, ranks, cuda_tests::on_a_device ? of_device : std::span<index_t const>(emulated));
  });
}
#endif

#if SP_TEST_WITH(cudnn)
/// Dims of kernels for speed now and then: cuDNN may take other paths there.
trial cudnn_trial(unsigned n) {
  return numbered(n, [n](std::uint64_t seed, int ranks) {
    trial t = for_cudnn(seed, ranks);
    if (n % 3) t.dim = t.value_dim = n % 3 == 1 ? 64 : 128;
    return t;
  });
}
#endif

} // namespace

#if SP_TEST_WITH(reference)
TEST_CASE("device: rings of every schedule have the numbers of the oracle") {
  trials(24, [](unsigned n) {
    conforms_in_double<object_kind::ring>(
        numbered(n, [](auto seed, int ranks) { return featured(seed, object_kind::ring, ranks); }));
  });
}

TEST_CASE("device: ulysses has the numbers of the oracle") {
  trials(24, [](unsigned n) {
    conforms_in_double<object_kind::ulysses>(
        numbered(n, [](auto seed, int ranks) { return featured(seed, object_kind::ulysses, ranks); }));
  });
}

TEST_CASE("device: usp has the numbers of the oracle") {
  trials(24, [](unsigned n) {
    conforms_in_double<object_kind::usp>(numbered(n, [](auto seed, int ranks) { return on_mesh(seed, ranks, true); }));
  });
}
#endif

#if SP_TEST_WITH(flash)
TEST_CASE("device: cuda_flash has the numbers of the oracle, in every mask and with every feature, bf16") {
  trials(32,
         [](unsigned n) { conforms<sp::bf16>(flash_trial(n), [](auto const& t, auto const& in) { return flash_for(t, in); }); });
}

TEST_CASE("device: cuda_flash has the numbers of the oracle, in every mask and with every feature, fp16") {
  trials(32, [](unsigned n) {
    conforms<sp::fp16>(flash_trial(n + 1000), [](auto const& t, auto const& in) { return flash_for(t, in); });
  });
}

TEST_CASE("device: cuda_flash has the same bits every time when dq is asked for in order") {
  trials(8, [](unsigned n) {
    trial const t = flash_trial(n);
    inputs<sp::bf16> const in(t);
    outcome<sp::bf16> first(t, t.ranks), second(t, t.ranks);
    for (auto* to : {&first, &second}) run<object_kind::usp>(t, in, flash_for(t, in, true), *to, as_it_is{}, world_of(t));
    check(t, differing(second, first, true));
  });
}
#endif

#if SP_TEST_WITH(cudnn)
TEST_CASE("device: cuDNN has the numbers of the oracle") {
  auto const engine = sp::make_cudnn_engine();
  auto kernel = [&](auto const&, auto const&) { return sp::cudnn{*engine}; };
  trials(12, [&](unsigned n) { conforms<sp::bf16>(cudnn_trial(n), kernel); });
  trials(6, [&](unsigned n) { conforms<sp::fp16>(cudnn_trial(n + 1000), kernel); });
  MESSAGE(int(engine->plans()) << " plans");
}
#endif

} // namespace test_device_conformance
