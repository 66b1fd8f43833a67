// The protocol of a ring's calls: saved tokens, promised bytes, aliasing, and when a rank may touch its tensors again.
// Compiles in seconds, because tests/mutation.sh builds it again for each bug that it plants there.
#include <doctest/doctest.h>

#include <atomic>

#include "mutation/problem.hpp"
#include "support/failure.hpp"

namespace test_calls {
namespace {

using namespace sentinel;
using sp::index_t;
using support::failure_of;
using support::operand;

/// Runs body(scene, object, prepared, options) on every rank of a ring of three, by every schedule.
template <class Body>
void on_every_rank(Body&& body) {
  problem const p = self_attention();
  for (sp::attention_options const& options : every_schedule(p.mask)) {
    way const w{.ring = 3, .options = options};
    sp::threads::run(
        w.ring,
        [&](sp::threads const& c) {
          rank_scene s(p, w, c);
          sp::ring_attention<comm, kernel> attention{w.mesh().ring(c), kernel(), w.options};
          auto prepared = attention.prepare(s.qb, s.kb);
          body(p, w, s, attention, prepared);
        },
        patience);
  }
}

TEST_CASE("calls: saved is used once") {
  on_every_rank([](problem const& p, way const& w, rank_scene& s, auto const& attention, auto const& prepared) {
    sp::pool memory;
    sp::context ctx(memory, memory, key);
    auto saved = s.forward(attention, prepared, ctx, p, w);
    s.backward(attention, prepared, ctx, std::move(saved), p, w);
    std::vector<double> const dq = s[operand::dq];
    auto e = failure_of([&] { return s.backward(attention, prepared, ctx, std::move(saved), p, w), 0; });
    CHECK(e.code == sp::errc::bad_state);
    CHECK(s[operand::dq] == dq);
  });
}

TEST_CASE("calls: workspaces of exactly the promised bytes are enough, and give the bits of pools") {
  on_every_rank([](problem const& p, way const& w, rank_scene& s, auto const& attention, auto const& prepared) {
    sp::pool memory;
    sp::context const roomy(memory, memory, key);
    s.backward(attention, prepared, roomy, s.forward(attention, prepared, roomy, p, w), p, w);
    auto const want = results(s);
    for (operand t : {operand::out, operand::dq, operand::dk, operand::dv}) std::fill(s[t].begin(), s[t].end(), s.nan);
    exact scratch(attention.template scratch_bytes<double>(prepared, p.shape)),
        kept(attention.template saved_bytes<double>(prepared, p.shape));
    sp::context ctx(scratch.space, kept.space, key);
    s.backward(attention, prepared, ctx, s.forward(attention, prepared, ctx, p, w), p, w);
    CHECK(same_bits(results(s), want));
    CHECK(scratch.intact());
    CHECK(kept.intact());
    double worst = 0;
    for (double x : s[operand::dk]) worst = std::fmax(worst, std::fabs(x));
    CHECK(worst > 0);
  });
}

TEST_CASE("calls: outputs that overlap anything are refused before anything is sent") {
  on_every_rank([](problem const& p, way const& w, rank_scene& s, auto const& attention, auto const& prepared) {
    sp::pool memory;
    sp::context ctx(memory, memory, key);
    auto refused = [&](auto const& q, auto const& k, auto const& v, auto const& out) {
      return failure_of([&] { return attention.forward(prepared, ctx, q, k, v, out); }).code == sp::errc::aliasing;
    };
    sp::view<double const, 3> q = s.q, k = s.k, v = s.v;
    sp::view<double, 3> last = s.v, own = s.out; // out begins in the last element of v; out's rows lie on each other
    last.data += last.elements() - 1;
    last.extents = own.extents;
    own.strides[0] = 1;
    CHECK(refused(q, k, v, last));
    CHECK(refused(q, k, v, own));
    // q and out as interleaved halves of the same rows share no byte
    auto const [q_heads, kv_heads, dim, value_dim] = p.shape;
    std::vector<double> both(std::size_t(s.qb.tokens() * q_heads * (dim + value_dim)));
    auto half = [&](index_t begin, index_t width) {
      sp::view<double, 3> h(both.data() + begin, {s.qb.tokens(), q_heads, width});
      h.strides = {q_heads * (dim + value_dim), dim + value_dim, 1};
      return h;
    };
    attention.infer(prepared, ctx, sp::view<double const, 3>(half(0, dim)), k, v, half(dim, value_dim), s.extras(p, w));
    CHECK(refused(sp::view<double const, 3>(half(0, dim)), k, v, half(dim - 1, value_dim)));
  });
}

TEST_CASE("calls: whoever is done may overwrite its tensors, however late the others are") {
  problem const p = self_attention();
  numbers const want = p.truth();
  for (sp::attention_options const& options : every_schedule(p.mask)) {
    way const w{.ring = 2, .options = options};
    numbers found;
    sp::threads::run(
        w.ring,
        [&](sp::threads const& c) {
          rank_scene s(p, w, c), spoilt(p, w, c);
          sp::ring_attention<comm, kernel> attention{w.mesh().ring(c), kernel(std::chrono::milliseconds(c.rank() ? 0 : 40)),
                                                     options};
          auto prepared = attention.prepare(s.qb, s.kb);
          sp::pool memory;
          sp::context ctx(memory, memory, key);
          auto spoil = [&](rank_scene& x) {
            for (operand t : {operand::q, operand::k, operand::v, operand::dout}) std::fill(x[t].begin(), x[t].end(), x.nan);
          };
          auto saved = spoilt.forward(attention, prepared, ctx, p, w);
          if (c.rank() == 1) spoil(spoilt);
          std::copy(spoilt[operand::out].begin(), spoilt[operand::out].end(), s[operand::out].begin());
          s.backward(attention, prepared, ctx, std::move(saved), p, w);
          if (c.rank() == 1) spoil(s);
          numbers all = s.collect(c, w);
          if (c.rank() == 0) found = std::move(all);
        },
        patience);
    CAPTURE(int(options.schedule));
    check(found, want);
  }
}

TEST_CASE("calls: the short forms, by position and by name, drop what the key of the call says, forward and backward") {
  problem const p = self_attention();
  numbers const want = p.truth();
  way const w{.ring = 3, .options = {.mask = p.mask}};
  for (bool by_name : {false, true}) {
    CAPTURE(by_name);
    numbers found;
    sp::threads::run(
        w.ring,
        [&](sp::threads const& c) {
          rank_scene s(p, w, c);
          sp::ring_attention<comm, kernel> attention{w.mesh().ring(c), kernel(), w.options};
          auto e = s.extras(p, w);
          e.random = key;
          if (by_name) {
            auto saved =
                attention.forward(s.qb, {.q = s.q, .k = s.k, .v = s.v, .out = s.out, .sinks = e.sinks, .random = e.random});
            attention.backward(s.qb, std::move(saved),
                               {.q = s.q,
                                .k = s.k,
                                .v = s.v,
                                .out = s.out,
                                .dout = s.dout,
                                .dq = s.dq,
                                .dk = s.dk,
                                .dv = s.dv,
                                .sinks = e.sinks,
                                .dsinks = e.dsinks,
                                .random = e.random});
          } else {
            auto saved = attention.forward(s.qb, s.q, s.k, s.v, s.out, e);
            attention.backward(s.qb, std::move(saved), s.q, s.k, s.v, s.out, s.dout, s.dq, s.dk, s.dv, e);
          }
          numbers all = s.collect(c, w);
          if (c.rank() == 0) found = std::move(all);
        },
        patience);
    check(found, want);
  }
}

TEST_CASE("calls: pull refuses a tensor of a peer whose rows are not those of its batch") {
  problem const p = self_attention();
  way const w{.ring = 3, .options = {.mask = p.mask, .schedule = sp::schedule::pull, .checks = 0}}; // nobody looks at home
  for (bool in_backward : {false, true}) {
    std::atomic<int> told = 0;
    sp::error_info const e = failure_of([&] {
      sp::threads::run(
          w.ring,
          [&](sp::threads const& c) {
            rank_scene s(p, w, c);
            sp::ring_attention<comm, kernel> attention{w.mesh().ring(c), kernel(), w.options};
            auto prepared = attention.prepare(s.qb, s.kb);
            sp::pool memory;
            sp::context ctx(memory, memory, key);
            auto short_of = [&](auto const& v, bool now) { return now && c.rank() == 1 ? v.rows(0, v.extent(0) - 1) : v; };
            try {
              auto saved = attention.forward(prepared, ctx, s.q, short_of(s.k, !in_backward), s.v, s.out, s.extras(p, w));
              attention.backward(prepared, ctx, std::move(saved), s.q, s.k, s.v, short_of(s.out, in_backward), s.dout, s.dq, s.dk,
                                 s.dv, s.extras(p, w));
            } catch (sp::error const& error) {
              told += error.code() == sp::errc::short_message || error.code() == sp::errc::aborted;
              throw;
            }
          },
          patience);
      return 0;
    });
    CHECK(told == 3);
    CHECK(e.code == sp::errc::short_message);
    CHECK(e.problem.find(in_backward ? "tensor 3 of rank 1" : "tensor 0 of rank 1") != std::string::npos);
  }
}

} // namespace
} // namespace test_calls
