// The naive float64 oracle: attention and its gradients row by row from an explicit mask, written apart from the library.
// No blocks, no merging, no online softmax. A row that sees nothing has out 0, lse -inf and gradients 0.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace support {

using count_t = std::int64_t;

/// Where a token stands: the caller's id of its document and its offset in it. Only ALiBi and dropout ask.
struct token_place {
  count_t document = 0;
  count_t offset = 0;
};

/// One attention problem over global tensors, all row-major.
struct oracle {
  count_t q_rows = 0, k_rows = 0, q_heads = 1, kv_heads = 1, dim = 1, value_dim = 1;
  double scale = 1;
  double softcap = 0;           ///< 0: none
  std::vector<double> q;        ///< (q rows, q heads, dim)
  std::vector<double> k;        ///< (k rows, kv heads, dim)
  std::vector<double> v;        ///< (k rows, kv heads, value dim)
  std::vector<char> visible;    ///< (q rows, k rows)
  std::vector<double> slopes{}; ///< ALiBi, per q head; score += slope * (key offset - query offset)
  std::vector<double> sinks{};  ///< per q head: one more logit that has no value
  std::vector<token_place> q_places{}, k_places{};
  /// Dropout: 0 or 1 / (1 - p) for (document id, q head, query offset, key offset).
  std::function<double(count_t, count_t, count_t, count_t)> keep{};

  /// Tensors of zeros, nothing visible, one document that starts at row 0.
  oracle(count_t rows_q, count_t rows_k, count_t heads_q, count_t heads_kv, count_t d, count_t dv)
      : q_rows(rows_q), k_rows(rows_k), q_heads(heads_q), kv_heads(heads_kv), dim(d), value_dim(dv),
        scale(1 / std::sqrt(static_cast<double>(d))), q(size(rows_q, heads_q, d)), k(size(rows_k, heads_kv, d)),
        v(size(rows_k, heads_kv, dv)), visible(size(rows_q, rows_k, 1)), q_places(size(rows_q, 1, 1)),
        k_places(size(rows_k, 1, 1)) {
    for (std::size_t i = 0; i < q_places.size(); ++i) q_places[i].offset = static_cast<count_t>(i);
    for (std::size_t i = 0; i < k_places.size(); ++i) k_places[i].offset = static_cast<count_t>(i);
  }

  /// The mask from a predicate of (query row, key row).
  template <class Predicate>
  void see(Predicate&& sees) {
    for (count_t i = 0; i < q_rows; ++i)
      for (count_t j = 0; j < k_rows; ++j) visible[static_cast<std::size_t>(i * k_rows + j)] = sees(i, j) ? 1 : 0;
  }

  struct result {
    std::vector<double> out;        ///< (q rows, q heads, value dim)
    std::vector<double> lse;        ///< (q rows, q heads), sink included
    std::vector<double> dq, dk, dv; ///< like q, k, v
    std::vector<double> dsinks;     ///< (q heads)
    double largest_score = 0;       ///< max |score|, for error bounds
  };

  result forward() const {
    result r;
    r.out.assign(size(q_rows, q_heads, value_dim), 0);
    r.lse.assign(size(q_rows, q_heads, 1), -std::numeric_limits<double>::infinity());
    for (count_t i = 0; i < q_rows; ++i)
      for (count_t h = 0; h < q_heads; ++h) {
        row x = solve(i, h);
        r.lse[at(i, h, 0, q_heads, 1)] = x.lse;
        for (std::size_t n = 0; n < x.keys.size(); ++n) {
          r.largest_score = std::fmax(r.largest_score, std::fabs(x.score[n]));
          for (count_t c = 0; c < value_dim; ++c)
            r.out[at(i, h, c, q_heads, value_dim)] += x.p[n] * x.keep[n] * v[at(x.keys[n], kv_of(h), c, kv_heads, value_dim)];
        }
      }
    return r;
  }

  /// Everything, given dout (q rows, q heads, value dim).
  result backward(std::vector<double> const& dout) const {
    result r = forward();
    r.dq.assign(q.size(), 0);
    r.dk.assign(k.size(), 0);
    r.dv.assign(v.size(), 0);
    r.dsinks.assign(static_cast<std::size_t>(q_heads), 0);
    for (count_t i = 0; i < q_rows; ++i)
      for (count_t h = 0; h < q_heads; ++h) add_gradients(i, h, dout, r);
    return r;
  }

private:
  struct row {
    std::vector<count_t> keys;                 ///< those it sees
    std::vector<double> score, slope, keep, p; ///< score, d score / d (scaled dot product), dropout factor, probability
    double lse = -std::numeric_limits<double>::infinity();
    double p_sink = 0;
  };

