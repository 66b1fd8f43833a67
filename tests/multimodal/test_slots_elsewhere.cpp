// Slots of another memory, on a queue that does its work late: the same bits as on the host, with geometry that was prepared in a context and
// without, for attention that is wrapped over three ranks, and for fusion and deepstack. Nothing waits for the queue meanwhile.
// with all: takes 8 seconds to compile; the same calls run on the host, and what sits in the slots runs in this memory in other sources
#include <doctest/doctest.h>

#include <random>
#include <vector>

#include <sp/auto_wrap.hpp>
#include <sp/fusion.hpp>

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

TEST_CASE("slots: of another memory, on a queue that works late") {
  using support::host_place, support::late_place;
  auto const attention = [](auto& here) { return attended(here); };
  CHECK(support::on_all_ranks<host_place>(3, attention) == support::on_all_ranks<late_place>(3, attention));
  auto const rows = [](auto& here) { return fused(here); };
  CHECK(support::on_all_ranks<host_place>(3, rows) == support::on_all_ranks<late_place>(3, rows));
}

} // namespace
} // namespace test_slots_elsewhere
