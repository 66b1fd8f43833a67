// Calls of vit_attention: what is refused and in which words, whose `saved` and geometry is whose, what kernels return, and prefix tokens
// that are ordinary rows of their owner. Every refused call leaves ranks and communicator usable.
#include <doctest/doctest.h>

#include <atomic>

#include <sp/blockwise.hpp>
#include <sp/reference.hpp>
#include <sp/vision.hpp>

#include "conformance/kernels.hpp"
#include "support/attention_tensors.hpp"
#include "support/failure.hpp"
#include "support/tensors.hpp"
#include "vit_trial.hpp"

namespace test_vit_calls {
namespace {

using namespace vit;
using sp::errc;
using support::failure_of;
using support::says;

/// Three images over a ring of three, by the objects that random trials use.
trial ragged(bool same, int checks = 1) {
  trial t{7};
  t.ring = 3;
  t.patches = sp::packed{0, 5, 6, 20};
  t.prefix = 2, t.q_heads = 2, t.kv_heads = 1;
  t.same = same, t.checks = checks;
  return t;
}
auto attention(trial const& t, comm const& c, index_t prefix) {
  return sp::vit_attention{c, nested(t, c, sp::reference{sp::dropout{0}}), sp::shares{}, {.prefix = prefix}};
}
/// f(communicator, its ledger) on each rank of a trial.
template <class F>
void on_ranks(int ranks, F const& f) {
  sp::threads::run(
      ranks,
      [&](sp::threads const& c) {
        sp::ledger counts;
        f(comm(c, counts));
      },
      patience());
}
using tensors = support::attention_tensors<double>;

TEST_CASE("vit_attention: geometry and saved of another batch, object or number of prefix tokens are refused") {
  trial const t = ragged(false);
  on_ranks(3, [&](comm const& c) {
    auto const one = attention(t, c, 2), twin = attention(t, c, 2), more = attention(t, c, 3);
    sp::batch const b{t.patches, sp::contiguous{}, c}, other{t.patches, sp::contiguous{}, c};
    tensors x(one.rows(b), one.rows(b), t.shape()), y(more.rows(b), more.rows(b), t.shape());
    sp::pool memory;
    sp::context const ctx(memory, memory);
    auto const prepared = one.prepare(b), of_more = more.prepare(b);
    auto saved = x.forward(one, prepared, ctx);
    CHECK(says(failure_of([&] { return y.forward(more, prepared, ctx); }), errc::bad_state, "another place in its groups"));
    CHECK(says(failure_of([&] { return x.backward(one, one.prepare(other), ctx, std::move(saved)), 0; }), errc::bad_state,
               "another batch"));
    CHECK(says(failure_of([&] { return x.backward(twin, prepared, ctx, std::move(saved)), 0; }), errc::bad_state,
               "another object"));
    CHECK(says(failure_of([&] { return one.infer(typename decltype(one)::prepared{}, ctx, x.q, x.k, x.v, x.out), 0; }),
               errc::bad_state, "not made by prepare()"));
    auto again = x.forward(twin, prepared, ctx); // equal objects share geometry
    x.backward(one, prepared, ctx, std::move(saved));
    CHECK(says(failure_of([&] { return x.backward(one, prepared, ctx, std::move(saved)), 0; }), errc::bad_state, "used already"));
    x.backward(twin, prepared, ctx, std::move(again));
  });
}

TEST_CASE("vit_attention: without prefix tokens it is the object inside, bit for bit") {
  trial const t = ragged(false);
  on_ranks(3, [&](comm const& c) {
    auto const none = attention(t, c, 0);
    sp::batch const b{t.patches, sp::zigzag{}, c};
    CHECK(none.rows(b) == b.tokens());
    tensors x(b, t.shape()), y(b, t.shape());
    sp::pool memory;
    sp::context const ctx(memory, memory);
    x.both(none, none.prepare(b), ctx);
    y.both(none.inner(), none.inner().prepare(b), ctx);
    CHECK(support::same_bits(x.results(), y.results()));
    CHECK(none.template scratch_bytes<double>(none.prepare(b), t.shape()) ==
          none.inner().template scratch_bytes<double>(none.inner().prepare(b), t.shape()));
  });
}

TEST_CASE("vit_attention: by name, and inferred in no more than the memory of a forward call, results are the same bits") {
  trial const t = ragged(false);
  on_ranks(3, [&](comm const& c) {
    auto const vit = attention(t, c, 2);
    sp::batch const b{t.patches, sp::zigzag{}, c};
    tensors x(vit.rows(b), vit.rows(b), t.shape()), y(vit.rows(b), vit.rows(b), t.shape());
    auto const p = vit.prepare(b);
    auto saved = vit.forward(b, {.q = x.q, .k = x.k, .v = x.v, .out = x.out});
    vit.backward(b, std::move(saved),
                 {.q = x.q, .k = x.k, .v = x.v, .out = x.out, .dout = x.dout, .dq = x.dq, .dk = x.dk, .dv = x.dv});
    sp::pool memory;
    y.both(vit, p, {memory, memory});
    CHECK(support::same_bits(x.results(), y.results()));
    auto const bytes = vit.template scratch_bytes<double>(p, t.shape()) + vit.template saved_bytes<double>(p, t.shape());
    sp::buffer const block(memory, bytes);
    sp::workspace room(block.as<std::byte>(std::array{bytes}).data, std::size_t(bytes));
    std::fill(y[support::operand::out].begin(), y[support::operand::out].end(), 9.0);
    vit.infer(p, sp::context(room, room), {.q = y.q, .k = y.k, .v = y.v, .out = y.out});
    CHECK(support::same_bits(x[support::operand::out], y[support::operand::out]));
  });
}

/// Results of rank 1 of `ranks`, over images of values of their own for each seed.
template <class Comm, class Ring>
std::vector<double> of_middle_rank(trial const& t, Comm const& ranks, Ring const& ring, unsigned seed) {
  sp::vit_attention const vit{ranks, sp::ring_attention{ring, sp::reference{}, {.mask = sp::full()}}};
  sp::batch const b{t.patches, sp::zigzag{}, ranks};
  tensors x(vit.rows(b), vit.rows(b), t.shape(), support::uniform_values(seed + 10u * unsigned(ranks.rank())));
  sp::pool memory;
  x.both(vit, vit.prepare(b), {memory, memory});
  return ranks.rank() == 1 ? x.results() : std::vector<double>();
}

TEST_CASE("vit_attention: over the ranks of a data shard, which are part of a mesh, it is what these ranks compute alone") {
  trial const t = ragged(false);
  std::vector<double> alone[2], sharded[2];
  for (unsigned shard : {0u, 1u})
    sp::threads::run(
        3,
        [&](sp::threads const& c) {
          if (auto r = of_middle_rank(t, c, c, shard); !r.empty()) alone[shard] = std::move(r);
        },
        patience());
  sp::threads::run(
      6,
      [&](sp::threads const& c) {
        sp::mesh const mesh{sp::axis::data{2}, sp::axis::ring{3}};
        unsigned const shard = unsigned(c.rank() / 3);
        if (auto r = of_middle_rank(t, mesh.sequence(c), mesh.ring(c), shard); !r.empty()) sharded[shard] = std::move(r);
      },
      patience());
  for (int shard : {0, 1}) {
    CHECK(!alone[shard].empty());
    CHECK(support::same_bits(alone[shard], sharded[shard]));
  }
  CHECK(!support::same_bits(alone[0], alone[1]));
}

TEST_CASE("vit_attention: wrong rows, batches, groups and places are named with both numbers") {
  trial const t = ragged(false);
  on_ranks(3, [&](comm const& c) {
    auto const vit = attention(t, c, 2);
    sp::batch const b{t.patches, sp::contiguous{}, c}, of_four{t.patches, sp::contiguous{}, c.rank(), 4};
    CHECK(vit.prefix_rows(b) == 6);
    CHECK(vit.rows(b) == 6 + b.tokens());
    tensors patches(b.tokens(), b.tokens(), t.shape());
    auto e = failure_of([&] { return vit.forward(b, patches.q, patches.k, patches.v, patches.out); });
    CHECK(says(e, errc::bad_documents, "(" + std::to_string(b.tokens()) + ", 2, 4)",
               "(" + std::to_string(6 + b.tokens()) + ", 2, 4)"));
    CHECK((e.primitive == "vit_attention.forward" && e.rank == c.rank() && e.size == 3));
    CHECK(
        says(failure_of([&] { return vit.prepare(of_four); }), errc::invalid_shape, "a batch for 4 ranks", "of 3 of the group"));
    sp::batch const b2{t.patches, sp::contiguous{}, c};
    CHECK(says(failure_of([&] { return vit.prepare(b, b2); }), errc::unsupported, "batch number " + std::to_string(b.serial()),
               std::to_string(b2.serial())));
    CHECK(says(failure_of([&] { return attention(t, c, -1); }), errc::invalid_shape, "-1 prefix tokens"));
    CHECK(says(failure_of([&] { return vit.prepare(b, sp::causal()); }), errc::unsupported_mask, "causal", "2 prefix tokens"));
    static_cast<void>(attention(t, c, 0).prepare(b, sp::causal())); // nobody stands in front of patches
    sp::ledger counts;
    comm const half(c.inner().split(c.rank() / 2, c.rank()), counts);
    if (c.rank() < 2)
      CHECK(says(failure_of([&] {
                   return sp::vit_attention{half, vit.inner()};
                 }),
                 errc::invalid_shape, "of 2 of the group", "of 3 of the attention inside"));
    sp::ulysses_attention const around{sp::solo{}, vit};
    CHECK(says(failure_of([&] { return around.prepare(b); }), errc::unsupported, "into another attention object"));
    sp::whole_attention const whole{conformance::plain_sdpa{}, {.mask = sp::full()}};
    CHECK(says(failure_of([&] { return sp::vit_attention{sp::solo{}, whole}; }), errc::unsupported, "one range of rows"));
  });
}

TEST_CASE("vit_attention: from level 2 on ranks compare prefixes and contracts, at level 3 a NaN in a prefix row is found") {
  trial const t = ragged(false, 3);
  on_ranks(3, [&](comm const& c) {
    sp::batch const b{t.patches, sp::contiguous{}, c};
    auto e = failure_of([&] { return attention(t, c, c.rank() == 1 ? 1 : 2).prepare(b); });
    CHECK(says(e, errc::rank_mismatch, "prefix tokens"));
    e = failure_of([&] {
      if (c.rank() == 1)
        static_cast<void>(sp::vit_attention{c, nested(t, c, sp::reference{sp::dropout{0}}), sp::same{}, {2}}.prepare(b));
      else
        static_cast<void>(attention(t, c, 2).prepare(b));
    });
    CHECK(says(e, errc::rank_mismatch, "gradients of prefix tokens", "shares", "same"));
    auto const vit = attention(t, c, 2);
    tensors x(vit.rows(b), vit.rows(b), t.shape());
    sp::pool memory;
    sp::context const ctx(memory, memory);
    auto const prepared = vit.prepare(b);
    auto found = [&](index_t row) {
      double const before = std::exchange(x.k(row, 0, 1), std::numeric_limits<double>::infinity());
      auto const failure = failure_of([&] { return x.forward(vit, prepared, ctx); });
      x.k(row, 0, 1) = before;
      return failure;
    };
    CHECK(says(found(3), errc::non_finite, "k holds inf at row 3, head 0, channel 1: prefix token 1, document 1"));
    index_t const last = vit.rows(b) - 1, at = b.runs().back().last();
    CHECK(
        says(found(last), errc::non_finite, "row " + std::to_string(last), "position " + std::to_string(at) + " of the stream"));
    x.both(vit, prepared, ctx);
  });
}

// ---- prefix tokens that are ordinary rows --------------------------------------------------------------------------------------------

/// Rows of one rank of a stream, and back.
void take(sp::batch const& b, std::vector<double> const& all, sp::view<double, 3> const& mine) {
  sp::split(b, support::tensor<3>(all, {b.source().length(), mine.extent(1), mine.extent(2)}), mine);
}

TEST_CASE(
    "prefix tokens as rows of their owner: no vit_attention, documents of prefix and patches cut in units behind the prefix") {
  trial t = ragged(false);
  t.patches = sp::packed{0, 4, 4, 28, 40}; // units of four; an image without patches has its prefix
  inputs<double> const in(t);
  auto const truth = in.truth(t);
  on_ranks(3, [&](comm const& c) {
    sp::batch const b{in.docs, sp::grained{sp::contiguous{sp::scope::document}, 4, t.prefix}, c};
    auto const object = nested(t, c, sp::reference{sp::dropout{0}});
    tensors x(b.tokens(), b.tokens(), t.shape()), want(b.tokens(), b.tokens(), t.shape());
    take(b, in.q, x.q), take(b, in.k, x.k), take(b, in.v, x.v), take(b, in.dout, x.dout);
    take(b, truth.out, want.out), take(b, truth.dq, want.dq), take(b, truth.dk, want.dk), take(b, truth.dv, want.dv);
    sp::pool memory;
    x.both(object, object.prepare(b), {memory, memory});
    for (auto name : {support::operand::out, support::operand::dq, support::operand::dk, support::operand::dv})
      CHECK(support::relative_error(x[name], want[name]) < 1e-12);
    // the same patches per rank as under vit_attention, and the same merged tokens
    sp::batch const patches{t.patches, sp::grained{sp::contiguous{sp::scope::document}, 4}, c};
    CHECK(sp::merged(b, 4, t.prefix).tokens() * 4 == patches.tokens());
  });
}

// ---- what kernels return ------------------------------------------------------------------------------------------------------------

TEST_CASE("vit_attention: a kernel that sees whole documents and returns no lse, under Ulysses over any number of ranks") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    trial t = draw(seed, strategy::ulysses, false);
    t.lo = -sp::unbounded, t.hi = sp::unbounded; // as its kernel wants them
    t.checks = std::min(t.checks, 1);
    conform<double>(t, 1e-12, [](trial const& x, comm const& c) {
      return sp::ulysses_attention{c, conformance::stateful_sdpa{}, x.options(), {x.keep, x.ulysses_chunks}};
    });
  }
}

