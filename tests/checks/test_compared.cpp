// What ranks compare at level 2 beyond the operands of self attention: keys of their own batch, numbers of kernel features, layers of
// random keys, every number of a map, and plans that were made at a lower level. Each is changed on each rank alone, rank 0 too.
#include <doctest/doctest.h>

#include <sp/gather_tokens.hpp>
#include <sp/relayout.hpp>

#include "checks/step_arguments.hpp"

namespace checks::test_compared {
namespace {

constexpr int ranks = 3;
constexpr sp::threads_options patient{.deadline = std::chrono::seconds(30)};
using featured = sp::reference<sp::softcap, sp::alibi, sp::dropout>;

/// One rank's arguments of cross attention.
struct crossed {
  std::vector<index_t> q_cu{0, 9, 24}, k_cu{0, 12, 30};
  bool stripes = false;
  std::uint64_t q_tokens = 7, k_tokens = 9;
  std::vector<float> slopes{0.5F, 0.25F, 0.125F, 0.0625F};
  double cap = 30, chance = 0.25;
  sp::random_key key{3, 1};
};
enum class phase { prepare, forward, backward };
struct fault {
  char const* field;
  void (*spoil)(crossed&);
  phase first = phase::prepare;
};
fault const faults[] = {
    {"key documents", [](crossed& a) { a.k_cu[1] = 11; }},
    {"key sharding", [](crossed& a) { a.stripes = true; }},
    {"tokens", [](crossed& a) { a.k_tokens = 10; }},
    {"tokens", [](crossed& a) { a.k_tokens = 0; }},
    {"tokens", [](crossed& a) { std::swap(a.q_tokens, a.k_tokens); }},
    {"kernel features", [](crossed& a) { a.slopes[3] = 0.0625F * (1 + 1e-6F); }},
    {"kernel features", [](crossed& a) { std::swap(a.slopes[0], a.slopes[1]); }},
    {"kernel features", [](crossed& a) { a.slopes.push_back(0.5F); }},
    {"kernel features", [](crossed& a) { a.chance = 0.26; }},
    {"kernel features", [](crossed& a) { a.cap = 31; }},
    {"random key", [](crossed& a) { a.key.layer = 2; }, phase::forward},
    {"random key", [](crossed& a) { std::swap(a.key.seed, a.key.layer); }, phase::forward},
};

std::string sentence(int victim, char const* field) {
  char const* const others[] = {"1, 2", "0, 2", "0, 1"};
  return "rank " + std::to_string(victim) + " differs from ranks " + others[victim] + " in " + field + ": ";
}

/// Everything of one call, made of one set of arguments by all ranks together.
struct scene {
  sp::ring_attention<sp::threads, featured> object;
  sp::batch q, k;
  support::attention_tensors<double> x;
  sp::pool memory;
  sp::context<> ctx;

