// Tools of the tests of sp::mpi: a body runs on the first n processes, and what happened to each is known to all afterwards.
// Processes that are not asked sleep; nothing here uses the library under test to report about it.
#pragma once

#include <doctest/doctest.h>

#include <cstring>

#include "collective/pieces.hpp"
#include "job.hpp"
#include "support/failure.hpp"

namespace mpi_tests {

using namespace collective_tests;
using namespace std::chrono_literals;
using support::failure_of;
using support::says;
using timer = std::chrono::steady_clock; // one clock for all processes of a machine

inline sp::mpi_options const patient{.deadline = 30s};

inline bool has(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

/// Everybody's value, on every process.
template <class T>
std::vector<T> shared_by_all(T const& mine) {
  std::vector<T> all(std::size_t(processes()), mine);
  MPI_Request request;
  MPI_Iallgather(&mine, int(sizeof(T)), MPI_BYTE, all.data(), int(sizeof(T)), MPI_BYTE, MPI_COMM_WORLD, &request);
  settle(request);
  return all;
}
inline int sum_over_all(int mine) {
  int sum = 0;
  for (int v : shared_by_all(mine)) sum += v;
  return sum;
}

/// How one rank left its body.
struct outcome {
  bool failed = false;
  sp::errc code{};
  int rank = -1, peer = -1;
  double seconds = 0; ///< from the beginning of the body, or from `mark`
  timer::time_point left{};
  char what[800]{};
  bool says(std::string const& part) const { return has(what, part); }
};

/// Runs body(sp::mpi const&) on the first `size` processes; returns their outcomes, on every process.
template <class Body>
std::vector<outcome> outcomes(int size, Body&& body, sp::mpi_options options = patient) {
  outcome mine;
  auto note = [&](std::exception const& e) {
    mine.failed = true;
    std::strncpy(mine.what, e.what(), sizeof mine.what - 1);
  };
  if (size > processes()) throw std::runtime_error("this case needs " + std::to_string(size) + " processes");
  MPI_Comm const comm = first(size);
  if (comm != MPI_COMM_NULL) {
    auto const begin = timer::now();
    try {
      sp::mpi::run(comm, body, options);
    } catch (sp::error const& e) {
      note(e);
      mine.code = e.code();
      mine.rank = e.info().rank;
      mine.peer = e.info().peer;
    } catch (std::exception const& e) {
      note(e);
      mine.code = sp::errc::backend_error;
    }
    mine.left = timer::now();
    mine.seconds = std::chrono::duration<double>(mine.left - begin).count();
  }
  auto all = shared_by_all(mine);
  all.resize(std::size_t(size));
  return all;
}

/// The same for a body that must succeed everywhere, twice: with large parcels that move directly and through memory of their own.
template <class Body>
void all_good(int size, Body&& body, sp::mpi_options options = patient) {
  for (auto how : {sp::mpi_options::parcels::direct, sp::mpi_options::parcels::owned}) {
    options.large_parcels = how;
    auto const all = outcomes(size, body, options);
    for (std::size_t r = 0; r < all.size(); ++r)
      CHECK_MESSAGE(!all[r].failed, "rank " << r << " of " << size << ": " << all[r].what);
  }
}

/// What one attempt found: how long it took, and what else a busy machine may have spoilt. Equal on all processes.
struct verdict {
  double seconds = 0;
  std::string problems{};
  verdict(double s = 0) : seconds(s) {}
  void expect(bool good, std::string const& what) {
    if (!good) problems += "; not so: " + what;
  }
};

/// Up to three attempts of something that a busy machine may slow down; every process makes the same number. An attempt returns its
/// verdict; a CHECK within it would fail the test for good.
template <class F>
bool within(std::chrono::duration<double> limit, F&& attempt) {
  verdict last;
  for (int i = 0; i < 3; ++i)
    if (last = attempt(); last.problems.empty() && last.seconds <= limit.count()) return true;
  MESSAGE("the last attempt took " << last.seconds << " s of " << limit.count() << last.problems);
  return false;
}

} // namespace mpi_tests
