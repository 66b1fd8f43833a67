// What a consumer writes who asks for the least: three ranks that are threads count the tokens that they own.
// Takes the place of main.cpp where only the way to the headers is new; ends with 0 when the ranks own all tokens together.
#include <sp/batch.hpp>
#include <sp/threads.hpp>

#include <atomic>
#include <cstdio>

int main() {
  std::atomic<long> tokens = 0;
  sp::threads::run(3, [&](sp::threads const& ranks) {
    tokens += long(sp::batch{sp::packed{0, 7, 17}, sp::zigzag{}, ranks}.tokens());
    ranks.barrier();
  });
  std::printf("%ld of 17 tokens\n", tokens.load());
  return tokens == 17 ? 0 : 1;
}
