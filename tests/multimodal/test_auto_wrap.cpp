// A model with slots, wrapped: text (causal, GQA) and vision (prefix 0 and 1) in one model, several layers that share a batch, against the
// oracle and, on one rank, against the same model unwrapped, bit for bit. What a slot refuses to take back.
#include <doctest/doctest.h>

#include <mutex>
#include <optional>
#include <random>
#include <string>

#include <sp/mesh.hpp>
#include <sp/threads.hpp>

#include "multimodal/wrapped_model.hpp"
#include "support/failure.hpp"

namespace test_auto_wrap {
namespace {

using namespace support;
using sp::errc;

struct tower_layer {
  sp::attention_slot<sp::vision_role, double> attend;
};
struct decoder_layer {
  sp::attention_slot<sp::text_role, double> attend;
};
struct model {
  std::vector<tower_layer> vision;
  std::vector<decoder_layer> text;
};
auto members(tower_layer& l) { return sp::parts("attend", l.attend); }
auto members(decoder_layer& l) { return sp::parts("attend", l.attend); }
auto members(model& m) { return sp::parts("vision", m.vision, "text", m.text); }

constexpr sp::attention_shape vision_shape{4, 4, 3, 2}, text_shape{4, 2, 4, 4};
constexpr std::size_t depth = 2;

model made(index_t prefix) {
  model m;
  for (std::size_t i = 0; i < depth; ++i) {
    m.vision.push_back({sp::attention_slot<sp::vision_role, double>{{.q_heads = 4, .prefix = prefix}}});
    m.text.push_back({sp::attention_slot<sp::text_role, double>{{.q_heads = 4, .kv_heads = 2}}});
  }
  return m;
}

/// Each layer has inputs of its own; a model's layers share the batches.
struct problem {
  std::vector<whole_layer> vision, text;
  explicit problem(index_t prefix) {
    for (unsigned i = 0; i < depth; ++i) {
      vision.emplace_back(std::vector<index_t>{5, 0, 8, 3}, prefix, vision_shape, false, 10 + i);
      text.emplace_back(std::vector<index_t>{13, 1, 9}, 0, text_shape, true, 20 + i);
    }
  }
};
struct results { ///< of one rank, by layer
  std::vector<layer_share> vision, text;
};

/// A step: both towers forward, then backward from the last layer to the first.
template <class Ranks>
results step(model& m, problem const& p, Ranks const& ranks, bool same) {
  sp::batch const patches{p.vision[0].docs(), sp::contiguous{}, ranks}, tokens{p.text[0].docs(), sp::zigzag{}, ranks};
  int const n = ranks.size();
  double const share = same ? 1.0 : double(ranks.rank() + 1) / double(n * (n + 1) / 2);
  results r;
  std::vector<sp::slot_saved<double>> kept;
  for (std::size_t i = 0; i < depth; ++i) {
    r.vision.emplace_back(p.vision[i], patches, share);
    kept.push_back(m.vision[i].attend.forward(patches, r.vision[i].forward(vision_shape)));
  }
  for (std::size_t i = 0; i < depth; ++i) {
    r.text.emplace_back(p.text[i], tokens, 1.0);
    kept.push_back(m.text[i].attend.forward(tokens, r.text[i].forward(text_shape)));
  }
  for (std::size_t i = depth; i-- > 0;) {
    m.text[i].attend.backward(tokens, std::move(kept[depth + i]), r.text[i].backward(text_shape));
    m.vision[i].attend.backward(patches, std::move(kept[i]), r.vision[i].backward(vision_shape));
  }
  return r;
}

void compare(whole_layer const& w, std::vector<layer_share> const& ranks, bool shares) {
  auto error = [&](std::vector<double> layer_share::*of, std::vector<double> const& truth, bool add) {
    return relative_error(gathered(w, ranks, of, add, truth.size()), truth);
  };
  CHECK(error(&layer_share::out, w.truth.out, false) < 1e-12);
  CHECK(error(&layer_share::dq, w.truth.dq, shares) < 1e-12);
  CHECK(error(&layer_share::dk, w.truth.dk, shares) < 1e-12);
  CHECK(error(&layer_share::dv, w.truth.dv, shares) < 1e-12);
  auto const prefix_of = [&](std::vector<double> const& x, std::size_t rank) {
    std::size_t const rows = ranks[rank].rows.size();
    return std::vector<double>(
        x.begin(), x.begin() + std::ptrdiff_t(rows == 0 ? 0 : x.size() / rows * std::size_t(ranks[rank].prefix_rows)));
  };
  for (std::size_t r = 1; r < ranks.size(); ++r) {
    CHECK(same_bits(prefix_of(ranks[r].out, r), prefix_of(ranks[0].out, 0)));
    if (!shares) CHECK(same_bits(prefix_of(ranks[r].dk, r), prefix_of(ranks[0].dk, 0)));
  }
}
void compare(problem const& p, std::vector<results> const& ranks, bool shares) {
  for (std::size_t i = 0; i < depth; ++i) {
    std::vector<layer_share> vision, text;
    for (results const& r : ranks) vision.push_back(r.vision[i]), text.push_back(r.text[i]);
    CAPTURE(i);
    compare(p.vision[i], vision, shares);
    compare(p.text[i], text, true);
  }
}

/// wrap(model, ranks) on `ranks` ranks, then a step of a copy of the model, which was moved, too, against the oracle. The handle that the
/// model was wrapped with is gone by then.
template <class Wrap>
void check(int ranks, index_t prefix, bool same, Wrap const& wrap) {
  problem const p(prefix);
  std::vector<std::optional<results>> of_rank(static_cast<std::size_t>(ranks));
  sp::threads::run(ranks, [&](sp::threads const& comm) {
    model wrapped = made(prefix);
    if (sp::threads const handle = comm; true) wrap(wrapped, handle);
    model const moved = std::move(wrapped);
    model m = moved;
    of_rank[std::size_t(comm.rank())] = step(m, p, comm, same);
  });
  std::vector<results> all;
  for (auto& r : of_rank) all.push_back(std::move(*r));
  compare(p, all, !same);
}

TEST_CASE("a slot that was never wrapped computes on one rank") {
  problem const p(1);
  model m = made(1);
  compare(p, {step(m, p, sp::solo{}, false)}, true);
}

TEST_CASE("on one rank a wrapped model has the bits of the unwrapped one") {
  for (index_t prefix : {0, 1, 3}) {
    CAPTURE(prefix);
    problem const p(prefix);
    model plain = made(prefix), wrapped = made(prefix);
    std::optional<results> a, b;
    sp::threads::run(1, [&](sp::threads const& comm) {
      a = step(plain, p, comm, false);
      CHECK(&sp::auto_wrap(wrapped, comm, sp::reference{}) == &wrapped);
      b = step(wrapped, p, comm, false);
    });
    CHECK(wrapped.text[0].attend.seated().wrapped);
    CHECK_FALSE(plain.text[0].attend.seated().wrapped);
    for (std::size_t i = 0; i < depth; ++i)
      for (auto of : {&layer_share::out, &layer_share::dq, &layer_share::dk, &layer_share::dv}) {
        CHECK(same_bits(a->text[i].*of, b->text[i].*of));
        CHECK(same_bits(a->vision[i].*of, b->vision[i].*of));
      }
  }
}

TEST_CASE("wrapped over several ranks, by every strategy") {
  check(3, 1, false, [](model& m, auto const& comm) { // derived: 3 has no common divisor with 4 heads or 2 kv heads
    sp::auto_wrap(m, comm, sp::reference{});
    CHECK(m.vision[1].attend.seated().ring == 3);
    CHECK(m.text[1].attend.seated().ring == 3);
  });
  check(4, 0, false, [](model& m, auto const& comm) { // derived: 4 heads, and 2 kv heads
    sp::auto_wrap(m, comm, sp::reference{}, {.checks = 2});
    CHECK(m.vision[0].attend.seated().ulysses == 4);
    CHECK(m.text[0].attend.seated().ulysses == 2);
    CHECK(m.text[0].attend.seated().ring == 2);
  });
  check(4, 1, false, [](model& m, auto const& comm) {
    sp::auto_wrap(m, comm, sp::reference{},
                  {.vision = {.strategy = sp::strategy::ring}, .text = {.strategy = sp::strategy::ulysses}});
    CHECK(m.vision[0].attend.seated().ring == 4);
    CHECK(m.text[0].attend.seated().ulysses == 4);
  });
  check(4, 3, false, [](model& m, auto const& comm) { // a mesh whose ring axis is the faster one
    sp::auto_wrap(m, sp::mesh(sp::axis::ulysses{2}, sp::axis::ring{2}), comm, sp::reference{});
    CHECK(m.vision[0].attend.seated().ring == 2);
    CHECK(m.text[0].attend.seated().ulysses == 2);
  });
}

TEST_CASE("gradients of prefix tokens by the other contract") {
  check(3, 2, true, [](model& m, auto const& comm) { sp::auto_wrap(m, comm, sp::reference{}, {}, sp::same{}); });
}

} // namespace
} // namespace test_auto_wrap
