// Slots of linear attention and of its convolution: a hybrid model, wrapped, has the numbers of the objects themselves on one rank, all
// gradients too; a model of such slots alone is wrapped as well; what a slot refuses to take back, and what inspect says of it.
#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include <sp/auto_wrap.hpp>
#include <sp/linear_slot.hpp>
#include <sp/threads.hpp>

#include "support/failure.hpp"

namespace test_linear_slots {
namespace {

using sp::errc;
using sp::index_t;
using support::failure_of;
using support::says;
using numbers = std::vector<double>;
using recall_slot = sp::linear_slot<sp::gated_delta, double>;
using mix_slot = sp::conv1d_slot<double>;

constexpr index_t k_heads = 1, v_heads = 2, dim = 2, keys = k_heads * dim, values = v_heads * dim, channels = 2 * keys + values,
                  width = 3;
sp::gated_delta const kernel{{.normalise = true}};
sp::conv1d_options const mixing{.width = width, .activation = sp::activation::silu};

struct linear_layer {
  mix_slot mix{mixing};
  recall_slot recall{kernel};
};
struct hybrid {
  std::vector<linear_layer> linear = std::vector<linear_layer>(1);
  sp::attention_slot<sp::text_role, double> attend{{.q_heads = v_heads, .kv_heads = v_heads}};
};
auto members(linear_layer& l) { return sp::parts("mix", l.mix, "recall", l.recall); }
auto members(hybrid& m) { return sp::parts("linear", m.linear, "attend", m.attend); }

/// The same of objects.
struct objects {
  sp::causal_conv1d<sp::solo> mix{{}, mixing};
  sp::linear_attention<sp::solo, sp::gated_delta> recall{{}, kernel};
  sp::ring_attention<sp::solo, sp::reference<>> attend{{}, {}};
};

sp::documents const docs = sp::packed{0, 11, 12, 30};
index_t const stream = docs.length();

numbers drawn(index_t n, unsigned seed, double low = -1, double high = 1) {
  std::mt19937 random(seed);
  numbers v(static_cast<std::size_t>(n));
  for (double& x : v) x = low + (high - low) * double(random() % 4096) / 4096;
  return v;
}
/// Rows of a rank, of the whole stream or of nothing yet.
struct rows {
  index_t n, width;
  numbers v;
  rows(sp::batch const& b, index_t w) : n(b.tokens()), width(w), v(static_cast<std::size_t>(n * w)) {}
  rows(sp::batch const& b, index_t w, numbers const& all) : rows(b, w) {
    each(b, [&](std::size_t mine, std::size_t of_all) { v[mine] = all[of_all]; });
  }
  template <class F>
  void each(sp::batch const& b, F&& f) const {
    sp::for_each_row(b, [&](sp::local_row const& r) {
      for (index_t i = 0; r.real && i < width; ++i)
        f(static_cast<std::size_t>(r.row * width + i), static_cast<std::size_t>(sp::source_position(b, r) * width + i));
    });
  }
  numbers whole(sp::batch const& b) const { // zeros where others have rows
    numbers all(static_cast<std::size_t>(stream * width));
    each(b, [&](std::size_t mine, std::size_t of_all) { all[of_all] = v[mine]; });
    return all;
  }
  sp::view<double, 2> flat() { return {v.data(), {n, width}}; } // (tokens, width)
  sp::view<double, 3> heads(index_t from, index_t count) {      // (tokens, heads, dim) of its columns
    return {v.data() + from, {n, count, dim}, {width, dim, 1}};
  }
};

/// out, then gradients of x, gates and weights.
using results = std::vector<numbers>;

/// Convolution, the delta rule on what it gives, and attention of its outputs over themselves; then back.
template <class Mix, class Recall, class Attend>
results step(sp::batch const& b, Mix const& mix, Recall const& recall, Attend const& attend) {
  rows x(b, channels, drawn(stream * channels, 1)), g(b, v_heads, drawn(stream * v_heads, 2, -0.3, 0)),
      beta(b, v_heads, drawn(stream * v_heads, 3, 0, 2)), dout(b, values, drawn(stream * values, 4));
  rows mixed(b, channels), read(b, values), out(b, values), dq(b, values), dk(b, values), dv(b, values), dmixed(b, channels),
      dg(b, v_heads), dbeta(b, v_heads), dx(b, channels);
  numbers weights = drawn(channels * width, 5), dweights(weights.size());
  sp::view<double, 2> const w{weights.data(), {channels, width}};
  auto all = [](rows& r) { return r.heads(0, v_heads); };
  auto const q = mixed.heads(0, k_heads), k = mixed.heads(keys, k_heads), v = mixed.heads(2 * keys, v_heads);

  auto of_mix = mix.forward(b, {.x = x.flat(), .weights = w, .out = mixed.flat()});
  auto of_recall = recall.forward(b, {.q = q, .k = k, .v = v, .gates = {g.flat(), beta.flat()}, .out = all(read)});
  auto of_attend = attend.forward(b, {.q = all(read), .k = all(read), .v = all(read), .out = all(out)});
  attend.backward(b, std::move(of_attend),
                  {.q = all(read),
                   .k = all(read),
                   .v = all(read),
                   .out = all(out),
                   .dout = all(dout),
                   .dq = all(dq),
                   .dk = all(dk),
                   .dv = all(dv)});
  for (std::size_t i = 0; i < dq.v.size(); ++i) dq.v[i] += dk.v[i] + dv.v[i];
  recall.backward(b, std::move(of_recall),
                  {.q = q,
                   .k = k,
                   .v = v,
                   .gates = {g.flat(), beta.flat()},
                   .dout = all(dq),
                   .dq = dmixed.heads(0, k_heads),
                   .dk = dmixed.heads(keys, k_heads),
                   .dv = dmixed.heads(2 * keys, v_heads),
                   .dgates = {dg.flat(), dbeta.flat()}});
  mix.backward(b, std::move(of_mix),
               {.x = x.flat(),
                .weights = w,
                .dout = dmixed.flat(),
                .dx = dx.flat(),
                .dweights = sp::view<double, 2>{dweights.data(), {channels, width}}});
  return {out.whole(b), dx.whole(b), dg.whole(b), dbeta.whole(b), dweights};
}
results step(sp::batch const& b, hybrid const& m) { return step(b, m.linear[0].mix, m.linear[0].recall, m.attend); }

results by_objects() {
  objects const o;
  return step({docs, sp::zigzag{}, sp::solo{}}, o.mix, o.recall, o.attend);
}

TEST_CASE("linear slots: on one rank a model has the bits of the objects, before it is wrapped and then") {
  results const expected = by_objects();
  hybrid m;
  sp::threads::run(1, [&](sp::threads const& comm) {
    sp::batch const b{docs, sp::zigzag{}, comm};
    CHECK(step(b, m) == expected);
    sp::auto_wrap(m, comm, sp::reference{});
    CHECK(step(b, m) == expected);
  });
  CHECK(m.linear[0].recall.options().head_chunks == sp::linear_attention_options().head_chunks);
  CHECK(m.linear[0].mix.options().width == width);
}

TEST_CASE("linear slots: wrapped over three ranks a hybrid model computes what one rank does, gradients too") {
  results const expected = by_objects();
  std::vector<results> of_rank(3);
  sp::threads::run(3, [&](sp::threads const& comm) {
    hybrid m;
    sp::auto_wrap(m, comm, sp::reference{});
    CHECK(m.attend.seated().ring == 3); // two heads: linear slots do not change the degrees of attention
    for (sp::seating const& s : {m.linear[0].mix.seated(), m.linear[0].recall.seated()}) CHECK((s.wrapped && s.ranks == 3));
    hybrid const copy = m;
    of_rank[static_cast<std::size_t>(comm.rank())] = step({docs, sp::zigzag{}, comm}, copy);
  });
  for (std::size_t i = 0; i < expected.size(); ++i) {
    double worst = 0;
    for (std::size_t j = 0; j < expected[i].size(); ++j) {
      double const sum = of_rank[0][i][j] + of_rank[1][i][j] + of_rank[2][i][j];
      worst = std::fmax(worst, std::fabs(sum - expected[i][j]));
      REQUIRE_FALSE(std::isnan(sum));
    }
    CAPTURE(i);
    CHECK(worst < 1e-10);
  }
}

/// Calls of one layer on tensors of its own.
struct calls {
  sp::batch const& b;
  rows x{b, channels, drawn(stream*channels, 1)}, mixed{b, channels}, g{b, v_heads}, out{b, values}, dx{b, channels},
      dg{b, v_heads};
  numbers weights = drawn(channels * width, 5);
  sp::view<double, 2> w{weights.data(), {channels, width}};

