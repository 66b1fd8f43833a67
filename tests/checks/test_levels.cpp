// Check levels cost what they say: level 1 sends what level 0 sends, level 2 adds one small all-gather per call under its own
// name, and no level changes a bit of the results. Memory questions stay sufficient, a steady state at level 2 allocates nothing.
#include <doctest/doctest.h>

#include <sp/blockwise.hpp>
#include <sp/counting.hpp>
#include <sp/cpu.hpp>
#include <sp/gather_loss.hpp>
#include <sp/relayout.hpp>

#include "checks/step_arguments.hpp"
#include "conformance/kernels.hpp"
#include "support/allocations.hpp"
#include "support/failure.hpp"

namespace checks::test_levels {
namespace {

constexpr int ranks = 4;
constexpr sp::threads_options patient{.deadline = std::chrono::seconds(60)};
using counter = sp::counting<sp::threads>;

/// The objects under test, as a value: what each is made of at a level.
struct variant {
  char const* name;
  kind k;
  sp::schedule schedule = sp::schedule::rotate;
  sp::keep keep = sp::keep::heads;
  bool whole = false; ///< a kernel without lse
};
variant const variants[] = {{"rotate", kind::ring},
                            {"cast", kind::ring, sp::schedule::cast},
                            {"pull", kind::ring, sp::schedule::pull},
                            {"pass_q", kind::ring, sp::schedule::pass_q},
                            {"ulysses", kind::ulysses},
                            {"usp", kind::usp, sp::schedule::rotate, sp::keep::output},
                            {"whole", kind::ulysses, sp::schedule::rotate, sp::keep::heads, true}};

template <class F>
void with_variant(variant const& v, place<counter> const& at, int level, F&& f) {
  arguments a;
  a.level = level;
  sp::attention_options const o{sp::causal(), 0.5, v.schedule, 2, level};
  if (v.k == kind::ring)
    f(sp::ring_attention{at.all, sp::cpu{}, o}, at.batch(a), a);
  else if (v.whole)
    f(sp::ulysses_attention{at.ulysses, conformance::plain_sdpa{}, o}, at.batch(a), a);
  else
    f(sp::ulysses_attention{at.ulysses, sp::ring_attention{at.ring, sp::cpu{}, o}, {v.keep}}, at.batch(a), a);
}

/// One step of every rank; what it sent and what came out.
struct record {
  sp::ledger sent;
  std::vector<unsigned char> results;
};
std::vector<record> step(variant const& v, int level) {
  std::vector<record> all(ranks);
  sp::threads::run(
      ranks,
      [&](sp::threads const& base) {
        record& mine = all[std::size_t(base.rank())];
        place<counter> const at(v.k, counter(base, mine.sent));
        mine.sent.clear();
        with_variant(v, at, level, [&](auto const& object, sp::batch const& b, arguments const& a) {
          sp::pool memory;
          sp::context const c(memory, memory);
          tensors<double> x(b, a);
          auto p = object.prepare(b);
          x.backward(object, p, c, x.forward(object, p, c));
          mine.results = x.results();
        });
      },
      patient);
  return all;
}

sp::ledger_entry const none{};

} // namespace

TEST_CASE("level 1 sends what level 0 sends, 2 and 3 add agreements of one record; every level gives the same bits") {
  for (variant const& v : variants) {
    INFO(v.name);
    auto const base = step(v, 0);
    for (int level : {1, 2, 3}) {
      auto const with = step(v, level);
      for (std::size_t r = 0; r < std::size_t(ranks); ++r) {
        CHECK(with[r].results == base[r].results);
        auto entries = with[r].sent.entries();
        entries.erase(sp::agreement_primitive);
        CHECK(entries == base[r].sent.entries());
        // prepare, forward, backward; at level 3 the results of two of them
        index_t const times = level < 2 ? 0 : level == 2 ? 3 : 5, bytes = index_t(sizeof(sp::call_record));
        index_t const messages = v.k == kind::usp ? 2 : 3, records = 3; // usp: one to the partner, two to the other group
        CHECK(with[r].sent.of(sp::agreement_primitive) ==
              (level < 2 ? none
                         : sp::ledger_entry{times * (v.k == kind::usp ? 2 : 1), times * messages, times * records * bytes,
                                            times * records * bytes, 0, 0}));
      }
    }
  }
}

TEST_CASE("Ulysses inside Ulysses over a ring: every level gives the bits of level 1, and both options are compared") {
  constexpr int nested_ranks = 8;
  auto step = [](int level, auto keep_of) {
    std::vector<std::vector<unsigned char>> all(nested_ranks);
    std::vector<outcome> thrown(nested_ranks);
    sp::threads::run(
        nested_ranks,
        [&](sp::threads const& base) {
          auto const at = std::size_t(base.rank());
          // Neighbours are a pair (outer), two pairs exchange heads again (inner), rings cross the halves.
          int const r = base.rank();
          auto const outer = base.split(r / 2, r), inner = base.split(2 * (r / 4) + r % 2, r), ring = base.split(r % 4, r);
          sp::attention_options const o{sp::causal(), 0.5, sp::schedule::rotate, 1, level};
          sp::ulysses_attention const object{
              outer, sp::ulysses_attention{inner, sp::ring_attention{ring, sp::cpu{}, o}, sp::ulysses_options{sp::keep::output}},
              sp::ulysses_options{keep_of(r)}};
          arguments a;
          sp::batch const b = a.batch(base, 2);
          sp::pool memory;
          sp::context const c(memory, memory);
          tensors<double> x(b, a);
          thrown[at] = outcome_of([&] {
            auto p = object.prepare(b);
            x.backward(object, p, c, x.forward(object, p, c));
          });
          all[at] = x.results();
        },
        patient);
    return std::pair(all, thrown);
  };
  auto same = [](int) { return sp::keep::heads; };
  auto const [base, none_thrown] = step(1, same);
  for (outcome const& o : none_thrown) CHECK(o.text() == "nothing");
  for (int level : {2, 3}) {
    auto const [with, thrown] = step(level, same);
    for (outcome const& o : thrown) CHECK(o.text() == "nothing");
    CHECK(with == base);
  }
  auto const [ignored, thrown] = step(2, [](int rank) { return rank == 5 ? sp::keep::output : sp::keep::heads; });
  for (outcome const& o : thrown) {
    CHECK(o.is(errc::rank_mismatch));
    CHECK(o.says("keep: output, output against output, heads"));
  }
}

TEST_CASE("levels 1, 2 and 3: scratch_bytes and saved_bytes suffice, also for canaries, and give the bits of pools at level 0") {
  for (variant const& v : variants) {
    auto const want = step(v, 0);
    for (int level : {1, 2, 3}) {
      INFO(v.name << " at level " << level);
      std::atomic<int> good = 0;
      sp::threads::run(
          ranks,
          [&](sp::threads const& base) {
            sp::ledger sent;
            place<counter> const at(v.k, counter(base, sent));
            with_variant(v, at, level, [&](auto const& object, sp::batch const& b, arguments const& a) {
              auto p = object.prepare(b);
              sp::pool pool;
              index_t const need = object.template scratch_bytes<double>(p, a.shape()),
                            keep = object.template saved_bytes<double>(p, a.shape());
              sp::owned<std::byte, 1> fast(pool, {need}), slow(pool, {keep}), both(pool, {need + keep});
              sp::workspace scratch(fast.tensor.data, std::size_t(need)), kept(slow.tensor.data, std::size_t(keep)),
                  all(both.tensor.data, std::size_t(need + keep));
              tensors<double> x(b, a);
              bool same = true;
              auto compare = [&] { same = same && x.results() == want[std::size_t(at.all.rank())].results; };
              for (int again = 0; again < 2; ++again) {
                x.backward(object, p, {scratch, kept}, x.forward(object, p, {scratch, kept}));
                compare();
              }
              sp::fill(x.out, -1.0);
              object.infer(p, {all, all}, x.q, x.k, x.v, x.out);
              compare();
              good += same;
            });
          },
          patient);
      CHECK(good == ranks);
    }
  }
}

TEST_CASE("level 2: a steady state allocates nothing") {
  for (variant const& v : variants) {
    if (v.whole) continue; // this kernel has vectors of its own
    INFO(v.name);
    std::atomic<long> allocations = 0;
    sp::threads::run(
        ranks,
        [&](sp::threads const& base) {
          sp::ledger sent;
          place<counter> const at(v.k, counter(base, sent));
          with_variant(v, at, 2, [&](auto const& object, sp::batch const& b, arguments const& a) {
            tensors<double> x(b, a);
            auto step = [&] {
              object.backward(b, object.forward(b, x.q, x.k, x.v, x.out), x.q, x.k, x.v, x.out, x.dout, x.dq, x.dk, x.dv);
            };
            step();
            step();
            long const before = support::allocations_of_thread;
            step();
            allocations += support::allocations_of_thread - before;
          });
        },
        patient);
    CHECK(allocations == 0);
  }
}

TEST_CASE("levels are 0 to 3, everything else is refused") {
  sp::layout const l(sp::documents::rectangular(1, 4), sp::contiguous{}, 1);
  sp::mapping const all = sp::identity_map(4);
  for (int level : {-1, 4, 100}) {
    auto refused = [&](auto make) {
      return support::says(support::failure_of(make), errc::bad_state, "check level " + std::to_string(level));
    };
    CHECK(refused([&] { return sp::ring_attention{sp::solo{}, sp::cpu{}, {.checks = level}}; }));
    CHECK(refused([&] { return sp::ulysses_attention{sp::solo{}, sp::cpu{}, {.checks = level}}; }));
    CHECK(refused([&] { return sp::gather_loss{sp::solo{}, sp::summed{}, {.checks = level}}; }));
    CHECK(refused([&] { return sp::gather_tokens{sp::solo{}, {.checks = level}}; }));
    CHECK(refused([&] { return sp::relayout(l, l, {&all, 1}, 0, {level}); }));
  }
  for (int level : {0, 1, 2, 3}) CHECK(sp::ring_attention{sp::solo{}, sp::cpu{}, {.checks = level}}.checks() == level);
}

} // namespace checks::test_levels
