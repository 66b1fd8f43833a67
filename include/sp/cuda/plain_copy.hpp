// Copies that the runtime does by itself: one run of bytes, long rows of equal length, and what the host reads.
// Everything else is a kernel's, see copy.hpp.
#pragma once

#include <sp/cuda/blocks.hpp>
#include <sp/cuda/error.hpp>

namespace sp::detail {

/// Memory of the host that no device can touch.
inline bool is_pageable(std::byte const* p, char const* primitive) {
  cudaPointerAttributes a{};
  cuda_check(cudaPointerGetAttributes(&a, p), "cudaPointerGetAttributes", primitive);
  return a.type == cudaMemoryTypeUnregistered;
}

/// Rows of `width` bytes on both sides.
struct equal_rows {
  static constexpr index_t long_row = 4096; ///< shorter ones are a kernel's: the runtime's copy of rows is made for images
  index_t width = 0, count = 0, to_pitch = 0, from_pitch = 0; ///< count 0: there are none

  constexpr equal_rows(run_block const& to, run_block const& from) {
    if (to.bytes() != from.bytes() || to.dims > 1 || from.dims > 1) return;
    width = min(to.run, from.run);
    count = to.bytes() / width;
    to_pitch = to.dims ? to.strides[0] : width;
    from_pitch = from.dims ? from.strides[0] : width;
    if (!fits(to, to_pitch) || !fits(from, from_pitch)) count = 0;
  }

private:
  static constexpr index_t longest = (index_t(1) << 31) - 1; ///< distance of rows that the runtime takes
  /// One run is rows of any length that divides it.
  constexpr bool fits(run_block const& b, index_t pitch) const {
    return (b.dims == 0 ? b.run % width == 0 : b.run == width) && pitch >= width && pitch <= longest;
  }
};

/// Gives the stream a copy of what is plain, or of the host's memory. False: there is work for a kernel.
inline bool copy_plain(cudaStream_t stream, std::span<piece const> to, std::span<piece const> from, char const* primitive) {
  block_cursor const t(to), f(from);
  run_block const a = t.whole(), b = f.whole();
  bool const pageable = is_pageable(a.first, primitive) || is_pageable(b.first, primitive);
  if (pageable && capture_of(stream, primitive) != 0)
    fail({errc::bad_state, "memory of the host is copied while the stream is being captured: a graph would find it gone",
          capture_remedy, primitive});
  auto plain = [&](std::byte* there, std::byte const* here, index_t n) {
    cuda_check(cudaMemcpyAsync(there, here, std::size_t(n), cudaMemcpyDefault, stream), "cudaMemcpyAsync", primitive);
  };
  bool const single = t.is_last() && f.is_last();
  if (single && a.dims == 0 && b.dims == 0) return plain(a.first, b.first, min(a.run, b.run)), true;
  if (equal_rows const rows(a, b); single && rows.count > 0 && (pageable || rows.width >= rows.long_row)) {
    auto n = [](index_t x) { return std::size_t(x); };
    cuda_check(cudaMemcpy2DAsync(a.first, n(rows.to_pitch), b.first, n(rows.from_pitch), n(rows.width), n(rows.count),
                                 cudaMemcpyDefault, stream),
               "cudaMemcpy2DAsync", primitive);
    return true;
  }
  if (!pageable) return false;
  segment_cursor there(to), here(from);
  while (!there.done() && !here.done()) {
    index_t const n = min(there.left(), here.left());
    plain(there.data(), here.data(), n);
    there.advance(n);
    here.advance(n);
  }
  return true;
}

} // namespace sp::detail
