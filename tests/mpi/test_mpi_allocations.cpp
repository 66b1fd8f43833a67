// Fault F6 between processes: the n-th allocation of a rank fails, for all n, in an exchange, in a wait and in a barrier.
// The family ends at once, every rank hears of it, and no byte comes into memory that is the caller's again.
#include "ranks.hpp"

#include <functional>

#include "support/allocations.hpp"

namespace test_mpi_allocations {

using namespace mpi_tests;

namespace {

/// What rank 1 receives: a number that travels with its header, and rows of 8 bytes, which are packed on their way.
struct memory {
  std::vector<int> small = std::vector<int>(1, -1);
  std::vector<char> large = std::vector<char>(std::size_t(1) << 17, -1);
  sp::piece number = sp::as_piece(all(small));
  sp::piece rows = sp::as_piece(sp::view<char, 2>(large.data(), {1 << 13, 8}, {16, 1}));
  void set(int value) {
    std::fill(small.begin(), small.end(), value);
    std::fill(large.begin(), large.end(), char(value));
  }
  bool holds(int value) const {
    return small[0] == value && std::count(large.begin(), large.end(), char(value)) == std::ptrdiff_t(large.size());
  }
};

void operations(sp::mpi const& c, memory& m) {
  parcel const to{1, {c.rank() == 0 ? &m.number : &m.rows, 1}};
  parcel const from[2]{{0, {&m.number, 1}}, {2, {&m.rows, 1}}};
  auto t = c.rank() == 1 ? c.exchange({"sum", {}, from}) : c.exchange({"sum", {&to, 1}, {}});
  t.wait();
  c.barrier();
}

/// Rank 1, allocation n; true if that many were made. `caught`: operations() has thrown bad_alloc.
bool fail_allocation(sp::mpi const& c, memory& m, long n, bool& caught) {
  support::failing_allocation = n;
  try {
    operations(c, m);
  } catch (std::bad_alloc const&) {
    caught = true;
  }
  bool const made = support::failing_allocation < 0;
  support::failing_allocation = -1;
  if (!caught) return made;
  m.set(-2); // it is the caller's again
  CHECK_THROWS_AS(c.barrier(), sp::error);
  return made;
}

/// Each allocation of rank 1 fails in its turn; returns how many reached the caller. `first_come`: the others are ahead of rank 1.
int fail_every_allocation(sp::mpi_options const& o, bool first_come) {
  int failures = 0;
  for (long n = 0;; ++n) {
    memory m;
    m.set(process() == 1 ? -1 : 7);
    bool made = false, caught = false;
    auto const ranks = outcomes(
        3,
        [&](sp::mpi const& c) {
          c.barrier();
          if (first_come == (c.rank() == 1)) std::this_thread::sleep_for(5ms);
          if (c.rank() == 1) {
            made = fail_allocation(c, m, n, caught);
            if (caught) std::this_thread::sleep_for(20ms); // for what the others send meanwhile
            if (caught) throw std::bad_alloc();
          } else {
            operations(c, m);
          }
        },
        o);
    INFO("allocation " << n);
    if (caught) CHECK(m.holds(-2));
    caught = sum_over_all(caught) > 0;
    made = sum_over_all(made) > 0;
    failures += caught;
    bool late = false; // a machine that is this busy: a communicator that timed out while it was made must not be made again
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      late = late || ranks[r].seconds >= 5;
      CHECK_MESSAGE(ranks[r].failed == caught, ranks[r].what);
      CHECK_MESSAGE((!caught || (r == 1 ? ranks[r].says("bad_alloc") : ranks[r].code == sp::errc::aborted)), ranks[r].what);
      CHECK(ranks[r].seconds < 5);
    }
    if (late || !made) return failures;
    REQUIRE(n < 1000);
  }
}

} // namespace

TEST_CASE("F6: the n-th allocation of a process fails in an operation") {
  for (auto how : {sp::mpi_options::parcels::direct, sp::mpi_options::parcels::owned})
    for (bool late : {false, true}) CHECK(fail_every_allocation({.deadline = 10s, .large_parcels = how}, late) >= 3);
}

