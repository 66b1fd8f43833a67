// What every consumer computes: causal ring attention over two documents, forward and backward, on ranks of any communicator.
// check(ranks) compares one rank's output and query gradients with plain loops and returns how many numbers are wrong; it is itself
// checked with an error that is planted in two of them.
#pragma once

#if __has_include("sp.hpp")
#include "sp.hpp" // the amalgamated header lies beside this file
#else
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#endif

#include <cmath>
#include <vector>

namespace consumer {

constexpr sp::index_t tokens = 17, first_document = 7, dim = 2;

inline double input(sp::index_t token, sp::index_t d, double phase) {
  return std::sin(phase + 0.7 * double(token) + 1.3 * double(d));
}

/// Output and dq of one token by the textbook: dout is 1 everywhere.
inline void plain_row(sp::index_t i, double* out, double* dq) {
  double p[tokens], dp[tokens], sum = 0, mean = 0;
  sp::index_t begin = i < first_document ? 0 : first_document;
  for (sp::index_t j = begin; j <= i; ++j) {
    double s = 0;
    for (sp::index_t d = 0; d < dim; ++d) s += input(i, d, 0) * input(j, d, 1);
    sum += p[j] = std::exp(s / std::sqrt(double(dim)));
  }
  for (sp::index_t d = 0; d < dim; ++d) out[d] = dq[d] = 0;
  for (sp::index_t j = begin; j <= i; ++j) {
    p[j] /= sum;
    dp[j] = 0;
    for (sp::index_t d = 0; d < dim; ++d) out[d] += p[j] * input(j, d, 2), dp[j] += input(j, d, 2);
    mean += p[j] * dp[j];
  }
  for (sp::index_t j = begin; j <= i; ++j)
    for (sp::index_t d = 0; d < dim; ++d) dq[d] += p[j] * (dp[j] - mean) * input(j, d, 1) / std::sqrt(double(dim));
}

template <class Communicator>
int check(Communicator const& ranks, double planted = 0) {
  sp::batch batch{sp::packed{0, first_document, tokens}, sp::zigzag{}, ranks};
  sp::ring_attention attention{ranks, sp::reference{}, {.mask = sp::causal()}};

  std::vector<double> memory[8];
  auto tensor = [&, next = 0](double value) mutable {
    auto& m = memory[next++];
    m.assign(std::size_t(batch.tokens() * dim), value);
    return sp::view<double, 3>(m.data(), {batch.tokens(), 1, dim}); // (tokens, heads, dim)
  };
  auto q = tensor(0), k = tensor(0), v = tensor(0), out = tensor(0), dout = tensor(1), dq = tensor(0), dk = tensor(0),
       dv = tensor(0);
  std::vector<sp::index_t> token;
  for (sp::run const& r : batch.runs())
    for (sp::index_t i = 0; i < r.count; ++i) token.push_back(r.at(i));
  for (sp::index_t i = 0; i < batch.tokens(); ++i)
    for (sp::index_t d = 0; d < dim; ++d) {
      q(i, 0, d) = input(token[std::size_t(i)], d, 0);
      k(i, 0, d) = input(token[std::size_t(i)], d, 1);
      v(i, 0, d) = input(token[std::size_t(i)], d, 2);
    }

  auto saved = attention.forward(batch, q, k, v, out);
  attention.backward(batch, std::move(saved), q, k, v, out, dout, dq, dk, dv);

  out(0, 0, 1) += planted;
  dq(0, 0, 0) += planted;
  int wrong = batch.tokens() > 0 ? 0 : 1; // 17 tokens on 3 or 4 ranks: every rank has some
  for (sp::index_t i = 0; i < batch.tokens(); ++i) {
    double expected_out[dim], expected_dq[dim];
    plain_row(token[std::size_t(i)], expected_out, expected_dq);
    for (sp::index_t d = 0; d < dim; ++d)
      wrong += !(std::abs(out(i, 0, d) - expected_out[d]) < 1e-12) + !(std::abs(dq(i, 0, d) - expected_dq[d]) < 1e-12);
  }
  return wrong;
}

} // namespace consumer
