// Objects in captured graphs, over a fake of the runtime: all ranks are captured from one stream, forward and backward, and each launch
// computes on what the tensors hold then. Another batch in the place of the captured one is computed on as far as tables say it.
// needs: context cuda
// with all: takes long to compile
#include "cuda/replayed.hpp"

#include "conformance/check.hpp"

namespace test_graphs {

using cuda_tests::attention_program;
using cuda_tests::counted_pool;
using cuda_tests::same_when_replayed;
using sp::device_memory;
using sp::index_t;
using support::interleaving;

namespace {

using view = sp::view<double, 3, device_memory>;
constexpr std::array<index_t, 3> shape{4, 2, 3}; // heads of queries and of keys, dim
using kernel = sp::basic_reference<device_memory>;

/// A row and a key that it sees, by their places in tensors.
struct seen_key {
  index_t row, key;
};
struct clear_rows {
  view to;
  sp::view<double, 2, device_memory> lse;
  SP_BOTH void operator()(index_t i, index_t h) const {
    lse(i, h) = 0;
    for (index_t d = 0; d < to.extent(2); ++d) to(i, h, d) = 0;
  }
};
/// For one head of keys and one element: all pairs in order.
struct add_seen {
  sp::view<seen_key const, 1, device_memory> pairs; ///< as many as there may be
  sp::view<index_t const, 1, device_memory> count;  ///< (1): as many as there are
  sp::view<double const, 3, device_memory> from;
  view to;
  bool backward;
  SP_BOTH void operator()(index_t h, index_t d) const {
    index_t const group = backward ? from.extent(1) / to.extent(1) : to.extent(1) / from.extent(1);
    for (index_t n = 0; n < count(0); ++n)
      for (index_t i = h * group; i < (h + 1) * group; ++i)
        if (backward)
          to(pairs(n).key, h, d) += from(pairs(n).row, i, d);
        else
          to(pairs(n).row, i, d) += from(pairs(n).key, h, d);
  }
};

/// In place of attention: adds up the values that each row sees. Who sees whom is in tables, so that a graph reads it when it is launched.
struct sums_of_seen {
  using memory_type = device_memory;
  using saved = sp::nothing;
  struct plan {
    sp::table<seen_key, device_memory> pairs;
    sp::table<index_t, device_memory> count;
  };
  template <class Queue>
  plan prepare(sp::problem const& p, sp::context<Queue> const& c) const {
    plan made;
    refresh(made, p, c);
    return made;
  }
  template <class Queue>
  void refresh(plan& made, sp::problem const& p, sp::context<Queue> const& c) const {
    std::vector<seen_key> pairs;
    for_each_row(p.q, [&](index_t row, index_t at) {
      for_each_row(p.k, [&](index_t key, index_t there) {
        for (sp::slice const& s : p.mask)
          if (s.sees(at, there)) pairs.push_back({row, key});
      });
    });
    made.pairs.assign(c, pairs);
    made.count.assign(c, {index_t(pairs.size())});
  }
  template <class T, class Queue>
  saved forward(plan const& p, sp::basic_allocator<device_memory>&, sp::call_params const&, sp::view<T const, 3, device_memory>,
                std::span<sp::kv_views<T, device_memory> const> keys, sp::attention_state<T, device_memory> state,
                Queue const& q) const {
    q.for_each(std::array{state.out.extent(0), state.out.extent(1)}, clear_rows{state.out, state.lse});
    give(q, p, keys[0].v, state.out, false);
    return {};
  }
  template <class T, class Queue>
  void backward(plan const& p, sp::basic_allocator<device_memory>&, sp::call_params const&,
                std::span<sp::query_grad<T, device_memory> const> queries, std::span<sp::key_grad<T, device_memory> const> keys,
                saved const&, Queue const& q) const {
    give(q, p, queries[0].dout, keys[0].dv, true);
  }
  template <class T, class Queue>
  index_t scratch_bytes(plan const&, sp::heads const&, index_t, index_t, Queue const&) const {
    return 0;
  }

private:
  template <class F>
  static void for_each_row(std::vector<sp::placed_run> const& list, F const& f) {
    for (auto const& r : list)
      for (index_t i = 0; i < r.positions.count; ++i) f(r.row + i, r.positions.at(i));
  }
  template <class Queue>
  static void give(Queue const& q, plan const& p, sp::view<double const, 3, device_memory> from, view to, bool backward) {
    auto pairs = p.pairs.values();
    pairs.extents[0] = p.pairs.capacity();
    index_t const kv = backward ? to.extent(1) : from.extent(1);
    q.for_each(std::array{kv, to.extent(2)}, add_seen{pairs, p.count.values(), from, to, backward});
  }
};

/// The object of a rank over documents, another batch to be put in their place where one is given; `ranks` own them together.
template <class Object>
auto program_of(sp::cuda_local const& comm, counted_pool& memory, Object object, std::optional<sp::documents> other = {}) {
  auto cut = [&](sp::documents const& docs) { return sp::batch(docs, sp::contiguous{sp::scope::stream}, comm); };
  std::optional<sp::batch> second;
  if (other) second = cut(*other);
  return std::make_unique<attention_program<double, Object>>(comm, memory, std::move(object), shape,
                                                             cut(sp::packed{0, 9, 9, 14, 25}), std::nullopt, std::move(second),
                                                             sp::table_room{.times = 4});
}
/// By default some of the cases, all of them with all.
#ifdef SP_TEST_ALL
constexpr int rounds = 12;
#else
constexpr int rounds = 4;
#endif

} // namespace

TEST_CASE("cuda graphs: rings of every schedule, captured with all ranks in one graph, replay forward and backward") {
  static constexpr sp::schedule schedules[] = {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull,
                                               sp::schedule::pass_q};
  for (int n = 0; n < rounds; ++n) {
    CAPTURE(n);
    sp::schedule const how = schedules[n % 4];
    bool const cross = (n + n / 4) % 3 == 1; // queries meet the keys of longer documents
    same_when_replayed(n % 5 == 4 ? 1 : 3 + n % 2, interleaving((n + n / 4) % 3), [&](auto const& comm, counted_pool& memory) {
      sp::ring_attention ring{
          sp::group(comm),
          kernel{},
          {.mask = sp::causal(cross ? sp::align::end : sp::align::equal), .schedule = how, .head_chunks = 1 + n % 2}};
      std::optional<sp::batch> keys;
      if (cross) keys.emplace(sp::packed{0, 12, 14, 20, 31}, sp::striped{}, comm);
      return std::make_unique<attention_program<double, decltype(ring)>>(
          comm, memory, ring, shape, sp::batch(sp::packed{0, 9, 9, 14, 25}, sp::zigzag{}, comm), std::move(keys));
    });
  }
}

TEST_CASE("cuda graphs: ulysses, captured with all ranks in one graph, replays forward and backward") {
  for (int how = 0; how < 3; ++how)
    same_when_replayed(4 - how, interleaving(how), [&](auto const& comm, counted_pool& memory) {
      return program_of(
          comm, memory,
          sp::ulysses_attention{
              sp::group(comm), kernel{}, {.mask = sp::causal()}, {how == 1 ? sp::keep::output : sp::keep::heads, 1 + how}});
    });
}

TEST_CASE("cuda graphs: usp, captured with all ranks in one graph, replays forward and backward") {
  for (int how = 0; how < (rounds > 4 ? 3 : 1); ++how)
    same_when_replayed(4, interleaving(how), [&](auto const& comm, counted_pool& memory) {
      sp::mesh const mesh{sp::axis::ring{2}, sp::axis::ulysses{2}};
      return program_of(
          comm, memory,
          sp::ulysses_attention{mesh.ulysses(comm), sp::ring_attention{mesh.ring(comm), kernel{}, {.mask = sp::causal()}}});
    });
}

TEST_CASE("cuda graphs: launches of one graph drop other probabilities once the step counter of their key has moved on") {
  for (int how = 0; how < 2; ++how)
    same_when_replayed(3, interleaving(how), [&](auto const& comm, counted_pool& memory) {
      using drops = sp::basic_reference<device_memory, sp::dropout>;
      return program_of(comm, memory, sp::ring_attention{sp::group(comm), drops{sp::dropout{0.5}}, {.mask = sp::causal()}});
    });
}

TEST_CASE("cuda graphs: a graph computes on the batch that refresh put in the place of the captured one") {
  for (int how = 0; how < 3; ++how)
    same_when_replayed(
        2, interleaving(how),
        [&](auto const& comm, counted_pool& memory) {
          return program_of(comm, memory, sp::ulysses_attention{sp::group(comm), sums_of_seen{}, {.mask = sp::causal()}, {}},
                            sp::packed{0, 3, 20, 25});
        },
        true);
}

} // namespace test_graphs
