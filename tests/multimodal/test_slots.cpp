// A slot by itself: what its calls take, what they refuse to take back, what they cost; and what auto_wrap does with kernels, meshes,
// groups and deadlines. Results have the bits of the objects themselves.
#include <doctest/doctest.h>

#include <chrono>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <sp/auto_wrap.hpp>
#include <sp/fusion.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/threads.hpp>
#include <sp/vision.hpp>

#include "conformance/kernels.hpp"
#include "support/allocations.hpp"
#include "support/attention_tensors.hpp"
#include "support/failure.hpp"
#include "support/places.hpp"
#include "support/tensors.hpp"

namespace test_slots {
namespace {

using sp::errc;
using sp::index_t;
using support::failure_of;
using support::same_bits;
using support::says;
using support::tensor;
using text_slot = sp::attention_slot<sp::text_role, double>;
using vision_slot = sp::attention_slot<sp::vision_role, double>;
using tensors = support::attention_tensors<double>;

constexpr sp::attention_shape shape{4, 2, 3, 2};
sp::attention_seat<sp::text_role> const seat{.q_heads = 4, .kv_heads = 2};

sp::forward_operands<double> inputs(tensors& x) { return {.q = x.q, .k = x.k, .v = x.v, .out = x.out}; }
sp::backward_operands<double> gradients(tensors& x) {
  return {.q = x.q, .k = x.k, .v = x.v, .out = x.out, .dout = x.dout, .dq = x.dq, .dk = x.dk, .dv = x.dv};
}
sp::batch two_documents(int parts = 1, int part = 0) { return {sp::packed{0, 5, 12}, sp::contiguous{}, part, parts}; }

TEST_CASE("a saved is for one backward call of its slot, its batch and what sits there") {
  sp::batch const b = two_documents(), other = two_documents();
  text_slot slot{seat}, second{seat};
  tensors x(b, shape);
  auto saved = slot.forward(b, inputs(x));
  CHECK(says(failure_of([&] { return second.backward(b, std::move(saved), gradients(x)), 0; }), errc::bad_state,
             "saved belongs to another slot"));
  CHECK(says(failure_of([&] { return slot.backward(other, std::move(saved), gradients(x)), 0; }), errc::bad_state,
             "saved belongs to another batch"));
  slot.backward(b, std::move(saved), gradients(x)); // those that were refused did not consume it
  auto const used = failure_of([&] { return slot.backward(b, std::move(saved), gradients(x)), 0; });
  CHECK(says(used, errc::bad_state, "this saved token was used already, moved away, or never made"));
  CHECK(says(failure_of([&] { return slot.backward(b, text_slot::saved(), gradients(x)), 0; }), errc::bad_state, "never made"));

  auto moved_from = slot.forward(b, inputs(x));
  auto moved_to = std::move(moved_from);
  CHECK(
      says(failure_of([&] { return slot.backward(b, std::move(moved_from), gradients(x)), 0; }), errc::bad_state, "moved away"));
  text_slot copy = slot;
  CHECK(
      says(failure_of([&] { return copy.backward(b, std::move(moved_to), gradients(x)), 0; }), errc::bad_state, "another slot"));
  sp::threads::run(1, [&](sp::threads const& comm) { sp::auto_wrap(slot, comm, sp::reference{}); });
  CHECK(says(failure_of([&] { return slot.backward(b, std::move(moved_to), gradients(x)), 0; }), errc::bad_state,
             "to what sat in this one before it was wrapped"));
}

TEST_CASE("a saved may outlive its slot, and a slot that was moved away says so") {
  sp::batch const b = two_documents();
  tensors x(b, shape);
  text_slot::saved left;
  {
    text_slot slot{seat};
    left = slot.forward(b, inputs(x));
    text_slot moved = std::move(slot);
    moved.backward(b, moved.forward(b, inputs(x)), gradients(x));
    CHECK(says(failure_of([&] { return slot.forward(b, inputs(x)); }), errc::bad_state, "this slot is empty: it was moved away"));
  }
  text_slot slot{seat};
  CHECK(says(failure_of([&] { return slot.backward(b, std::move(left), gradients(x)), 0; }), errc::bad_state, "another slot"));
}

TEST_CASE("an object of another mask or prefix than the seat's is refused, and the slot stays as it was") {
  auto alone = [](sp::mask m) { return sp::detail::local_attention(sp::reference{}, {.mask = std::move(m)}); };
  auto refused = [](auto& slot, auto object) { return failure_of([&] { return slot.use(std::move(object)), 0; }); };
  text_slot near{{.q_heads = 4, .kv_heads = 2, .mask = sp::window(3)}}, asked{{.q_heads = 4, .mask = sp::prefix_lm({2, 1})}};
  auto const bounds = refused(near, alone(sp::causal()));
  CHECK(bounds.problem + ". " + bounds.remedy ==
        "an object whose mask has bounds of k - q in [-inf, 0] was put into a slot whose mask has [-3, 0]. Make the object with "
        ".mask = slot.seat().mask");
  CHECK(says(refused(asked, alone(sp::causal())), errc::bad_state, "[-inf, 0], and other prefixes"));
  CHECK_FALSE(near.seated().wrapped);
  near.use(alone(near.seat().mask));
  CHECK(near.seated().wrapped);
  vision_slot plain, with_cls{{.prefix = 1}};
  CHECK(says(refused(with_cls, alone(sp::full())), errc::bad_state, "0 prefix tokens was put into a slot of 1"));
  using around = sp::vit_attention<sp::detail::rank_alone<sp::host_memory>, decltype(alone(sp::full()))>;
  CHECK(says(refused(with_cls, around({}, alone(sp::full()), {}, {2})), errc::bad_state, "2 prefix tokens", "slot of 1"));
  CHECK(says(refused(plain, around({}, alone(sp::full()), {}, {1})), errc::bad_state, "1 prefix tokens", "slot of 0"));
  with_cls.use(around({}, alone(sp::full()), {}, {1}));
  CHECK(with_cls.seated().object == std::string("vit_attention"));
}

TEST_CASE("a step that is like the one before allocates what the attention object itself does") {
  sp::batch const b = two_documents();
  tensors x(b, shape);
  text_slot slot{seat};
  sp::attention_options options;
  sp::ring_attention object{sp::solo{}, sp::reference{}, options};
  auto count = [&](auto const& attention) {
    long before = 0;
    for (int step = 0; step < 3; ++step) {
      before = support::allocations_of_thread;
      auto first = attention.forward(b, inputs(x)), second = attention.forward(b, inputs(x));
      attention.backward(b, std::move(second), gradients(x));
      attention.backward(b, std::move(first), gradients(x));
    }
    return support::allocations_of_thread - before;
  };
  long const by_object = count(object);
  CHECK(count(slot) == by_object);
}

TEST_CASE("a slot of another memory has the bits of the host's, on a queue that works late, and waits for nothing") {
  using support::late_place, support::operand;
  sp::batch const b = two_documents();
  tensors x(b, shape);
  tensors const before(b, shape); // as they were
  text_slot const host{seat};
  host.backward(b, host.forward(b, inputs(x)), gradients(x));
  auto const same = support::on_all_ranks<late_place>(1, [&](late_place& here) {
    sp::attention_slot<sp::text_role, double, support::late_queue> const slot{seat};
    auto there = [&](auto const& v, operand o) { return late_place::tensor<double, 3>(here, v.extents, before[o]); };
    auto q = there(x.q, operand::q), k = there(x.k, operand::k), v = there(x.v, operand::v), out = there(x.out, operand::out),
         dout = there(x.dout, operand::dout), dq = there(x.dq, operand::dq), dk = there(x.dk, operand::dk),
         dv = there(x.dv, operand::dv);
    auto const c = here.context();
    auto const prepared = slot.prepare(b, c);
    late_place::hold held(here);
    auto saved = slot.forward(prepared, c, {.q = *q, .k = *k, .v = *v, .out = *out});
    slot.backward(prepared, c, std::move(saved),
                  {.q = *q, .k = *k, .v = *v, .out = *out, .dout = *dout, .dq = *dq, .dk = *dk, .dv = *dv});
    held.end();
    return out.download() == x[operand::out] && dq.download() == x[operand::dq] && dk.download() == x[operand::dk] &&
           dv.download() == x[operand::dv];
  });
  CHECK(same == std::vector<bool>{true});
}

TEST_CASE("one geometry serves all slots of a kind, under a mask of the step too") {
  sp::batch const b = two_documents();
  sp::pool memory;
  sp::context const c(memory, memory);
  std::vector<text_slot> layers(2, text_slot{seat});
  sp::mask const prefix = sp::prefix_lm({2, 3});
  auto shared = layers[0].prepare(b, prefix);
  sp::ring_attention const object{sp::solo{}, sp::reference{}};
  auto const expected = object.prepare(b, prefix);
  for (text_slot& layer : layers) {
    tensors x(b, shape), y(b, shape);
    layer.backward(shared, c, layer.forward(shared, c, inputs(x)), gradients(x));
    object.backward(expected, c, object.forward(expected, c, inputs(y)), gradients(y));
    CHECK(same_bits(x.results(), y.results()));
    layer.infer(b, c, inputs(x)); // the seat's own mask
    CHECK_FALSE(same_bits(x.results(), y.results()));
  }
  CHECK(layers[0].saved_bytes(b, shape) == object.saved_bytes<double>(expected, shape));
  CHECK(layers[0].scratch_bytes(b, shape) == object.scratch_bytes<double>(expected, shape));
  layers[0].refresh(shared, two_documents(), c);
  tensors x(b, shape);
  CHECK(says(failure_of([&] { return layers[0].backward(shared, c, layers[0].forward(b, c, inputs(x)), gradients(x)), 0; }),
             errc::bad_state, "another batch"));
  layers[1] = {seat, conformance::stateful_sdpa{}};
  CHECK(says(failure_of([&] { return layers[1].forward(shared, c, inputs(x)); }), errc::bad_state, "another kind of object"));
  CHECK(says(failure_of([&] { return layers[1].forward(sp::slot_prepared(), c, inputs(x)); }), errc::bad_state,
             "not made by prepare()"));
}

TEST_CASE("a kernel without lse sits under Ulysses, and what it returned reaches the caller") {
  using conformance::stateful_sdpa;
  sp::threads::run(2, [](sp::threads const& comm) {
    text_slot slot{seat};
    sp::auto_wrap(slot, comm, sp::role_kernels{sp::reference{}, stateful_sdpa{}});
    CHECK(slot.seated().ulysses == 2);
    sp::batch const b{sp::packed{0, 5, 12}, sp::contiguous{}, comm};
    tensors x(b, shape), y(b, shape);
    auto saved = slot.forward(b, inputs(x));
    auto const results = saved.results<stateful_sdpa::state>();
    CHECK(results.size() == 2); // documents
    CHECK(results[1]->document == 1);
    CHECK(saved.results<int>().empty());
    slot.backward(b, std::move(saved), gradients(x));
    sp::ulysses_attention const object{comm, stateful_sdpa{}};
    object.backward(b, object.forward(b, inputs(y)), gradients(y));
    CHECK(same_bits(x.results(), y.results()));

    auto const e =
        failure_of([&] { return &sp::auto_wrap(slot, comm, stateful_sdpa{}, {.text = {.strategy = sp::strategy::ring}}); });
    CHECK(e.problem + ". " + e.remedy ==
          "text slots such as model would need a ring of 2 ranks, and the kernel returns no lse. Choose "
          "strategy::ulysses for this role, or a kernel that returns its lse");
  });
}

TEST_CASE("prefix tokens beside a kernel that sees whole documents, on one rank") {
  sp::attention_seat<sp::vision_role> const prefixed{.q_heads = 4, .kv_heads = 2, .prefix = 1};
  sp::batch const b = two_documents(), rows{sp::packed{0, 2 + b.tokens()}, sp::contiguous{}, sp::solo{}};
  tensors x(rows, shape), y(rows, shape);
  vision_slot const whole{prefixed, conformance::stateful_sdpa{}}, blocks{prefixed};
  whole.backward(b, whole.forward(b, inputs(x)), gradients(x));
  blocks.backward(b, blocks.forward(b, inputs(y)), gradients(y));
  auto const one = x.results(), other = y.results();
  REQUIRE(one.size() == other.size());
  for (std::size_t i = 0; i < one.size(); ++i) CHECK(std::abs(one[i] - other[i]) < 1e-13);
}

struct two_kinds {
  vision_slot vision{{.q_heads = 6}};
  text_slot text{seat};
};
auto members(two_kinds& m) { return sp::parts("vision", m.vision, "text", m.text); }

TEST_CASE("degrees: derived by role, given by a mesh, or asked for") {
  sp::threads::run(6, [](sp::threads const& comm) {
    two_kinds m;
    auto degrees = [](auto const& slot) { return std::pair(slot.seated().ulysses, slot.seated().ring); };
    sp::auto_wrap(m, comm, sp::reference{});
    CHECK(degrees(m.vision) == std::pair(6, 1));
    CHECK(degrees(m.text) == std::pair(2, 3));
    sp::auto_wrap(m, comm, sp::reference{},
                  {.vision = {.strategy = sp::strategy::usp, .ulysses = 3}, .text = {.strategy = sp::strategy::ring}});
    CHECK(degrees(m.vision) == std::pair(3, 2));
    CHECK(degrees(m.text) == std::pair(1, 6));
    sp::mesh const mesh(sp::axis::data{2}, sp::axis::ring{3});
    sp::auto_wrap(m, mesh, comm, sp::reference{}, {.vision = {.strategy = sp::strategy::ulysses}});
    CHECK(degrees(m.vision) == std::pair(3, 1));
    CHECK(degrees(m.text) == std::pair(1, 3));
    auto const e = failure_of(
        [&] { return &sp::auto_wrap(m, comm, sp::reference{}, {.vision = {.strategy = sp::strategy::usp, .ulysses = 4}}); });
    CHECK(e.code == errc::invalid_shape);
    CHECK(e.problem == "Ulysses groups of 4 ranks for vision do not divide 6 ranks");
    CHECK(degrees(m.vision) == std::pair(3, 1)); // as it was
    std::vector<text_slot> silent(1);
    auto const unsaid = failure_of([&] { return &sp::auto_wrap(silent, comm, sp::reference{}); });
    CHECK(unsaid.code == errc::bad_state);
    CHECK(unsaid.problem + ". " + unsaid.remedy ==
          "slot [0] does not say how many heads it has, so degrees for 6 ranks cannot be derived. Make it with {.q_heads = ..., "
          ".kv_heads = ...}, choose strategy::ulysses or strategy::ring, or give a mesh");
    comm.barrier();
  });
}

TEST_CASE("from check level 2 on ranks compare what they found and what they were told, and nobody waits for a deadline") {
  sp::threads::run(3, [](sp::threads const& comm) {
    int const me = comm.rank();
    auto refused = [&](std::vector<text_slot> model, sp::wrap_options options) {
      options.checks = 2;
      auto const e = failure_of([&] { return &sp::auto_wrap(model, comm, sp::reference{}, options); });
      for (text_slot const& s : model) CHECK_FALSE(s.seated().wrapped);
      return e;
    };
    auto const other_depth = refused(std::vector<text_slot>(me == 1 ? 2 : 1, seat), {});
    CHECK(other_depth.code == errc::rank_mismatch);
    CHECK(other_depth.problem ==
          "rank 1 differs from ranks 0, 2 in text slots: 2 against 1 (also in names, heads and masks of text slots)");
    auto with_mask = seat;
    if (me == 2) with_mask.mask = sp::full();
    CHECK(says(refused({with_mask}, {}), errc::rank_mismatch,
               "rank 2 differs from ranks 0, 1 in names, heads and masks of text slots"));
    auto const strategy = me == 0 ? sp::strategy::ring : sp::strategy::automatic;
    CHECK(refused({seat}, {.text = {.strategy = strategy}}).problem ==
          "rank 0 differs from ranks 1, 2 in strategy of text slots: ring against automatic");
    CHECK(says(refused({seat}, {.text = {.head_chunks = 1 + me / 2}}), errc::rank_mismatch, "in options of text slots"));
    auto const nothing_there = refused(std::vector<text_slot>(me == 0 ? 0 : 1, seat), {});
    if (me == 0) CHECK(says(nothing_there, errc::bad_state, "nothing to wrap was found"));
    if (me != 0) CHECK(says(nothing_there, errc::rank_mismatch, "rank 0 refused auto_wrap with bad_state"));
    std::vector<text_slot> equal(1, seat);
    sp::auto_wrap(equal, comm, sp::reference{}, {.checks = 2});
    CHECK(equal[0].seated().ring == 3);
  });
}

TEST_CASE("over a mesh a slot has the bits of the objects over its groups, whichever axis comes first") {
  sp::threads::run(4, [](sp::threads const& comm) {
    for (bool ring_first : {true, false}) {
      using namespace sp::axis;
      sp::mesh const mesh = ring_first ? sp::mesh(ring{2}, ulysses{2}) : sp::mesh(ulysses{2}, ring{2});
      text_slot slot{seat};
      sp::auto_wrap(slot, mesh, comm, sp::reference{});
      sp::batch const b{sp::packed{0, 9, 23}, sp::contiguous{}, comm};
      tensors x(b, shape), y(b, shape);
      slot.backward(b, slot.forward(b, inputs(x)), gradients(x));
      sp::ulysses_attention const object{mesh.ulysses(comm), sp::ring_attention{mesh.ring(comm), sp::reference{}}};
      object.backward(b, object.forward(b, inputs(y)), gradients(y));
      CHECK(same_bits(x.results(), y.results()));
    }
  });
}

/// Two ranks that send, and cannot be split.
struct bare {
  using memory_type = sp::host_memory;
  sp::threads inner;
  int rank() const { return inner.rank(); }
  int size() const { return inner.size(); }
  auto exchange(sp::traffic const& t) const { return inner.exchange(t); }
};

TEST_CASE("a communicator that cannot be split has one strategy a role, and deadlines are those of the communicator") {
  sp::threads::run(2, [](sp::threads const& comm) {
    text_slot slot{seat};
    sp::auto_wrap(slot, bare{comm}, sp::reference{});
    CHECK(slot.seated().ulysses == 2);
    sp::batch const b{sp::packed{0, 5, 12}, sp::contiguous{}, comm};
    tensors x(b, shape), y(b, shape);
    slot.backward(b, slot.forward(b, inputs(x)), gradients(x));
    sp::ulysses_attention const object{comm, sp::reference{}};
    object.backward(b, object.forward(b, inputs(y)), gradients(y));
    CHECK(same_bits(x.results(), y.results()));
  });
  auto const e = failure_of([] {
    sp::threads::run(2,
                     [](sp::threads const& comm) {
                       text_slot slot{seat};
                       sp::auto_wrap(slot, comm, sp::reference{});
                       sp::batch const b{sp::packed{0, 5, 12}, sp::contiguous{}, comm};
                       tensors x(b, shape);
                       if (comm.rank() == 0) static_cast<void>(slot.forward(b, inputs(x)));
                       if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
                     },
                     {.deadline = std::chrono::milliseconds(50)});
    return 0;
  });
  CHECK(e.rank == 0);
  CHECK((e.code == errc::timeout || e.code == errc::peer_failed));
}

// ---- fusion and deepstack ----------------------------------------------------------------------------------------------------------

struct fused_model {
  text_slot attend{seat};
  sp::fusion_slot<sp::splice::placeholder, double> merge{{.token = 9}};
  sp::deepstack_slot<double> deep{{.layers = {1}}};
};
auto members(fused_model& m) { return sp::parts("attend", m.attend, "merge", m.merge, "deep", m.deep); }

/// Passes in as much scratch as their slot asks for; with less the first of them ends, on one rank, where nobody waits for it.
template <class Slot, class Passes>
void check_scratch(Slot const& slot, sp::fused_batch const& f, Passes const& passes) {
  constexpr auto less = index_t(sp::allocator::alignment); // blocks are counted in it
  index_t const needed = slot.scratch_bytes(f, 2);
  alignas(sp::allocator::alignment) std::byte room[1 << 14];
  REQUIRE(needed > 0);
  REQUIRE(std::size_t(needed) <= sizeof room);
  sp::pool kept;
  auto with = [&](index_t bytes) {
    sp::workspace scratch(room, std::size_t(bytes));
    return passes(sp::context(scratch, kept)), 0;
  };
  CHECK(with(needed) == 0);
  if (slot.seated().ranks == 1) CHECK(failure_of([&] { return with(needed - less); }).code == errc::workspace_too_small);
}

/// Hidden states of all ranks, and the gradients of text and visual rows, in stream order: dim 2.
template <class Ranks>
std::vector<std::vector<double>> fused(fused_model& m, Ranks const& ranks) {
  std::vector<index_t> const ids{1, 9, 2, 3, 4, 9, 9};
  std::vector<sp::visual_item> const images{{1, 1, 2}, {1, 2, 2}, {1, 1, 1}};
  std::vector<sp::splice_sample> const samples{{std::span(ids).first(3), std::span(images).first(1), 0},
                                               {std::span(ids).subspan(3), std::span(images).subspan(1), 1}};
  sp::batch const text{sp::packed{0, 3, 7}, sp::contiguous{}, ranks}, visual{sp::packed{0, 2, 6, 7}, sp::contiguous{}, ranks};
  auto const f = m.merge.prepare(samples, text, visual, sp::zigzag{});
  auto numbers = [&](sp::batch const& b, double from) {
    std::vector<double> whole(std::size_t(b.source().length() * 2)), mine(std::size_t(b.tokens() * 2));
    for (std::size_t i = 0; i < whole.size(); ++i) whole[i] = from + double(i);
    sp::split(b, tensor<2>(std::as_const(whole), {b.source().length(), 2}), tensor<2>(mine, {b.tokens(), 2}));
    return mine;
  };
  auto rows = [](std::vector<double>& x) { return sp::view<double, 2>(x.data(), {index_t(x.size()) / 2, 2}); };
  auto e = numbers(text, 100), v = numbers(visual, 200), g = numbers(f.batch(), 1000), deep = numbers(visual, 0.5);
  std::vector<double> hidden(g.size()), de(e.size()), dv(v.size()), dd(v.size());
  check_scratch(m.deep, f,
                [&](auto const& c) { m.deep.forward(f, c, rows(deep), rows(hidden)), m.deep.backward(f, c, rows(g), rows(dd)); });
  check_scratch(m.merge, f, [&](auto const& c) {
    m.merge.forward(f, c, {.text = rows(e), .visual = rows(v), .hidden = rows(hidden)});
    m.merge.backward(f, c, {.dhidden = rows(g), .dtext = rows(de), .dvisual = rows(dv)});
  });
  m.merge.forward(f, {.text = rows(e), .visual = rows(v), .hidden = rows(hidden)});
  CHECK(m.deep.at(1) == 0);
  CHECK(m.deep.at(0) == -1);
  m.deep.forward(f, rows(deep), rows(hidden));
  m.deep.backward(f, rows(g), rows(dd));
  m.merge.backward(f, {.dhidden = rows(g), .dtext = rows(de), .dvisual = rows(dv)});
  auto whole = [&](sp::batch const& b, std::vector<double>& mine) {
    std::vector<double> all(std::size_t(b.source().length() * 2));
    sp::gather(ranks, b, sp::view<double const, 2>(rows(mine)), tensor<2>(all, {b.source().length(), 2}));
    return all;
  };
  return {whole(f.batch(), hidden), whole(text, de), whole(visual, dv), whole(visual, dd)};
}

TEST_CASE("fusion and deepstack slots: on one rank, and wrapped over several") {
  fused_model one;
  auto const expected = fused(one, sp::solo{});
  // sample 0: 1 [200..203 + deep] 2; sample 1: 3 4 [4 rows] [1 row]
  CHECK(expected[0] == std::vector<double>{100, 101,   200.5, 202.5, 204.5, 206.5, 104,   105,   106,   107,   108,
                                           109, 208.5, 210.5, 212.5, 214.5, 216.5, 218.5, 220.5, 222.5, 224.5, 226.5});
  CHECK(expected[1] == std::vector<double>{1000, 1001, 0, 0, 1006, 1007, 1008, 1009, 1010, 1011, 0, 0, 0, 0});
  CHECK(expected[2] == expected[3]);
  CHECK(one.merge.seated().object == std::string("one rank"));
  for (int n : {1, 3})
    sp::threads::run(n, [&](sp::threads const& comm) {
      fused_model m;
      auto const unwrapped = m;
      sp::auto_wrap(m, comm, sp::reference{});
      CHECK(fused(m, comm) == expected);
      if (n < 3) return;
      auto const report = sp::inspect(m);
      CHECK(report.at("merge")->what == "fusion slot");
      CHECK(report.at("merge")->holds == "fusion over 3 ranks");
      CHECK(report.at("deep")->holds == "deepstack over 3 ranks");
      CHECK(unwrapped.merge.seated().ranks == 1);
      // a level that does not exist is refused before anything is changed; one that does reaches what joins the rows, too
      auto again = unwrapped;
      auto const level = failure_of([&] { return &sp::auto_wrap(again, comm, sp::reference{}, {.checks = 9}); });
      CHECK(says(level, errc::bad_state, "check level 9"));
      CHECK_FALSE(again.merge.seated().wrapped);
      sp::auto_wrap(again, comm, sp::reference{}, {.checks = 2});
      std::vector<index_t> const ids{comm.rank(), 2};
      std::vector<sp::splice_sample> const samples{{ids, {}, 0}};
      sp::batch const text{sp::packed{0, 2}, sp::contiguous{}, comm}, visual{sp::documents{}, sp::contiguous{}, comm};
      CHECK(says(failure_of([&] { return again.merge.prepare(samples, text, visual, sp::zigzag{}); }), errc::rank_mismatch,
                 "tokens and images"));
    });
  // a cut that documents must fit is refused as by the fusion itself
  std::vector<index_t> const three{1, 2, 3}, five{4, 5, 6, 7, 8};
  std::vector<sp::splice_sample> const odd{{three}, {five}};
  sp::batch const text{sp::packed{0, 3, 8}, sp::contiguous{}, sp::solo{}},
      no_image{sp::documents{}, sp::contiguous{}, sp::solo{}};
  sp::grained const in_pairs{sp::contiguous{sp::scope::stream}, 2};
  CHECK(says(failure_of([&] { return one.merge.prepare(odd, text, no_image, in_pairs); }), errc::uneven_partition,
             "3 rows are not 0 prefix rows and units of 2"));
  // what holds no attention is wrapped, too
  sp::threads::run(3, [&](sp::threads const& comm) {
    fused_model m;
    std::vector<sp::deepstack_slot<double>> deep(1);
    sp::auto_wrap(m.merge, comm, sp::reference{});
    sp::auto_wrap(deep, comm, sp::reference{});
    m.deep = deep[0];
    CHECK(m.merge.seated().ranks == 3);
  });
}

} // namespace
} // namespace test_slots
