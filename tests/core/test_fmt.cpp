// The formatters of sp/fmt.hpp: each type prints as one line with its numbers.
#include <doctest/doctest.h>

#include <sp/fmt.hpp>

namespace test_fmt {

TEST_CASE("sp types print through fmt") {
  CHECK(fmt::format("{}", sp::run{3, 4, 2}) == "run {begin 3, count 4, stride 2}");
  CHECK(fmt::format("{}", sp::document{1, 2, 3, 4}) == "document {begin 1, count 2, room 3, id 4}");
  sp::slice s{0, 4, 1, 5};
  s.hi = 0;
  CHECK(fmt::format("{}", s) == "slice {q [0, 4), k [1, 5), -inf <= k - q <= 0}");
  sp::block b{0, 1, 2, 1, 3, 4, 5, 1, 6, 2, -sp::unbounded, 0};
  CHECK(fmt::format("{}", b) ==
        "block {rows [1, 3) of tensor 0 at 5 step 1, keys [3, 7) of tensor 1 at 6 step 2, -inf <= k - q <= 0}");
  CHECK(fmt::format("{}", sp::heads{2, 3, 1, 2, 2}) == "heads {q [2, 5), kv [1, 3), q per kv 2}");
  CHECK(fmt::format("{}", sp::loss_result{0.5, 12, 1}) == "loss 0.5 over 12 tokens");
  CHECK(fmt::format("{}", sp::errc::bad_mask) == "bad_mask");
  float x[6];
  CHECK(fmt::format("{}", sp::view<float, 2>(x, {2, 3})) == "(2, 3)");
}

} // namespace test_fmt
