// blockwise: restricted kernels get only what they accept, the rest is cut, goes to the fallback or is refused.
#include <doctest/doctest.h>

#include <sp/reference.hpp>

#include "backend/by_parts.hpp"

namespace test_blockwise {
namespace {

using namespace backend_tests;

/// A kernel as accelerators have them: full rectangles and square causal blocks, ordinary GQA heads. It checks what it gets.
struct picky {
  using memory_type = sp::host_memory;
  sp::scalar_kernel<> inner{};
  int* misfits;
  int* calls;

  bool accepts(sp::block const& b) const { return b.is_full() || sp::is_square_causal(b); }
  template <class T>
  void look(T const& c) const {
    ++*calls;
    bool ordinary =
        c.heads.q_count % c.heads.kv_count == 0 && c.q.extent(1) == c.heads.q_count && c.k.extent(1) == c.heads.kv_count;
    for (sp::index_t i = 0; ordinary && i < c.heads.q_count; ++i)
      ordinary = c.heads.kv_of(i) == i / (c.heads.q_count / c.heads.kv_count);
    if (!accepts(c.where) || !ordinary) ++*misfits;
  }
  template <class T>
  void forward(sp::block_call<T> const& c) const {
    look(c);
    inner.forward(c);
  }
  template <class T>
  void backward(sp::block_grad<T> const& g) const {
    look(g);
    inner.backward(g);
  }
};

/// Its forward returns a token, its backward wants that very token.
struct remembering {
  using memory_type = sp::host_memory;
  sp::scalar_kernel<> inner{};
  int* wrong;
  std::pair<sp::index_t, sp::index_t> forward(sp::block_call<double> const& c) const {
    inner.forward(c);
    return {c.where.k_pos, c.heads.q_begin};
  }
  void backward(sp::block_grad<double> const& g, std::pair<sp::index_t, sp::index_t> const& kept) const {
    if (kept != std::pair{g.where.k_pos, g.heads.q_begin}) ++*wrong;
    inner.backward(g);
  }
};

setting ragged(sp::mask rule) {
  setting s{.docs = sp::packed{0, 11, 11, 30}, .rule = std::move(rule), .q_heads = 9, .kv_heads = 3, .dim = 4, .value_dim = 4};
  s.head_parts = 2; // q heads 0..3 and 4..8 of groups of 3
  return s;
}

template <class Backend>
double error_of(Backend const& b, scene<double> const& s, cutting const& c) {
  return worst(s.against(s.run(b, c), s.expected()));
}

} // namespace

static_assert(sp::attention_backend<sp::blockwise<picky>, float> && sp::attention_backend<sp::blockwise<remembering>, double>);
static_assert(!sp::attention_backend<sp::blockwise<remembering>, float>); // the kernel knows double only

TEST_CASE("blockwise: a kernel of full and square causal blocks serves causal attention [asan]") {
  int misfits = 0, calls = 0;
  sp::blockwise b{picky{{}, &misfits, &calls}};
  scene<double> s(ragged(sp::causal()));
  CHECK(error_of(b, s, s.whole()) < 1e-13);
  CHECK(error_of(b, s, s.cut_by(sp::zigzag{}, 3)) < 1e-13);
  CHECK(error_of(b, s, s.cut_by(sp::striped{}, 3, true)) < 1e-13);
  CHECK(error_of(b, s, s.cut_by(sp::contiguous{}, 5, true)) < 1e-13);
  CHECK(misfits == 0);
  CHECK(calls > 100);
}

#ifndef SP_TEST_SANITIZED

TEST_CASE("blockwise: what is refused is an error, or work for the fallback") {
  int misfits = 0, calls = 0;
  picky kernel{{}, &misfits, &calls};
  scene<double> s(ragged(sp::window(4, 1)));
  CHECK_THROWS_WITH_AS(s.run(sp::blockwise{kernel}, s.whole()), doctest::Contains("the kernel accepts neither block"), sp::error);
  try {
    s.run(sp::blockwise{kernel}, s.whole());
  } catch (sp::error const& e) {
    CHECK(e.code() == sp::errc::unsupported_mask);
    CHECK(e.info().remedy.find("fallback") != std::string::npos);
  }
  CHECK(calls == 0); // refused when prepared, before anything ran
  sp::blockwise both{kernel, sp::reference{}};
  CHECK(error_of(both, s, s.whole()) < 1e-13);
  CHECK(error_of(both, s, s.cut_by(sp::zigzag{}, 3)) < 1e-13);
  sp::document image{12, 5, 5};
  scene<double> mixed(ragged(sp::image_spans(std::span(&image, 1)))); // some blocks to the kernel, some to the fallback
  calls = 0;
  CHECK(error_of(both, mixed, mixed.cut_by(sp::striped{}, 2)) < 1e-13);
  CHECK(calls > 0);
  CHECK(misfits == 0);
}

TEST_CASE("blockwise: what forward returns comes back in backward") {
  int wrong = 0;
  sp::blockwise b{remembering{{}, &wrong}};
  scene<double> s(ragged(sp::prefix_lm({2, 0, 5})));
  CHECK(error_of(b, s, s.whole()) < 1e-13);
  CHECK(wrong == 0);
}

TEST_CASE("blockwise: scratch is what scratch_bytes says") {
  sp::reference b;
  scene<float> s(ragged(sp::causal()));
  s.set.head_parts = 1;
  auto c = s.whole();
  sp::pool memory;
  s.run(b, c, memory);
  auto plan = b.prepare({sp::place(c.q[0]), sp::place(c.k[0]), s.mask});
  CHECK(plan.rows == 19);
  CHECK(sp::index_t(memory.peak_bytes()) == b.scratch_bytes<float>(plan, sp::all_heads(9, 3), 4, 4));

  // with a fallback: both hold scratch at once, and the promise is of the larger of its blocks
  int misfits = 0, calls = 0;
  sp::blockwise both{picky{{}, &misfits, &calls}, sp::reference{}};
  sp::document image{12, 5, 5};
  scene<float> mixed(ragged(sp::image_spans(std::span(&image, 1))));
  mixed.set.head_parts = 1;
  auto const parts = mixed.cut_by(sp::striped{}, 2, true); // each part of the keys alone
  sp::index_t promised = 0, by_fallback = 0;
  for (auto const& q : parts.q)
    for (auto const& k : parts.k) {
      auto const one = both.prepare({sp::place(q), sp::place(k), mixed.mask});
      promised = std::max(promised, both.scratch_bytes<float>(one, sp::all_heads(9, 3), 4, 4));
      by_fallback += sp::index_t(one.fallbacks.size());
    }
  sp::pool shared;
  mixed.run(both, parts, shared);
  CHECK(by_fallback > 0);
  CHECK(calls > 0);
  CHECK(sp::index_t(shared.peak_bytes()) == promised);
}

#endif

} // namespace test_blockwise
