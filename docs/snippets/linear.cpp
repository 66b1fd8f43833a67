// What stands around the snippets of docs/linear.md: three ranks, and rows that are made from their number in the stream.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

// TOP

namespace {

constexpr sp::index_t k_heads = 2, v_heads = 4, dim = 8, keys = k_heads * dim, values = v_heads * dim, channels = 2 * keys + values;

void require(bool condition, char const* what) {
  if (condition) return;
  std::printf("linear: %s\n", what);
  std::exit(1);
}

/// Rows of floats, seen flat, as heads, or as some of their columns.
struct tensor {
  sp::index_t width;
  std::vector<float> numbers;
  tensor(sp::index_t rows, sp::index_t columns, float x = 0) : width(columns), numbers(std::size_t(rows * columns), x) {}
  sp::index_t rows() const { return sp::index_t(numbers.size()) / width; }
  sp::view<float, 2> flat() { return {numbers.data(), {rows(), width}}; }
  sp::view<float, 3> heads(sp::index_t n) { return {numbers.data(), {rows(), n, width / n}}; }
  sp::view<float, 3> columns(sp::index_t first, sp::index_t n) { return {numbers.data() + first, {rows(), n, dim}, {width, dim, 1}}; }
  float& operator()(sp::index_t row, sp::index_t column) { return numbers[std::size_t(row * width + column)]; }
};

/// The same row for the same position of the stream, whichever rank owns it.
tensor random_rows(sp::batch const& b, sp::index_t width, unsigned seed) {
  std::vector<sp::index_t> at(std::size_t(b.tokens()));
  sp::positions(b, sp::view<sp::index_t, 1>(at.data(), {b.tokens()}), sp::positions_in::stream);
  tensor t(b.tokens(), width);
  for (sp::index_t i = 0; i < b.tokens(); ++i) {
    std::mt19937 g{unsigned(at[std::size_t(i)] + 1) * 7919U + seed};
    for (sp::index_t c = 0; c < width; ++c) t(i, c) = std::normal_distribution<float>()(g);
  }
  return t;
}

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }
float softplus(float x) { return std::log1p(std::exp(x)); }

void body(sp::threads const& ranks) {
  // SNIPPETS
}

} // namespace

int main() { sp::threads::run(3, body); }
