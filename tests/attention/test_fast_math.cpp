// Compiled with -Ofast, as llm.c's makefile does: a program that promises that no number is infinite or NaN. Check level 3 finds both
// all the same, and what is infinite by design stays right: the lse of rows that see nothing, partial results that hold nothing, sinks.
// flags: -Ofast
// with all: it is compiled by itself, which takes long
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include <sp/backend/merge.hpp>
#include <sp/cpu.hpp>
#include <sp/gather_loss.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>

#include "support/failure.hpp"

namespace test_fast_math {
namespace {

using sp::index_t;

// The test itself must not compare such numbers either: it makes them of bits and looks at bits.
constexpr std::uint32_t nan_bits = 0x7fc00000, inf_bits = 0x7f800000, none_bits = 0xff800000;
float of(std::uint32_t bits) { return std::bit_cast<float>(bits); }
std::uint32_t bits(float const& x) { return std::bit_cast<std::uint32_t>(x); }
bool near(double x, double y) { return std::abs(x - y) < 1e-5; }

constexpr index_t tokens = 6, heads = 1, dim = 4;

/// Eight tensors of one head. All queries are zero: every key that a row sees has the same weight.
struct tensors {
  std::array<std::vector<float>, 8> memory;
  std::vector<float> sinks = {of(none_bits)}, dsinks = {0};
  tensors() {
    for (std::size_t t = 0; t < memory.size(); ++t)
      for (index_t i = 0; i < tokens * dim; ++i) memory[t].push_back(t == 0 ? 0.0f : float(i % 7) - float(t));
  }
  sp::view<float, 3> at(std::size_t t) { return {memory[t].data(), {tokens, heads, dim}}; }
  sp::forward_operands<float> in() { return {at(0), at(1), at(2), at(3)}; }
  sp::backward_operands<float> back() { return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)}; }
};

/// Rows 0 and 1 see nothing, rows 2 to 5 see keys 1 to 3.
sp::mask some_rows() { return sp::user_slices({{2, 6, 1, 4, -sp::unbounded, sp::unbounded}}); }

template <class Kernel>
void check_empty_rows(Kernel const& kernel, bool with_sinks) {
  tensors x;
  sp::batch const b{sp::packed{0, tokens}, sp::contiguous{}, sp::solo{}};
  sp::ring_attention const attention{sp::solo{}, kernel, {.mask = some_rows(), .checks = 3}};
  auto in = x.in();
  auto back = x.back();
  if (with_sinks) {
    in.sinks = back.sinks = sp::view<float, 1>(x.sinks.data(), {1});
    back.dsinks = sp::view<float, 1>(x.dsinks.data(), {1});
  }
  auto saved = attention.forward(b, in);
  for (index_t i = 0; i < tokens; ++i) {
    CAPTURE(i);
    bool const empty = i < 2;
    CHECK((empty ? bits(saved.lse.tensor(i, 0)) == none_bits : near(saved.lse.tensor(i, 0), std::log(3.0))));
    for (index_t e = 0; e < dim; ++e) {
      double const mean = (double(x.at(2)(1, 0, e)) + x.at(2)(2, 0, e) + x.at(2)(3, 0, e)) / 3;
      CHECK(near(x.at(3)(i, 0, e), empty ? 0 : mean));
    }
  }
  attention.backward(b, std::move(saved), back);
  for (index_t i = 0; i < tokens; ++i)
    for (index_t e = 0; e < dim; ++e) {
      CAPTURE(i);
      double dout = 0, dq = 0;
      for (index_t r = 2; r < tokens; ++r) dout += x.at(4)(r, 0, e);
      for (index_t j = 1; j < 4; ++j) {
        double ds = 0;
        for (index_t c = 0; c < dim; ++c) ds += x.at(4)(i, 0, c) * (double(x.at(2)(j, 0, c)) - x.at(3)(i, 0, c));
        dq += ds / 3 * x.at(1)(j, 0, e) / std::sqrt(double(dim));
      }
      CHECK(near(x.at(5)(i, 0, e), i < 2 ? 0 : dq));
      CHECK(near(x.at(6)(i, 0, e), 0)); // queries are zero
      CHECK(near(x.at(7)(i, 0, e), i >= 1 && i < 4 ? dout / 3 : 0));
    }
  CHECK(x.dsinks[0] == 0);
}

