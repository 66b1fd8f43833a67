// What an attention object refuses or keeps apart: overlapping operands, foreign saved, foreign plans, peers with other shapes, numbers
// that make no sense. Each case names code, rank and primitive where the caller sees them.
#include <doctest/doctest.h>

#include <sp/blockwise.hpp>
#include <sp/counting.hpp>
#include <sp/reference.hpp>

#include "simple.hpp"
#include "support/failure.hpp"

namespace test_guards {
namespace {

using conformance::attention_tensors;
using sp::errc;
using support::failure_of;
using support::says;
using scene = attention_tensors<double>;
constexpr sp::attention_shape shape{4, 2, 5, 5};

sp::batch batch_of(sp::index_t tokens) { return {sp::documents::rectangular(1, tokens), sp::contiguous{}, 0, 1}; }
auto local(sp::attention_options o = {}) { return sp::ring_attention{sp::solo{}, sp::reference{}, std::move(o)}; }

} // namespace

TEST_CASE("strides: reversed rows and heads side by side in one tensor give the same numbers [asan]") {
  sp::batch b = batch_of(7);
  scene plain(b, shape);
  auto attention = local();
  attention.backward(b, attention.forward(b, plain.q, plain.k, plain.v, plain.out), plain.q, plain.k, plain.v, plain.out,
                     plain.dout, plain.dq, plain.dk, plain.dv);
  // gradients interleaved per kv head, as a fused projection writes them: (tokens, kv heads, group + 2, dim), rows backwards in memory
  std::vector<double> packed(7 * 8 * 5), reversed(7 * 4 * 5);
  auto entry = [&](sp::index_t first, sp::index_t heads, sp::index_t step) {
    return sp::view<double, 3>(packed.data() + 6 * 40 + first * 5, {7, heads, 5}, {-40, step * 5, 1});
  };
  sp::view<double, 3> q(reversed.data() + 6 * 20, {7, 4, 5}, {-20, 5, 1});
  sp::assign(q, plain.q);
  // four q heads at 0, 1, 4, 5 are two groups of two: one call per kv head takes them
  for (sp::index_t h = 0; h < 2; ++h) {
    auto part = [&](auto const& v, sp::index_t n) { return v.narrow(1, h * n, n); };
    auto dq = entry(4 * h, 2, 1), dk = entry(4 * h + 2, 1, 1), dv = entry(4 * h + 3, 1, 1);
    auto saved = attention.forward(b, part(q, 2), part(plain.k, 1), part(plain.v, 1), part(plain.out, 2));
    attention.backward(b, std::move(saved), part(q, 2), part(plain.k, 1), part(plain.v, 1), part(plain.out, 2),
                       part(plain.dout, 2), dq, dk, dv);
    double worst = 0;
    auto differ = [&](auto const& x, auto const& y) {
      sp::inline_queue{}.for_each(x.extents, [&](auto... at) { worst = std::max(worst, std::abs(x(at...) - y(at...))); });
    };
    differ(dq, part(plain.dq, 2));
    differ(dk, part(plain.dk, 1));
    differ(dv, part(plain.dv, 1));
    CHECK(worst == 0);
  }
}

TEST_CASE("aliasing: outputs that overlap themselves, each other or an input") {
  sp::batch b = batch_of(6);
  scene s(b, shape);
  auto attention = local();
  auto broadcast = s.out;
  broadcast.strides[0] = 0;
  CHECK(says(failure_of([&] { return attention.forward(b, s.q, s.k, s.v, broadcast); }), errc::aliasing, "out overlaps itself"));
  auto saved = attention.forward(b, s.q, s.k, s.v, s.out);
  CHECK(says(failure_of([&] { attention.backward(b, std::move(saved), s.q, s.k, s.v, s.out, s.dout, s.dq, s.dk, s.dk); }),
             errc::aliasing, "dk overlaps dv"));
  std::vector<double> sinks(4, 0.5);
  sp::attention_extras<double> e;
  e.sinks = sp::view<double const, 1>(sinks.data(), {4});
  e.dsinks = sp::view<double, 1>(sinks.data(), {4});
  auto with = attention.forward(b, s.q, s.k, s.v, s.out, e);
  CHECK(says(failure_of([&] { attention.backward(b, std::move(with), s.q, s.k, s.v, s.out, s.dout, s.dq, s.dk, s.dv, e); }),
             errc::aliasing, "dsinks overlaps sinks"));
  std::vector<double> one(1), gradients(4);
  e.sinks = sp::view<double const, 1>(one.data(), {1});
  e.dsinks = sp::view<double, 1>(gradients.data(), {4});
  auto plain = attention.forward(b, s.q, s.k, s.v, s.out);
  CHECK(says(failure_of([&] { attention.backward(b, std::move(plain), s.q, s.k, s.v, s.out, s.dout, s.dq, s.dk, s.dv, e); }),
             errc::invalid_shape, "sinks is (1)"));
}

TEST_CASE("saved belongs to its batch, heads and object [asan]") {
  sp::batch small = batch_of(5), large = batch_of(20);
  scene a(small, shape), c(large, shape), wide(small, {8, 4, 5, 5});
  auto attention = local();
  auto saved = attention.forward(small, a.q, a.k, a.v, a.out);
  auto refused = [&](auto const& object, sp::batch const& b, auto& kept, scene& s, char const* why) {
    std::vector<double> const before = s[conformance::operand::dq];
    auto e = failure_of([&] { object.backward(b, std::move(kept), s.q, s.k, s.v, s.out, s.dout, s.dq, s.dk, s.dv); });
    CHECK(says(e, errc::bad_state, why));
    CHECK(e.rank == 0);
    CHECK(s[conformance::operand::dq] == before);
    return e.primitive;
  };
  CHECK(refused(attention, large, saved, c, "another batch") == "ring_attention.backward");
  CHECK(refused(attention, small, saved, wide, "q heads 4, backward 8") == "ring_attention.backward");
  sp::ulysses_attention lean{sp::solo{}, sp::reference{}, {}, {sp::keep::output}}, full{sp::solo{}, sp::reference{}};
  auto kept = lean.forward(small, a.q, a.k, a.v, a.out);
  CHECK(refused(full, small, kept, a, "another object") == "ulysses_attention.backward");
  lean.backward(small, std::move(kept), a.q, a.k, a.v, a.out, a.dout, a.dq, a.dk, a.dv); // what was refused is still there
  attention.backward(small, std::move(saved), a.q, a.k, a.v, a.out, a.dout, a.dq, a.dk, a.dv);
}

namespace {
/// Accepts blocks of at most `most` rows, and counts on getting nothing else.
struct picky : sp::scalar_kernel<> {
  sp::index_t most = 0;
  explicit picky(sp::index_t rows) : most(rows) {}
  bool accepts(sp::block const& b) const { return b.rows <= most; }
};
} // namespace

TEST_CASE("two objects of one type on one batch: each gets the plan of its own kernel") {
  sp::batch b = batch_of(8);
  scene s(b, shape);
  sp::ring_attention wide{sp::solo{}, sp::blockwise{picky(100)}}, narrow{sp::solo{}, sp::blockwise{picky(2)}};
  wide.infer(b, s.q, s.k, s.v, s.out);
  auto e = failure_of([&] { return narrow.forward(b, s.q, s.k, s.v, s.out); });
  CHECK(says(e, errc::unsupported_mask, "accepts neither"));
  CHECK(e.primitive == "ring_attention.prepare");
}

TEST_CASE("dropout of the short form: the key of the call counts, forward and backward, by position and by name") {
  sp::batch b = batch_of(40);
  scene s(b, shape);
  sp::ring_attention attention{sp::solo{}, sp::reference{sp::dropout{0.5}}};
  auto infer = [&](std::uint64_t layer) {
    sp::attention_extras<double> e;
    e.random = {7, layer};
    attention.infer(b, s.q, s.k, s.v, s.out, e);
    return s[conformance::operand::out];
  };
  auto first = infer(0), again = infer(0), other = infer(1);
  CHECK(first == again);
  CHECK(first != other);

  auto const p = attention.prepare(b);
  auto in_context = [&](std::uint64_t layer) { // the long form, which takes its key from the context
    sp::pool memory;
    s.both(attention, p, sp::context(memory, memory, {7, layer}));
    return s.results();
  };
  auto by_position = [&](std::uint64_t layer) {
    sp::attention_extras<double> e;
    e.random = {7, layer};
    attention.backward(b, attention.forward(b, s.q, s.k, s.v, s.out, e), s.q, s.k, s.v, s.out, s.dout, s.dq, s.dk, s.dv, e);
    return s.results();
  };
  auto by_name = [&](std::uint64_t layer) {
    auto saved = attention.forward(b, {.q = s.q, .k = s.k, .v = s.v, .out = s.out, .random = {7, layer}});
    attention.backward(
        b, std::move(saved),
        {.q = s.q, .k = s.k, .v = s.v, .out = s.out, .dout = s.dout, .dq = s.dq, .dk = s.dk, .dv = s.dv, .random = {7, layer}});
    return s.results();
  };
  auto const want = in_context(3), elsewhere = in_context(4);
  CHECK(want != elsewhere);
  CHECK(by_position(3) == want);
  CHECK(by_name(3) == want);
  CHECK(by_position(4) == elsewhere);
  CHECK(by_name(4) == elsewhere);
}

TEST_CASE("query and key batches are cut alike") {
  sp::batch two(sp::documents::rectangular(1, 8), sp::contiguous{}, 0, 2),
      other(sp::documents::rectangular(1, 8), sp::contiguous{}, 1, 2);
  CHECK(says(failure_of([&] { return local().prepare(two, other); }), errc::invalid_shape, "part 0 of 2", "part 1 of 2"));
}

TEST_CASE("feature numbers are checked before anything is sent, on every rank") {
  std::vector<float> slopes{0.5F, 0.25F};
  sp::ledger sent[2];
  std::atomic<int> refused = 0;
  sp::threads::run(2, [&](sp::threads const& world) {
    sp::counting comm{world, sent[world.rank()]};
    sp::batch b(sp::documents::rectangular(1, 8), sp::contiguous{}, comm);
    scene s(b, shape);
    auto refuses = [&](auto kernel, char const* text) {
      sp::ulysses_attention attention{comm, kernel};
      auto e = failure_of([&] { return attention.forward(b, s.q, s.k, s.v, s.out); });
      if (e.code == errc::invalid_shape && e.problem.find(text) != std::string::npos && e.rank == world.rank()) ++refused;
    };
    refuses(sp::cpu{sp::alibi{slopes}}, "q head 2 has no slope, 2 were given");
    refuses(sp::reference{sp::alibi{slopes}}, "q head 2 has no slope, 2 were given");
    refuses(sp::cpu{sp::softcap{}}, "softcap 0");
    refuses(sp::cpu{sp::dropout{1.5}}, "dropout 1.5");
    refuses(sp::cpu{sp::dropout{-0.5}}, "dropout -0.5");
  });
  CHECK(refused == 10);
  CHECK(sent[0].total().bytes_sent + sent[1].total().bytes_sent == 0);
}

TEST_CASE("pull: a peer with other heads or dims is refused, nothing is read past its end [asan]") {
  sp::attention_shape others[] = {{4, 1, 5, 5}, {4, 2, 4, 5}, {4, 2, 5, 3}};
  for (auto const& other : others) {
    std::atomic<int> told = 0;
    try {
      sp::threads::run(2, [&](sp::threads const& comm) {
        sp::batch b(sp::documents::rectangular(1, 12), sp::zigzag{}, comm);
        scene s(b, comm.rank() == 0 ? shape : other);
        sp::ring_attention attention{comm, sp::cpu{}, {.schedule = sp::schedule::pull}};
        try {
          attention.infer(b, s.q, s.k, s.v, s.out);
        } catch (sp::error const& e) {
          if (e.code() == errc::short_message || e.code() == errc::aborted) ++told;
          throw;
        }
      });
      FAIL("shapes differ and nobody said so");
    } catch (sp::error const& e) {
      CHECK(e.code() == errc::short_message);
      CHECK(e.info().primitive == "ring_attention.forward");
      CHECK(e.info().peer >= 0);
    }
    CHECK(told == 2);
  }
}

} // namespace test_guards
