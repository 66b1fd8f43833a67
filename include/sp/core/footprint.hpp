// Which bytes a strided tensor touches, and whether two of them share one: the test behind errc::aliasing.
// Exact for tensors whose rows interleave (packed QKV, heads side by side); a doubt counts as an overlap.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include <sp/core/view.hpp>

namespace sp::detail {

/// The bytes a tensor spans and the steps in which it repeats.
struct footprint {
  struct step {
    index_t bytes = 0; ///< |stride|
    index_t inner = 0; ///< bytes that one entry of this dimension spans
  };
  static constexpr std::size_t max_rank = 4;

  char const* name;
  std::uintptr_t begin = 0, end = 0;
  std::array<step, max_rank> steps{}; ///< dimensions with more than one entry, the largest step first
  std::size_t count = 0;
  bool overlaps_itself = false;

  template <class T, int Rank, class M>
    requires(std::size_t(Rank) <= max_rank)
  footprint(char const* n, view<T, Rank, M> const& v) : name(n) {
    if (v.empty() || !v.data) return;
    begin = reinterpret_cast<std::uintptr_t>(v.data);
    for (int d = 0; d < Rank; ++d) {
      if (v.extent(d) == 1) continue;
      index_t bytes = checked_mul(v.stride(d), index_t(sizeof(T)));
      if (bytes < 0) {
        bytes = checked_mul(bytes, -1);
        begin -= std::uintptr_t(checked_mul(v.extent(d) - 1, bytes));
      }
      std::size_t at = count++;
      for (; at > 0 && steps[at - 1].bytes < bytes; --at) steps[at] = steps[at - 1];
      steps[at] = {bytes, v.extent(d)}; // the extent stands in `inner` until the next loop
    }
    index_t inner = index_t(sizeof(T));
    for (std::size_t i = count; i-- > 0;) {
      index_t extent = std::exchange(steps[i].inner, inner);
      overlaps_itself = overlaps_itself || steps[i].bytes < inner;
      inner = checked_add(inner, checked_mul(extent - 1, steps[i].bytes));
    }
    end = begin + std::uintptr_t(inner);
  }

  /// A byte may belong to both.
  bool meets(footprint const& o) const {
    if (end <= o.begin || o.end <= begin) return false;
    for (std::size_t i = 0; i < count && i < o.count; ++i) {
      step const &a = steps[i], &b = o.steps[i];
      index_t period = a.bytes;
      if (b.bytes != period || period == 0 || (i > 0 && steps[i - 1].bytes % period != 0)) return true;
      index_t shift = ((index_t(o.begin) - index_t(begin)) % period + period) % period;
      if (a.inner <= shift && shift + b.inner <= period) return false; // they lie beside each other in every period
    }
    return true;
  }
};

/// Nothing written may overlap itself or anything else of the call.
inline void refuse_aliasing(std::initializer_list<footprint> written, std::initializer_list<footprint> read) {
  auto refuse = [](std::string problem) {
    fail({errc::aliasing, std::move(problem), "This call is not in-place: give outputs memory of their own"});
  };
  for (auto const* w = written.begin(); w != written.end(); ++w) {
    if (w->overlaps_itself) refuse(std::string(w->name) + " overlaps itself: two of its elements share memory");
    for (auto const* o = w + 1; o != written.end(); ++o)
      if (w->meets(*o)) refuse(std::string(w->name) + " overlaps " + o->name);
    for (footprint const& r : read)
      if (w->meets(r)) refuse(std::string(w->name) + " overlaps " + r.name);
  }
}

} // namespace sp::detail
