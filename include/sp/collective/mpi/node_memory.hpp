// The shared memory of one rank as an allocator, and the shared memory of its peers as this process sees it.
// A rank makes and gives back segments by itself; peers map what a publication names, and unmap what its owner has given back.
#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <vector>

#include <sp/collective/mpi/segment.hpp>
#include <sp/core/memory.hpp>

namespace sp::detail {

/// Which parts of [0, bytes) are free.
class free_ranges {
public:
  explicit free_ranges(index_t bytes) : bytes_(bytes), free_{{0, bytes}} {}

  /// Offset of a range of `bytes`; -1 when there is no room.
  [[nodiscard]] index_t take(index_t bytes) {
    for (std::size_t i = 0; i < free_.size(); ++i) {
      if (free_[i].bytes < bytes) continue;
      index_t const at = free_[i].at;
      free_[i] = {at + bytes, free_[i].bytes - bytes};
      if (free_[i].bytes == 0) free_.erase(free_.begin() + std::ptrdiff_t(i));
      return at;
    }
    return -1;
  }
  void give(index_t at, index_t bytes) {
    std::size_t i = 0;
    while (i < free_.size() && free_[i].at < at) ++i;
    free_.insert(free_.begin() + std::ptrdiff_t(i), {at, bytes});
    for (std::size_t k = i + 1; k-- > (i > 0 ? i - 1 : 0);) // joins with the free neighbours behind and before
      if (k + 1 < free_.size() && free_[k].at + free_[k].bytes == free_[k + 1].at) {
        free_[k].bytes += free_[k + 1].bytes;
        free_.erase(free_.begin() + std::ptrdiff_t(k) + 1);
      }
  }
  bool all_free() const { return free_.size() == 1 && free_[0].bytes == bytes_; }

private:
  struct range {
    index_t at, bytes;
  };
  index_t bytes_;
  std::vector<range> free_; ///< by offset
};

class mpi_node_memory final : public allocator {
public:
  /// Where a block lies: what its owner tells peers, which see the same bytes in their own mapping of that segment.
  struct place {
    std::int32_t segment = -1, descriptor = -1;
    index_t at = 0;
  };
  /// A segment that this many releases in a row have not needed goes back to the machine.
  static constexpr int releases_unused = 1000;

  mpi_node_memory(int rank, int ranks) : rank_(rank), owners_(std::size_t(ranks)), mapped_(std::size_t(ranks)) {
    owners_[std::size_t(rank)] = segment_owner::self();
  }

  void* allocate(std::size_t bytes) override {
    if (bytes > std::size_t(largest)) refuse(std::to_string(bytes));
    return at(take(block_bytes(index_t(bytes))));
  }
  void deallocate(void* p, std::size_t bytes) noexcept override {
    auto const* data = static_cast<std::byte const*>(p);
    index_t const n = block_bytes(index_t(bytes));
    give(find(data, data + n), n);
  }

  static index_t block_bytes(index_t n) { return round_up(max(n, 1), alignment); }
  /// A block of this rank's shared memory, which grows where it must; `bytes` are block_bytes() of something.
  [[nodiscard]] place take(index_t bytes) {
    for (own& s : own_)
      if (index_t const at = s.ranges.take(bytes); at >= 0) {
        s.unused = 0;
        return {s.number, s.memory.descriptor(), at};
      }
    grow(bytes);
    own& fresh = own_.back();
    return {fresh.number, fresh.memory.descriptor(), fresh.ranges.take(bytes)};
  }
  void give(place p, index_t bytes) noexcept { segment(p.segment).ranges.give(p.at, bytes); }
  /// The place of bytes [low, high) if this rank's shared memory holds them; segment -1 if not.
  place find(std::byte const* low, std::byte const* high) const {
    std::less_equal<> const before;
    for (own const& s : own_)
      if (before(s.memory.data(), low) && before(high, s.memory.data() + s.memory.bytes()))
        return {s.number, s.memory.descriptor(), low - s.memory.data()};
    return {};
  }
  std::byte* at(place p) { return segment(p.segment).memory.data() + p.at; }

