// Flight records of real processes: each writes its own when it learns of the failure, and the merge tool names the culprit.
// Also traces: one file per process, merged on one clock.
#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include <sys/stat.h>

#include "diagnosis/scratch.hpp"
#include "mpi/job.hpp"

namespace test_mpi_diagnosis {

using namespace diagnosis_tests;

namespace {

/// Rank 2 does not come to the last of four barriers before the deadline.
void come_late() {
  try {
    sp::mpi::run(MPI_COMM_WORLD,
                 [](sp::mpi const& world) {
                   auto row = world.split(0, -world.rank()); // the same ranks in another order
                   for (int i = 0; i < 3; ++i) row.barrier();
                   if (world.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(2000));
                   sp::located({"trainer", ".step", world.rank(), world.size()}, [&] { row.barrier(); });
                 },
                 {.deadline = std::chrono::milliseconds(1000)});
    FAIL_CHECK("nothing failed");
  } catch (sp::error const& e) {
    CHECK((e.code() == sp::errc::timeout || e.code() == sp::errc::aborted));
  }
}

/// What the tool makes of the records and traces of all, in the folder `at`.
void check_merged_files(std::string const& at) {
  auto const o = run(tool() + at + "flight.*");
  INFO(o.text);
  CHECK(o.code == 1);
  CHECK(has(o.text, "4 of 4 ranks left a flight record\n"));
  CHECK(has(o.text,
            "operation 3 of group 1 (ranks 0, 1, 2, 3): rank 2 never came to barrier in trainer.step, where ranks 0, 1, 3 wait; "
            "of rank 2: it is in "));
  auto const merged = run(tool() + "--trace " + at + "all.json " + at + "trace.[0-3]");
  INFO(merged.text);
  CHECK(has(merged.text, "events of ranks 0, 1, 2, 3 in "));
  auto const checked = run("python3 '" SP_TEST_DIR "/diagnosis/check_trace.py' " + at + "all.json");
  INFO(checked.text);
  CHECK(checked.code == 0);
  CHECK(has(checked.text, "barrier\n"));
}

} // namespace

TEST_CASE("diagnosis over processes: a rank that comes late is named, from the records and traces of all") {
  std::array<char, 512> base{};
  std::unique_ptr<scratch> folder; // process 0 owns it
  if (mpi_tests::process() == 0) {
    folder = std::make_unique<scratch>();
    std::strncpy(base.data(), (*folder / "").c_str(), base.size() - 1);
  }
  MPI_Bcast(base.data(), int(base.size()), MPI_CHAR, 0, MPI_COMM_WORLD);
  std::string const at = base.data();
  sp::diagnosis::configure({.flight_file = at + "flight.%r", .trace_file = at + "trace.%r"});
  come_late();
  struct stat about {};
  CHECK(::stat((at + "flight." + std::to_string(mpi_tests::process())).c_str(), &about) == 0);
  CHECK((about.st_mode & 0777) == 0600);
  MPI_Barrier(MPI_COMM_WORLD);
  if (folder) {
    check_merged_files(at);
  }
  MPI_Barrier(MPI_COMM_WORLD); // the folder goes now
}

TEST_CASE("diagnosis over processes: no text of a failure is cut within a character") {
  std::string euros;
  for (int i = 0; i < 2000; ++i) euros += "\xe2\x82\xac";
  for (std::string const begin : {"", "x", "xx"}) {
    sp::detail::failure f;
    f.info = {sp::errc::backend_error, begin + euros, begin + euros, begin + euros};
    f.why = begin + euros;
    std::array<std::byte, sp::detail::failure_message::bytes> message{};
    sp::detail::failure_message::write(f, message.data());
    sp::detail::failure const g = sp::detail::failure_message::read(message.data(), message.size());
    for (std::string const& text : {g.why, g.info.primitive, g.info.problem, g.info.remedy}) {
      CHECK((text.size() > 50 && text.starts_with(begin) && text.ends_with("\xac")));
      CHECK((text.size() - begin.size()) % 3 == 0);
    }
  }
}

} // namespace test_mpi_diagnosis