TEST_CASE("kernel_results: of a whole kernel one per document and range of heads, in any chunks of heads") {
  trial t = ragged(false);
  t.q_heads = 8, t.kv_heads = 4;
  for (index_t chunks : {1, 2})
    on_ranks(2, [&](comm const& c) {
      sp::vit_attention const vit{
          c,
          sp::ulysses_attention{c, conformance::stateful_sdpa{}, {.mask = sp::full()}, {.head_chunks = chunks}},
          sp::shares{},
          {.prefix = t.prefix}};
      sp::batch const b{t.patches, sp::contiguous{}, c};
      tensors x(vit.rows(b), vit.rows(b), t.shape());
      auto const saved = vit.forward(b, x.q, x.k, x.v, x.out);
      auto const results = sp::kernel_results(saved);
      REQUIRE(results.size() == std::size_t(3 * chunks));
      for (std::size_t i = 0; i < results.size(); ++i) {
        CHECK(results[i]->document == index_t(i % 3));
        CHECK(results[i]->first_head == 4 * c.rank() + 2 * index_t(i / 3));
        auto const rows = std::size_t(t.prefix + t.patches[i % 3].count), heads = std::size_t(4 / chunks);
        CHECK(results[i]->probabilities.size() == rows * heads); // prefix tokens are rows of their document
        CHECK(results[i]->probabilities.front().size() == rows);
      }
    });
}