template <class F>
bool refused(F&& f, char const* what) {
  return support::says(support::failure_of(f), sp::errc::non_finite, what);
}

} // namespace

TEST_CASE("fast math: bits tell NaN, infinities and numbers apart") {
  auto check = [](auto number, auto nan, auto inf, auto none) {
    using sp::detail::is_finite, sp::detail::is_nan, sp::detail::is_minus_infinity;
    CHECK((is_finite(number) && !is_nan(number) && !is_minus_infinity(number)));
    CHECK((!is_finite(nan) && is_nan(nan) && !is_minus_infinity(nan)));
    CHECK((!is_finite(inf) && !is_nan(inf) && !is_minus_infinity(inf)));
    CHECK((!is_finite(none) && !is_nan(none) && is_minus_infinity(none)));
  };
  check(-3.4e38f, of(nan_bits), of(inf_bits), of(none_bits));
  check(-3.4e38f, of(0xff800001), of(inf_bits), of(none_bits)); // the first NaN behind -inf
  auto wide = [](std::uint64_t b) { return std::bit_cast<double>(b); };
  check(1.7e308, wide(0x7ff0000000000001), wide(0x7ff0000000000000), wide(0xfff0000000000000));
  auto brain = [](int b) { return sp::bf16::from_bits(std::uint16_t(b)); };
  check(brain(0x7f7f), brain(0xff81), brain(0x7f80), brain(0xff80));
  auto half = [](int b) { return sp::fp16::from_bits(std::uint16_t(b)); };
  check(half(0x7bff), half(0xfc01), half(0x7c00), half(0xfc00));
}

TEST_CASE("fast math: level 3 finds NaN and infinities in every tensor that a call reads") {
  sp::batch const b{sp::packed{0, tokens}, sp::contiguous{}, sp::solo{}};
  sp::ring_attention const attention{sp::solo{}, sp::cpu{}, {.checks = 3}};
  char const* const names[] = {"q holds ", "k holds ", "v holds ", "out holds ", "dout holds "};
  for (std::uint32_t const bad : {nan_bits, inf_bits, none_bits})
    for (std::size_t t = 0; t < 5; ++t) {
      std::string const what = names[t] + std::string(bad == nan_bits ? "NaN" : bad == inf_bits ? "inf" : "-inf") + " at row 4";
      CAPTURE(what);
      tensors x;
      auto saved = attention.forward(b, x.in());
      x.at(t)(4, 0, 2) = of(bad);
      if (t < 3) CHECK(refused([&] { attention.infer(b, x.in()); }, what.c_str()));
      CHECK(refused([&] { attention.backward(b, std::move(saved), x.back()); }, what.c_str()));
    }
}

TEST_CASE("fast math: level 3 finds NaN in sinks, in losses and in upstream, and lets a sink of -inf pass") {
  sp::batch const b{sp::packed{0, tokens}, sp::contiguous{}, sp::solo{}};
  sp::ring_attention const attention{sp::solo{}, sp::cpu{}, {.checks = 3}};
  tensors x;
  auto in = x.in();
  in.sinks = sp::view<float, 1>(x.sinks.data(), {1});
  for (std::uint32_t const bad : {nan_bits, inf_bits}) {
    x.sinks[0] = of(bad);
    CHECK(refused([&] { attention.infer(b, in); }, bad == nan_bits ? "sinks holds NaN" : "sinks holds inf"));
  }
  x.sinks[0] = of(none_bits);
  attention.infer(b, in);

  sp::gather_loss const loss{sp::solo{}, sp::summed{}, {.checks = 3}};
  std::vector<float> losses = {1, 2, 3}, dlosses(3);
  std::vector<int> labels = {7, -100, 7};
  sp::view<float, 1> const l(losses.data(), {3}), dl(dlosses.data(), {3});
  sp::view<int, 1> const n(labels.data(), {3});
  losses[1] = of(nan_bits); // ignored
  auto const result = loss.forward(l, n);
  CHECK(refused([&] { loss.backward(result, n, dl, std::bit_cast<double>(std::uint64_t{0x7ff8000000000000})); }, "scaled by"));
  losses[2] = of(nan_bits);
  CHECK(refused([&] { static_cast<void>(loss.forward(l, n)); }, "losses holds nan at row 2"));
}

