// vit_attention on late queues, in memory that faults on the host: forward and backward have the oracle's numbers, without a wait in
// between, in scratch of the promised size, with tables and without, and in the place of another batch.
#include <sp/reference.hpp>
#include <sp/vision.hpp>

#include "conformance/elsewhere.hpp"
#include "vit_trial.hpp"

namespace vit {

using support::elsewhere;
using support::late_queue;

/// Its geometry: without tables, with tables, or in the place of another batch.
template <class Object, class Context>
auto prepared_elsewhere(Object const& attention, trial const& t, sp::batch const& b, Context ctx) {
  if (t.seed % 3 == 0 && t.checks < 2) return attention.prepare(b);
  if (t.seed % 3 < 2) return attention.prepare(b, ctx);
  ctx.room.least = 4096;
  sp::batch const other{sp::packed{0, 3, 11}, sp::contiguous{}, b.part(), b.parts()};
  auto prepared = attention.prepare(other, sp::full(), ctx);
  attention.refresh(prepared, b, ctx);
  return prepared;
}

template <class T, class Object>
void step(Object const& attention, trial const& t, sp::batch const& b, rank_tensors<T>& x,
          outcome<T>& to) requires(std::is_same_v<typename Object::memory_type, elsewhere>) {
  using view = sp::view<T, 3, elsewhere>;
  late_queue const queue = attention.group().queue();
  support::elsewhere_pool memory(queue), pool(queue), kept(queue);
  {
    conformance::moved_tensor<T, elsewhere> q(memory, x.q), k(memory, x.k), v(memory, x.v), out(memory, x.out),
        dout(memory, x.dout), dq(memory, x.dq), dk(memory, x.dk), dv(memory, x.dv);
    auto const prepared = prepared_elsewhere(attention, t, b, sp::context(queue, pool, kept));
    index_t const bytes = attention.template scratch_bytes<T>(prepared, t.shape(), queue);
    support::pool_tensor<char, 1, support::elsewhere_pool> const block(memory, {bytes});
    sp::basic_workspace<elsewhere> scratch(block->data, std::size_t(bytes));
    sp::context const ctx(queue, scratch, kept, t.random());
    auto held = [&](auto&& f) { // a hidden synchronisation throws
      if (t.checks > 1) return f();
      late_queue::hold const nothing_runs(queue);
      return f();
    };
    auto saved = held([&] { return attention.forward(prepared, ctx, view(q), view(k), view(v), view(out)); });
    held([&] {
      attention.backward(prepared, ctx, std::move(saved), view(q), view(k), view(v), view(out), view(dout), view(dq), view(dk),
                         view(dv), {.accumulate = t.accumulate});
    });
    for (auto* tensor : {&out, &dq, &dk, &dv}) tensor->bring_back();
  }
  if (memory.blocks_out() + pool.blocks_out() + kept.blocks_out() != 0) to.complain("memory is still in use");
}

} // namespace vit

namespace test_vit_elsewhere {
namespace {

using namespace vit;

TEST_CASE("vit_attention elsewhere: every strategy and schedule on queues that are late, by either contract [asan]") {
  using ranks = sp::local<late_queue>;
  for (std::uint64_t seed = 101; seed <= 100 + trials(36); ++seed) {
    trial const t = draw(seed, strategy::usp, false);
    inputs<double> const in(t);
    outcome<double> got(t, in);
    std::string wrong;
    try {
      ranks::run(
          t.ranks(),
          [&](ranks const& c) {
            run_rank<double>(
                t, in, c, [](trial const& x, ranks const& all) { return usp(x, all, sp::basic_reference<elsewhere>{}); }, got);
          },
          patience(),
          [&](int rank) { return late_queue(unsigned(seed) * 16 + unsigned(rank), support::interleaving(seed % 3)); });
      wrong = judge(t, in, got, 1e-12);
    } catch (std::exception const& e) {
      wrong = e.what();
    }
    INFO(t.describe());
    CHECK(wrong == "");
  }
}

} // namespace
} // namespace test_vit_elsewhere