  scene(sp::threads const& c, crossed const& a)
      : object(c, featured(sp::softcap{a.cap}, sp::alibi{a.slopes}, sp::dropout{a.chance}),
               {.mask = {.at = sp::align::end}, .checks = 2}),
        q(sp::documents::packed(a.q_cu), sp::zigzag{}, c, {.token_digest = a.q_tokens}),
        k(a.stripes ? sp::batch(sp::documents::packed(a.k_cu), sp::striped{}, c, {.token_digest = a.k_tokens})
                    : sp::batch(sp::documents::packed(a.k_cu), sp::zigzag{}, c, {.token_digest = a.k_tokens})),
        x(q.tokens(), k.tokens(), {4, 2, 4, 4}), ctx(memory, memory, a.key) {}
};

} // namespace

TEST_CASE("F3: what cross attention, kernel features and random keys are made of is compared, number by number, rank 0 too") {
  for (fault const& f : faults)
    for (int victim = 0; victim < ranks; ++victim) {
      std::atomic<int> told = 0;
      sp::threads::run(
          ranks,
          [&](sp::threads const& c) {
            bool const mine = c.rank() == victim;
            crossed const good;
            crossed bad;
            f.spoil(bad);
            scene a(c, good), b(c, bad);
            auto judge = [&](char const* call, auto&& body) {
              outcome const o = outcome_of(body);
              told += o.is(errc::rank_mismatch) && o.says(sentence(victim, f.field)) && o.failure->rank == c.rank() &&
                      o.failure->size == ranks && o.failure->primitive == std::string("ring_attention.") + call &&
                      (o.failure->peer == victim) == !mine && o.failure->peer >= 0;
            };
            if (f.first == phase::prepare)
              judge("prepare", [&] { mine ? void(b.object.prepare(b.q, b.k)) : void(a.object.prepare(a.q, a.k)); });
            else
              ++told;
            auto const p = a.object.prepare(a.q, a.k);
            auto const r = b.object.prepare(b.q, b.k);
            judge("forward", [&] { mine ? void(b.x.forward(b.object, r, b.ctx)) : void(a.x.forward(a.object, p, a.ctx)); });
            auto s = a.x.forward(a.object, p, a.ctx);
            auto t = b.x.forward(b.object, r, b.ctx);
            judge("backward", [&] {
              mine ? b.x.backward(b.object, r, b.ctx, std::move(t)) : a.x.backward(a.object, p, a.ctx, std::move(s));
            });
          },
          patient);
      CAPTURE(std::string(f.field));
      CAPTURE(&f - faults);
      CAPTURE(victim);
      CHECK(told == 3 * ranks);
    }
}

TEST_CASE("F3: every number of every entry of a relayout's map is compared") {
  using map = std::vector<sp::mapping>;
  map const good{{0, 0, 10}, {12, 12, 8}};
  map const others[] = {{{1, 0, 10}, {12, 12, 8}},
                        {{0, 1, 10}, {12, 12, 8}},
                        {{0, 0, 9}, {12, 12, 8}},
                        {{0, 0, 10}, {13, 12, 8}},
                        {{0, 0, 10}, {12, 13, 8}},
                        {{0, 0, 10}, {12, 12, 7}},
                        {{0, 0, 10}},
                        {}};
  for (map const& other : others)
    for (int victim = 0; victim < ranks; ++victim) {
      std::atomic<int> told = 0;
      sp::threads::run(
          ranks,
          [&](sp::threads const& c) {
            sp::documents const docs = sp::documents::rectangular(1, 24);
            sp::layout const from(docs, sp::contiguous{}, ranks), to(docs, sp::zigzag{}, ranks);
            sp::relayout const r(from, to, c.rank() == victim ? other : good, c.rank(), {.checks = 2});
            std::vector<double> x(std::size_t(from.tokens(c.rank()))), y(std::size_t(to.tokens(c.rank())));
            sp::view<double, 1> in(x.data(), {from.tokens(c.rank())}), out(y.data(), {to.tokens(c.rank())});
            sp::pool scratch;
            told += outcome_of([&] { r.apply(c, sp::view<double const, 1>(in), out, scratch); }).says(sentence(victim, "map"));
            told += outcome_of([&] {
                      r.apply_transposed(c, sp::view<double const, 1>(out), in, scratch);
                    }).says(sentence(victim, "map"));
          },
          patient);
      CAPTURE(&other - others);
      CHECK(told == 2 * ranks);
    }
}

TEST_CASE("levels change on one batch: what level 1 has prepared and kept does not stand in for what level 2 compares") {
  for (int victim = 0; victim < ranks; ++victim) {
    std::atomic<int> told = 0, same = 0;
    sp::threads::run(
        ranks,
        [&](sp::threads const& c) {
          sp::batch good(sp::packed{0, 20, 30}, sp::zigzag{}, c),
              bad(sp::packed{0, 20, 30}, sp::zigzag{}, c, {.token_digest = 5});
          sp::batch moved(sp::packed{0, 14, 30}, sp::zigzag{}, c);
          std::vector<double> local(std::size_t(good.tokens()), 1.0 + c.rank()), global(30, 0);
          sp::view<double const, 1> from(local.data(), {good.tokens()});
          sp::view<double, 1> to(global.data(), {30});
          auto gather = [&](int level, sp::batch const& b) {
            std::vector<double> mine(std::size_t(b.tokens()), 1.0 + c.rank());
            sp::gather_tokens{c, {.checks = level}}.forward(b, sp::view<double const, 1>(mine.data(), {b.tokens()}), to);
            return global;
          };
          auto const want = gather(1, good);
          static_cast<void>(gather(1, moved));
          static_cast<void>(gather(1, bad));
          bool const mine = c.rank() == victim;
          outcome const cut = outcome_of([&] { gather(2, mine ? moved : good); });
          told += cut.is(errc::rank_mismatch) && cut.says(sentence(victim, "documents"));
          outcome const tokens = outcome_of([&] { gather(2, mine ? bad : good); });
          told += tokens.is(errc::rank_mismatch) && tokens.says(sentence(victim, "tokens"));

          // and attention: an object of level 1, then one of level 2, on the same batch
          sp::ring_attention cheap{c, sp::reference{}, {.checks = 1}}, careful{c, sp::reference{}, {.checks = 2}};
          support::attention_tensors<double> x(good, {4, 2, 4, 4});
          cheap.infer(good, x.q, x.k, x.v, x.out);
          auto const out = x[support::operand::out];
          cheap.infer(moved, x.q, x.k, x.v, x.out);
          outcome const o = outcome_of([&] { careful.infer(mine ? moved : good, x.q, x.k, x.v, x.out); });
          told += o.is(errc::rank_mismatch) && o.says(sentence(victim, "documents"));
          same += gather(2, good) == want && gather(1, good) == want && gather(3, good) == want;
          careful.infer(good, x.q, x.k, x.v, x.out);
          same += x[support::operand::out] == out;
        },
        patient);
    CHECK(told == 3 * ranks);
    CHECK(same == 2 * ranks);
  }
}

} // namespace checks::test_compared
