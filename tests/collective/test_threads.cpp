// The threads communicator when nothing goes wrong: order, cuts, waits, groups, publications, for 1 to 8 ranks on any machine.
// All movement is compared value by value.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <thread>
#include <vector>

#include <sp/threads.hpp>

#include "collective/cases.hpp"
#include "support/failure.hpp"

namespace test_threads {

using namespace collective_tests;
using namespace std::chrono_literals;
using support::failure_of;
using support::says;

namespace {

constexpr sp::threads_options patient{.deadline = 30s};

} // namespace

TEST_CASE("threads: everybody to everybody, ragged, empty and own parcels, 1 to 8 ranks [tsan][asan]") {
  for (int size = 1; size <= 8; ++size) sp::threads::run(size, everybody_to_everybody<sp::threads>, patient);
}

TEST_CASE("threads: messages of a pair arrive in the order of the exchanges, whatever the order of waits [tsan][asan]") {
  for (int size : {2, 3, 5})
    sp::threads::run(
        size, [](sp::threads const& c) { messages_in_order(c, 10, 10); }, patient);
}

TEST_CASE("threads: pieces are cut and strided differently on both sides [tsan][asan]") {
  sp::threads::run(
      3, [](sp::threads const& c) { pieces_cut_differently(c, 2); }, patient);
}

TEST_CASE("threads: a wait needs no more of a peer than that it entered the same exchange [tsan]") {
  std::atomic<bool> first_done = false;
  sp::threads::run(
      2,
      [&](sp::threads const& c) {
        std::vector<int> big(100000, c.rank()), got(100000, -1); // too large to be copied by the exchange itself
        piece const out = sp::as_piece(all(big)), in = sp::as_piece(all(got));
        parcel const send{1 - c.rank(), {&out, 1}}, receive{1 - c.rank(), {&in, 1}};
        auto token = c.exchange({"help", {&send, 1}, {&receive, 1}});
        if (c.rank() == 0) {
          token.wait();
          first_done = true;
        } else {
          while (!first_done) std::this_thread::yield(); // never inside the library meanwhile
          token.wait();
        }
        CHECK(std::count(got.begin(), got.end(), 1 - c.rank()) == 100000);
      },
      patient);
  CHECK(first_done);
}

TEST_CASE("threads: sub-groups in both orders, used at the same time, with exchanges of other groups under way [tsan][asan]") {
  for (int size : {1, 2, 4, 6, 8}) sp::threads::run(size, groups_in_both_orders<sp::threads>, patient);
}

TEST_CASE("threads: equal keys keep the order of ranks, colors may be any number, groups split again and outlive their parents "
          "[tsan]") {
  sp::threads::run(6, groups_of_groups<sp::threads>, patient);
}

TEST_CASE("threads: nobody leaves a barrier before everybody has come [tsan]") {
  for (int size : {1, 2, 3, 8}) {
    std::atomic<int> inside = 0, wrong = 0;
    sp::threads::run(
        size,
        [&](sp::threads const& c) {
          for (int round = 1; round <= 200; ++round) {
            ++inside;
            c.barrier();
            if (inside < size * round) ++wrong;
            c.barrier();
          }
        },
        patient);
    CHECK(wrong == 0);
    CHECK(inside == 200 * size);
  }
}

TEST_CASE("threads: published buffers are read and written by peers until all have released [tsan][asan]") {
  for (int size : {1, 2, 5}) {
    std::atomic<int> good = 0;
    sp::threads::run(
        size,
        [&](sp::threads const& c) {
          for (int round = 0; round < 20; ++round) {
            std::vector<int> mine(8, 10 * c.rank() + round), board(std::size_t(size), -1);
            std::array<piece, 2> shown{sp::as_piece(all(mine)), sp::as_piece(all(board))};
            auto e = c.publish("pull", shown);
            int sum = 0;
            for (int r = 0; r < size; ++r) {
              sum += sp::as_view<int, 1>(e.of(r)[0])(c.rank() % 8);
              sp::as_view<int, 1>(e.of(r)[1])(c.rank()) = c.rank(); // every rank its own place
            }
            std::vector<int> second(3, c.rank());
            piece const other = sp::as_piece(all(second));
            auto f = c.publish("again", {&other, 1});
            sum -= sp::as_view<int, 1>(f.of((c.rank() + 1) % size)[0])(2) - (c.rank() + 1) % size;
            e.release(); // the older one first
            f.release();
            bool ok = sum == 10 * size * (size - 1) / 2 + size * round;
            for (int r = 0; r < size; ++r) ok = ok && board[std::size_t(r)] == r;
            good += ok;
          }
        },
        patient);
    CHECK(good == 20 * size);
  }
}

TEST_CASE("threads: misuse is refused before anything is sent [tsan]") {
  sp::threads::run(
      2,
      [](sp::threads const& c) {
        int const other = 1 - c.rank();
        ring_step s(c.rank(), 2, 7);
        parcel const wrong{2, s.send.pieces}, twice[2]{s.send, s.send};
        CHECK(says(failure_of([&] { c.exchange({"x", {&wrong, 1}, {}}).wait(); }), sp::errc::bad_state, "peer 2"));
        CHECK(says(failure_of([&] { c.exchange({"x", twice, {}}).wait(); }), sp::errc::bad_state, "two parcels"));

        auto token = c.exchange(s.traffic());
        token.wait();
        CHECK(says(failure_of([&] { token.wait(); }), sp::errc::bad_state, "already"));
        CHECK(s.in == 7);

        std::deque<ring_step> steps;
        std::vector<sp::threads::token> open;
        for (int k = 0; k < 8; ++k) open.push_back(c.exchange(steps.emplace_back(c.rank(), 2, k).traffic()));
        CHECK(says(failure_of([&] { c.exchange(s.traffic()).wait(); }), sp::errc::bad_state, "8 exchanges are open"));
        for (auto& t : open) t.wait();
        CHECK(steps[7].in == 7);

        // One token stays open for long: what comes behind it is neither refused nor held up.
        ring_step late(c.rank(), 2, 70);
        auto patient_token = c.exchange(late.traffic());
        for (int k = 0; k < 100; ++k) {
          ring_step next(c.rank(), 2, k);
          c.exchange(next.traffic()).wait();
          CHECK(next.in == k);
        }
        patient_token.wait();
        CHECK(late.in == 70);

        std::vector<sp::threads::publication> shown;
        for (int k = 0; k < 4; ++k) shown.push_back(c.publish("p", {}));
        CHECK(says(failure_of([&] { static_cast<void>(c.publish("p", {})); }), sp::errc::bad_state, "4 publications"));
        for (auto& e : shown) e.release();
        CHECK(says(failure_of([&] { shown[0].release(); }), sp::errc::bad_state, "already"));
        c.exchange(s.traffic()).wait(); // still in order
        CHECK(s.in == 7);
        CHECK(other == 1 - c.rank());
      },
      patient);
  CHECK(says(failure_of([] { sp::threads::run(0, [](sp::threads const&) {}); }), sp::errc::bad_state, "0 ranks"));
  for (auto deadline : {std::chrono::milliseconds(0), std::chrono::milliseconds(-5), std::chrono::milliseconds::max()}) {
    auto const e = failure_of([&] { sp::threads::run(1, [](sp::threads const&) {}, {.deadline = deadline}); });
    CHECK(says(e, sp::errc::bad_state, "a deadline of " + std::to_string(deadline.count()) + " ms"));
    CHECK(e.remedy.find("at most 31536000000 ms") != std::string::npos);
  }
  sp::threads::run(1, [](sp::threads const& c) { c.barrier(); }, {.deadline = std::chrono::hours(24 * 365)});
}

TEST_CASE("threads: two threads of one rank inside the same communicator are told [tsan]") {
  std::atomic<int> refused = 0, passed = 0;
  sp::threads::run(
      2,
      [&](sp::threads const& c) {
        if (c.rank() == 1) {
          while (refused == 0) std::this_thread::yield(); // keeps the first one inside
          return c.barrier();
        }
        auto enter = [&] {
          try {
            c.barrier();
            ++passed;
          } catch (sp::error const& e) {
            refused += e.code() == sp::errc::bad_state;
          }
        };
        std::thread second(enter);
        enter();
        second.join();
      },
      patient);
  CHECK(passed == 1);
  CHECK(refused == 1);
}

TEST_CASE("threads: a mailbox shows both sides the same places, and uses its blocks again, in step or far apart [tsan]") {
  using mailbox = sp::detail::mailbox<sp::inline_queue::event>;
  auto open = [](mailbox& box, bool sender) {
    box.make_room(sender);
    return box.open(sender);
  };
  for (int ahead : {1, 40}) { // messages that the sender has opened before the receiver opens one
    mailbox box;
    std::vector<mailbox::block*> used;
    for (int lap = 0; lap < 1000 / ahead; ++lap) {
      std::vector<mailbox::place> sent;
      for (int i = 0; i < ahead; ++i) sent.push_back(open(box, true));
      for (auto const& s : sent) {
        auto const r = open(box, false);
        CHECK((r.in == s.in && r.slot == s.slot && r.ticket == s.ticket));
        box.end(*s.in, true);
        box.end(*r.in, false);
        if (std::find(used.begin(), used.end(), s.in) == used.end()) used.push_back(s.in);
      }
    }
    CHECK(used.size() <= std::size_t(ahead) / mailbox::slots + 2);
  }
  mailbox box;
  std::array<std::vector<mailbox::place>, 2> seen;
  auto side = [&](bool sender) {
    for (int i = 0; i < 20000; ++i) {
      auto const p = seen[sender].emplace_back(open(box, sender));
      box.end(*p.in, sender);
      if (i % 100 == 0) std::this_thread::yield();
    }
  };
  std::thread other(side, true);
  side(false);
  other.join();
  for (std::size_t i = 0; i < seen[0].size(); ++i)
    CHECK((seen[0][i].slot == seen[1][i].slot && seen[0][i].ticket == seen[1][i].ticket));
}

} // namespace test_threads
