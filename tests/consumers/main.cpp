// What a consumer writes: three ranks that are threads compute a small attention.
// Ends with 0 when every rank has the right numbers, and prints how many ranks did; with an argument, when every rank finds the two
// wrong numbers that are planted then.
#include "small_case.hpp"

#if !__has_include("sp.hpp")
#include <sp/threads.hpp>
#endif

#include <atomic>
#include <cstdio>

int main(int argc, char**) {
  std::atomic<int> right = 0, wrong = 0;
  sp::threads::run(3, [&](sp::threads const& ranks) {
    int errors = consumer::check(ranks, argc > 1 ? 1e-9 : 0);
    ++(errors == (argc > 1 ? 2 : 0) ? right : wrong);
  });
  std::printf("%d ranks right, %d wrong\n", right.load(), wrong.load());
  return right == 3 && wrong == 0 ? 0 : 1;
}
