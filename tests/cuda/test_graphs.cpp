// Objects in captured graphs, over a fake of the runtime: all ranks are captured from one stream, forward and backward, and each launch
// computes on what the tensors hold then. Another batch in the place of the captured one is computed on as far as tables say it.
// needs: context cuda
// with all: takes long to compile
#include <barrier>
#include <mutex>

#include "conformance/check.hpp"
#include "cuda/ranks.hpp"

namespace test_graphs {

using cuda_tests::counted_pool;
using cuda_tests::cuda_queue;
using cuda_tests::graph;
using cuda_tests::rank_streams;
using sp::device_memory;
using sp::index_t;
using support::interleaving;

namespace {

using view = sp::view<double, 3, device_memory>;
using tensor = support::pool_tensor<double, 3, counted_pool>;
constexpr index_t heads = 4, kv_heads = 2, dim = 3;

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

/// Tensors of one rank.
struct rank_data {
  tensor q, k, v, out, dout, dq, dk, dv;
  rank_data(counted_pool& m, index_t tokens)
      : q(m, {tokens, heads, dim}), k(m, {tokens, kv_heads, dim}), v(m, {tokens, kv_heads, dim}), out(m, {tokens, heads, dim}),
        dout(m, {tokens, heads, dim}), dq(m, {tokens, heads, dim}), dk(m, {tokens, kv_heads, dim}),
        dv(m, {tokens, kv_heads, dim}) {}
  /// Other inputs for each seed, and results that nobody has computed.
  void fill(unsigned seed) {
    std::mt19937_64 g(seed);
    std::normal_distribution<double> normal;
    for (tensor* x : {&q, &k, &v, &dout}) {
      std::vector<double> values(std::size_t((*x)->elements()));
      for (double& y : values) y = normal(g);
      x->upload(values);
    }
    for (tensor* x : {&out, &dq, &dk, &dv}) x->upload(std::vector<double>(std::size_t((*x)->elements()), 77));
  }
  std::vector<std::vector<double>> results() const { return {out.download(), dq.download(), dk.download(), dv.download()}; }
};

/// Captures forward and backward of make(communicator) on all ranks from one stream, and compares launches with calls outside of a graph;
/// `refreshed`: the last launches compute on a batch that was put in the place of the captured one.
template <class Make>
void same_when_replayed(int ranks, interleaving how, Make const& make, bool refreshed = false) {
  rank_streams const streams(ranks, 5, how);
  cuda_tests::place root(99, how);
  std::barrier<> all(ranks);
  std::unique_ptr<graph> captured;
  std::vector<std::optional<cuda_queue::event>> ready(static_cast<std::size_t>(ranks));
  std::mutex checking;
  sp::cuda_local::run(
      ranks,
      [&](sp::cuda_local const& comm) {
        struct leaves { // also a rank that fails: the others go on, and are told
          std::barrier<>& all;
          ~leaves() { all.arrive_and_drop(); }
        } const at_end{all};
        auto const object = make(comm);
        auto const& queue = comm.queue();
        counted_pool memory(queue);
        sp::batch const b(sp::packed{0, 9, 9, 14, 25}, sp::contiguous{sp::scope::stream}, comm),
            other(sp::packed{0, 3, 20, 25}, sp::contiguous{sp::scope::stream}, comm);
        rank_data x(memory, b.tokens());
        sp::context eager(queue, memory, memory);
        eager.room.times = 4;
        auto prepared = object.prepare(b, eager);
        auto const prepared_other = object.prepare(other, eager);
        // scratch and kept belong to the graph
        auto const bytes = object.template scratch_bytes<double>(prepared, {heads, kv_heads, dim, dim}, queue);
        support::pool_tensor<char, 1, counted_pool> const scratch_block(memory, {bytes}), kept_block(memory, {1 << 16});
        sp::basic_workspace<device_memory> scratch(scratch_block->data, std::size_t(bytes)), kept(kept_block->data, 1 << 16);
        sp::context const ctx(queue, scratch, kept);
        auto step = [&](auto const& geometry, auto const& c) {
          auto saved = object.forward(geometry, c, *x.q, *x.k, *x.v, *x.out);
          object.backward(geometry, c, std::move(saved), *x.q, *x.k, *x.v, *x.out, *x.dout, *x.dq, *x.dk, *x.dv);
        };
        std::vector<std::vector<std::vector<double>>> expected;
        for (unsigned seed = 0; seed < 4; ++seed) { // the first call warms up
          x.fill(10 * seed + unsigned(comm.rank()));
          step(seed == 3 && refreshed ? prepared_other : prepared, eager);
          expected.push_back(x.results());
        }
        int const blocks = memory.blocks_out();
        auto const me = std::size_t(comm.rank());
        auto meet = [&] { all.arrive_and_wait(); };
        auto join = [&] { // on every rank between the same two points of the root
          meet();
          queue.wait(*ready[0]);
          step(prepared, ctx);
          auto const done = queue.record();
          meet();
          if (me != 0) ready[me] = done;
          meet();
        };
        meet(); // until the capture has ended nobody may wait for a device
        if (me == 0) {
          captured = std::make_unique<graph>(root.handle, [&] {
            ready[0] = root.queue.record();
            join();
            ready[0] = queue.record();
            for (auto const& e : ready) root.queue.wait(*e);
          });
        } else {
          join();
        }
        meet();
        for (unsigned seed : {1u, 2u, 1u, 3u}) {
          if (seed == 3 && refreshed) object.refresh(prepared, other, eager);
          x.fill(10 * seed + unsigned(comm.rank()));
          ready[me] = queue.record();
          meet();
          if (me == 0) {
            for (auto const& e : ready) root.queue.wait(*e);
            captured->launch(root.handle);
            ready[0] = root.queue.record();
          }
          meet();
          queue.wait(*ready[0]);
          auto const got = x.results();
          std::lock_guard const lock(checking);
          CHECK(captured->end() == cudaSuccess);
          CHECK(got == expected[seed]);
        }
        meet();
        std::lock_guard const lock(checking);
        CHECK(memory.blocks_out() == blocks);
      },
      conformance::patient(), [&](int rank) { return streams(rank); });
}

} // namespace

TEST_CASE("cuda graphs: rings of every schedule, captured with all ranks in one graph, replay forward and backward") {
  int done = 0;
  for (auto schedule : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q}) {
    auto ring = [&](auto const& comm) {
      return sp::ring_attention{sp::group(comm), sp::basic_reference<device_memory>{}, {.schedule = schedule}};
    };
    same_when_replayed(2 + done % 2, interleaving(done % 3), ring);
    ++done;
  }
}

TEST_CASE("cuda graphs: ulysses, captured with all ranks in one graph, replays forward and backward") {
  for (int how = 0; how < 3; ++how)
    same_when_replayed(3 - how % 2, interleaving(how), [&](auto const& comm) {
      return sp::ulysses_attention{sp::group(comm),
                                   sp::basic_reference<device_memory>{},
                                   {.mask = sp::causal()},
                                   {how == 1 ? sp::keep::output : sp::keep::heads, 1 + how}};
    });
}

TEST_CASE("cuda graphs: a graph computes on the batch that refresh put in the place of the captured one") {
  for (int how = 0; how < 3; ++how)
    same_when_replayed(
        2, interleaving(how),
        [&](auto const& comm) {
          return sp::ulysses_attention{sp::group(comm), sums_of_seen{}, {.mask = sp::causal()}, {}};
        },
        true);
}

} // namespace test_graphs
