// What cuDNN computes of a problem: sequences of rows against keys, full or square causal, gathered into calls.
// Together they hold exactly the pairs of the problem; none is empty, and every row of one sees a key of it.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include <sp/backend/concepts.hpp>
#include <sp/core/digest.hpp>
#include <sp/geometry/square_causal.hpp>

namespace sp {

/// How sp::cudnn works. Making a plan takes cuDNN 55 to 70 ms, and a plan is for one shape: lengths that change with every step should
/// share plans, lengths that do not should have their own.
struct cudnn_options {
  bool deterministic = false;   ///< backward gives the same bits every time; on Hopper for memory of rows x keys per head
  index_t fixed_multiple = 128; ///< sequences of such lengths have plans of their own length; others take the next power of two
  index_t least_length = 64;    ///< of a plan for sequences of other lengths

  [[nodiscard]] std::uint64_t features() const {
    return digest().add(deterministic).add(fixed_multiple).add(least_length).value();
  }
};

namespace detail {

/// Rows [q, q + rows) against keys [k, k + keys), counted from those of the first sequence of the call.
struct sdpa_sequence {
  std::int32_t q, k, rows, keys;
  friend constexpr bool operator==(sdpa_sequence const&, sdpa_sequence const&) = default;
};

/// One call of cuDNN. Its sequences ascend and share neither rows nor keys, so that gradients are written once.
struct sdpa_batch {
  bool causal = false; ///< row i of a sequence sees its keys 0..i, and rows == keys; otherwise all of them
  bool even = false;   ///< all sequences have `rows` rows and `keys` keys and stand q_step and k_step apart
  int q_tensor = 0, k_tensor = 0;
  index_t q = 0, k = 0;       ///< first row and first key
  index_t rows = 0, keys = 0; ///< of the longest sequence that the call may have
  index_t q_step = 0, k_step = 0;
  std::vector<sdpa_sequence> list{};

  [[nodiscard]] index_t count() const { return index_t(list.size()); }
  /// Rows, or keys, from the first one to the end of the last one.
  [[nodiscard]] index_t q_span() const { return index_t(list.back().q) + list.back().rows; }
  [[nodiscard]] index_t k_span() const { return index_t(list.back().k) + list.back().keys; }
  /// Rows, or keys, of all sequences.
  [[nodiscard]] index_t q_total() const { return total(&sdpa_sequence::rows); }
  [[nodiscard]] index_t k_total() const { return total(&sdpa_sequence::keys); }

private:
  index_t total(std::int32_t sdpa_sequence::*length) const {
    index_t n = 0;
    for (sdpa_sequence const& s : list) n += s.*length;
    return n;
  }
};

/// Gathers full and square causal blocks into calls. Calls with lists of lengths have a power of two of sequences, whose lengths are
/// within a factor of two (or below the least length): few plans serve all batches, and padding costs less than the work.
class sdpa_batches {
public:
  explicit sdpa_batches(cudnn_options const& how) : how_(how) {}

  void add(block const& b, bool causal) {
    constexpr index_t most = std::numeric_limits<std::int32_t>::max();
    if (b.q + b.rows > most || b.k + b.keys > most)
      fail({errc::size_overflow, "rows up to " + std::to_string(max(b.q + b.rows, b.k + b.keys)) + " of one tensor",
            "cuDNN counts rows in 32 bits: give each rank fewer tokens", "cudnn"});
    index_t const rows = length_of_plan(b.rows), keys = length_of_plan(b.keys);
    std::size_t at = 0;
    for (; at < open_.size(); ++at) {
      sdpa_batch const& o = open_[at];
      if (o.causal == causal && o.q_tensor == b.q_tensor && o.k_tensor == b.k_tensor && o.rows == rows && o.keys == keys &&
          o.q_span() <= b.q && o.k_span() <= b.k)
        break;
    }
    if (at == open_.size()) {
      open_.emplace_back();
      sdpa_batch& o = open_.back();
      o.causal = causal;
      o.q_tensor = b.q_tensor, o.k_tensor = b.k_tensor;
      o.rows = rows, o.keys = keys;
    }
    open_[at].list.push_back({std::int32_t(b.q), std::int32_t(b.k), std::int32_t(b.rows), std::int32_t(b.keys)});
  }

  /// The calls, in the order of their first blocks.
  [[nodiscard]] std::vector<sdpa_batch> take() {
    std::vector<sdpa_batch> out;
    for (sdpa_batch& o : open_) {
      if (even(o)) {
        out.push_back(placed(std::move(o)));
        continue;
      }
      for (std::size_t first = 0; first < o.list.size();) {
        std::size_t const n = std::bit_floor(o.list.size() - first);
        sdpa_batch part = o;
        part.list.assign(o.list.begin() + std::ptrdiff_t(first), o.list.begin() + std::ptrdiff_t(first + n));
        first += n;
        out.push_back(placed(std::move(part)));
      }
    }
    open_.clear();
    return out;
  }

private:
  /// One row against one key is no shape of its own: cuDNN has no gradient of it.
  index_t length_of_plan(index_t n) const {
    if (n > 1 && n % max(how_.fixed_multiple, 1) == 0) return n;
    return max(max(how_.least_length, 2), index_t(std::bit_ceil(std::uint64_t(n))));
  }
  /// Whether no list of lengths is needed.
  static bool even(sdpa_batch const& b) {
    for (std::size_t i = 0; i < b.list.size(); ++i) {
      sdpa_sequence const& s = b.list[i];
      if (s.rows != b.rows || s.keys != b.keys) return false;
      if (i < 2) continue;
      sdpa_sequence const &last = b.list[i - 1], &before = b.list[i - 2];
      if (s.q - last.q != last.q - before.q || s.k - last.k != last.k - before.k) return false;
    }
    return true;
  }
  static sdpa_batch placed(sdpa_batch b) {
    b.even = even(b);
    sdpa_sequence const first = b.list.front();
    b.q = first.q, b.k = first.k;
    b.q_step = b.list.size() > 1 ? b.list[1].q - first.q : b.rows;
    b.k_step = b.list.size() > 1 ? b.list[1].k - first.k : b.keys;
    for (sdpa_sequence& s : b.list) s.q -= first.q, s.k -= first.k;
    return b;
  }

  cudnn_options how_;
  std::vector<sdpa_batch> open_; ///< positions in them are those of the tensors
};

/// The calls of a problem. unsupported_mask for a block that is neither full nor can be cut into full and square causal ones.
[[nodiscard]] inline std::vector<sdpa_batch> sdpa_batches_of(problem const& p, cudnn_options const& how) {
  sdpa_batches out(how);
  for_each_block(std::span(p.q), std::span(p.k), std::span(p.mask), [&](block const& b) {
    if (b.is_full()) return out.add(b, false);
    auto const pieces = to_square_causal(b);
    if (!pieces)
      fail({errc::unsupported_mask,
            "cuDNN is asked for full and square causal blocks alone, and " + describe(b) + " cannot be cut into them",
            "Compute windows, and queries and keys in steps of different sizes, with sp::cuda_flash, which takes any bounds",
            "cudnn"});
    for (block const& piece : *pieces) out.add(piece, !piece.is_full());
  });
  return out.take();
}

} // namespace detail
} // namespace sp
