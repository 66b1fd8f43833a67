// What stands around the snippets of docs/multimodal.md: four ranks, and tensors of four heads whose rows are made from their numbers.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

// TOP

namespace {

constexpr sp::index_t heads = 4, dim = 8, width = heads * dim;

void require(bool condition, char const* what) {
  if (condition) return;
  std::printf("multimodal: %s\n", what);
  std::exit(1);
}

/// Rows of `width` floats, seen as heads or flat.
struct tensor {
  std::vector<float> values;
  explicit tensor(sp::index_t rows, float x = 0) : values(std::size_t(rows * width), x) {}
  sp::index_t rows() const { return sp::index_t(values.size()) / width; }
  sp::view<float, 3> by_head() { return {values.data(), {rows(), heads, dim}}; }
  sp::view<float, 2> flat() { return {values.data(), {rows(), width}}; }
};

/// Random rows whose values depend on `number` of the row alone, so that every rank makes its own.
tensor random_rows(std::vector<sp::index_t> const& numbers, unsigned seed) {
  tensor t(sp::index_t(numbers.size()));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    std::mt19937 g{unsigned(numbers[i] + 1) * 7919U + seed};
    for (sp::index_t c = 0; c < width; ++c) t.values[i * std::size_t(width) + std::size_t(c)] = std::normal_distribution<float>()(g);
  }
  return t;
}

/// The numbers of a rank's rows in the stream.
std::vector<sp::index_t> numbers_of(sp::batch const& b) {
  std::vector<sp::index_t> rows(std::size_t(b.tokens()));
  sp::positions(b, sp::view<sp::index_t, 1>(rows.data(), {b.tokens()}), sp::positions_in::stream);
  return rows;
}

void body(sp::threads const& ranks) {
  // SNIPPETS
}

} // namespace

int main() { sp::threads::run(4, body); }
