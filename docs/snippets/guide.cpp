// What stands around the snippets of docs/guide.md: eight ranks, and a model of one attention layer that is nothing but its tensors.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

// TOP

namespace {

constexpr sp::index_t q_heads = 4, kv_heads = 2, dim = 8;

void require(bool condition, char const* what) {
  if (condition) return;
  std::printf("guide: %s\n", what);
  std::exit(1);
}

std::vector<float> random_numbers(sp::index_t n, unsigned seed) {
  std::mt19937 g{seed}; // the same on every rank
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = std::normal_distribution<float>()(g);
  return x;
}

// a model that is not there
float token_loss(int label) { return label < 0 ? 1e30F : 1.F + 0.1F * float(label % 7); }

void body(sp::threads const& world) {
  // SNIPPETS
}

} // namespace

int main() { sp::threads::run(8, body); }
