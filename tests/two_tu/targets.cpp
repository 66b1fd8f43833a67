// Two translation units for different processors give the same bits for the same rows: what a row's delta is must not depend on them.
// Exit status 77, a test that was skipped, where the processor lacks what one of them needs.
#include <cstdio>
#include <vector>

std::vector<float> plain_floats();
std::vector<float> fused_floats();
std::vector<double> plain_doubles();
std::vector<double> fused_doubles();

int main() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 77;
  bool const floats = plain_floats() == fused_floats(), doubles = plain_doubles() == fused_doubles();
  std::printf("floats %s, doubles %s\n", floats ? "agree" : "differ", doubles ? "agree" : "differ");
  return floats && doubles ? 0 : 1;
}
