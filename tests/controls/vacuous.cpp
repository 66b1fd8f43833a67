// Control of tests/main.cpp: one case that asserts, one that does not.
// The first must pass alone; the second must fail the run.
#include <doctest/doctest.h>

TEST_CASE("asserts") { CHECK(1 + 1 == 2); }
TEST_CASE("asserts nothing") {}
