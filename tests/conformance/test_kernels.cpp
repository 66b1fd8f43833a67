// Kernels that users bring: whole documents without lse under Ulysses, one block with lse under ring, in the conformance body;
// and what such kernels cannot serve, refused at run time in a sentence.
// optimised: an oracle and kernels in plain loops
#include "check.hpp"
#include "kernels.hpp"
#include "simple.hpp"
#include "support/failure.hpp"

namespace conformance::test_kernels {
namespace {

constexpr int cases = 5;

/// What a kernel without lse can do: one slice for a document, no sinks.
bool whole_can(trial const& t) { return t.mask_kind <= 4 && !t.sinks; }

struct biased_sdpa : plain_sdpa {
  static constexpr bool needs_alignment = true;
};

template <class F>
sp::error_info refusal(F&& f) {
  return support::failure_of([&] { sp::threads::run(2, f, impatient()); });
}

} // namespace

TEST_CASE("a kernel without lse under ulysses") {
  int run = 0;
  sample(object_kind::ulysses, false, false, seconds() / cases, [&](trial const& t) {
    if (!whole_can(t)) return;
    conform<double, object_kind::ulysses>(t, inputs<double>(t), plain_sdpa{}, false);
    ++run;
  });
  CHECK(run > 0);
}

TEST_CASE("a kernel without lse that hands a state from forward to backward") {
  int run = 0;
  sample(object_kind::ulysses, false, false, seconds() / cases, [&](trial const& t) {
    if (!whole_can(t) || t.cross || t.mask_kind == 2 || t.mask_kind == 3) return;
    conform<double, object_kind::ulysses>(t, inputs<double>(t), stateful_sdpa{}, false);
    ++run;
  });
  CHECK(run > 0);
}

TEST_CASE("a block kernel under ring, wrapped by blockwise") {
  sample(object_kind::ring, false, false, seconds() / cases,
         [](trial const& t) { conform<double, object_kind::ring>(t, inputs<double>(t), sp::blockwise{block_sdpa<false>{}}); });
}

TEST_CASE("a block kernel for full and square causal blocks under ring, the rest to a fallback") {
  sample(object_kind::ring, false, false, seconds() / cases, [](trial const& t) {
    conform<double, object_kind::ring>(t, inputs<double>(t), sp::blockwise{block_sdpa<true>{}, sp::reference{}});
  });
}

TEST_CASE("a block kernel handed to ulysses as it is") {
  sample(object_kind::ulysses, false, false, seconds() / cases,
         [](trial const& t) { conform<double, object_kind::ulysses>(t, inputs<double>(t), block_sdpa<false>{}); });
}

TEST_CASE("a kernel without lse that says it needs the place of queries is not left to guess it") {
  std::atomic<int> prepared{0};
  auto prepare = [&](sp::mask mask) {
    return [&prepared, mask](sp::threads const& comm) {
      sp::batch q(sp::packed{0, 2, 5}, sp::contiguous{}, comm), k(sp::packed{0, 2, 9}, sp::contiguous{}, comm);
      static_cast<void>(sp::ulysses_attention{comm, biased_sdpa{}, {.mask = mask}}.prepare(q, k));
      ++prepared;
    };
  };
  CHECK(support::says(refusal(prepare(sp::full())), sp::errc::bad_mask, "document 1 has 3 queries and 7 keys"));
  CHECK(prepared == 0);
  sp::threads::run(2, prepare(sp::full(sp::align::end)));
  CHECK(prepared == 2);
}

TEST_CASE("masks that a kernel without lse cannot serve") {
  sp::documents docs = sp::packed{0, 12, 30};
  auto prepare = [&](auto kernel, sp::mask mask) {
    return refusal([&](sp::threads const& comm) {
      sp::batch b(docs, sp::zigzag{}, comm);
      sp::ulysses_attention attn{comm, kernel, {.mask = mask}};
      static_cast<void>(attn.prepare(b));
    });
  };
  auto e = prepare(plain_sdpa{}, sp::prefix_lm({3, 0}));
  CHECK(support::says(e, sp::errc::unsupported_mask, "several calls of a kernel without lse"));
  CHECK(e.primitive == "ulysses_attention.prepare");
  sp::document span[] = {{2, 5, 5, 0}};
  CHECK(support::says(prepare(plain_sdpa{}, sp::image_spans(span)), sp::errc::unsupported_mask, "several calls"));
  CHECK(support::says(prepare(stateful_sdpa{}, sp::window(3)), sp::errc::unsupported_mask, "does not accept document 0"));

  auto with_sinks = refusal([&](sp::threads const& comm) {
    sp::batch b(docs, sp::zigzag{}, comm);
    sp::ulysses_attention attn{comm, plain_sdpa{}};
    attention_tensors<double> x(b, {4, 2, 8, 8});
    double s[4] = {};
    sp::attention_extras<double> extras;
    extras.sinks = {s, {4}};
    attn.infer(b, x.q, x.k, x.v, x.out, extras);
  });
  CHECK(support::says(with_sinks, sp::errc::unsupported, "sinks need the lse"));
}

TEST_CASE("blocks that neither a kernel nor a fallback takes") {
  auto e = refusal([&](sp::threads const& comm) {
    sp::batch b(sp::packed{0, 30}, sp::zigzag{}, comm);
    sp::ring_attention attn{
        comm, sp::blockwise{block_sdpa<true>{}}, {.mask = sp::window(3, 2), .schedule = sp::schedule::rotate}};
    static_cast<void>(attn.prepare(b));
  });
  CHECK(support::says(e, sp::errc::unsupported_mask, "accepts neither"));
  CHECK(e.primitive == "ring_attention.prepare");
  CHECK(e.rank >= 0);
}

} // namespace conformance::test_kernels