  sp::view<double, 3> q(rows& r) const { return r.heads(0, k_heads); }
  sp::view<double, 3> k(rows& r) const { return r.heads(keys, k_heads); }
  sp::view<double, 3> v(rows& r) const { return r.heads(2 * keys, v_heads); }
  mix_slot::forward_type mix() { return {.x = x.flat(), .weights = w, .out = mixed.flat()}; }
  mix_slot::backward_type mix_back() { return {.x = x.flat(), .weights = w, .dout = mixed.flat(), .dx = dx.flat()}; }
  recall_slot::forward_type recall() {
    return {.q = q(x), .k = k(x), .v = v(x), .gates = {g.flat(), g.flat()}, .out = out.heads(0, v_heads)};
  }
  recall_slot::backward_type recall_back(rows& dbeta) {
    return {.q = q(x),
            .k = k(x),
            .v = v(x),
            .gates = {g.flat(), g.flat()},
            .dout = out.heads(0, v_heads),
            .dq = q(dx),
            .dk = k(dx),
            .dv = v(dx),
            .dgates = {dg.flat(), dbeta.flat()}};
  }
};

/// forward(slot) returns a saved, which backward(slot, saved) takes.
template <class Slot, class Forward, class Backward>
void check_identity(Slot& slot, Forward const& forward, Backward const& backward) {
  auto refused = [&](Slot const& by, auto& saved, char const* why) {
    return says(failure_of([&] { return backward(by, std::move(saved)), 0; }), errc::bad_state, why);
  };
  Slot const copy = slot;
  auto saved = forward(slot), second = forward(slot), left = forward(slot);
  CHECK(refused(copy, saved, "saved belongs to another slot"));
  backward(slot, std::move(saved)); // what was refused is as it was
  CHECK(refused(slot, saved, "this saved token was used already"));
  Slot moved = std::move(slot);
  backward(moved, std::move(second));
  CHECK(says(failure_of([&] { return forward(slot); }), errc::bad_state, "this slot is empty: it was moved away"));
  slot = std::move(moved);
  sp::threads::run(1, [&](sp::threads const& comm) { sp::auto_wrap(slot, comm, sp::reference{}); });
  CHECK(refused(slot, left, "to what sat in this one before it was wrapped"));
  backward(slot, forward(slot));
}

TEST_CASE("linear slots: a saved is for one backward call of its slot and what sits there") {
  sp::batch const b{docs, sp::contiguous{}, sp::solo{}};
  calls c{b};
  rows dbeta(b, v_heads);
  recall_slot recall{kernel};
  mix_slot mix{mixing};
  check_identity(
      recall, [&](recall_slot const& s) { return s.forward(b, c.recall()); },
      [&](recall_slot const& s, auto&& saved) { s.backward(b, std::move(saved), c.recall_back(dbeta)); });
  check_identity(
      mix, [&](mix_slot const& s) { return s.forward(b, c.mix()); },
      [&](mix_slot const& s, auto&& saved) { s.backward(b, std::move(saved), c.mix_back()); });
}

TEST_CASE("linear slots: one geometry serves all of a kind, and none that was wrapped since, or of another kind") {
  sp::batch const b{docs, sp::contiguous{}, sp::solo{}};
  calls c{b};
  rows dbeta(b, v_heads);
  sp::pool memory;
  sp::context const in(memory, memory);
  std::vector<linear_layer> layers(2);
  sp::slot_prepared const mixes = layers[0].mix.prepare(b), recalls = layers[0].recall.prepare(b, in);
  for (linear_layer& l : layers) {
    l.mix.backward(mixes, in, l.mix.forward(mixes, in, c.mix()), c.mix_back());
    l.recall.backward(recalls, in, l.recall.forward(recalls, in, c.recall()), c.recall_back(dbeta));
    numbers const mixed = c.mixed.v, out = c.out.v;
    l.mix.infer(b, in, c.mix());
    l.recall.infer(b, c.recall());
    CHECK((c.mixed.v == mixed && c.out.v == out));
  }
  objects const o;
  sp::linear_shape const shape{0, k_heads, v_heads, dim, dim};
  CHECK(layers[0].recall.saved_bytes(b, shape) == o.recall.saved_bytes<double>(o.recall.prepare(b), shape));
  CHECK(layers[0].recall.scratch_bytes(b, shape) == o.recall.scratch_bytes<double>(o.recall.prepare(b), shape));
  CHECK(layers[0].mix.saved_bytes(b, channels) == o.mix.saved_bytes<double>(o.mix.prepare(b), channels));
  CHECK(layers[0].mix.scratch_bytes(b, channels) == o.mix.scratch_bytes<double>(o.mix.prepare(b), channels));

  auto refused = [&](auto const& slot, sp::slot_prepared const& p, auto const& operands, char const* why) {
    return says(failure_of([&] { return slot.infer(p, in, operands), 0; }), errc::bad_state, why);
  };
  CHECK(refused(layers[0].recall, mixes, c.recall(), "another kind of object"));
  sp::threads::run(3, [&](sp::threads const& comm) {
    linear_layer wrapped;
    sp::auto_wrap(wrapped, comm, sp::reference{});
    CHECK(refused(wrapped.recall, recalls, c.recall(), "another kind of object"));
    CHECK(refused(wrapped.mix, mixes, c.mix(), "was made by rank 0 of 1 of another group"));
  });
}

TEST_CASE("linear slots: a model that has no others is wrapped, and ranks compare what they have of them") {
  sp::threads::run(3, [](sp::threads const& comm) {
    std::vector<linear_layer> m(2);
    sp::auto_wrap(m, comm, sp::reference{});
    for (linear_layer const& l : m) CHECK((l.mix.seated().ranks == 3 && l.recall.seated().ranks == 3));
    std::vector<recall_slot> uneven(comm.rank() == 1 ? 2 : 1, recall_slot{kernel});
    auto const e = failure_of([&] { return &sp::auto_wrap(uneven, comm, sp::reference{}, {.checks = 2}); });
    CHECK(says(e, errc::rank_mismatch, "rank 1 differs from ranks 0, 2 in linear attention slots: 2 against 1"));
    CHECK_FALSE(uneven[0].seated().wrapped);
    sp::auto_wrap(m, comm, sp::reference{}, {.checks = 2}); // which reaches what sits in the slots
    sp::batch const b{docs, sp::contiguous{}, comm};
    calls c{b};
    auto call = c.mix();
    if (comm.rank() == 1) call.x = {};
    auto const other = failure_of([&] { return m[0].mix.infer(b, call), 0; });
    CHECK(other.code == (comm.rank() == 1 ? errc::bad_pointer : errc::rank_mismatch));
  });
}

TEST_CASE("linear slots: inspect lists them among the slots of text, by kind") {
  sp::threads::run(2, [](sp::threads const& comm) {
    hybrid m;
    auto const before = sp::inspect(m).text();
    CHECK(before == "linear[0].mix: text convolution slot, holds one rank\n"
                    "linear[0].recall: text linear attention slot, holds one rank\n"
                    "attend: text attention slot, 2 q heads and 2 kv heads, holds one rank\n"
                    "taken: 3 of text\n");
    sp::auto_wrap(m, comm, sp::reference{});
    auto const report = sp::inspect(m);
    CHECK(report.count("text") == 3);
    CHECK(report.at("linear[0].mix")->holds == "causal_conv1d over 2 ranks");
    CHECK(report.at("linear[0].recall")->holds == "linear_attention over 2 ranks");
    CHECK(report.at("linear[0].recall")->q_heads == 0);
  });
}

} // namespace
} // namespace test_linear_slots
