// The error type: what() names everything that is known, located() adds place without overwriting it.
// The table of conditions is in incidents.errors; the handler mode, too.
#include <doctest/doctest.h>

#include <stdexcept>
#include <string>

#include <sp/core/error.hpp>

#include "support/failure.hpp"

namespace test_error {
namespace {

using sp::errc;
using support::failure_of;

static_assert(std::string_view(sp::name(errc::invalid_shape)) == "invalid_shape" &&
              std::string_view(sp::name(errc::backend_error)) == "backend_error");
static_assert(static_cast<int>(errc::backend_error) == 18); // as many names as codes

TEST_CASE("error: located adds primitive and rank where they are unknown, and only there") {
  sp::site const here{"ring_attention", ".forward", 3, 8};
  auto plain = failure_of([&] {
    sp::located(here, [] { sp::fail({errc::bad_mask, "a", "b"}); });
    return 0;
  });
  CHECK(plain.primitive == "ring_attention.forward");
  CHECK(plain.rank == 3);
  CHECK(plain.size == 8);
  CHECK(plain.problem == "a");

  auto known = failure_of([&] {
    sp::located(here, [] { sp::fail({errc::short_message, "a", "b", "relayout", 1, 2, 4, 0}); });
    return 0;
  });
  CHECK(known.primitive == "relayout");
  CHECK(known.rank == 1);
  CHECK(known.size == 2);
  CHECK(known.step == 4);
  CHECK(known.peer == 0);

  auto half = failure_of([&] {
    sp::located(here, [] { sp::fail({errc::bad_state, "a", "b", "token"}); });
    return 0;
  });
  CHECK(half.primitive == "token");
  CHECK(half.rank == 3);

  auto nested = failure_of([&] {
    sp::located({"outer", "", 0, 1}, [&] { sp::located(here, [] { sp::fail({errc::bad_state, "a", "b"}); }); });
    return 0;
  });
  CHECK(nested.primitive == "ring_attention.forward"); // the innermost place
}

TEST_CASE("error: located passes values, references and other exceptions through") {
  sp::site const here{"x", "", 0, 1};
  int value = 3;
  static_assert(std::is_same_v<decltype(sp::located(here, [&]() -> int& { return value; })), int&>);
  CHECK(&sp::located(here, [&]() -> int& { return value; }) == &value);
  CHECK(sp::located(here, [] { return std::string("moved"); }) == "moved");
  CHECK_THROWS_AS(sp::located(here, [] { throw std::logic_error("not ours"); }), std::logic_error);
}

TEST_CASE("error: is a runtime_error that carries its code") {
  try {
    sp::fail({errc::size_overflow, "2 * 3 passes int2", "Use more bits"});
  } catch (std::runtime_error const& e) {
    CHECK(std::string(e.what()) == "sp: size_overflow: 2 * 3 passes int2. Use more bits");
    CHECK(dynamic_cast<sp::error const&>(e).code() == errc::size_overflow);
    return;
  }
  FAIL("nothing was thrown");
}

} // namespace
} // namespace test_error