TEST_CASE("fast math: what is not finite on one of three ranks ends the call on all of them; the lse of empty rows does not") {
  char const* const names[] = {"q", "k", "v", "out", "dout"};
  std::atomic<int> told = 0, cases = 0, right = 0;
  sp::threads::run(3, [&](sp::threads const& c) {
    sp::batch const b{sp::packed{0, 3 * tokens}, sp::contiguous{}, c};
    // the first row of each rank sees nothing, the others see the first key of all
    sp::mask const mask = sp::user_slices({{1, 6, 0, 1}, {7, 12, 0, 1}, {13, 18, 0, 1}});
    sp::ring_attention const attention{c, sp::cpu{}, {.mask = mask, .checks = 3}};
    tensors x;
    auto saved = attention.forward(b, x.in());
    for (std::uint32_t const bad : {nan_bits, inf_bits, none_bits})
      for (std::size_t t = 0; t < 5; ++t)
        for (int victim = 0; victim < 3; ++victim) {
          float& place = x.at(t)(4, 0, 2);
          float const before = place;
          bool const mine = c.rank() == victim, forward = t < 3 && bad != inf_bits;
          if (mine) place = of(bad);
          auto const e = support::failure_of([&] {
            if (forward)
              attention.infer(b, x.in());
            else
              attention.backward(b, std::move(saved), x.back());
            return 0;
          });
          place = before;
          std::string const found = names[t] + std::string(bad == nan_bits   ? " holds NaN"
                                                           : bad == inf_bits ? " holds inf"
                                                                             : " holds -inf");
          std::string const told_by =
              "rank " + std::to_string(victim) + " refused ring_attention." + (forward ? "forward" : "backward");
          told += mine ? support::says(e, sp::errc::non_finite, found + " at row 4")
                       : support::says(e, sp::errc::rank_mismatch, told_by, "non_finite");
          ++cases;
        }
    for (index_t i = 0; i < tokens; ++i)
      right += i == 0 ? bits(saved.lse.tensor(i, 0)) == none_bits && x.at(3)(i, 0, 1) == 0 : near(saved.lse.tensor(i, 0), 0);
    attention.backward(b, std::move(saved), x.back());
  });
  CHECK(cases == 3 * 3 * 5 * 3);
  CHECK(told == cases);
  CHECK(right == 3 * tokens);
}

TEST_CASE("fast math: rows that see nothing, forward and backward, with and without sinks of -inf") {
  for (bool const sinks : {false, true}) {
    CAPTURE(sinks);
    check_empty_rows(sp::cpu{}, sinks);
    check_empty_rows(sp::reference{}, sinks);
  }
}

TEST_CASE("fast math: a partial result that holds nothing is the identity of merge") {
  float const none = of(none_bits);
  auto merged = [](float a, float a_lse, float b, float b_lse) {
    sp::merge(sp::attention_state<float>{{&a, {1, 1, 1}}, {&a_lse, {1, 1}}},
              sp::attention_state<float>{{&b, {1, 1, 1}}, {&b_lse, {1, 1}}});
    return std::pair(a, a_lse);
  };
  CHECK(merged(1.5f, 3, 0, none) == std::pair(1.5f, 3.0f));
  CHECK(merged(0, none, 1.5f, 3) == std::pair(1.5f, 3.0f));
  auto const nothing = merged(0, none, 0, none);
  CHECK(nothing.first == 0);
  CHECK(bits(nothing.second) == none_bits);
  CHECK(near(merged(1, 0, 2, 0).first, 1.5));
}

} // namespace test_fast_math
