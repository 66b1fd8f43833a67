// The recurrences of linear attention, token by token, in any number type; backwards by hand. Written apart from the kernels, for one head
// at a time and with a decay for each row of the state whatever the kernel: the oracle of this layer.
#pragma once

#include <cmath>
#include <vector>

namespace linear_tests {

/// Row-major numbers of one head.
template <class R>
struct table {
  std::size_t columns = 0;
  std::vector<R> x{};
  table() = default;
  table(std::size_t rows, std::size_t width) : columns(width), x(rows * width) {}
  R& operator()(std::size_t i, std::size_t j) { return x[i * columns + j]; }
  R operator()(std::size_t i, std::size_t j) const { return x[i * columns + j]; }
};

/// One value head: what goes in, and the same shapes for gradients.
template <class R>
struct head_inputs {
  table<R> q, k;    // (tokens, key dim)
  table<R> v;       // (tokens, value dim)
  table<R> g;       // (tokens, key dim), log decays
  std::vector<R> b; // (tokens); empty: no delta rule
  table<R> s;       // (key dim, value dim), the state before
};

template <class R>
struct head_outputs {
  table<R> out; // (tokens, value dim)
  table<R> s;   // (key dim, value dim), the state behind
};

template <class R>
table<R> normalised(table<R> x) {
  for (std::size_t i = 0; i < x.x.size() / x.columns; ++i) {
    R sum = 0;
    for (std::size_t d = 0; d < x.columns; ++d) sum += x(i, d) * x(i, d);
    R const by = 1 / std::sqrt(sum + R(1e-6));
    for (std::size_t d = 0; d < x.columns; ++d) x(i, d) *= by;
  }
  return x;
}
/// dx from the gradient of normalised(x).
template <class R>
table<R> normalised_back(table<R> const& x, table<R> d) {
  for (std::size_t i = 0; i < x.x.size() / x.columns; ++i) {
    R sum = 0, along = 0;
    for (std::size_t c = 0; c < x.columns; ++c) sum += x(i, c) * x(i, c), along += x(i, c) * d(i, c);
    R const root = std::sqrt(sum + R(1e-6));
    for (std::size_t c = 0; c < x.columns; ++c) d(i, c) = d(i, c) / root - x(i, c) * along / (root * root * root);
  }
  return d;
}

template <class R>
struct recurrence {
  head_inputs<R> in;
  bool normalise;
  R scale;
  head_inputs<R> used{};         ///< with q and k as the state meets them
  std::vector<table<R>> after{}; ///< state after each token
  head_outputs<R> result{};

  recurrence(head_inputs<R> x, bool with_norm, R times) : in(std::move(x)), normalise(with_norm), scale(times), used(in) {
    if (normalise) used.q = normalised(in.q), used.k = normalised(in.k);
    run();
  }

  std::size_t tokens() const { return in.v.x.size() / in.v.columns; }
  std::size_t dim() const { return in.q.columns; }
  std::size_t values() const { return in.v.columns; }
  table<R> const& before(std::size_t t) const { return t == 0 ? in.s : after[t - 1]; }

  /// e = v - (diag(a) S)^T k, what the delta rule finds missing.
  std::vector<R> missing(std::size_t t) const {
    std::vector<R> e(values());
    for (std::size_t c = 0; c < values(); ++c) {
      R found = 0;
      for (std::size_t d = 0; d < dim(); ++d) found += std::exp(in.g(t, d)) * before(t)(d, c) * used.k(t, d);
      e[c] = in.v(t, c) - found;
    }
    return e;
  }

  void run() {
    result.out = table<R>(tokens(), values());
    result.s = in.s;
    for (std::size_t t = 0; t < tokens(); ++t) {
      std::vector<R> const e = in.b.empty() ? std::vector<R>{} : missing(t);
      table<R> s = result.s;
      for (std::size_t d = 0; d < dim(); ++d)
        for (std::size_t c = 0; c < values(); ++c)
          s(d, c) = std::exp(in.g(t, d)) * s(d, c) + used.k(t, d) * (in.b.empty() ? in.v(t, c) : in.b[t] * e[c]);
      for (std::size_t c = 0; c < values(); ++c)
        for (std::size_t d = 0; d < dim(); ++d) result.out(t, c) += scale * used.q(t, d) * s(d, c);
      after.push_back(s);
      result.s = s;
    }
  }

  /// Gradients of all inputs from those of outputs and of the state behind.
  head_inputs<R> backward(head_outputs<R> const& d) const {
    head_inputs<R> r{table<R>(tokens(), dim()), table<R>(tokens(), dim()),   table<R>(tokens(), values()),
                     table<R>(tokens(), dim()), std::vector<R>(in.b.size()), d.s};
    for (std::size_t t = tokens(); t-- > 0;) token_back(t, d.out, r);
    if (normalise) r.q = normalised_back(in.q, r.q), r.k = normalised_back(in.k, r.k);
    return r;
  }

private:
  /// r.s is the gradient of the state after token t, and becomes that of the state before it.
  void token_back(std::size_t t, table<R> const& dout, head_inputs<R>& r) const {
    std::vector<R> const e = in.b.empty() ? std::vector<R>{} : missing(t);
    for (std::size_t d = 0; d < dim(); ++d)
      for (std::size_t c = 0; c < values(); ++c) {
        r.q(t, d) += scale * after[t](d, c) * dout(t, c);
        r.s(d, c) += scale * used.q(t, d) * dout(t, c);
      }
    R const times = in.b.empty() ? R(1) : in.b[t];
    for (std::size_t c = 0; c < values(); ++c) {
      R const written = in.b.empty() ? in.v(t, c) : e[c];
      R along = 0;
      for (std::size_t d = 0; d < dim(); ++d) along += r.s(d, c) * used.k(t, d);
      for (std::size_t d = 0; d < dim(); ++d) r.k(t, d) += times * r.s(d, c) * written;
      r.v(t, c) = times * along;
      if (in.b.empty()) continue;
      r.b[t] += along * e[c];
      for (std::size_t d = 0; d < dim(); ++d) {
        r.k(t, d) -= std::exp(in.g(t, d)) * before(t)(d, c) * times * along;
        r.s(d, c) -= used.k(t, d) * times * along;
      }
    }
    for (std::size_t d = 0; d < dim(); ++d)
      for (std::size_t c = 0; c < values(); ++c) {
        r.s(d, c) *= std::exp(in.g(t, d));
        r.g(t, d) += r.s(d, c) * before(t)(d, c);
      }
  }
};

} // namespace linear_tests
