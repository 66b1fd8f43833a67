// Control of the sanitizer builds: a planted error of each kind.
// Each argument must end the program with a report; without one the sanitizer is not at work.
#include <climits>
#include <cstdio>
#include <cstring>
#include <thread>

namespace {

bool is(char const* given, char const* wanted) { return std::strcmp(given, wanted) == 0; }

int address(int one) {
  int* volatile list = new int[8](); // volatile: a size that the compiler knows would be reported by another check
  int value = list[7 + one];
  delete[] list;
  return value;
}

int undefined(int one) { return INT_MAX - 1 + 2 * one; }

int race(int one) {
  int shared = 0;
  std::thread other([&] { shared += one; });
  shared += one;
  other.join();
  return shared;
}

} // namespace

int main(int argc, char** argv) {
  int const one = argc - 1; // unknown to the optimiser
  char const* kind = argc > 1 ? argv[1] : "";
  int const value = is(kind, "address")     ? address(one)
                    : is(kind, "undefined") ? undefined(one)
                    : is(kind, "race")      ? race(one)
                                            : 0;
  std::printf("%d: nothing was reported\n", value);
}
