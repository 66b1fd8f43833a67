// The ledger holds exactly what was sent, and chaos does exactly what its numbers say; both keep the abilities of what they wrap.
// Also the communicator of one rank.
#include <doctest/doctest.h>

#include <set>

#include <sp/collective/decorators/chaos.hpp>
#include <sp/collective/decorators/checksummed.hpp>
#include <sp/collective/decorators/counting.hpp>
#include <sp/collective/reductions.hpp>
#include <sp/mesh/group.hpp>
#include <sp/threads.hpp>

#include "collective/pieces.hpp"
#include "support/failure.hpp"

namespace test_decorators {

using namespace collective_tests;
using namespace std::chrono_literals;
using support::failure_of;
using support::says;

namespace {

constexpr sp::threads_options patient{.deadline = 30s};

struct token {
  void wait() {}
};
struct base { // nothing but the base
  using memory_type = sp::host_memory;
  int rank() const { return 1; }
  int size() const { return 3; }
  token exchange(sp::traffic const&) const { return {}; }
};
struct native : base { // hides what it sends
  token all_to_all_v(sp::traffic const&) const { return {}; }
  token all_gather_v(sp::traffic const&) const { return {}; }
  void all_reduce(sp::view<float, 1>) const {}
  void reduce_scatter(std::span<sp::view<float, 1> const>, sp::view<float, 1>) const {}
  void broadcast(std::span<piece const>, int) const {}
  void barrier() const {}
};

// Each of these has one ability and no other.
struct exchanges : base {
  token all_to_all_v(sp::traffic const&) const { return {}; }
};
struct gathers : base {
  token all_gather_v(sp::traffic const&) const { return {}; }
};
struct reduces : base {
  void all_reduce(sp::view<float, 1>) const {}
};
struct scatters : base {
  void reduce_scatter(std::span<sp::view<float, 1> const>, sp::view<float, 1>) const {}
};
struct broadcasts : base {
  void broadcast(std::span<piece const>, int) const {}
};
struct barriers : base {
  void barrier() const {}
};
struct splits : base {
  native split(int, int) const { return {}; }
};
struct publishes : base {
  sp::solo::publication publish(char const*, std::span<piece const> mine) const { return {mine}; }
};
struct aborts : base {
  void abort(sp::error_info const&) const {}
};
struct strides : base {
  sp::index_t stride() const { return 2; }
};
// Each of these has a member of the right name that does not do.
struct exchanges_without_token : base {
  void all_to_all_v(sp::traffic const&) const {}
};
struct gathers_not_const : base {
  token all_gather_v(sp::traffic const&) { return {}; }
};
struct broadcasts_without_root : base {
  void broadcast(std::span<piece const>) const {}
};
struct splits_to_nothing : base {
  int split(int, int) const { return 0; }
};
struct publishes_nothing : base {
  void publish(char const*, std::span<piece const>) const {}
};
struct aborts_without_reason : base {
  void abort() const {}
};

/// One bit per ability.
template <class C>
constexpr unsigned abilities() {
  bool const has[] = {sp::communicator<C>,
                      sp::has_all_to_all_v<C>,
                      sp::has_all_gather_v<C>,
                      sp::has_all_reduce<C, int>,
                      sp::has_all_reduce<C, float>,
                      sp::has_reduce_scatter<C, int>,
                      sp::has_broadcast<C>,
                      sp::has_reduce_scatter<C, float>,
                      sp::has_barrier<C>,
                      sp::splittable<C>,
                      sp::peer_memory<C>,
                      sp::abortable<C>,
                      sp::has_stride<C>};
  unsigned bits = 0;
  for (bool b : has) bits = 2 * bits + b;
  return bits;
}
constexpr unsigned bit_of_stride = 1;

/// Every decorator has the abilities of what it wraps, no more and no less; a mesh group knows its stride besides.
template <class... C>
constexpr bool decorators_keep_abilities = ((abilities<sp::counting<C>>() == abilities<C>() &&
                                             abilities<sp::chaos<C>>() == abilities<C>() &&
                                             abilities<sp::checksummed<C>>() == abilities<C>() &&
                                             abilities<sp::group<C>>() == (abilities<C>() | bit_of_stride)) &&
                                            ...);
template <class... C>
constexpr bool all_differ_in_one_bit = ((__builtin_popcount(abilities<C>() ^ abilities<base>()) == 1) && ...);
template <class... C>
constexpr bool all_are_bare = ((abilities<C>() == abilities<base>()) && ...);

static_assert(
    all_differ_in_one_bit<exchanges, gathers, reduces, scatters, broadcasts, barriers, splits, publishes, aborts, strides>);
static_assert(all_are_bare<base, exchanges_without_token, gathers_not_const, broadcasts_without_root, splits_to_nothing,
                           publishes_nothing, aborts_without_reason>);
static_assert(decorators_keep_abilities<base, native, sp::solo, sp::threads>);
static_assert(
    decorators_keep_abilities<exchanges, gathers, reduces, scatters, broadcasts, barriers, splits, publishes, aborts, strides>);
static_assert(decorators_keep_abilities<exchanges_without_token, gathers_not_const, broadcasts_without_root, splits_to_nothing,
                                        publishes_nothing, aborts_without_reason>);
static_assert(decorators_keep_abilities<sp::chaos<sp::threads>, sp::group<sp::counting<sp::threads>>, sp::checksummed<native>>);

/// What split() makes: a decorator decorates the new group too; a mesh group does not, for the new one follows no axis.
template <class C>
using split_of = decltype(std::declval<C const&>().split(0, 0));
static_assert(std::is_same_v<split_of<sp::counting<splits>>, sp::counting<native>>);
static_assert(std::is_same_v<split_of<sp::chaos<splits>>, sp::chaos<native>>);
static_assert(std::is_same_v<split_of<sp::checksummed<splits>>, sp::checksummed<native>>);
static_assert(std::is_same_v<split_of<sp::group<splits>>, native>);

} // namespace

TEST_CASE("solo: parcels to oneself are copied, other peers are refused") {
  sp::solo const c;
  everybody e(0, 1, 0, [](int, int) { return 12; });
  c.exchange(e.traffic("self")).wait();
  CHECK(e.arrived());
  c.exchange({}).wait();
  c.barrier();
  CHECK(c.split(3, 4).size() == 1);
  piece const p = sp::as_piece(all(e.out[0]));
  auto shown = c.publish("p", {&p, 1});
  CHECK(sp::as_view<int, 1>(shown.of(0)[0])(3) == token_value(0, 0, 0, 3));
  shown.release();
  parcel const other{1, {&p, 1}};
  CHECK(says(failure_of([&] { c.exchange({"x", {&other, 1}, {}}).wait(); }), sp::errc::bad_state, "peer 1"));
  CHECK(says(failure_of([&] { c.exchange({"x", e.sends, {}}).wait(); }), sp::errc::short_message, "sends 48 bytes", "expects 0"));
}

TEST_CASE("counting: what the fallbacks really send, per primitive; groups count into the same ledger [tsan]") {
  sp::threads::run(
      4,
      [](sp::threads const& inner) {
        sp::ledger counts;
        sp::counting c(inner, counts);
        sp::pool scratch;
        int const r = c.rank();

        everybody e(r, 4, 0, [](int from, int to) { return from == 2 ? 0 : from + 10 * to; });
        for (int i = 0; i < 2; ++i) c.exchange(e.traffic("ragged")).wait();
        sp::index_t sent = 0, received = 0, messages = 0;
        for (int p = 0; p < 4; ++p) {
          if (p == r) continue;
          sent += 2 * 4 * e.count(r, p);
          received += 2 * 4 * e.count(p, r);
          messages += e.count(r, p) > 0 ? 2 : 0;
        }
        CHECK(counts.of("ragged") == sp::ledger_entry{2, messages, sent, received, 0, 0});

        std::vector<double> small(10, 1.0), large(1001, 1.0);
        sp::all_reduce(c, all(small), scratch, "small");
        CHECK(counts.of("small") == sp::ledger_entry{1, 3, 3 * 80, 3 * 80, 0, 0});
        sp::all_reduce(c, all(large), scratch, "large");
        sp::index_t const part = sp::cut(1001, r + 1, 4) - sp::cut(1001, r, 4), moved = 8 * (1001 - part + 3 * part);
        CHECK(counts.of("large") == sp::ledger_entry{2, 6, moved, moved, 0, 0});

        piece const p = sp::as_piece(all(small));
        sp::broadcast(c, {&p, 1}, 2);
        int const place = (r + 2) % 4; // from the root: 0 sends twice, 1 once
        CHECK(counts.of("broadcast") == sp::ledger_entry{2,
                                                         place == 0   ? 2
                                                         : place == 1 ? 1
                                                                      : 0,
                                                         80 * (place == 0   ? 2
                                                               : place == 1 ? 1
                                                                            : 0),
                                                         place == 0 ? 0 : 80, 0, 0});
        sp::barrier(c);
        CHECK(counts.of("barrier") == sp::ledger_entry{1, 0, 0, 0, 0, 0});

        auto pair = c.split(r / 2, r);
        ring_step s(pair.rank(), pair.size(), r);
        pair.exchange(s.traffic("pairs")).wait();
        CHECK(s.in == (r ^ 1));
        CHECK(counts.of("pairs") == sp::ledger_entry{1, 1, 4, 4, 0, 0});

        auto shown = c.publish("pull", {&p, 1});
        shown.release();
        CHECK(counts.of("pull") == sp::ledger_entry{1, 0, 0, 0, 1, 80});
        CHECK(counts.of("never") == sp::ledger_entry{});
        sp::index_t total = 0;
        for (auto const& [name, entry] : counts.entries()) total += entry.bytes_sent;
        CHECK(counts.total().bytes_sent == total);
        counts.clear();
        CHECK(counts.total() == sp::ledger_entry{});
      },
      patient);
}

TEST_CASE("counting: abilities that hide what they send count as their fallbacks") {
  sp::ledger counts;
  sp::counting c(native{}, counts); // rank 1 of 3
  std::vector<float> v(10), w(4);
  c.all_reduce(all(v)); // the own part is [3, 6)
  CHECK(counts.of("all_reduce") == sp::ledger_entry{1, 4, 4 * (7 + 6), 4 * (7 + 6), 0, 0});
  std::vector<sp::view<float, 1>> parts{all(v), all(w), all(v)};
  c.reduce_scatter(std::span<sp::view<float, 1> const>(parts), all(w));
  CHECK(counts.of("reduce_scatter") == sp::ledger_entry{1, 2, 4 * 20, 4 * 8, 0, 0});
  piece const p = sp::as_piece(all(w));
  c.broadcast({&p, 1}, 1);
  c.broadcast({&p, 1}, 0);
  CHECK(counts.of("broadcast") == sp::ledger_entry{2, 2, 32, 16, 0, 0});
  parcel const mine{1, {&p, 1}}, from[3]{{0, {&p, 1}}, {1, {&p, 1}}, {2, {&p, 1}}};
  c.all_gather_v({"gather", {&mine, 1}, from}).wait();
  CHECK(counts.of("gather") == sp::ledger_entry{1, 2, 32, 32, 0, 0});
  c.all_to_all_v({"a2a", from, from}).wait();
  CHECK(counts.of("a2a") == sp::ledger_entry{1, 2, 32, 32, 0, 0});
}

TEST_CASE("chaos: the generator gives other numbers for every seed, rank and call, and the same ones again") {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 10; ++seed)
    for (std::uint64_t rank = 0; rank < 10; ++rank)
      for (std::uint64_t n = 0; n < 100; ++n) seen.insert(sp::detail::chaos_number(seed, rank, n));
  CHECK(seen.size() == 10000);
  static_assert(sp::detail::chaos_number(1, 2, 3) == sp::detail::chaos_number(1, 2, 3));
}

