// A run: tokens a rank owns, as an arithmetic progression of positions. Everything a sharding says is a list of runs.
// Pure integers: intersection, clipping and merging are exact and constexpr.
#pragma once

#include <span>
#include <vector>

#include <sp/core/index.hpp>
#include <sp/core/sort.hpp>

namespace sp {

/// Positions begin, begin + stride, ..., begin + (count - 1) stride. stride >= 1.
struct run {
  index_t begin = 0;
  index_t count = 0;
  index_t stride = 1;

  constexpr index_t at(index_t i) const noexcept { return begin + i * stride; }
  constexpr index_t last() const noexcept { return at(count - 1); }
  /// The smallest position behind the run; begin for an empty run.
  constexpr index_t end() const noexcept { return count ? last() + 1 : begin; }
  constexpr bool contains(index_t position) const noexcept {
    return count > 0 && position >= begin && position <= last() && (position - begin) % stride == 0;
  }
  constexpr run sub(index_t first, index_t n) const noexcept { return {at(first), n, stride}; }
  friend constexpr bool operator==(run const&, run const&) = default;
};

/// Indices [first, first + count) of a run.
struct interval {
  index_t first = 0;
  index_t count = 0;
  friend constexpr bool operator==(interval const&, interval const&) = default;
};

/// Which indices of r have positions in [a, b).
[[nodiscard]] SP_BOTH constexpr interval clip(run const& r, index_t a, index_t b) {
  index_t first = max(0, ceil_div(a - r.begin, r.stride));
  index_t last = min(r.count, ceil_div(b - r.begin, r.stride));
  return {first, max(0, last - first)};
}

/// How many positions the runs hold together.
[[nodiscard]] constexpr index_t count_of(std::span<run const> runs) {
  index_t n = 0;
  for (run const& r : runs) n = checked_add(n, r.count);
  return n;
}

/// What two runs share: `count` positions from `begin` on with step `stride`; they are rows a, a + a_step, ... of the
/// first run and b, b + b_step, ... of the second.
struct run_overlap {
  index_t begin = 0, count = 0, stride = 1;
  index_t a = 0, a_step = 1, b = 0, b_step = 1;
};

/// The intersection of two arithmetic progressions is one (Chinese remainder theorem); count 0 when they miss each other.
[[nodiscard]] constexpr run_overlap intersect(run const& a, run const& b) {
  if (a.count == 0 || b.count == 0) return {};
  // extended Euclid on the strides: g = gcd, x a.stride = g (mod b.stride)
  index_t old_r = a.stride, r = b.stride, old_x = 1, x = 0;
  while (r != 0) {
    index_t q = old_r / r;
    index_t t = old_r - q * r;
    old_r = r;
    r = t;
    t = old_x - q * x;
    old_x = x;
    x = t;
  }
  index_t g = old_r, gap = b.begin - a.begin;
  if (gap % g != 0) return {};
  index_t m = b.stride / g, step = checked_mul(a.stride, m);
  index_t k = (((gap / g) % m) * (old_x % m)) % m; // row of a, modulo m, that is also in b
  if (k < 0) k += m;
  index_t lo = max(a.begin, b.begin), hi = min(a.last(), b.last());
  index_t begin = a.at(k);
  if (begin < lo) begin += ceil_div(lo - begin, step) * step;
  if (begin > hi) return {};
  return {begin,           (hi - begin) / step + 1,      step,           (begin - a.begin) / a.stride,
          step / a.stride, (begin - b.begin) / b.stride, step / b.stride};
}

/// Appends r to runs, joined to the last one where the positions continue affinely. Two single positions are joined only when they
/// are neighbours: a stride made up between them would agree with nobody else's, and bands need strides that agree.
constexpr void append(std::vector<run>& runs, run r) {
  if (r.count == 0) return;
  if (r.count == 1) r.stride = 1;
  if (!runs.empty()) {
    run& l = runs.back();
    index_t step = r.begin - l.last();
    bool l_agrees = l.count == 1 || l.stride == step;
    bool r_agrees = r.count == 1 || r.stride == step;
    bool singles = l.count == 1 && r.count == 1;
    if (step > 0 && l_agrees && r_agrees && (!singles || step == 1)) {
      l = {l.begin, l.count + r.count, step};
      return;
    }
  }
  runs.push_back(r);
}

/// The same positions in ascending order as far as runs can say it: disjoint runs are sorted by begin, and interleaved ones
/// that together leave no hole become one dense run. This is the order in which a group of ranks sees its tokens.
[[nodiscard]] constexpr std::vector<run> in_stream_order(std::vector<run> runs) {
  std::vector<run> out;
  std::erase_if(runs, [](run const& r) { return r.count <= 0; });
  detail::sort(runs, [](run const& a, run const& b) { return a.begin < b.begin; });
  for (std::size_t i = 0; i < runs.size();) {
    index_t end = runs[i].end(), count = runs[i].count;
    std::size_t j = i + 1;
    for (; j < runs.size() && runs[j].begin < end; ++j) { // a cluster of runs whose ranges overlap
      end = max(end, runs[j].end());
      count += runs[j].count;
    }
    if (count == end - runs[i].begin)
      append(out, {runs[i].begin, count, 1});
    else
      for (std::size_t k = i; k < j; ++k) append(out, runs[k]);
    i = j;
  }
  return out;
}

} // namespace sp
