// Log and trace: levels, subsystems, whole lines, settings in code; traces are JSON after every run and their events nest.
// Operations are told by the flight recorder, so what is checked here holds for every model that has one.
#include <vector>

#include <sp/batch.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>

#include "diagnosis/scratch.hpp"
#include "support/failure.hpp"

namespace test_observers {

using namespace diagnosis_tests;
using sp::diagnosis::level;

namespace {

/// Forward of a small causal ring and a barrier on two ranks.
void step() {
  sp::threads::run(2, [](sp::threads const& c) {
    sp::batch b(sp::packed{0, 6, 11}, sp::zigzag{}, c);
    sp::ring_attention const attention{c, sp::reference{}, {.schedule = sp::schedule::rotate}};
    std::vector<double> x(std::size_t(b.tokens() * 2), 0.5), out(x.size());
    auto view = [&](std::vector<double>& v) { return sp::view<double, 3>(v.data(), {b.tokens(), 1, 2}); };
    attention.infer(b, view(x), view(x), view(x), view(out));
    c.barrier();
  });
}

std::string log_of(scratch const& folder, level wanted, std::string const& subsystems) {
  std::string const file = folder / (subsystems + std::to_string(int(wanted)));
  sp::diagnosis::configure({.log = wanted, .subsystems = subsystems, .log_file = file});
  step();
  return text_of(file);
}

} // namespace

TEST_CASE("log: levels and subsystems choose the lines, and every line is whole") {
  scratch folder;
  CHECK(log_of(folder, level::off, "ALL").empty());
  CHECK(log_of(folder, level::warn, "ALL").empty()); // nothing is wrong
  std::string const info = log_of(folder, level::info, "ALL"), all = log_of(folder, level::trace, "ALL");
  CHECK(count(info, "INFO ATTN ring_attention.forward: rank ") == 2);
  CHECK(!has(info, "TRACE"));
  CHECK(count(all, "INFO ATTN ring_attention.forward: rank ") == 2);
  CHECK(count(all, " TRACE COLL barrier: barrier ") >= 4); // two ranks enter and are done
  CHECK(has(all, " TRACE COLL ring.forward.keys: exchange 0 of group 0 in ring_attention.forward sends "));
  CHECK(has(all, " INFO LAYOUT batch: rank 1 of 2 is done after "));
  std::string const some = log_of(folder, level::trace, "ATTN,LAYOUT"), but = log_of(folder, level::trace, "^COLL");
  CHECK((!some.empty() && !has(some, " COLL ") && has(some, " ATTN ") && has(some, " LAYOUT ")));
  CHECK(count(some, "\n") == count(but, "\n"));
  std::stringstream lines(all);
  for (std::string text; std::getline(lines, text);)
    CHECK((text.size() > 28 && text[4] == '-' && text[10] == 'T' && text[26] == 'Z' && text[27] == ' '));
}

TEST_CASE("log: what makes no sense in code is refused") {
  auto const e = support::failure_of([] { sp::diagnosis::configure({.subsystems = "COLL,SOUP"}); });
  CHECK(support::says(e, sp::errc::bad_state, "COLL,SOUP"));
  CHECK(sp::detail::subsystem_bits("^COLL,ATTN") == 12);
  CHECK(sp::detail::subsystem_bits("ALL,^LOSS") == 11);
  CHECK(sp::detail::subsystem_bits("") == 0);
}

TEST_CASE("log: a long wait is a warning, long before the deadline") {
  scratch folder;
  sp::diagnosis::configure({.log = level::warn, .log_file = folder / "log.%r", .long_wait = std::chrono::milliseconds(50)});
  sp::threads::run(2, [](sp::threads const& c) {
    if (c.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(400));
    c.barrier();
  });
  std::string const log = text_of(folder / "log.0");
  INFO(log);
  CHECK(has(log, " WARN COLL barrier: barrier 0 of group 0 has waited 0."));
  CHECK(has(log, " s for rank 1 of the world\n"));
  CHECK((count(log, "\n") >= 1 && count(log, "\n") <= 5)); // at 50, 100 and 200 ms; more if others slow us
  CHECK(folder.files() == 1);
}

TEST_CASE("trace: valid JSON whose events nest, one file per rank, merged on one clock") {
  scratch folder;
  sp::diagnosis::configure({.trace_file = folder / "trace.%r.json"});
  step();
  step(); // a second family goes on in the same files
  auto const merged =
      run(tool() + "--trace " + (folder / "all.json") + " " + (folder / "trace.0.json") + " " + (folder / "trace.1.json"));
  INFO(merged.text);
  CHECK(merged.code == 0);
  for (char const* name : {"trace.0.json", "trace.1.json", "all.json"}) {
    auto const checked = run("python3 '" SP_TEST_DIR "/diagnosis/check_trace.py' " + (folder / name));
    INFO(name << ": " << checked.text);
    CHECK(checked.code == 0);
    CHECK(has(checked.text, "ring_attention.forward > ring.forward.keys post"));
    CHECK(has(checked.text, "barrier"));
  }
  CHECK(run("python3 '" SP_TEST_DIR "/diagnosis/check_trace.py' --self-test").code == 0);
}

TEST_CASE("log and trace of ranks that fail at the same time [tsan]") {
  scratch folder;
  sp::diagnosis::configure(
      {.log = level::trace, .log_file = folder / "log", .flight_file = folder / "flight.%r", .trace_file = folder / "trace"});
  auto fail = [] {
    sp::threads::run(3, [](sp::threads const& c) {
      for (int i = 0; i < 50; ++i) c.barrier();
      if (c.rank() != 0) sp::fail({sp::errc::backend_error, "out", "in"});
      c.barrier();
    });
  };
  CHECK_THROWS_AS(fail(), sp::error);
  CHECK(folder.files() == 5);
  CHECK(count(text_of(folder / "log"), " ERROR ") == 1);
  CHECK(text_of(folder / "trace").ends_with("\n]\n"));
}

} // namespace test_observers
