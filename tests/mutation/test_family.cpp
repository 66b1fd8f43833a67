// A failure in one group of thread ranks ends the operations of every group, with bounded loops: a family that does not hear
// of it fails here instead of going on for ever, which is what tests/mutation.sh needs.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include <sp/threads.hpp>

namespace test_family {
namespace {

using clock_type = std::chrono::steady_clock;

/// Barriers until one of them fails, or for a second. Returns whether one was refused because rank 3 had failed.
bool refused(sp::threads const& group) {
  auto const end = clock_type::now() + std::chrono::seconds(1);
  try {
    while (clock_type::now() < end) group.barrier();
  } catch (sp::error const& e) {
    return e.code() == sp::errc::aborted && e.info().peer == 3 && e.info().problem.find("NaN in row 7") != std::string::npos;
  }
  return false;
}

} // namespace

TEST_CASE("family: an abort in one group ends the barriers of every other group, of the root and of groups split later") {
  for (int where : {0, 1, 2}) { // the group that hears of it is a column, the root, a part of a part
    std::atomic<int> told = 0;
    sp::threads::run(4,
                     [&](sp::threads const& c) {
                       auto row = c.split(c.rank() / 2, 0), column = c.split(c.rank() % 2, 0),
                            part = column.split(c.rank() / 2, 0);
                       c.barrier();
                       if (c.rank() == 3) row.abort({sp::errc::non_finite, "NaN in row 7", "Lower the rate"});
                       told += refused(where == 0 ? column : where == 1 ? c : part);
                     },
                     {.deadline = std::chrono::seconds(3)});
    CHECK(told == 4);
  }
}

TEST_CASE("family: an exchange of nothing that one side alone makes is told at the next message, not paired with it") {
  for (int early : {0, 1}) { // the sender or the receiver of the message is one exchange ahead
    sp::errc code{};
    std::string problem;
    try {
      sp::threads::run(2,
                       [&](sp::threads const& c) {
                         if (c.rank() == early) c.exchange({"step", {}, {}}).wait();
                         std::vector<int> data(3, c.rank());
                         sp::piece const all = sp::as_piece(sp::view<int, 1>(data.data(), {3}));
                         sp::parcel const message{1 - c.rank(), {&all, 1}};
                         std::span<sp::parcel const> const one(&message, 1), none;
                         c.exchange({"step", c.rank() == 0 ? one : none, c.rank() == 0 ? none : one}).wait();
                       },
                       {.deadline = std::chrono::seconds(3)});
    } catch (sp::error const& e) {
      code = e.code();
      problem = e.info().problem;
    }
    CAPTURE(problem);
    CHECK((code == sp::errc::short_message || code == sp::errc::rank_mismatch));
  }
}

TEST_CASE("family: a wait for a rank that does not come ends at its deadline, not before and not long after") {
  using std::chrono::milliseconds;
  milliseconds const deadline(300);
  auto best = milliseconds::max(); // of three attempts: the machine may be busy
  for (int attempt = 0; attempt < 3 && best > 2 * deadline; ++attempt) {
    std::atomic<bool> over = false;
    std::atomic<milliseconds::rep> took = 0;
    sp::errc code{};
    auto const start = clock_type::now();
    try {
      sp::threads::run(2,
                       [&](sp::threads const& c) {
                         if (c.rank() == 0) try {
                             c.barrier();
                           } catch (...) {
                             took = std::chrono::duration_cast<milliseconds>(clock_type::now() - start).count();
                             over = true;
                             throw;
                           }
                         while (!over) std::this_thread::sleep_for(milliseconds(1)); // it is there, but does not come
                       },
                       {.deadline = deadline});
    } catch (sp::error const& e) {
      code = e.code();
    }
    CHECK(code == sp::errc::timeout);
    CHECK(took >= deadline.count());
    best = std::min(best, milliseconds(took));
  }
  CHECK(best <= 2 * deadline);
}

} // namespace test_family
