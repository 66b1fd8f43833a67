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

/// Gives its queue work that reads keys, and then fails.
struct failing_kernel : sp::basic_reference<elsewhere> {
  std::atomic<int>* read; ///< keys of other ranks that this work has read
  struct reads {
    sp::view<double const, 3, elsewhere> k;
    std::atomic<int>* read;
    void operator()(index_t i) const { *read += k(i, 0, 0) == 3; }
  };
  template <class T, class Queue = sp::inline_queue>
  saved forward(plan const&, sp::basic_allocator<elsewhere>&, sp::call_params const&, sp::view<T const, 3, elsewhere>,
                std::span<sp::kv_views<T, elsewhere> const> keys, sp::attention_state<T, elsewhere>,
                Queue const& queue = {}) const {
    if constexpr (std::is_same_v<T, double> && std::is_same_v<Queue, support::late_queue>)
      for (auto const& of_rank : keys) queue.for_each(std::array{of_rank.k.extent(0)}, reads{of_rank.k, read});
    throw std::runtime_error("this kernel fails");
  }
};

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

/// Which ways of a step have met: tables, scratch, odd or even numbers of ranks.
struct ways_taken {
  std::set<std::array<int, 3>> pairs{};
  void note(trial const& t) {
    int const how = int(tables_of(t)), block = in_workspace(t), odd = t.ranks % 2;
    pairs.insert({{0, how, block}, {1, how, odd}, {2, block, odd}});
  }
  ~ways_taken() { CHECK(pairs.size() == 3 * 2 + 3 * 2 + 2 * 2); }
};

} // namespace

TEST_CASE(
    "elsewhere: rings have the bits of the host and the numbers of the oracle, however late their queues are [asan] [tsan]") {
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds());
  unsigned done = 0;
  ways_taken ways;
  for (; done < trials || std::chrono::steady_clock::now() < end; ++done) {
    trial t = on_queues(1 + done * 7919u, object_kind::ring, 1 + int(done % 8));
    if (done % 6 == 5) t.how = sp::schedule::cast, t.mask = sp::full(); // many readers of each key
    ways.note(t);
    auto const how = interleaving(done / 8 % 3);
    done % 5 == 3 ? same_on_any_queue<sp::bf16>(t, how) : same_on_any_queue<double>(t, how);
  }
  CHECK(tiles_of_two<elsewhere>::absent > 0);
  MESSAGE(done << " trials");
}

TEST_CASE(
    "elsewhere: ulysses, usp and both nested, in chunks of heads or at once: bits of the host, numbers of the oracle [asan]") {
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds());
  unsigned done = 0;
  ways_taken ways;
  for (; done < trials || std::chrono::steady_clock::now() < end; ++done) {
    static constexpr object_kind objects[] = {object_kind::ulysses, object_kind::usp, object_kind::nested};
    std::uint64_t const seed = 1 + done * 7919u;
    auto const how = interleaving(mixed(seed, 8) % 3);
    object_kind const object = objects[mixed(seed, 9) % 3];
    trial const t = on_queues(seed, object, 1 + int(done % 8));
    ways.note(t);
    bool const rounded = mixed(seed, 10) % 3 == 0;
    if (object == object_kind::nested)
      same_on_any_queue<double, object_kind::nested>(t, how);
    else if (object == object_kind::usp)
      rounded ? same_on_any_queue<sp::bf16, object_kind::usp>(t, how) : same_on_any_queue<double, object_kind::usp>(t, how);
    else
      rounded ? same_on_any_queue<sp::bf16, object_kind::ulysses>(t, how)
              : same_on_any_queue<double, object_kind::ulysses>(t, how);
  }
  MESSAGE(done << " trials");
}

TEST_CASE("elsewhere: keys are pulled behind barriers that know no queue, once what they wait for has run") {
  int done = 0;
  for (unsigned seed = 1; done < 12; ++seed) {
    trial t = on_queues(seed, object_kind::ring, 2 + done % 3);
    t.how = sp::schedule::pull, t.checks = 1;
    if (held_back(t)) continue;
    same_on_any_queue<double, object_kind::ring, behind_host_barriers>(t, interleaving(done++ % 3));
  }
}

TEST_CASE("elsewhere: a kernel that fails has read the keys of others before they are told that it is done") {
  std::atomic<int> left{0}, early{0};
  struct watched {
    sp::threads::publication inner;
    std::shared_ptr<void> at_end; ///< goes first: sees what has been read when the publication is given up
    std::span<sp::piece const> of(int rank) const { return inner.of(rank); }
    void release() { inner.release(); }
  };
  struct watching : host_barriers {
    using host_barriers::host_barriers;
    std::atomic<int>*read = nullptr, *early = nullptr;
    watched publish(char const* primitive, std::span<sp::piece const> mine) const {
      return {host_barriers::publish(primitive, mine),
              std::shared_ptr<void>(nullptr, [r = read, e = early](void*) { *e += *r != 6; })};
    }
  };
  for (auto how : {interleaving::lane_last, interleaving::lane_first})
    CHECK_THROWS(sp::threads::run(
        2,
        [&](sp::threads const& ranks) {
          support::late_queue const queue(unsigned(ranks.rank()), how);
          std::atomic<int> read{0};
          watching comm(ranks, queue);
          comm.read = &read, comm.early = &early;
          support::elsewhere_pool memory(queue);
          support::elsewhere_tensor<double, 3> x(memory, {3, 1, 2}, std::vector<double>(6, 3)), out(memory, {3, 1, 2});
          sp::ring_attention const attention{comm, failing_kernel{{}, &read}, {.schedule = sp::schedule::pull}};
          sp::batch const b(sp::packed{0, 6}, sp::zigzag{}, ranks.rank(), 2);
          auto const prepared = attention.prepare(b);
          try {
            static_cast<void>(attention.forward(prepared, sp::context(queue, memory, memory), *x, *x, *x, *out));
          } catch (std::runtime_error const&) {
            ++left;
            throw;
          }
        },
        patient()));
  CHECK(left >= 2); // the other rank may be told before its kernel is called
  CHECK(early == 0);
}

} // namespace test_elsewhere
