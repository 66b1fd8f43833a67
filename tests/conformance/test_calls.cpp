// The calls of an attention object: infer, cross attention, accumulation, two objects at once, and every wrong use
// with its code, rank and primitive in what().
#include <doctest/doctest.h>

#include "simple.hpp"
#include "support/failure.hpp"

namespace conformance::test_calls {
namespace {

sp::documents const docs = sp::packed{0, 20, 21, 49};
sp::attention_shape const shape{4, 2, 8, 4};

template <class T>
std::vector<T> values(sp::view<T, 3> const& v) {
  return {v.data, v.data + v.elements()};
}

/// Calls f(comm, make) on each of three ranks for a ring of each schedule and both kinds of Ulysses.
template <class F>
void every_object(F&& f, int ranks = 3) {
  for (int object = 0; object < 6; ++object)
    sp::threads::run(
        ranks,
        [&](sp::threads const& comm) {
          constexpr sp::schedule how[] = {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q};
          if (object < 4)
            f(comm, sp::ring_attention{comm, sp::cpu{}, {.schedule = how[object]}});
          else
            f(comm, sp::ulysses_attention{comm, sp::cpu{}, {}, {object == 4 ? sp::keep::heads : sp::keep::output}});
        },
        impatient());
}

/// The object on one rank, for arguments that are refused before anything is sent.
struct refusals {
  sp::solo comm;
  sp::batch b{docs, sp::contiguous{}, sp::solo{}};
  attention_tensors<float> x{b, shape};
  sp::pool memory;
  sp::context<> ctx{memory, memory};
  sp::ring_attention<sp::solo, sp::cpu<>> ring{comm, sp::cpu{}};
  decltype(ring.prepare(b)) prepared = ring.prepare(b);

