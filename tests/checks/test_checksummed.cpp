// F7: with checksums every corrupted message of a ring, Ulysses and USP is found, on the rank that received it, naming the
// sender; nothing else changes. Truncated and doubled messages are short_message as before.
#include <doctest/doctest.h>

#include <map>
#include <mutex>

#include <sp/chaos.hpp>
#include <sp/checksummed.hpp>
#include <sp/counting.hpp>
#include <sp/cpu.hpp>

#include "checks/step_arguments.hpp"
#include "collective/pieces.hpp"

namespace checks::test_checksummed {
namespace {

using collective_tests::all;
using collective_tests::everybody;
constexpr sp::threads_options patient{.deadline = std::chrono::seconds(60)};
constexpr int ranks = 4;

template <class C>
constexpr bool thread_abilities = sp::has_barrier<C>&& sp::splittable<C>&& sp::peer_memory<C>&& sp::abortable<C> &&
                                  !sp::has_broadcast<C> && !sp::has_all_gather_v<C>;
static_assert(thread_abilities<sp::checksummed<sp::threads>> && thread_abilities<sp::checksummed<sp::chaos<sp::threads>>>);

/// Abilities of its own, over those of threads: what a transport with collectives looks like.
struct native {
  using memory_type = sp::host_memory;
  sp::threads inner;
  bool lies = false;
  int rank() const { return inner.rank(); }
  int size() const { return inner.size(); }
  auto exchange(sp::traffic const& t) const { return inner.exchange(t); }
  auto all_to_all_v(sp::traffic const& t) const { return inner.exchange(t); }
  auto all_gather_v(sp::traffic const& t) const {
    std::vector<sp::parcel> sends;
    for (int r = 0; r < size(); ++r) {
      bool own_missing = r == rank();
      for (auto const& p : t.receives) own_missing = own_missing && !(p.peer == r && sp::total_bytes(p.pieces) > 0);
      if (!own_missing) sends.push_back({r, t.sends[0].pieces});
    }
    auto token = inner.exchange({t.primitive, sends, t.receives});
    token.wait();
    return sp::solo::token{};
  }
  void broadcast(std::span<sp::piece const> pieces, int root) const {
    sp::broadcast(inner, pieces, root);
    if (lies) *pieces[0].data ^= std::byte{4};
  }
};

/// One step of rank `base`, whose received message `corrupt` is changed in one bit; what the decorators saw.
template <class Comm>
std::vector<unsigned char> step(kind k, Comm const& comm) {
  place<Comm> const at(k, comm);
  arguments a;
  a.level = 1;
  a.keep = sp::keep::output;
  std::vector<unsigned char> results;
  at.with(k, a, [&](auto const& object) {
    sp::batch b = at.batch(a);
    tensors<double> x(b, a);
    object.backward(b, object.forward(b, x.q, x.k, x.v, x.out), x.q, x.k, x.v, x.out, x.dout, x.dq, x.dk, x.dv);
    results = x.results();
  });
  return results;
}

} // namespace

TEST_CASE("F7: a corrupted message ends the family: the next call of every rank fails at once [tsan]") {
  std::atomic<int> refused = 0, named = 0;
  try {
    sp::threads::run(
        3,
        [&](sp::threads const& base) {
          sp::checksummed const c(sp::chaos(base, {.corrupt_at = base.rank() == 1 ? 2 : -1}));
          std::string first;
          for (int k = 0; k < 8; ++k) {
            everybody e(c.rank(), 3, k, [](int from, int to) { return 5 + from + 2 * to; });
            outcome const o = outcome_of([&] { c.exchange(e.traffic("x")).wait(); });
            if (!o.failure) {
              CHECK(e.arrived());
              continue;
            }
            if (c.rank() == 1) named += o.is(errc::backend_error) && o.failure->primitive == "x" && o.failure->peer == 0;
            refused += outcome_of([&] { c.barrier(); }).is(errc::aborted);
            break;
          }
        },
        patient);
  } catch (sp::error const&) {
  }
  CHECK(named == 1);
  CHECK(refused == 3);
}

#ifndef SP_TEST_SANITIZED
TEST_CASE("checksums change nothing but the bytes on the wire: eight more per message") {
  for (kind k : {kind::ring, kind::ulysses, kind::usp})
    sp::threads::run(
        ranks,
        [&](sp::threads const& base) {
          sp::ledger plain, sealed;
          auto const want = step(k, sp::counting(base, plain));
          auto const found = step(k, sp::checksummed(sp::counting(base, sealed)));
          CHECK(want == found);
          CHECK(plain.total().messages > 0);
          CHECK(sealed.total().messages == plain.total().messages);
          CHECK(sealed.total().bytes_sent == plain.total().bytes_sent + 8 * plain.total().messages);
          CHECK(sealed.total().bytes_received - plain.total().bytes_received == 8 * plain.total().messages); // as many come as go
        },
        patient);
}

TEST_CASE("F7: one flipped bit in any message of a step is backend_error naming the sender, on all objects") {
  for (kind k : {kind::ring, kind::ulysses, kind::usp}) {
    int found = 0;
    for (int victim : {0, 3})
      for (index_t at = 0; at < 1000; ++at) {
        std::atomic<int> left = 0;
        std::optional<sp::error_info> cause;
        try {
          sp::threads::run(
              ranks,
              [&](sp::threads const& base) {
                struct leaving {
                  std::atomic<int>& n;
                  ~leaving() { ++n; }
                } on_exit{left};
                step(k, sp::checksummed(
                            sp::chaos(base, {.seed = std::uint64_t(at), .corrupt_at = base.rank() == victim ? at : -1})));
              },
              patient);
        } catch (sp::error const& e) {
          cause = e.info();
        }
        CHECK(left == ranks);
        if (!cause) break; // this rank receives fewer messages
        CAPTURE(cause->problem);
        CHECK(cause->code == errc::backend_error);
        CHECK(cause->rank >= 0);
        CHECK(cause->peer >= 0);
        CHECK(cause->problem.find("bytes from rank " + std::to_string(cause->peer)) != std::string::npos);
        CHECK((cause->primitive.find("ring.") == 0 || cause->primitive.find("ulysses.") == 0));
        ++found;
      }
    CAPTURE(name_of(k));
    CHECK(found >= (k == kind::ulysses ? 2 * 4 * (ranks - 1) : 2 * 6));
  }
}

TEST_CASE("truncated and doubled messages stay short_message") {
  for (bool twice : {false, true}) {
    std::atomic<int> told = 0;
    outcome const o = outcome_of([&] {
      sp::threads::run(
          2,
          [&](sp::threads const& base) {
            index_t const n = base.rank() == 0 ? 1 : -1;
            sp::checksummed const c(sp::chaos(base, {.truncate_at = twice ? -1 : n, .duplicate_at = twice ? n : -1}));
            for (int k = 0; k < 3; ++k) {
              everybody e(c.rank(), 2, k, [](int, int) { return 12; });
              c.exchange(e.traffic("x")).wait();
              told += e.arrived();
            }
          },
          patient);
    });
    CHECK(o.is(errc::short_message));
    CHECK(o.says(twice ? "112 bytes" : "48 bytes")); // 12 ints and 8 bytes; twice, or without the trailer
    CHECK(told == 2);
  }
}

TEST_CASE("an old message of the right size is found: the number of a message is part of its checksum") {
  std::vector<int> payload{1, 2, 3};
  sp::piece const p = sp::as_piece(all(payload));
  auto const one = sp::detail::checksummed_exchange::checksum({&p, 1}, 1),
             two = sp::detail::checksummed_exchange::checksum({&p, 1}, 2);
  CHECK(one != two);
  sp::piece const cut[] = {sp::as_piece(all(payload).rows(0, 1)), sp::as_piece(all(payload).rows(1, 2))};
  CHECK(sp::detail::checksummed_exchange::checksum(cut, 1) == one); // both ends may cut a message differently
}

TEST_CASE("an exchange that was refused before anything was sent does not count as a message") {
  sp::threads::run(
      2,
      [&](sp::threads const& base) {
        sp::checksummed const c(base);
        everybody a(c.rank(), 2, 0, [](int, int) { return 3; });
        if (c.rank() == 0) {
          sp::parcel const twice[] = {a.sends[1], a.sends[1]};
          CHECK(outcome_of([&] { c.exchange({"twice", twice, {}}).wait(); }).is(errc::bad_state));
          CHECK(outcome_of([&] {
                  c.exchange({"nobody", {}, std::vector<sp::parcel>{a.receives[1], {2, {}}}}).wait();
                }).is(errc::bad_state));
        }
        c.exchange(a.traffic("a")).wait();
        CHECK(a.arrived());
      },
      patient);
}

TEST_CASE("native collectives carry checksums too; several tokens may be open") {
  sp::threads::run(
      3,
      [&](sp::threads const& base) {
        sp::checksummed const c(native{base});
        sp::pool scratch;
        for (int own = 0; own < 2; ++own) { // own part in place or copied
          std::vector<int> mine(4, 10 + c.rank()), got(12, -1);
          std::vector<sp::parcel> receives;
          std::vector<sp::piece> pieces(3);
          for (int r = 0; r < 3; ++r) pieces[std::size_t(r)] = sp::as_piece(all(got).rows(4 * r, 4));
          for (int r = 0; r < 3; ++r)
            receives.push_back({r, r == c.rank() && own == 0 ? std::span<sp::piece const>()
                                                             : std::span<sp::piece const>(&pieces[std::size_t(r)], 1)});
          sp::piece const sent = sp::as_piece(all(mine));
          sp::all_gather_v(c, "gather", {&sent, 1}, receives, scratch).wait();
          for (int r = 0; r < 3; ++r)
            if (r != c.rank() || own) CHECK(got[std::size_t(4 * r + 3)] == 10 + r);
        }
        everybody a(c.rank(), 3, 0, [](int, int) { return 3; });
        everybody b(c.rank(), 3, 1, [](int, int) { return 4; });
        auto first = sp::all_to_all_v(c, a.traffic("a"));
        auto second = c.exchange(b.traffic("b"));
        second.wait();
        first.wait();
        CHECK(a.arrived());
        CHECK(b.arrived());
        std::vector<int> v(5, c.rank() == 2 ? 7 : 0);
        sp::piece const p = sp::as_piece(all(v));
        sp::broadcast(c, {&p, 1}, 2);
        CHECK(v[4] == 7);
        sp::checksummed const bad(native{base, c.rank() == 0});
        outcome const o = outcome_of([&] { sp::broadcast(bad, {&p, 1}, 2); });
        CHECK(o.is(errc::backend_error) == (c.rank() == 0));
      },
      patient);
}
#endif

} // namespace checks::test_checksummed
