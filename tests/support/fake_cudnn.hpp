// A fake of cuDNN's attention for tests: the same calls by plain sums in double, on tests' queues. It computes nothing where cuDNN
// answers with NaN, an error or wrong numbers, but says what it was given.
#pragma once

#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <sp/backend/cudnn/call.hpp>

namespace support {

/// What all fakes of a test have been given.
struct fake_cudnn_report {
  std::atomic<int> calls[2][2]{}; ///< [backward][ragged]
  std::atomic<int> sequences{0};
  std::mutex mutex{}; ///< of what follows
  std::string wrong{};
  std::set<sp::detail::sdpa_shape> plans{};

  void complain(std::string const& what) {
    std::lock_guard const lock(mutex);
    if (wrong.size() < 1000) wrong += what + "; ";
  }
};

/// One call, as work of a queue.
template <class T>
struct fake_cudnn_call {
  using index_t = sp::index_t;
  sp::detail::sdpa_shape s;
  sp::detail::sdpa_arguments a;
  std::byte* workspace;
  index_t workspace_bytes;
  fake_cudnn_report* report;

  void operator()(index_t) const {
    if (char const* hazard = first_hazard()) return report->complain(hazard);
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.q_heads; ++h)
        for (index_t i = 0; i < s.rows; ++i) {
          if (!s.backward) stats(b, h, i) = i < rows(b) ? forward(b, h, i) : std::nanf("");
          if (s.backward && !(std::fabs(stats(b, h, i)) < 1e30f)) return report->complain("stats that are no numbers");
        }
    if (s.backward)
      for (index_t b = 0; b < s.batch; ++b)
        for (index_t g = 0; g < s.kv_heads; ++g) backward(b, g);
    if (workspace_bytes > 0) std::memset(workspace, 0x55, std::size_t(workspace_bytes));
    ++report->calls[s.backward][s.ragged];
    report->sequences += int(s.batch);
  }

private:
  index_t rows(index_t b) const { return s.ragged ? a.lengths[0][b] : s.rows; }
  index_t keys(index_t b) const { return s.ragged ? a.lengths[1][b] : s.keys; }
  index_t seen(index_t b, index_t i) const { return s.causal ? i + 1 : keys(b); }
  float& stats(index_t b, index_t h, index_t i) const { return a.stats[(b * s.q_heads + h) * s.rows + i]; }
  index_t at(int t, index_t b, index_t h, index_t i) const {
    auto const& x = s.strides[t];
    return (s.ragged ? a.offsets[t][b] : b * x.batch) + h * x.head + i * x.row;
  }
  double get(int t, index_t b, index_t h, index_t i, index_t d) const {
    return double(float(static_cast<T const*>(a.read[t])[at(t, b, h, i) + d]));
  }
  void put(int t, index_t b, index_t h, index_t i, std::vector<double> const& row) const {
    for (std::size_t d = 0; d < row.size(); ++d) static_cast<T*>(a.written[t])[at(t, b, h, i) + index_t(d)] = T(float(row[d]));
  }
  double dot(int x, index_t hx, index_t i, int y, index_t hy, index_t j, index_t b, index_t width) const {
    double sum = 0;
    for (index_t d = 0; d < width; ++d) sum += get(x, b, hx, i, d) * get(y, b, hy, j, d);
    return sum;
  }
  double score(index_t b, index_t h, index_t i, index_t j) const {
    return dot(sp::detail::sdpa_q, h, i, sp::detail::sdpa_k, h / (s.q_heads / s.kv_heads), j, b, s.dim) * double(a.scale);
  }

  /// Row i of out; its lse.
  float forward(index_t b, index_t h, index_t i) const {
    double most = -INFINITY, sum = 0;
    for (index_t j = 0; j < seen(b, i); ++j) most = std::fmax(most, score(b, h, i, j));
    std::vector<double> row(std::size_t(s.value_dim));
    for (index_t j = 0; j < seen(b, i); ++j) {
      double const p = std::exp(score(b, h, i, j) - most);
      sum += p;
      for (std::size_t d = 0; d < row.size(); ++d)
        row[d] += p * get(sp::detail::sdpa_v, b, h / (s.q_heads / s.kv_heads), j, index_t(d));
    }
    for (double& x : row) x /= sum;
    put(sp::detail::sdpa_out, b, h, i, row);
    return float(most + std::log(sum));
  }