  template <class F>
  sp::error_info of(F&& f, char const* primitive) {
    auto e = support::failure_of(f);
    CHECK(e.primitive == primitive);
    CHECK(e.rank == 0);
    CHECK(e.size == 1);
    CHECK(memory.bytes_in_use() == 0);
    return e;
  }
};

} // namespace

TEST_CASE("infer equals forward and keeps nothing") {
  std::atomic<int> good{0}, clean{0};
  every_object([&](auto const& comm, auto const& attn) {
    sp::batch b(docs, sp::zigzag{}, comm);
    attention_tensors<float> x(b, shape);
    sp::pool scratch, kept;
    sp::context ctx(scratch, kept);
    auto prepared = attn.prepare(b);
    { auto saved = x.forward(attn, prepared, ctx); }
    auto first = values(x.out);
    std::fill(x[operand::out].begin(), x[operand::out].end(), 5.0f);
    sp::pool untouched;
    attn.infer(prepared, sp::context(scratch, untouched), x.q, x.k, x.v, x.out);
    good += same_bits(first, values(x.out));
    clean += untouched.peak_bytes() == 0 && scratch.bytes_in_use() == 0 && kept.bytes_in_use() == 0;
  });
  CHECK(good == 18);
  CHECK(clean == 18);
}

TEST_CASE("accumulate adds to what the gradients hold, overwriting does not") {
  std::atomic<int> good{0};
  every_object([&](auto const& comm, auto const& attn) {
    sp::batch b(docs, sp::striped{}, comm);
    attention_tensors<double> x(b, shape), y(b, shape);
    sp::pool memory;
    sp::context ctx(memory, memory);
    auto prepared = attn.prepare(b);
    x.both(attn, prepared, ctx);
    x.both(attn, prepared, ctx); // overwritten: not twice
    for (operand g : {operand::dq, operand::dk, operand::dv}) std::fill(y[g].begin(), y[g].end(), 0.0);
    for (int i = 0; i < 2; ++i) {
      auto saved = y.forward(attn, prepared, ctx);
      sp::attention_extras<double> e;
      e.accumulate = true;
      attn.backward(prepared, ctx, std::move(saved), y.q, y.k, y.v, y.out, y.dout, y.dq, y.dk, y.dv, e);
    }
    double worst = 0;
    for (operand g : {operand::dq, operand::dk, operand::dv})
      for (std::size_t j = 0; j < x[g].size(); ++j) worst = std::fmax(worst, std::fabs(2 * x[g][j] - y[g][j]));
    good += worst < 1e-13;
  });
  CHECK(good == 18);
}

TEST_CASE("two objects of different shapes alive at once, forward and backward interleaved over layers") {
  std::atomic<int> good{0};
  sp::threads::run(
      4,
      [&](sp::threads const& comm) {
        sp::batch b(docs, sp::zigzag{}, comm);
        sp::ring_attention ring{comm, sp::cpu{}, {.mask = sp::window(7), .schedule = sp::schedule::rotate}};
        sp::ulysses_attention ulysses{comm, sp::cpu{}};
        sp::attention_shape small{3, 1, 5, 2}, large{8, 4, 16, 16};
        attention_tensors<double> a(b, small, 1), c(b, large, 2), a2(b, small, 1), c2(b, large, 2);
        sp::pool scratch, kept;
        sp::context ctx(scratch, kept);
        auto for_ring = ring.prepare(b);
        auto for_ulysses = ulysses.prepare(b);
        a.both(ring, for_ring, ctx);
        c.both(ulysses, for_ulysses, ctx);
        auto first = a2.forward(ring, for_ring, ctx); // layer 1, layer 2, back through layer 2, layer 1
        auto second = c2.forward(ulysses, for_ulysses, ctx);
        c2.backward(ulysses, for_ulysses, ctx, std::move(second));
        a2.backward(ring, for_ring, ctx, std::move(first));
        good += same_bits(a.results(), a2.results()) && same_bits(c.results(), c2.results());
        // the short form finds each object's own geometry in the batch, also for two masks of one type
        sp::ring_attention other{comm, sp::cpu{}, {.mask = sp::full(), .schedule = sp::schedule::rotate}};
        auto s1 = ring.forward(b, a2.q, a2.k, a2.v, a2.out);
        auto s2 = other.forward(b, c2.q, c2.k, c2.v, c2.out);
        other.backward(b, std::move(s2), c2.q, c2.k, c2.v, c2.out, c2.dout, c2.dq, c2.dk, c2.dv);
        ring.backward(b, std::move(s1), a2.q, a2.k, a2.v, a2.out, a2.dout, a2.dq, a2.dk, a2.dv);
        good += same_bits(a.results(), a2.results()) && !same_bits(c.results(), c2.results());
      },
      impatient());
  CHECK(good == 8);
}

TEST_CASE("an object moves, copies and is const after construction") {
  sp::solo comm;
  sp::batch b(docs, sp::contiguous{}, comm);
  attention_tensors<double> x(b, shape), y(b, shape);
  sp::ring_attention first{comm, sp::cpu{}};
  auto const copy = first;
  auto const moved = std::move(first);
  sp::pool memory;
  sp::context ctx(memory, memory);
  x.both(copy, copy.prepare(b), ctx);
  y.both(moved, moved.prepare(b), ctx);
  CHECK(same_bits(x.results(), y.results()));
  sp::batch b2 = std::move(b);
  CHECK(b2.tokens() == docs.length());
}

TEST_CASE("cross attention: key documents of other lengths, keys first and last") {
  // against the oracle in the trials; here: prepare(batch, keys) pairs documents by index and says so where they do not
  sp::solo comm;
  sp::batch q(sp::packed{0, 3, 5}, sp::contiguous{}, comm), k(sp::packed{0, 7, 7}, sp::contiguous{}, comm),
      odd(sp::packed{0, 4}, sp::contiguous{}, comm);
  sp::ring_attention attn{comm, sp::cpu{}, {.mask = sp::full()}};
  auto prepared = attn.prepare(q, k);
  attention_tensors<double> x(5, 7, shape);
  sp::pool memory;
  x.both(attn, prepared, {memory, memory});
  for (index_t i = 3; i < 5; ++i) // their key document is empty
    for (index_t h = 0; h < 4; ++h) CHECK(x.out(i, h, 0) == 0);
  auto e = support::failure_of([&] { return attn.prepare(q, odd); });
  CHECK(support::says(e, sp::errc::bad_documents, "2 query documents", "1 key documents"));
  CHECK(e.primitive == "ring_attention.prepare");
  CHECK(e.rank == 0);
}

TEST_CASE("saved is used once") {
  refusals r;
  auto saved = r.x.forward(r.ring, r.prepared, r.ctx);
  r.x.backward(r.ring, r.prepared, r.ctx, std::move(saved));
  CHECK(support::says(r.of([&] { r.x.backward(r.ring, r.prepared, r.ctx, std::move(saved)); }, "ring_attention.backward"),
                      sp::errc::bad_state, "used already"));
  decltype(saved) never;
  CHECK(support::says(r.of([&] { r.x.backward(r.ring, r.prepared, r.ctx, std::move(never)); }, "ring_attention.backward"),
                      sp::errc::bad_state, "never made"));

  sp::ulysses_attention ulysses{r.comm, sp::cpu{}};
  auto prepared = ulysses.prepare(r.b);
  auto kept = r.x.forward(ulysses, prepared, r.ctx);
  r.x.backward(ulysses, prepared, r.ctx, std::move(kept));
  auto e = r.of([&] { r.x.backward(ulysses, prepared, r.ctx, std::move(kept)); }, "ulysses_attention.backward");
  CHECK(support::says(e, sp::errc::bad_state, "used already"));
}

TEST_CASE("outputs that overlap anything are refused, interleaved rows are not") {
  refusals r;
  auto& x = r.x;
  auto forward = [&](auto out) { return [&, out] { return r.ring.forward(r.prepared, r.ctx, x.q, x.k, x.v, out); }; };
  sp::view<float, 3> on_q(x.q.data, {49, 4, 4});
  CHECK(support::says(r.of(forward(on_q), "ring_attention.forward"), sp::errc::aliasing, "out overlaps q"));
  auto backward = [&](auto dq, auto dk, auto dv) {
    auto saved = x.forward(r.ring, r.prepared, r.ctx);
    r.ring.backward(r.prepared, r.ctx, std::move(saved), x.q, x.k, x.v, x.out, x.dout, dq, dk, dv);
  };
  CHECK(support::says(r.of([&] { backward(x.dq, x.k, x.dv); }, "ring_attention.backward"), sp::errc::aliasing, "dk overlaps k"));
  CHECK(support::says(r.of([&] { backward(x.q, x.dk, x.dv); }, "ring_attention.backward"), sp::errc::aliasing, "dq overlaps q"));
  sp::view<float, 3> half(x.dk.data + 4, {49, 2, 4}, {16, 8, 1}), other(x.dk.data, {49, 2, 8}, {16, 8, 1});
  CHECK(
      support::says(r.of([&] { backward(x.dq, other, half); }, "ring_attention.backward"), sp::errc::aliasing, "dk overlaps dv"));

  // packed QKV: gradients of one interleaved tensor (tokens, q heads + 2 kv heads, dim) share a range, not a byte
  sp::attention_shape square{4, 2, 8, 8};
  attention_tensors<float> y(r.b, square), z(r.b, square);
  std::vector<float> grads(std::size_t(49 * 8 * 8), 3.0f);
  sp::view<float, 3> all(grads.data(), {49, 8, 8});
  y.both(r.ring, r.prepared, r.ctx);
  auto saved = z.forward(r.ring, r.prepared, r.ctx);
  r.ring.backward(r.prepared, r.ctx, std::move(saved), z.q, z.k, z.v, z.out, z.dout, all.narrow(1, 0, 4), all.narrow(1, 4, 2),
                  all.narrow(1, 6, 2));
  bool equal = true;
  for (index_t i = 0; i < 49; ++i)
    for (index_t d = 0; d < 8; ++d) {
      for (index_t h = 0; h < 4; ++h) equal = equal && all(i, h, d) == y.dq(i, h, d);
      for (index_t h = 0; h < 2; ++h) equal = equal && all(i, 4 + h, d) == y.dk(i, h, d) && all(i, 6 + h, d) == y.dv(i, h, d);
    }
  CHECK(equal);
}

TEST_CASE("null, misaligned, wrong rows, wrong heads, wrong dims") {
  refusals r;
  auto& x = r.x;
  auto forward = [&](auto q, auto k, auto v, auto out) {
    return [=, &r] { return r.ring.forward(r.prepared, r.ctx, q, k, v, out); };
  };
  auto null = x.k;
  null.data = nullptr;
  CHECK(support::says(r.of(forward(x.q, null, x.v, x.out), "ring_attention.forward"), sp::errc::bad_pointer,
                      "k (49, 2, 8) is null"));
  auto crooked = x.v;
  crooked.data = reinterpret_cast<float*>(reinterpret_cast<char*>(crooked.data) + 2);
  CHECK(support::says(r.of(forward(x.q, x.k, crooked, x.out), "ring_attention.forward"), sp::errc::bad_pointer,
                      "v is not aligned to 4"));
  CHECK(support::says(r.of(forward(x.q.rows(0, 48), x.k, x.v, x.out), "ring_attention.forward"), sp::errc::bad_documents,
                      "q is (48, 4, 8)", "(49, 4, 8)"));
  CHECK(support::says(r.of(forward(x.q, x.k.rows(0, 40), x.v, x.out), "ring_attention.forward"), sp::errc::bad_documents,
                      "k is (40, 2, 8)", "(49, 2, 8)"));
  CHECK(support::says(r.of(forward(x.q, x.k, x.v, x.out.narrow(1, 0, 3)), "ring_attention.forward"), sp::errc::invalid_shape,
                      "out is (49, 3, 4)"));
  CHECK(support::says(r.of(forward(x.q.narrow(1, 0, 3), x.k, x.v, x.out), "ring_attention.forward"), sp::errc::invalid_shape,
                      "3 query heads", "2 kv heads"));
  CHECK(support::says(r.of(forward(x.q, x.k.narrow(2, 0, 5), x.v, x.out), "ring_attention.forward"), sp::errc::invalid_shape,
                      "k is (49, 2, 5)"));
  CHECK(support::says(r.of(forward(x.q.narrow(2, 0, 0), x.k, x.v, x.out), "ring_attention.forward"), sp::errc::invalid_shape,
                      "head dimensions"));

  auto backward = [&](auto dout, auto dk) {
    return [=, &r, &x] {
      auto saved = x.forward(r.ring, r.prepared, r.ctx);
      r.ring.backward(r.prepared, r.ctx, std::move(saved), x.q, x.k, x.v, x.out, dout, x.dq, dk, x.dv);
    };
  };
  CHECK(support::says(r.of(backward(x.dout.rows(0, 3), x.dk), "ring_attention.backward"), sp::errc::bad_documents,
                      "dout is (3, 4, 4)"));
  CHECK(support::says(r.of(backward(x.dout, x.dk.narrow(1, 0, 1)), "ring_attention.backward"), sp::errc::invalid_shape,
                      "dk is (49, 1, 8)"));

  float s[4] = {};
  sp::attention_extras<float> e;
  e.sinks = {s, {3}};
  auto wrong = r.of([&] { return r.ring.forward(r.prepared, r.ctx, x.q, x.k, x.v, x.out, e); }, "ring_attention.forward");
  CHECK(support::says(wrong, sp::errc::invalid_shape, "sinks is (3)"));
  e.sinks = {s, {4}};
  auto missing = r.of(
      [&] {
        auto saved = r.ring.forward(r.prepared, r.ctx, x.q, x.k, x.v, x.out, e);
        r.ring.backward(r.prepared, r.ctx, std::move(saved), x.q, x.k, x.v, x.out, x.dout, x.dq, x.dk, x.dv, e);
      },
      "ring_attention.backward");
  CHECK(support::says(missing, sp::errc::bad_pointer, "dsinks were not"));
}

TEST_CASE("a batch for other ranks, a schedule that cannot be") {
  sp::batch b(docs, sp::contiguous{}, 0, 2);
  sp::ring_attention ring{sp::solo{}, sp::cpu{}};
  auto e = support::failure_of([&] { return ring.prepare(b); });
  CHECK(support::says(e, sp::errc::invalid_shape, "cut for 2", "1 ranks"));
  CHECK(e.primitive == "ring_attention.prepare");
  sp::ulysses_attention ulysses{sp::group(sp::solo{}, 3), sp::cpu{}};
  e = support::failure_of([&] { return ulysses.prepare(b); });
  CHECK(support::says(e, sp::errc::invalid_shape, "cut for 2 ranks", "distance 3"));
  CHECK(e.primitive == "ulysses_attention.prepare");
}

TEST_CASE("a wrong argument on one rank of several is that rank's error, and nobody hangs") {
  auto e = support::failure_of([] {
    sp::threads::run(
        3,
        [](sp::threads const& comm) {
          sp::batch b(docs, sp::zigzag{}, comm);
          sp::ring_attention attn{comm, sp::cpu{}, {.schedule = sp::schedule::rotate}};
          attention_tensors<float> x(b, shape);
          if (comm.rank() == 1) x.v = x.v.rows(0, 1);
          static_cast<void>(attn.forward(b, x.q, x.k, x.v, x.out));
        },
        impatient(5000));
  });
  CHECK(support::says(e, sp::errc::bad_documents, "v is (1, 2, 4)"));
  CHECK(e.rank == 1);
  CHECK(e.size == 3);
  CHECK(e.primitive == "ring_attention.forward");
}

} // namespace conformance::test_calls