namespace {

using operation = std::function<void(sp::mpi const&)>;

struct ending {
  bool begun = false;                  ///< there was a communicator; without one the machine was too busy to make it in time
  bool made = true;                    ///< there was an n-th allocation
  bool caught = false, failed = false; ///< it reached rank 1 as bad_alloc; the family has ended
  sp::errc code{};
  double seconds = 0;
};

/// A communicator that no run() looks after: allocation n of rank 1 fails in `mine`, rank 1 catches it and comes again much later.
ending catch_failed_allocation(MPI_Comm comm, long n, operation const& mine, operation const& others) {
  ending e;
  auto begin = timer::now();
  try {
    sp::mpi const c(comm, {.deadline = 6s});
    e.begun = true;
    begin = timer::now();
    c.barrier();                                         // a rank that is slow to leave it may find the family ended
    if (c.rank() == 1) std::this_thread::sleep_for(2ms); // the others have come, most of the time
    if (c.rank() == 1) support::failing_allocation = n;
    try {
      c.rank() == 1 ? mine(c) : others(c);
    } catch (std::bad_alloc const&) {
      e.caught = true;
    } catch (sp::error const&) {
      e.made = support::failing_allocation < 0;
      support::failing_allocation = -1;
      throw;
    }
    e.made = support::failing_allocation < 0;
    support::failing_allocation = -1;
    if (e.caught) std::this_thread::sleep_for(40ms);
    c.barrier();
  } catch (sp::error const& error) {
    e.failed = true;
    e.code = error.code();
  }
  e.seconds = std::chrono::duration<double>(timer::now() - begin).count();
  return e;
}

/// For each allocation of rank 1 in its turn, until one ends too late; returns how many reached it.
int catch_every_allocation(operation const& mine, operation const& others, bool agree) {
  int failures = 0;
  for (long n = 0;; ++n) {
    ending one;
    MPI_Comm const comm = first(3);
    if (comm != MPI_COMM_NULL) one = catch_failed_allocation(comm, n, mine, others);
    auto const ranks = shared_by_all(one);
    INFO("allocation " << n);
    bool late = false;
    for (int r = 0; r < 3; ++r) {
      ending const& e = ranks[std::size_t(r)];
      CHECK(e.begun);
      late = late || !e.begun; // see above
      CHECK(e.failed == (!agree || ranks[1].caught));
      CHECK((!e.failed || e.code == sp::errc::aborted || (!agree && e.code == sp::errc::rank_mismatch)));
      CHECK(e.seconds < 3); // long before the deadline
      late = late || e.seconds >= 3;
    }
    failures += ranks[1].caught;
    if (late || !ranks[1].made) return failures;
    REQUIRE(n < 1000);
  }
}

} // namespace

TEST_CASE("F6: who catches the bad_alloc of a barrier or a split has ended the family, without run()") {
  operation const barrier = [](sp::mpi const& c) { c.barrier(); };
  operation const split = [](sp::mpi const& c) { static_cast<void>(c.split(c.rank() % 2, 0)); };
  CHECK(catch_every_allocation(split, split, true) >= 5);
  CHECK(catch_every_allocation(barrier, split, false) >= 1); // what it says about the mismatch takes memory
}

TEST_CASE("mpi allocations: parcels move in chunks if one side owns them") {
  constexpr std::size_t bytes = std::size_t(4) << 20;
  std::vector<char> data(bytes, char(process() + 1));
  sp::mpi_options o = patient;
  o.large_parcels = process() == 0 ? sp::mpi_options::parcels::owned : sp::mpi_options::parcels::direct;
  auto const ranks = outcomes(
      2,
      [&](sp::mpi const& c) {
        sp::piece const whole = sp::as_piece(all(data));
        parcel const p{1 - c.rank(), {&whole, 1}};
        long const before = support::bytes_of_thread;
        if (c.rank() == 0) c.exchange({"large", {&p, 1}, {}}).wait();
        if (c.rank() == 1) c.exchange({"large", {}, {&p, 1}}).wait();
        long const chunks = (support::bytes_of_thread - before) / long(sp::detail::mpi_chunk_memory::bytes);
        CHECK((chunks >= 1 && chunks < 8)); // of 16, on both sides
      },
      o);
  for (auto const& r : ranks) CHECK_MESSAGE(!r.failed, r.what);
  if (process() < 2) CHECK(std::count(data.begin(), data.end(), char(1)) == std::ptrdiff_t(bytes));
}

} // namespace test_mpi_allocations