TEST_CASE("chaos: the named call fails, in a sub-group too, and only that one") {
  sp::chaos c(sp::solo{}, {.fail_at = 3});
  c.barrier();
  auto g = c.split(0, 0);
  g.exchange({}).wait();
  CHECK(says(failure_of([&] { g.barrier(); }), sp::errc::backend_error, "call 3"));
  c.barrier();
  CHECK(c.calls() == 5);
}

TEST_CASE("chaos: a corrupted message differs in one bit, the others in none [tsan][asan]") {
  std::atomic<int> flipped = 0;
  sp::threads::run(
      2,
      [&](sp::threads const& inner) {
        sp::chaos c(inner, {.seed = 5, .corrupt_at = inner.rank() == 0 ? 2 : -1});
        for (int k = 0; k < 5; ++k) {
          everybody e(c.rank(), 2, k, [](int, int) { return 50; });
          c.exchange(e.traffic("x")).wait();
          int bits = 0;
          for (int i = 0; i < 50; ++i)
            bits += __builtin_popcount(
                unsigned(e.in[std::size_t(1 - c.rank())][std::size_t(i)] ^ token_value(1 - c.rank(), c.rank(), k, i)));
          CHECK(bits == (c.rank() == 0 && k == 2 ? 1 : 0));
          flipped += bits;
        }
      },
      patient);
  CHECK(flipped == 1);
}

} // namespace test_decorators
