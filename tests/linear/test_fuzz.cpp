// Random and recorded cases of linear attention and of causal_conv1d, as lines of numbers: ranks, documents, cuts, heads, states.
// A failure is shrunk and printed as a line for tests/corpus/linear/cases.txt; SP_FUZZ_CASE replays one, SP_FUZZ_SEED draws others.
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>

#include "fuzz/draw.hpp"
#include "fuzz/shrink.hpp"
#include "fuzz/stream.hpp"
#include "linear/conv1d_trial.hpp"
#include "linear/linear_trial.hpp"

namespace test_fuzz {
namespace {

using fuzz::recipe;

std::string beyond(double error, double bound) {
  return error < bound ? "" : "an error of " + std::to_string(error / bound) + " times the bound";
}

std::string check_linear(recipe const& r) {
  using namespace linear_trial;
  using K = sp::gated_delta;
  scene const s{.docs = fuzz::stream_of(r.docs, r.room),
                .shape = {0, r.kv_heads, r.q_heads, r.dim, r.value_dim},
                .normalise = !r.raw,
                .initial = r.initial,
                .final = r.final};
  constexpr sp::linear_strategy ways[] = {sp::linear_strategy::automatic, sp::linear_strategy::heads, sp::linear_strategy::state};
  cut k{.parts = int(r.ranks),
        .how = fuzz::sharding_of(r, r.shard, r.stream, r.nested),
        .shapes = r.padded ? sp::shapes::padded : sp::shapes::ragged};
  k.options = {.strategy = ways[r.way], .head_chunks = r.groups, .checks = int(r.checks)};
  std::mt19937 random{unsigned(r.seed)};
  inputs const in = draw<K, double>(s, random);
  auto const parts = run<K, double>(s, k, in, unsigned(r.seed));
  bool agreed = false;
  std::string wrong = beyond(error(s, joined<K>(s, k, parts, agreed), oracle<K>(s, in).r), 1e-11);
  if (!agreed) wrong += "; slack, room beside rows or final states";
  sp::detail::linear_bytes sent;
  for (part const& p : parts) sent.forward += p.forward_bytes, sent.backward += p.backward_bytes;
  auto const& stated = parts[0].stated;
  if (r.checks < 2 && !s.initial && !s.final && (sent.forward != stated.forward || sent.backward != stated.backward))
    wrong += "; bytes are not those stated";
  return wrong;
}

std::string check_conv(recipe const& r) {
  using namespace conv1d_trial;
  scene const s{.docs = fuzz::stream_of(r.docs, r.room),
                .width = r.width,
                .channels = r.kv_heads * r.dim,
                .silu = r.silu,
                .bias = r.bias,
                .initial = r.initial,
                .final = r.final};
  cut const k{.parts = int(r.ranks),
              .how = fuzz::sharding_of(r, r.shard, r.stream, r.nested),
              .shapes = r.padded ? sp::shapes::padded : sp::shapes::ragged,
              .checks = int(r.checks),
              .heads = r.kv_heads};
  std::mt19937 random{unsigned(r.seed)};
  inputs const in = draw<double>(s, random);
  bool agreed = false, agreed_alone = false;
  cut const one{.heads = r.kv_heads};
  results const all = joined(s, k, run<double>(s, k, in, unsigned(r.seed)), agreed),
                alone = joined(s, one, run<double>(s, one, in), agreed_alone);
  std::string wrong = beyond(error(s, all, oracle(s, in)), 1e-12);
  if (!agreed || !agreed_alone) wrong += "; slack or final states";
  if (all.out != alone.out) wrong += "; bits differ from one rank";
  return wrong;
}

std::string check(recipe const& r) {
  try {
    return r.object == fuzz::of_conv ? check_conv(r) : check_linear(r);
  } catch (std::exception const& e) {
    return e.what();
  }
}

recipe drawn(std::uint64_t seed) {
  fuzz::dice d(seed);
  recipe r;
  r.seed = fuzz::number(seed % 1000000007);
  r.object = d.one_in(3) ? fuzz::of_conv : fuzz::of_linear;
  r.ranks = d.between(1, 8);
  do r.degree = d.between(1, r.ranks);
  while (r.ranks % r.degree != 0);
  r.way = d.between(0, 2); // by heads any number of ranks is right: those beyond the value heads have none
  r.shard = d.between(0, r.object == fuzz::of_linear && r.way == 2 ? 1 : 2);
  r.stream = d.one_in(2), r.nested = d.one_in(3), r.strided = d.one_in(2), r.padded = d.one_in(3);
  std::vector<fuzz::number> const n = fuzz::detail::draw_lengths(d);
  r.docs = d.one_in(5) ? fuzz::detail::with_gaps(d, n) : n;
  if (d.one_in(5)) r.room = d.between(1, 4);
  constexpr fuzz::number heads[][2] = {{1, 1}, {2, 1}, {2, 2}, {4, 2}, {3, 3}, {6, 2}, {5, 5}},
                         dims[][2] = {{1, 1}, {4, 3}, {3, 9}, {8, 2}};
  auto const &h = d.of(heads), &w = d.of(dims);
  r.q_heads = h[0], r.kv_heads = h[1], r.dim = w[0], r.value_dim = w[1];
  r.groups = d.between(1, 3), r.raw = d.one_in(3), r.initial = d.one_in(2), r.final = d.one_in(2);
  r.width = d.one_in(8) ? 19 : d.between(1, 8), r.silu = d.one_in(2), r.bias = d.one_in(2);
  constexpr fuzz::number levels[] = {1, 1, 1, 0, 2, 3};
  r.checks = d.of(levels);
  return r;
}

bool holds(recipe const& r) {
  std::string const wrong = check(r);
  if (wrong.empty()) return true;
  recipe const small = fuzz::shrink(r, [&](recipe const& x) { return x.object == r.object && !check(x).empty(); }).smallest;
  MESSAGE("failed:   " << fuzz::line_of(r) << "\n          " << wrong);
  MESSAGE("shrunken: " << fuzz::line_of(small) << "\n          " << check(small));
  fuzz::remember(small, check(small));
  return false;
}

TEST_CASE("linear fuzz: every line of the corpus holds") {
  int lines = 0;
  std::ifstream in(SP_TEST_DIR "/corpus/linear/cases.txt");
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    INFO(line);
    CHECK(holds(fuzz::parse(line)));
    ++lines;
  }
  CHECK(lines >= 10);
}

TEST_CASE("linear fuzz: random cases hold") {
  if (char const* line = std::getenv("SP_FUZZ_CASE")) {
    recipe const r = fuzz::parse(line);
    CHECK((r.object == fuzz::of_attention || holds(r)));
    return;
  }
  char const* given = std::getenv("SP_FUZZ_SEED");
  std::uint64_t const first = given ? std::strtoull(given, nullptr, 10) : 1;
  int const most = given ? 1000 : 40;
  MESSAGE("replay with SP_FUZZ_SEED=" << first);
  int failures = 0;
  for (int i = 0; i < most && failures < 3; ++i) failures += !holds(drawn(first + std::uint64_t(i)));
  CHECK(failures == 0);
}

} // namespace
} // namespace test_fuzz
