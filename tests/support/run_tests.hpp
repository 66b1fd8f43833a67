// Runs the doctest cases of a program and guards against empty successes; every test program's main function ends here.
// A run that executes no test case fails, and so does a test case that asserts nothing.
#pragma once

#include <doctest/doctest.h>

#include <cstdio>
#include <vector>

namespace support {

struct tally {
  unsigned executed = 0;
  std::vector<char const*> vacuous;
};
inline tally counted;

/// Listens to a run and counts what it really did.
struct counter : doctest::IReporter {
  explicit counter(doctest::ContextOptions const&) {}

  void test_case_start(doctest::TestCaseData const& test) override {
    ++counted.executed;
    name_ = test.m_name;
  }
  void test_case_end(doctest::CurrentTestCaseStats const& stats) override {
    if (stats.numAssertsCurrentTest == 0 && stats.failure_flags == 0) counted.vacuous.push_back(name_);
  }

  void report_query(doctest::QueryData const&) override {}
  void test_run_start() override {}
  void test_run_end(doctest::TestRunStats const&) override {}
  void test_case_reenter(doctest::TestCaseData const&) override {}
  void test_case_exception(doctest::TestCaseException const&) override {}
  void subcase_start(doctest::SubcaseSignature const&) override {}
  void subcase_end() override {}
  void log_assert(doctest::AssertData const&) override {}
  void log_message(doctest::MessageData const&) override {}
  void test_case_skipped(doctest::TestCaseData const&) override {}

private:
  char const* name_ = "";
};
DOCTEST_REGISTER_LISTENER("counter", 1, counter);

/// The exit code of the program.
inline int run_tests(doctest::Context& context) {
  int const result = context.run();
  if (context.shouldExit()) return result; // --help, --list-test-cases
  for (char const* name : counted.vacuous)
    std::fprintf(stderr, "vacuous test case: \"%s\" asserts nothing; CHECK something, also beside a static_assert\n", name);
  if (counted.executed == 0) std::fprintf(stderr, "no test case was executed\n");
  return counted.executed == 0 || !counted.vacuous.empty() ? 1 : result;
}

} // namespace support
