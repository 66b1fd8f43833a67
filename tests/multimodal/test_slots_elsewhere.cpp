// Slots of another memory, on a queue that does its work late: the same bits as on the host, with geometry that was prepared in a context and
// without, for attention that is wrapped over three ranks, and for fusion, deepstack, convolutions and linear attention. Nothing waits for the queue meanwhile.
// with all: takes 20 seconds to compile; the same calls run on the host, and what sits in the slots runs in this memory in other sources
#include <doctest/doctest.h>

#include <random>
#include <vector>

#include <sp/auto_wrap.hpp>
#include <sp/fusion.hpp>
#include <sp/linear_slot.hpp>

#include "linear/recurrent_delta.hpp"
#include "support/attention_tensors.hpp"
#include "support/places.hpp"

namespace test_slots_elsewhere {
namespace {

using sp::index_t;
using support::operand;

constexpr sp::attention_shape shape{3, 1, 2, 2};

/// A tensor of each operand, where the place has its memory.
template <class Place>
struct placed {
  using tensor = typename Place::template tensor<double, 3>;
  tensor q, k, v, out, dout, dq, dk, dv;
  placed(Place& here, support::attention_tensors<double>& x)
      : q(here, x.q.extents, x[operand::q]), k(here, x.k.extents, x[operand::k]), v(here, x.v.extents, x[operand::v]),
        out(here, x.out.extents, x[operand::out]), dout(here, x.dout.extents, x[operand::dout]),
        dq(here, x.dq.extents, x[operand::dq]), dk(here, x.dk.extents, x[operand::dk]), dv(here, x.dv.extents, x[operand::dv]) {}
  template <class Slot, class Step, class Context>
  void step(Slot const& slot, Step const& on, Context const& c) {
    auto saved = slot.forward(on, c, {.q = *q, .k = *k, .v = *v, .out = *out});
    slot.backward(on, c, std::move(saved),
                  {.q = *q, .k = *k, .v = *v, .out = *out, .dout = *dout, .dq = *dq, .dk = *dk, .dv = *dv});
  }
  void append_to(std::vector<double>& all) const {
    for (tensor const* t : {&out, &dq, &dk, &dv}) {
      auto const values = t->download();
      all.insert(all.end(), values.begin(), values.end());
    }
  }
};

template <class Place>
std::vector<double> attended(Place& here) {
  using queue = typename decltype(here.context())::queue_type;
  using slot = sp::attention_slot<sp::text_role, double, queue>;
  std::vector<slot> layers(2, slot{{.q_heads = 3, .kv_heads = 1}});
  sp::auto_wrap(layers, here.comm, sp::basic_reference<typename queue::memory_type>{});
  CHECK(layers[1].seated().ring == 3);
  sp::batch const b{sp::packed{0, 5, 12, 16}, sp::contiguous{}, here.comm};
  support::attention_tensors<double> x(b, shape);
  placed<Place> first(here, x), second(here, x);
  auto const c = here.context();
  auto const prepared = layers[0].prepare(b, c);
  {
    typename Place::hold held(here);
    first.step(layers[0], prepared, c);
    second.step(layers[1], b, c); // prepared for the batch, without a context
    held.end();
  }
  std::vector<double> all;
  first.append_to(all);
  second.append_to(all);
  return all;
}

template <class Place>
std::vector<double> fused(Place& here) {
  using queue = typename decltype(here.context())::queue_type;
  struct model {
    sp::fusion_slot<sp::splice::placeholder, double, queue> merge{{.token = 9}};
    sp::deepstack_slot<double, queue> deep{};
  } m;
  std::vector<decltype(&m.merge)> const merges{&m.merge};
  std::vector<decltype(&m.deep)> const deeps{&m.deep};
  sp::auto_wrap(merges, here.comm, sp::reference{});
  sp::auto_wrap(deeps, here.comm, sp::reference{});
  std::vector<index_t> const ids{1, 9, 2, 3, 4};
  std::vector<sp::visual_item> const images{{1, 2, 2}};
  std::vector<sp::splice_sample> const samples{{ids, images, 0}};
  sp::batch const text{sp::packed{0, 5}, sp::contiguous{}, here.comm}, visual{sp::packed{0, 4}, sp::zigzag{}, here.comm};
  auto const c = here.context();
  auto const f = m.merge.prepare(c, samples, text, visual, {}, sp::striped{});
  auto rows = [&](index_t n, double from) {
    std::vector<double> values(std::size_t(n * 2));
    for (double& v : values) v = from += 1.0 + here.comm.rank();
    return typename Place::template tensor<double, 2>(here, {n, 2}, std::move(values));
  };
  auto t = rows(text.tokens(), 10), v = rows(visual.tokens(), 20), h = rows(f.tokens(), 0), deep = rows(visual.tokens(), 40),
       g = rows(f.tokens(), 50), dt = rows(text.tokens(), 0), dv = rows(visual.tokens(), 0), dd = rows(visual.tokens(), 0);
  {
    typename Place::hold held(here);
    m.merge.forward(f, c, {.text = *t, .visual = *v, .hidden = *h});
    m.deep.forward(f, c, *deep, *h);
    m.deep.backward(f, c, *g, *dd);
    m.merge.backward(f, c, {.dhidden = *g, .dtext = *dt, .dvisual = *dv});
    held.end();
  }
  std::vector<double> all;
  for (auto* x : {&h, &dt, &dv, &dd}) {
    auto const values = x->download();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

/// A convolution, and the delta rule on what it gives, as q, k and v of one head.
template <class Place>
std::vector<double> remembered(Place& here) {
  using queue = typename decltype(here.context())::queue_type;
  std::vector<sp::conv1d_slot<double, queue>> mixes(1);
  std::vector<sp::linear_slot<linear_tests::recurrent_delta<typename queue::memory_type>, double, queue>> recalls(1);
  sp::auto_wrap(mixes, here.comm, sp::reference{});
  sp::auto_wrap(recalls, here.comm, sp::reference{});
  auto const& mix = mixes[0];
  auto const& recall = recalls[0];
  CHECK((mix.seated().ranks == 3 && recall.seated().ranks == 3));
  sp::batch const b{sp::packed{0, 5, 12, 16}, sp::contiguous{}, here.comm};
  auto const c = here.context();
  auto rows = [&](index_t n, index_t width, double step) {
    std::vector<double> values(std::size_t(n * width));
    double x = 0.1 * here.comm.rank();
    for (double& v : values) x = x > 0.8 ? x - 0.9 : x + step, v = x;
    return typename Place::template tensor<double, 3>(here, {n, 1, width}, std::move(values));
  };
  index_t const n = b.tokens(), dim = 2;
  auto x = rows(n, dim, 0.13), mixed = rows(n, dim, 0), beta = rows(n, 1, 0.17), g = rows(n, 1, -0.1), out = rows(n, dim, 0),
       dout = rows(n, dim, 0.11), dq = rows(n, dim, 0), dk = rows(n, dim, 0), dv = rows(n, dim, 0), dg = rows(n, 1, 0),
       dbeta = rows(n, 1, 0), dx = rows(n, dim, 0);
  typename Place::template tensor<double, 2> weights(here, {dim, 4}, {0.1, 0.2, -0.3, 0.4, 0.5, -0.6, 0.7, 0.8});
  auto const plan = recall.prepare(b, c), rows_of_others = mix.prepare(b, c);
  {
    typename Place::hold held(here);
    auto of_mix = mix.forward(rows_of_others, c, {.x = *x, .weights = *weights, .out = *mixed});
    auto of_recall = recall.forward(plan, c, {.q = *mixed, .k = *mixed, .v = *mixed, .gates = {*g, *beta}, .out = *out});
    recall.backward(plan, c, std::move(of_recall),
                    {.q = *mixed,
                     .k = *mixed,
                     .v = *mixed,
                     .gates = {*g, *beta},
                     .dout = *dout,
                     .dq = *dq,
                     .dk = *dk,
                     .dv = *dv,
                     .dgates = {*dg, *dbeta}});
    mix.backward(rows_of_others, c, std::move(of_mix), {.x = *x, .weights = *weights, .dout = *dk, .dx = *dx});
    held.end();
  }
  std::vector<double> all;
  for (auto* t : {&out, &dq, &dk, &dv, &dg, &dbeta, &dx}) {
    auto const values = t->download();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

/// The delta rule before it is wrapped, by each strategy: final states of what one rank has.
template <class Place>
std::vector<double> alone(Place& here) {
  using queue = typename decltype(here.context())::queue_type;
  using slot = sp::linear_slot<linear_tests::recurrent_delta<typename queue::memory_type>, double, queue>;
  sp::batch const b{sp::packed{0, 5, 12}, sp::contiguous{}, 0, 1};
  auto const c = here.context();
  std::vector<double> all;
  for (auto strategy : {sp::linear_strategy::heads, sp::linear_strategy::state}) {
    slot const recall(linear_tests::recurrent_delta<typename queue::memory_type>{}, {.strategy = strategy});
    auto rows = [&](index_t width, double step) {
      std::vector<double> values(std::size_t(12 * width));
      double x = 0.1;
      for (double& v : values) x = x > 0.8 ? x - 0.9 : x + step, v = x;
      return typename Place::template tensor<double, 3>(here, {12, 1, width}, std::move(values));
    };
    auto x = rows(2, 0.13), g = rows(1, -0.1), beta = rows(1, 0.17), out = rows(2, 0);
    typename Place::template tensor<double, 4> states(here, {2, 1, 2, 2}, std::vector<double>(8));
    auto const plan = recall.prepare(b, c);
    CHECK(recall.scratch_bytes(plan, {0, 1, 1, 2, 2}, c.queue) > 0);
    recall.infer(plan, c, {.q = *x, .k = *x, .v = *x, .gates = {*g, *beta}, .out = *out, .final_state = *states});
    for (auto const& values : {out.download(), states.download()}) all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

TEST_CASE("slots: of another memory, on a queue that works late") {
  using support::host_place, support::late_place;
  auto const attention = [](auto& here) { return attended(here); };
  CHECK(support::on_all_ranks<host_place>(3, attention) == support::on_all_ranks<late_place>(3, attention));
  auto const rows = [](auto& here) { return fused(here); };
  CHECK(support::on_all_ranks<host_place>(3, rows) == support::on_all_ranks<late_place>(3, rows));
  auto const layer = [](auto& here) { return remembered(here); };
  CHECK(support::on_all_ranks<host_place>(3, layer) == support::on_all_ranks<late_place>(3, layer));
  auto const unwrapped = [](auto& here) { return alone(here); };
  CHECK(support::on_all_ranks<host_place>(3, unwrapped) == support::on_all_ranks<late_place>(3, unwrapped));
}

} // namespace
} // namespace test_slots_elsewhere
