// Settings from the environment: read once, at the first use; a value that means nothing is named on stderr and ignored.
// One case, because settings belong to the process; it must come before any other use in this program.
#include <cstdlib>

#include <sp/threads.hpp>

#include "diagnosis/scratch.hpp"

namespace test_environment {

using namespace diagnosis_tests;

TEST_CASE("the environment is read at the first use and never again") {
  scratch folder;
  ::setenv("SP_DEBUG", "INFO", 1);
  ::setenv("SP_DEBUG_SUBSYS", "COLL,SOUP", 1);
  ::setenv("SP_DEBUG_FILE", (folder / "log.%h.%p.%r").c_str(), 1);
  ::setenv("SP_FLIGHT_FILE", (folder / "flight.%r.%n.100%%").c_str(), 1);
  auto fail = [] {
    sp::threads::run(2, [](sp::threads const& c) {
      if (c.rank() == 1) sp::fail({sp::errc::backend_error, "the disk is full", "Buy another"});
      c.barrier();
    });
  };
  CHECK_THROWS_AS(fail(), sp::error);
  sp::diagnosis::settings const& s = sp::diagnosis::configured();
  CHECK(s.log == sp::diagnosis::level::info);
  CHECK(s.subsystems == "ALL"); // SOUP was ignored, with the list that it was in
  CHECK(s.trace_file.empty());
  CHECK(std::filesystem::exists(folder / "flight.0.0.100%"));
  CHECK(std::filesystem::exists(folder / "flight.1.0.100%"));
  std::string host(256, '\0');
  REQUIRE(::gethostname(host.data(), host.size()) == 0);
  host.resize(host.find('\0'));
  std::string const log = folder / ("log." + host + "." + std::to_string(::getpid()) + ".1");
  std::string const who = " " + host + ":" + std::to_string(::getpid()) + ":1 ";
  CHECK(has(text_of(log), who + "ERROR COLL sp: backend_error: the disk is full"));
  CHECK(has(text_of(log), who + "INFO COLL flight record written"));

  ::setenv("SP_DEBUG", "OFF", 1);
  ::setenv("SP_FLIGHT_FILE", (folder / "other.%r").c_str(), 1);
  CHECK_THROWS_AS(fail(), sp::error);
  CHECK(&sp::diagnosis::configured() == &s);
  CHECK(!std::filesystem::exists(folder / "other.0"));
  CHECK(std::filesystem::exists(folder / "flight.0.1.100%")); // the second family
  CHECK(sp::diagnosis::from_environment().flight_file == folder / "other.%r");
}

} // namespace test_environment