  /// The gradients of one kv head of a sequence and of its q heads.
  void backward(index_t b, index_t g) const {
    using namespace sp::detail;
    std::vector<std::vector<double>> dk(std::size_t(keys(b)), std::vector<double>(std::size_t(s.dim)));
    std::vector<std::vector<double>> dv(std::size_t(keys(b)), std::vector<double>(std::size_t(s.value_dim)));
    index_t const group = s.q_heads / s.kv_heads;
    for (index_t h = g * group; h < (g + 1) * group; ++h)
      for (index_t i = 0; i < rows(b); ++i) {
        std::vector<double> dq(std::size_t(s.dim));
        double const delta = dot(sdpa_dout, h, i, sdpa_out, h, i, b, s.value_dim);
        for (index_t j = 0; j < seen(b, i); ++j) {
          double const p = std::exp(score(b, h, i, j) - double(stats(b, h, i)));
          double const ds = p * (dot(sdpa_dout, h, i, sdpa_v, g, j, b, s.value_dim) - delta) * double(a.scale);
          for (std::size_t d = 0; d < dq.size(); ++d) {
            dq[d] += ds * get(sdpa_k, b, g, j, index_t(d));
            dk[std::size_t(j)][d] += ds * get(sdpa_q, b, h, i, index_t(d));
          }
          for (index_t d = 0; d < s.value_dim; ++d) dv[std::size_t(j)][std::size_t(d)] += p * get(sdpa_dout, b, h, i, d);
        }
        put(sdpa_dq, b, h, i, dq);
      }
    for (index_t j = 0; j < keys(b); ++j) {
      put(sdpa_dk, b, g, j, dk[std::size_t(j)]);
      put(sdpa_dv, b, g, j, dv[std::size_t(j)]);
    }
  }

  // ---- what cuDNN cannot do, or does wrongly --------------------------------------------------------------------------------------

  char const* first_hazard() const {
    if (s.batch < 1 || s.rows < 1 || s.keys < 1 || s.q_heads < 1 || s.kv_heads < 1) return "a call without work";
    if (s.q_heads % s.kv_heads != 0) return "q heads that are no multiple of kv heads";
    if (s.dim % 8 != 0 || s.value_dim % 8 != 0 || s.dim > 256 || s.value_dim > 256) return "a head dimension";
    if (s.causal && s.rows != s.keys) return "a causal call that is not square";
    if (s.backward && s.rows == 1 && s.keys == 1) return "the gradient of one row and one key";
    if (!(a.scale > 0)) return "a scale that is not positive";
    for (index_t b = 0; s.ragged && b < s.batch; ++b) {
      if (rows(b) < 1 || keys(b) < 1) return "an empty sequence";
      if (rows(b) > s.rows || keys(b) > s.keys) return "a sequence longer than the call";
      if (s.causal && rows(b) != keys(b)) return "a causal sequence that is not square";
    }
    for (int t = 0; t < sp::detail::sdpa_tensor_count; ++t)
      if (used(t))
        if (char const* hazard = hazard_of(t)) return hazard;
    return nullptr;
  }
  bool used(int t) const { return s.backward || t < sp::detail::sdpa_forward_tensors; }
  bool written(int t) const { return s.backward ? t >= sp::detail::sdpa_dq : t == sp::detail::sdpa_out; }
  char const* hazard_of(int t) const {
    auto const& x = s.strides[t];
    bool const keys_of =
        t == sp::detail::sdpa_k || t == sp::detail::sdpa_v || t == sp::detail::sdpa_dk || t == sp::detail::sdpa_dv;
    if (reinterpret_cast<std::uintptr_t>(written(t) ? a.written[t] : a.read[t]) % 16 != 0) return "an address";
    if (x.batch <= 0 || x.head <= 0 || x.row <= 0 || (x.batch | x.head | x.row) % 8 != 0) return "a stride";
    for (index_t b = 0; s.ragged && b < s.batch; ++b) { // what is written by two sequences would be that of the last one
      index_t const end = a.offsets[t][b] + (keys_of ? keys(b) : rows(b)) * x.row;
      if (a.offsets[t][b] < 0 || a.offsets[t][b + 1] < end) return "sequences that do not ascend";
      if (b + 1 == s.batch && a.offsets[t][b + 1] != end) return "an end that is not that of the last sequence";
    }
    return !s.ragged && s.batch > 1 && x.batch < (keys_of ? s.keys : s.rows) * x.row && x.batch < x.row ? "overlapping sequences"
                                                                                                        : nullptr;
  }
};

/// The engine of one rank.
class fake_cudnn {
public:
  explicit fake_cudnn(fake_cudnn_report& report) : report_(&report) {}

  template <class Queue>
  sp::index_t workspace_bytes(sp::detail::sdpa_shape const& s, Queue const&) {
    std::lock_guard const lock(report_->mutex);
    report_->plans.insert(s);
    return bytes_of(s);
  }
  template <class Queue>
  void run(sp::detail::sdpa_shape const& s, sp::detail::sdpa_arguments const& a, void* workspace, Queue const& queue) {
    auto* const bytes = static_cast<std::byte*>(workspace);
    if (s.is_bf16)
      queue.for_each(std::array<sp::index_t, 1>{1}, fake_cudnn_call<sp::bf16>{s, a, bytes, bytes_of(s), report_});
    else
      queue.for_each(std::array<sp::index_t, 1>{1}, fake_cudnn_call<sp::fp16>{s, a, bytes, bytes_of(s), report_});
  }

private:
  /// Nothing, or as much as its sums of dq would take.
  static sp::index_t bytes_of(sp::detail::sdpa_shape const& s) {
    return s.backward ? s.batch * s.q_heads * s.rows * s.dim * 4 : 0;
  }
  fake_cudnn_report* report_;
};

} // namespace support