  /// After the end of a publication: what nobody has used for long is given back.
  void give_back_unused() noexcept {
    for (own& s : own_) s.unused = s.ranges.all_free() ? s.unused + 1 : 0;
    std::erase_if(own_, [](own const& s) { return s.unused > releases_unused; });
  }

  segment_owner const& self() const { return owners_[std::size_t(rank_)]; }
  void set_owner(int rank, segment_owner const& o) { owners_[std::size_t(rank)] = o; }
  /// Where `p` of a peer lies for this process; null, and `problem` says why, if its segment cannot be mapped.
  [[nodiscard]] std::byte* at(int rank, place p, segment_problem& problem) {
    if (rank == rank_) return at(p);
    auto& theirs = mapped_[std::size_t(rank)];
    auto found = std::find_if(theirs.begin(), theirs.end(), [&](peer_segment const& s) { return s.number == p.segment; });
    if (found == theirs.end()) {
      shared_segment memory = shared_segment::attach(owners_[std::size_t(rank)], p.segment, p.descriptor, problem);
      if (!memory.data()) return nullptr;
      theirs.push_back({p.segment, std::move(memory)});
      found = theirs.end() - 1;
    }
    return found->memory.data() + p.at;
  }

  /// Numbers of this rank's segments, for its peers; at most most_segments() after another take().
  std::vector<std::int32_t> segments() const {
    std::vector<std::int32_t> numbers;
    for (own const& s : own_) numbers.push_back(s.number);
    return numbers;
  }
  std::size_t most_segments() const { return own_.size() + 1; }
  /// Unmaps what that rank has given back: all but `kept`.
  void keep_only(int rank, std::span<std::int32_t const> kept) {
    if (rank == rank_) return;
    std::erase_if(mapped_[std::size_t(rank)],
                  [&](peer_segment const& s) { return std::find(kept.begin(), kept.end(), s.number) == kept.end(); });
  }

  /// Bytes of address space of this rank's segments, and of all that it has mapped of its peers.
  index_t own_bytes() const { return sum(own_); }
  index_t mapped_bytes() const {
    index_t n = 0;
    for (auto const& theirs : mapped_) n += sum(theirs);
    return n;
  }

private:
  static constexpr index_t smallest = index_t{1} << 18, largest = index_t{1} << 50;
  struct own {
    std::int32_t number;
    shared_segment memory;
    free_ranges ranges;
    int unused = 0; ///< releases since a block was taken last
  };
  struct peer_segment {
    std::int32_t number;
    shared_segment memory;
  };
  [[noreturn]] static void refuse(std::string const& bytes) {
    fail({errc::backend_error, bytes + " bytes of shared memory were asked for", "Check the extents: no tensor is that large",
          "sp::mpi_shared"});
  }
  template <class Segments>
  static index_t sum(Segments const& segments) {
    index_t n = 0;
    for (auto const& s : segments) n += s.memory.bytes();
    return n;
  }

  own& segment(int number) {
    return *std::find_if(own_.begin(), own_.end(), [&](own const& s) { return s.number == number; });
  }
  /// Nothing that is free has room for `bytes`: it goes back to the machine, and a new segment is made. Each is half as large
  /// again as it must be, and not smaller than what stays, so that growing step by step makes few; untouched pages cost nothing.
  void grow(index_t bytes) {
    if (bytes > largest) refuse(std::to_string(bytes));
    std::erase_if(own_, [](own const& s) { return s.ranges.all_free(); });
    index_t const n = round_up(max(max(bytes + bytes / 2, own_bytes()), smallest), index_t{4096});
    own_.push_back({next_, shared_segment::create(self(), next_, n), free_ranges(n)});
    ++next_;
  }

  int rank_;
  std::int32_t next_ = 0; ///< number of the next segment
  std::vector<own> own_;
  std::vector<segment_owner> owners_;             ///< by rank
  std::vector<std::vector<peer_segment>> mapped_; ///< by rank
};

} // namespace sp::detail
