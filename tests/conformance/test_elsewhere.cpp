// Objects on late queues, in memory that faults on the host: every schedule, forward and backward, has the bits of the same object on the
// host, and the numbers of the float64 oracle, however the lanes of the queues are interleaved. SP_TEST_SECONDS: more trials.
#include <atomic>

#include "check.hpp"
#include "elsewhere.hpp"

namespace test_elsewhere {

using namespace conformance;
using support::interleaving;

namespace {

constexpr unsigned trials = 48; ///< 1 to 8 ranks, twice with each interleaving

/// Adds what stands for keys that are not at hand: nothing.
template <class T, class M>
struct add_stand_in {
  sp::view<T const, 3, M> keys;
  sp::view<acc<T>, 3, M> to;
  void operator()(index_t i, index_t h, index_t d) const { to(i, h, d) += acc<T>(sp::to_acc(keys(0, 0, 0))); }
};

/// The reference kernel, but like a kernel of whole tiles it also reads keys that nobody sees.
template <class M>
struct tiles_of_two {
  using memory_type = M;
  using reference = sp::basic_reference<M>;
  using plan = typename reference::plan;
  using saved = sp::nothing;
  static constexpr index_t key_tile = 2;
  static inline std::atomic<int> absent = 0; ///< calls with keys that were not at hand
  reference inner{};

  plan prepare(sp::problem const& p) const { return inner.prepare(p); }
  template <class T, class Queue = sp::inline_queue>
  saved forward(plan const& p, sp::basic_allocator<M>& scratch, sp::call_params const& n, sp::view<T const, 3, M> q,
                std::span<sp::kv_views<T, M> const> keys, sp::attention_state<T, M> state, Queue const& queue = {}) const {
    inner.template forward<T>(p, scratch, n, q, keys, state, queue);
    for (auto const& tensor : {keys.back().k, keys.back().v})
      if (tensor.stride(0) == 0 && !tensor.empty()) { // one number for all of them
        queue.for_each(state.out.extents, add_stand_in<T, M>{tensor, state.out});
        ++absent;
      }
    return {};
  }
  template <class T, class Queue = sp::inline_queue>
  void backward(plan const& p, sp::basic_allocator<M>& scratch, sp::call_params const& n,
                std::span<sp::query_grad<T, M> const> queries, std::span<sp::key_grad<T, M> const> keys, saved const& s,
                Queue const& queue = {}) const {
    inner.template backward<T>(p, scratch, n, queries, keys, s, queue);
  }
  template <class T, class Queue>
  index_t scratch_bytes(plan const& p, sp::heads const& h, index_t dim, index_t value_dim, Queue const& queue) const {
    return inner.template scratch_bytes<T>(p, h, dim, value_dim, queue);
  }
};

/// What other memory leaves of a trial: no short form.
trial on_queues(std::uint64_t seed, object_kind object, int ranks) {
  trial t = draw(seed, object, false, true);
  if (object == object_kind::ring) t.ranks = t.ring = ranks;
  if (object == object_kind::ulysses) t.ranks = t.ulysses = ranks;
  t.short_form = t.twice = false;
  return t;
}

template <class T, object_kind Object = object_kind::ring, class World = in_late_threads>
void same_on_any_queue(trial const& t, interleaving how) {
  inputs<T> in(t);
  outcome<T> host(t, t.ranks), late(t, t.ranks);
  run<Object>(t, in, tiles_of_two<sp::host_memory>{}, host);
  run<Object>(t, in, tiles_of_two<elsewhere>{}, late, as_it_is{}, World{unsigned(t.seed), how});
  std::string wrong = differing(late, host, true);
  if constexpr (std::is_same_v<T, double>) {
    auto const truth = expected(t, in);
    wrong += judge<T>(t, measure_all(t, late, truth), {}, truth.largest_score);
  }
  INFO(t.describe());
  INFO("interleaving " << int(how) << ", seed " << t.seed);
  CHECK(wrong == "");
  CHECK(late.dsinks == host.dsinks);
}

} // namespace

TEST_CASE(
    "elsewhere: rings have the bits of the host and the numbers of the oracle, however late their queues are [asan] [tsan]") {
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds());
  unsigned done = 0;
  for (; done < trials || std::chrono::steady_clock::now() < end; ++done) {
    trial t = on_queues(1 + done * 7919u, object_kind::ring, 1 + int(done % 8));
    if (done % 6 == 5) t.how = sp::schedule::cast, t.mask = sp::full(); // many readers of each key
    auto const how = interleaving(done / 8 % 3);
    done % 5 == 3 ? same_on_any_queue<sp::bf16>(t, how) : same_on_any_queue<double>(t, how);
  }
  CHECK(tiles_of_two<elsewhere>::absent > 0);
  MESSAGE(done << " trials");
}

TEST_CASE(
    "elsewhere: ulysses and usp, in chunks of heads or at once, have the bits of the host and the numbers of the oracle [asan]") {
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds());
  unsigned done = 0;
  for (; done < trials || std::chrono::steady_clock::now() < end; ++done) {
    auto const how = interleaving(done / 8 % 3);
    if (done % 3 == 2)
      same_on_any_queue<double, object_kind::usp>(on_queues(1 + done * 7919u, object_kind::usp, 0), how);
    else
      same_on_any_queue<double, object_kind::ulysses>(on_queues(1 + done * 7919u, object_kind::ulysses, 1 + int(done % 8)), how);
  }
  MESSAGE(done << " trials");
}

TEST_CASE("elsewhere: keys are pulled behind barriers that know no queue, once what they wait for has run") {
  int done = 0;
  for (unsigned seed = 1; done < 12; ++seed) {
    trial t = on_queues(seed, object_kind::ring, 2 + done % 3);
    if (held_back(t)) continue;
    t.how = sp::schedule::pull, t.checks = 1;
    same_on_any_queue<double, object_kind::ring, behind_host_barriers>(t, interleaving(done++ % 3));
  }
}

} // namespace test_elsewhere