/// A kernel of blocks that says how many keys each had.
struct counting_blocks : conformance::block_sdpa<false> {
  index_t forward(sp::block_call<double> const& c) const {
    conformance::block_sdpa<false>::forward(c);
    return c.where.rows * c.where.keys;
  }
};

TEST_CASE("vit_attention: a kernel of blocks, and what it returned per block") {
  trial t = ragged(true);
  auto ring = [](trial const& x, comm const& c) {
    return sp::ring_attention{c, sp::blockwise{counting_blocks{}}, {.mask = x.mask(), .schedule = x.how}};
  };
  conform<double>(t, 1e-12, ring);
  t.how = sp::schedule::cast, t.same = false;
  conform<double>(t, 1e-12, ring);
  std::atomic<index_t> pairs = 0;
  on_ranks(3, [&](comm const& c) {
    sp::vit_attention const vit{c, ring(t, c), sp::shares{}, {.prefix = 2}};
    sp::batch const b{t.patches, sp::contiguous{}, c};
    tensors x(vit.rows(b), vit.rows(b), t.shape());
    auto const saved = vit.forward(b, x.q, x.k, x.v, x.out);
    for (auto const* of_call : sp::kernel_results(saved))
      for (index_t n : of_call->calls) pairs += n;
  });
  CHECK(pairs == 7 * 7 + 3 * 3 + 16 * 16); // a prefix token is one row and one key
}

} // namespace
} // namespace test_vit_calls