  static std::size_t size(count_t a, count_t b, count_t c) { return static_cast<std::size_t>(a * b * c); }
  static std::size_t at(count_t i, count_t h, count_t c, count_t heads, count_t width) {
    return static_cast<std::size_t>((i * heads + h) * width + c);
  }
  count_t kv_of(count_t h) const { return h / (q_heads / kv_heads); }

  row solve(count_t i, count_t h) const {
    row x;
    double largest = sinks.empty() ? -std::numeric_limits<double>::infinity() : sinks[static_cast<std::size_t>(h)];
    for (count_t j = 0; j < k_rows; ++j) {
      if (!visible[static_cast<std::size_t>(i * k_rows + j)]) continue;
      double s = 0, slope = 1;
      for (count_t c = 0; c < dim; ++c) s += q[at(i, h, c, q_heads, dim)] * k[at(j, kv_of(h), c, kv_heads, dim)];
      s *= scale;
      if (softcap > 0) {
        double t = std::tanh(s / softcap);
        s = softcap * t;
        slope = 1 - t * t;
      }
      token_place a = q_places[static_cast<std::size_t>(i)], b = k_places[static_cast<std::size_t>(j)];
      if (!slopes.empty()) s += slopes[static_cast<std::size_t>(h)] * static_cast<double>(b.offset - a.offset);
      x.keys.push_back(j);
      x.score.push_back(s);
      x.slope.push_back(slope);
      x.keep.push_back(keep ? keep(a.document, h, a.offset, b.offset) : 1.0);
      largest = std::fmax(largest, s);
    }
    double sum = sinks.empty() ? 0 : std::exp(sinks[static_cast<std::size_t>(h)] - largest);
    for (double s : x.score) sum += std::exp(s - largest);
    if (sum == 0) return x;
    x.lse = largest + std::log(sum);
    for (double s : x.score) x.p.push_back(std::exp(s - largest) / sum);
    if (!sinks.empty()) x.p_sink = std::exp(sinks[static_cast<std::size_t>(h)] - largest) / sum;
    return x;
  }

  void add_gradients(count_t i, count_t h, std::vector<double> const& dout, result& r) const {
    row x = solve(i, h);
    count_t g = kv_of(h);
    std::vector<double> dp(x.keys.size()); // gradient of each probability
    double mean = 0;
    for (std::size_t n = 0; n < x.keys.size(); ++n) {
      for (count_t c = 0; c < value_dim; ++c)
        dp[n] += dout[at(i, h, c, q_heads, value_dim)] * v[at(x.keys[n], g, c, kv_heads, value_dim)];
      dp[n] *= x.keep[n];
      mean += x.p[n] * dp[n];
    }
    for (std::size_t n = 0; n < x.keys.size(); ++n) {
      count_t j = x.keys[n];
      double ds = x.p[n] * (dp[n] - mean) * x.slope[n] * scale;
      for (count_t c = 0; c < dim; ++c) {
        r.dq[at(i, h, c, q_heads, dim)] += ds * k[at(j, g, c, kv_heads, dim)];
        r.dk[at(j, g, c, kv_heads, dim)] += ds * q[at(i, h, c, q_heads, dim)];
      }
      for (count_t c = 0; c < value_dim; ++c)
        r.dv[at(j, g, c, kv_heads, value_dim)] += x.p[n] * x.keep[n] * dout[at(i, h, c, q_heads, value_dim)];
    }
    r.dsinks[static_cast<std::size_t>(h)] -= x.p_sink * mean;
  }
};

/// |a - b| / |b| in the Euclidean norm. Where b is next to nothing (the gradient of a softmax over one key), |b| counts as
/// 1e-3 per element, for then a holds rounding of numbers of order 1. NaN anywhere gives NaN.
template <class Range>
double relative_error(Range const& a, std::vector<double> const& b) {
  double diff = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    double x = static_cast<double>(a[i]);
    if (std::isinf(b[i]) || std::isinf(x)) { // -inf is a legal lse and must match exactly
      if (x != b[i]) return std::numeric_limits<double>::infinity();
      continue;
    }
    diff += (x - b[i]) * (x - b[i]);
    norm += b[i] * b[i];
  }
  double least = 1e-6 * static_cast<double>(b.size());
  return diff == 0 ? 0.0 : std::sqrt(diff) / std::sqrt(norm < least ? least : norm);
}

} // namespace support
