// The main function of every test program.
// A run that executes no test case fails, and so does a test case that asserts nothing.
#define DOCTEST_CONFIG_IMPLEMENT
#include "support/run_tests.hpp"

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  return support::run_tests(context);
}
