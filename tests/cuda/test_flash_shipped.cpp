// sp::cuda_flash as it ships, every head dim that kernels are made for, on an emulated block against the oracle in float64: other tests use
// small tiles. Lengths are no multiples of a tile. Also what a device with less shared memory than an H100 is told.
// needs: context cuda
// with all: takes long to compile and to run
#include <doctest/doctest.h>

#include <sp/cuda_flash.hpp>

#include "backend/by_parts.hpp"
#include "cuda/place.hpp"
#include "cuda/rounded_reference.hpp"
#include "support/emulated_queue.hpp"
#include "support/failure.hpp"

namespace test_flash_shipped {

#ifndef SP_TEST_SANITIZED

namespace {

using namespace backend_tests;
using shipped = support::emulated_backend<sp::cuda_flash<>>;

/// The bounds of RELIABILITY for 16 bits: twice the error of a plain computation of the same precision, and `most`.
template <class T>
void check(scene<T> const& s, double most) {
  auto const expected = s.expected();
  auto const its = s.against(s.run(rounded_reference{}, s.whole()), expected);
  for (bool deterministic : {false, true}) {
    shipped const mine{sp::cuda_flash<>{sp::flash_options{.deterministic = deterministic}}};
    auto const e = s.against(s.run(mine, s.whole()), expected);
    CAPTURE(deterministic);
    CAPTURE(e);
    CAPTURE(its);
    for (std::size_t i = 0; i < e.size(); ++i) {
      CHECK(e[i] <= 2 * its[i] + 2e-6);
      CHECK(e[i] <= most);
    }
  }
}
template <class T>
void check(index_t dim, index_t value_dim, index_t tokens, sp::mask const& rule) {
  CAPTURE(dim);
  CAPTURE(rule.hi);
  check(scene<T>({.docs = sp::packed{0, tokens}, .rule = rule, .q_heads = 2, .kv_heads = 1, .dim = dim, .value_dim = value_dim}),
        0.01);
}

} // namespace

TEST_CASE("cuda_flash as it ships: every head dim, causal and full, forward and both backward passes") {
  for (auto const& rule : {sp::causal(), sp::full()}) {
    check<sp::bf16>(64, 64, 200, rule);
    check<sp::bf16>(128, 128, 200, rule);
    check<sp::bf16>(256, 256, 150, rule);
    check<sp::bf16>(192, 128, 140, rule);
  }
  check<sp::fp16>(128, 128, 200, sp::causal());
}

TEST_CASE("cuda_flash as it ships: fp16 where all scores are far below zero, and keys end within a tile") {
  for (float c : {1.4f, 1.9f}) { // scores about -16 and -29
    CAPTURE(c);
    scene<sp::fp16> s({.docs = sp::packed{0, 90}, .rule = sp::full(), .dim = 64, .value_dim = 64});
    for (index_t i = 0; i < s.nq; ++i)
      for (index_t d = 0; d < s.set.dim; ++d) {
        s.q.v(i, 0, d) = sp::fp16(c + 0.1f * float(s.q.v(i, 0, d)));
        s.k.v(i, 0, d) = sp::fp16(-c + 0.1f * float(s.k.v(i, 0, d)));
      }
    check(s, 0.05); // what all keys have in common falls out of dq, its rounding does not
  }
}

TEST_CASE("cuda_flash as it ships: head dims that a device has no shared memory for are refused, with its limit") {
  constexpr index_t tokens = 20;
  cuda_tests::place p;
  fake_cuda::shared_bytes_of_block(99 * 1024); // as sm_89 has
  cuda_tests::place small(2);
  fake_cuda::shared_bytes_of_block(227 * 1024);
  auto forward = [](cuda_tests::place& at, index_t dim) {
    using device = sp::device_memory;
    sp::owned<sp::bf16, 3, device> const x(at.memory, {tokens, 1, dim});
    sp::owned<float, 3, device> const out(at.memory, {tokens, 1, dim});
    sp::owned<float, 2, device> const lse(at.memory, {tokens, 1});
    std::vector<sp::placed_run> const all{{{0, tokens, 1}, 0, 0}};
    sp::documents const docs = sp::packed{0, tokens};
    sp::context const ctx(at.queue, at.memory, at.memory);
    sp::cuda_flash<> const flash;
    auto const plan = flash.prepare({all, all, sp::slices(sp::causal(), docs, docs)}, ctx);
    sp::view<sp::bf16 const, 3, device> const q = x.tensor;
    sp::kv_views<sp::bf16, device> const keys{q, q};
    flash.template forward<sp::bf16>(plan, at.memory, {sp::all_heads(1, 1), 1}, q, std::span(&keys, 1), {out.tensor, lse.tensor},
                                     at.queue);
    at.queue.synchronize();
  };
  long const launches = fake_cuda::calls("cudaLaunchKernelEx");
  auto const e = support::failure_of([&] { forward(small, 256); });
  CHECK(support::says(e, sp::errc::unsupported, "head dim 256 takes", "device 0 has 101376"));
  CHECK(e.remedy.find("head dims up to 128") != std::string::npos);
  CHECK(fake_cuda::calls("cudaLaunchKernelEx") == launches);
  forward(small, 128);
  forward(p, 256);
  CHECK(fake_cuda::calls("cudaLaunchKernelEx") == launches + 2);
}

#endif

} // namespace test_flash_shipped
