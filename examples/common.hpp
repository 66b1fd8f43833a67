// What the small examples share: a tensor that owns its numbers, its way to ranks and back, a verdict whether two results agree.
// Nothing here belongs to sp. The library only ever sees views: a pointer, three extents, three strides.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include <fmt/ranges.h>

#include <sp/batch.hpp>
#include <sp/gather_tokens.hpp>

/// Dense floats, (tokens, heads, dim).
struct tensor {
  sp::index_t tokens, heads, dim;
  std::vector<float> values = std::vector<float>(std::size_t(tokens * heads * dim));

  sp::view<float, 3> view() { return {values.data(), {tokens, heads, dim}}; }
  sp::view<float const, 3> view() const { return {values.data(), {tokens, heads, dim}}; }
};

inline tensor random_tensor(sp::index_t tokens, sp::index_t heads, sp::index_t dim, unsigned seed) {
  tensor t{tokens, heads, dim};
  std::mt19937 generator(seed);
  for (float& x : t.values) x = float(generator()) / 2147483648.0f - 1.0f; // uniform in [-1, 1)
  return t;
}

/// The rows of `all` that this rank owns, as in step 1: (tokens / P, heads, dim).
inline tensor own_rows(sp::batch const& batch, tensor const& all) {
  tensor mine{batch.tokens(), all.heads, all.dim};
  sp::split(batch, all.view(), mine.view());
  return mine;
}

/// Everybody's rows in stream order, on every rank: (tokens, heads, dim).
template <class Communicator>
tensor all_rows(Communicator const& ranks, sp::batch const& batch, tensor const& mine) {
  tensor all{batch.docs().length(), mine.heads, mine.dim};
  sp::gather(ranks, batch, mine.view(), all.view());
  return all;
}

inline double largest_difference(tensor const& a, tensor const& b) {
  double worst = a.values.size() == b.values.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < a.values.size() && i < b.values.size(); ++i) {
    double d = std::abs(double(a.values[i]) - double(b.values[i]));
    worst = d <= worst || std::isnan(worst) ? worst : d; // NaN counts as largest
  }
  return worst;
}

/// Prints the verdict; what main returns.
inline int verdict(char const* what, double difference, double allowed = 1e-5) {
  bool good = difference <= allowed;
  fmt::print("{}: largest difference {:.1e}, {}\n", what, difference, good ? "the same up to rounding" : "WRONG");
  return good ? 0 : 1;
}
