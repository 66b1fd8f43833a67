// Level 3: a NaN or an infinity in any tensor is refused with its place before anything is sent, and found in results after the
// call. Slack rows may hold anything; rows that see nothing are legal. All ranks throw together.
#include <doctest/doctest.h>

#include <limits>

#include <sp/counting.hpp>
#include <sp/cpu.hpp>
#include <sp/gather_loss.hpp>

#include "checks/step_arguments.hpp"

namespace checks::test_non_finite {
namespace {

constexpr int ranks = 4;
constexpr sp::threads_options patient{.deadline = std::chrono::seconds(60)};
constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
using counter = sp::counting<sp::threads>;

template <class F>
void with_object(kind k, place<counter> const& at, sp::mask const& mask, F&& f) {
  sp::attention_options const o{mask, 0.5, sp::schedule::automatic, 1, 3};
  if (k == kind::ring)
    f(sp::ring_attention{at.all, sp::cpu{}, o});
  else
    f(sp::ulysses_attention{at.ulysses, sp::ring_attention{at.ring, sp::cpu{}, o}});
}

/// Every rank runs f(object, batch, tensors, prepared, context, ledger) over a padded batch with NaN in all slack rows.
template <class F>
void on_ranks(kind k, F&& f, sp::mask const& mask = sp::causal()) {
  sp::threads::run(
      ranks,
      [&](sp::threads const& base) {
        sp::ledger sent;
        place<counter> const at(k, counter(base, sent));
        arguments a;
        a.sinks = true;
        sp::batch b(sp::documents::packed(std::vector<index_t>{0, 9, 9, 30}), sp::nested{sp::zigzag{}, at.ulysses.size()}, base,
                    {.local = sp::shapes::padded});
        with_object(k, at, mask, [&](auto const& object) {
          tensors<double> x(b, a);
          sp::for_each_row(b, [&](sp::local_row const& r) {
            if (!r.real)
              for (auto* v : {&x.q, &x.k, &x.v, &x.dout, &x.out, &x.dq, &x.dk, &x.dv}) sp::fill(v->rows(r.row, 1), nan);
          });
          sp::pool memory;
          sp::context const c(memory, memory);
          auto const p = object.prepare(b);
          f(object, b, x, p, c, sent);
        });
      },
      patient);
}

/// A real row of this rank, drawn from a seed.
sp::local_row some_row(sp::batch const& b, unsigned seed) {
  std::vector<sp::local_row> rows;
  sp::for_each_row(b, [&](sp::local_row const& r) {
    if (r.real) rows.push_back(r);
  });
  return rows[seed % rows.size()];
}

} // namespace

TEST_CASE("inputs: each tensor poisoned on each rank is named with its place, and nothing but fingerprints is sent") {
  std::atomic<int> own = 0, others = 0, cases = 0;
  for (kind k : {kind::ring, kind::ulysses, kind::usp})
    on_ranks(k, [&](auto const& object, sp::batch const& b, auto& x, auto const& p, sp::context<> const& c, sp::ledger& sent) {
      struct {
        char const* name;
        sp::view<double, 3> tensors<double>::*tensor;
        bool forward;
      } const targets[] = {{"q", &tensors<double>::q, true},
                           {"k", &tensors<double>::k, true},
                           {"v", &tensors<double>::v, true},
                           {"out", &tensors<double>::out, false},
                           {"dout", &tensors<double>::dout, false}};
      std::mt19937 g(7);
      for (auto const& t : targets)
        for (bool in_forward : {true, false}) {
          if (in_forward && !t.forward) continue;
          for (int victim = 0; victim < ranks; ++victim) {
            unsigned const draw = unsigned(g());
            double const bad = draw % 3 == 0 ? nan : draw % 3 == 1 ? inf : -inf;
            auto const& tensor = x.*t.tensor;
            auto s = x.forward(object, p, c);
            sp::local_row const row = some_row(b, draw / 3);
            index_t const h = index_t(draw / 7) % tensor.extent(1), d = index_t(draw / 11) % tensor.extent(2);
            double& place = tensor(row.row, h, d);
            double const before = place;
            bool const mine = b.part() == victim;
            if (mine) place = bad;
            sent.clear();
            outcome const o =
                outcome_of([&] { in_forward ? void(x.forward(object, p, c)) : x.backward(object, p, c, std::move(s)); });
            place = before;
            std::string const where = std::string(t.name) + " holds " +
                                      (draw % 3 == 0   ? "NaN"
                                       : draw % 3 == 1 ? "inf"
                                                       : "-inf") +
                                      " at row " + std::to_string(row.row) + ", head " + std::to_string(h) + ", channel " +
                                      std::to_string(d) + ": position " + std::to_string(sp::source_position(b, row)) +
                                      " of the stream, document " + std::to_string(row.document);
            bool const quiet = sent.of(sp::agreement_primitive).operations > 0 &&
                               sent.total().bytes_sent == sent.of(sp::agreement_primitive).bytes_sent; // and a barrier
            if (b.part() == 0) ++cases;
            if (mine)
              own += quiet && o.is(errc::non_finite) && o.says(where) && o.failure->step > 0 && o.failure->primitive.size() > 10;
            else
              others += quiet && o.is(errc::rank_mismatch) && o.says("rank " + std::to_string(victim) + " refused") &&
                        o.says("non_finite");
          }
        }
    });
  CHECK(cases == 3 * 8 * ranks);
  CHECK(own == cases);
  CHECK(others == (ranks - 1) * cases);
}

TEST_CASE("sinks and the saved lse are inputs, too; a sink of -inf takes nothing and is legal") {
  std::atomic<int> told = 0;
  on_ranks(kind::ring, [&](auto const& object, sp::batch const& b, auto& x, auto const& p, sp::context<> const& c, sp::ledger&) {
    bool const mine = b.part() == 2;
    auto expect = [&](outcome const& o, char const* text) {
      told += mine ? o.is(errc::non_finite) && o.says(text) : o.is(errc::rank_mismatch) && o.says("rank 2 refused");
    };
    if (mine) x.sinks[3] = inf;
    expect(outcome_of([&] { x.forward(object, p, c); }), "sinks holds inf at head 3");
    x.sinks[3] = -inf;
    auto s = x.forward(object, p, c);
    double* kept = nullptr; // a lse of the first document
    if constexpr (requires { s.lse; }) kept = &s.lse.tensor(some_row(b, 1).row, 1);
    REQUIRE(kept != nullptr);
    double const lse = *kept;
    if (mine) *kept = nan;
    expect(outcome_of([&] { x.backward(object, p, c, std::move(s)); }), "saved lse holds NaN at row");
    *kept = lse; // a call that was refused consumes nothing
    x.backward(object, p, c, std::move(s));
    for (double d : x.dsinks) told += d == d ? 1 : 0;
  });
  CHECK(told == ranks * (2 + 4));
}

TEST_CASE("slack rows full of NaN and rows that see nothing are not reported, and change no bit") {
  sp::mask holes = sp::user_slices({{0, 9, 0, 3}, {12, 30, 9, 30, -sp::unbounded, 0}});
  for (kind k : {kind::ring, kind::ulysses, kind::usp}) {
    std::atomic<int> good = 0;
    on_ranks(
        k,
        [&](auto const& object, sp::batch const& b, auto& x, auto const& p, sp::context<> const& c, sp::ledger&) {
          x.backward(object, p, c, x.forward(object, p, c));
          arguments plain;
          plain.sinks = true;
          tensors<double> y(b, plain); // the same step with zeros in slack rows, which are 0 in every result of both
          sp::for_each_row(b, [&](sp::local_row const& r) {
            if (!r.real)
              for (auto* v : {&y.q, &y.k, &y.v, &y.dout}) sp::fill(v->rows(r.row, 1), 0.0);
          });
          y.backward(object, p, c, y.forward(object, p, c));
          index_t zero = 0, blind = 0;
          sp::for_each_row(b, [&](sp::local_row const& r) {
            index_t const at = sp::source_position(b, r);
            if (r.real && (at < 9 || at >= 12)) return;
            blind += x.out.extent(1) * x.out.extent(2); // slack, and rows that see nothing
            for (index_t h = 0; h < x.out.extent(1); ++h)
              for (index_t d = 0; d < x.out.extent(2); ++d) zero += x.out(r.row, h, d) == 0 && x.dq(r.row, h, d) == 0;
          });
          good += zero == blind && x.results() == y.results();
        },
        holes);
    CHECK(good == ranks);
  }
}

TEST_CASE("results: finite inputs whose scores overflow are found after the call, by the rank that computed them") {
  for (kind k : {kind::ring, kind::usp}) {
    std::atomic<int> own = 0, others = 0;
    on_ranks(k, [&](auto const& object, sp::batch const& b, auto& x, auto const& p, sp::context<> const& c, sp::ledger&) {
      sp::fill(x.q.rows(some_row(b, 0).row, 1), b.part() == 1 ? 1e308 : 0.5);
      sp::fill(x.k, 1e10);
      outcome const o = outcome_of([&] { x.forward(object, p, c); });
      if (o.is(errc::non_finite))
        own += o.says("out holds NaN at row") || o.says("lse holds");
      else
        others += o.is(errc::rank_mismatch) && o.says("results with non_finite");
    });
    CHECK(own >= 1);
    CHECK(own + others == ranks);
  }
}

TEST_CASE("losses: what counts is searched, what is ignored is not read") {
  std::atomic<int> told = 0;
  sp::threads::run(
      3,
      [&](sp::threads const& comm) {
        sp::gather_loss loss{comm, sp::summed{}, {.checks = 3}};
        std::vector<float> values{1, 2, 3};
        std::vector<long> labels{5, -100, 7};
        auto run = [&] { return loss.forward(sp::view<float, 1>(values.data(), {3}), sp::view<long, 1>(labels.data(), {3})); };
        values[1] = std::numeric_limits<float>::quiet_NaN();
        told += run().loss == 2;
        if (comm.rank() == 1) values[2] = -std::numeric_limits<float>::infinity();
        outcome const o = outcome_of(run);
        told += comm.rank() == 1 ? o.is(errc::non_finite) && o.says("losses holds -inf at row 2")
                                 : o.is(errc::rank_mismatch) && o.says("rank 1 refused gather_loss.forward with non_finite");
        values[2] = 3;
        sp::loss_result const r = run();
        std::vector<float> gradient(3);
        told += outcome_of([&] {
                  loss.backward(r, sp::view<long, 1>(labels.data(), {3}), sp::view<float, 1>(gradient.data(), {3}), nan);
                }).is(errc::non_finite);
      },
      patient);
  CHECK(told == 9);
}

namespace {

/// Marks the positions of the stream whose rows of a (tokens, heads, dim) tensor hold a NaN. Ranks have rows of their own.
void mark_poisoned(sp::batch const& b, sp::view<double, 3> const& x, std::string& positions) {
  sp::for_each_row(b, [&](sp::local_row const& r) {
    bool bad = false;
    for (index_t h = 0; h < x.extent(1); ++h)
      for (index_t d = 0; d < x.extent(2); ++d) bad = bad || std::isnan(x(r.row, h, d));
    if (bad) positions[std::size_t(sp::source_position(b, r))] = '1';
  });
}

/// An attention of this kind over so many ranks.
struct arrangement {
  kind k;
  int ranks;
  sp::schedule schedule = sp::schedule::automatic;
};

/// Where NaN in token 2 of one operand ends up: out, dq, dk, dv. Two causal documents of five and four tokens.
template <class Kernel>
std::array<std::string, 4> reached(arrangement const& how, Kernel const& kernel, sp::view<double, 3> tensors<double>::*operand) {
  std::array<std::string, 4> found;
  found.fill("000000000");
  auto step = [&](auto const& attention, sp::batch const& b) {
    tensors<double> x(b, arguments{});
    auto poison = [&] {
      sp::for_each_row(b, [&](sp::local_row const& r) {
        if (sp::source_position(b, r) == 2) sp::fill((x.*operand).rows(r.row, 1), nan);
      });
    };
    bool const late = operand == &tensors<double>::dout;
    if (!late) poison();
    auto saved = attention.forward(b, {.q = x.q, .k = x.k, .v = x.v, .out = x.out});
    if (late) poison();
    attention.backward(b, std::move(saved),
                       {.q = x.q, .k = x.k, .v = x.v, .out = x.out, .dout = x.dout, .dq = x.dq, .dk = x.dk, .dv = x.dv});
    sp::view<double, 3> const results[] = {x.out, x.dq, x.dk, x.dv};
    for (std::size_t i = 0; i < found.size(); ++i) mark_poisoned(b, results[i], found[i]);
  };
  sp::threads::run(
      how.ranks,
      [&](sp::threads const& comm) {
        place<sp::threads> const at(how.k, comm);
        sp::batch const b(sp::packed{0, 5, 9}, sp::nested{sp::zigzag{}, at.ulysses.size()}, comm);
        sp::attention_options const o{.mask = sp::causal(), .schedule = how.schedule};
        if (how.k == kind::ring)
          step(sp::ring_attention{at.all, kernel, o}, b);
        else
          step(sp::ulysses_attention{at.ulysses, sp::ring_attention{at.ring, kernel, o}}, b);
      },
      patient);
  return found;
}

} // namespace

// The table of docs/semantics.md, cell by cell.
TEST_CASE(
    "what a NaN in one token reaches without level 3: gradients of its document, by the rule of the formulas, never another") {
  using t = tensors<double>;
  struct {
    char const* name;
    sp::view<double, 3> t::*operand;
    std::array<std::string, 4> by_formula; // out, dq, dk, dv
  } const cases[] = {{"q", &t::q, {"001000000", "001000000", "111000000", "111000000"}},
                     {"k", &t::k, {"001110000", "001110000", "111110000", "111110000"}},
                     {"v", &t::v, {"001110000", "001110000", "111110000", "000000000"}},
                     {"dout", &t::dout, {"000000000", "001000000", "111000000", "111000000"}}};
  arrangement const all[] = {{kind::ring, 1},
                             {kind::ring, 3, sp::schedule::rotate},
                             {kind::ring, 3, sp::schedule::cast},
                             {kind::ring, 3, sp::schedule::pull},
                             {kind::ring, 3, sp::schedule::pass_q},
                             {kind::ulysses, 3},
                             {kind::usp, 4}};
  for (arrangement const& how : all)
    for (auto const& c : cases) {
      CAPTURE(std::string(name_of(how.k)));
      CAPTURE(how.ranks);
      CAPTURE(int(how.schedule));
      CAPTURE(std::string(c.name));
      CHECK(reached(how, sp::reference{}, c.operand) == c.by_formula);
      auto const tiled = reached(how, sp::cpu{}, c.operand); // zero times NaN is NaN, inside a tile of the document
      for (std::size_t i = 0; i < tiled.size(); ++i) {
        CHECK(tiled[i].substr(5) == "0000");
        for (std::size_t row = 0; row < 5; ++row) CHECK(tiled[i][row] >= c.by_formula[i][row]);
      }
    }
  CHECK(reached(all[0], sp::cpu{}, &t::q)[2] != cases[0].by_formula[2]); // dk of a key that the row does not see
}

} // namespace checks::test_non_finite
