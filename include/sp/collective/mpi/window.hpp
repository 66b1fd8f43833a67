// Memory that the processes of one node share: windows of MPI_Win_allocate_shared that grow when some rank needs more.
// Blocks are handed out locally; only making a window is collective, and it is made when everybody is known to be there.
#pragma once

#include <functional>
#include <new>

#include <sp/collective/mpi/group.hpp>
#include <sp/core/memory.hpp>

namespace sp::detail {

/// One window: this rank's part, handed out in blocks, and where the parts of the others begin.
class mpi_window {
public:
  /// Collective over `comm`; blocks until every rank of it has come. Ranks may ask for different sizes.
  mpi_window(MPI_Comm comm, index_t bytes) {
    MPI_Info info = MPI_INFO_NULL;
    mpi_check(MPI_Info_create(&info), "MPI_Info_create");
    MPI_Info_set(info, "alloc_shared_noncontig", "true"); // each part on pages of its own
    std::byte* base = nullptr;
    int const made = MPI_Win_allocate_shared(MPI_Aint(bytes + index_t(allocator::alignment)), 1, info, comm, &base, &window_);
    MPI_Info_free(&info);
    mpi_check(made, "MPI_Win_allocate_shared");
    mpi_check(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_), "MPI_Win_lock_all"); // MPI_Win_sync needs an epoch
    int rank = 0, size = 0;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    for (int r = 0; r < size; ++r) {
      MPI_Aint part = 0;
      int unit = 0;
      void* start = nullptr;
      mpi_check(MPI_Win_shared_query(window_, r, &part, &unit, &start), "MPI_Win_shared_query");
      bases_.push_back(static_cast<std::byte*>(start));
    }
    mine_ = bases_[std::size_t(rank)];
    auto const address = reinterpret_cast<std::uintptr_t>(mine_);
    begin_ = index_t(round_up(address, allocator::alignment) - address);
    end_ = begin_ + bytes;
    free_.push_back({begin_, bytes});
  }
  mpi_window(mpi_window const&) = delete;

  /// Collective, and blocking. A window that is not freed stays until the process ends.
  void free() {
    MPI_Win_unlock_all(window_);
    MPI_Win_free(&window_);
  }
  void sync() const { MPI_Win_sync(window_); }

  std::byte* base(int rank) const { return bases_[std::size_t(rank)]; }
  /// Offset of a block of `bytes`, which are a multiple of the alignment; -1 when there is no room.
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
  /// Whether [low, high) lies in this rank's part.
  bool holds(std::byte const* low, std::byte const* high) const {
    std::less_equal<> const before;
    return before(mine_ + begin_, low) && before(high, mine_ + end_);
  }

private:
  struct block {
    index_t at, bytes;
  };
  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<std::byte*> bases_; ///< as this process sees them, by rank
  std::byte* mine_ = nullptr;
  index_t begin_ = 0, end_ = 0; ///< of what is handed out
  std::vector<block> free_;     ///< by offset
};

/// The windows of one rank as an allocator. What does not fit comes from the heap, and the next publish makes room for as much.
class mpi_node_memory final : public allocator {
public:
  /// A block in a window: peers find the same bytes at base(rank) + at.
  struct place {
    int window = -1;
    index_t at = 0;
  };

  void* allocate(std::size_t bytes) override {
    index_t const n = block_bytes(index_t(bytes));
    if (place const p = take(n); p.window >= 0) return windows_[std::size_t(p.window)]->base(rank_) + p.at;
    outside_ += n;
    wanted_ = max(wanted_, outside_);
    return ::operator new(std::size_t(n), std::align_val_t(alignment));
  }
  void deallocate(void* p, std::size_t bytes) noexcept override {
    auto const* data = static_cast<std::byte const*>(p);
    if (place const q = find(data, data + bytes); q.window >= 0) return give(q, block_bytes(index_t(bytes)));
    outside_ = max(outside_ - block_bytes(index_t(bytes)), index_t{0});
    ::operator delete(p, std::align_val_t(alignment));
  }

  static index_t block_bytes(index_t n) { return round_up(max(n, 1), alignment); }
  [[nodiscard]] place take(index_t bytes) {
    for (std::size_t w = 0; w < windows_.size(); ++w)
      if (index_t const at = windows_[w]->take(bytes); at >= 0) return {int(w), at};
    return {};
  }
  void give(place p, index_t bytes) noexcept { windows_[std::size_t(p.window)]->give(p.at, bytes); }
  place find(std::byte const* low, std::byte const* high) const {
    for (std::size_t w = 0; w < windows_.size(); ++w)
      if (windows_[w]->holds(low, high)) return {int(w), low - windows_[w]->base(rank_)};
    return {};
  }
  std::byte* at(int rank, place p) const { return windows_[std::size_t(p.window)]->base(rank) + p.at; }

  /// The most bytes that allocate() had from the heap at a time, of those it took there since the last growth.
  index_t wanted() const { return wanted_; }
  /// Collective.
  void grow(MPI_Comm comm, index_t bytes) {
    MPI_Comm_rank(comm, &rank_);
    windows_.push_back(std::make_unique<mpi_window>(comm, block_bytes(bytes)));
    wanted_ = outside_ = 0;
  }
  /// Collective.
  void free() {
    for (auto const& w : windows_) w->free();
    windows_.clear();
  }
  void sync() const {
    for (auto const& w : windows_) w->sync();
  }

private:
  std::vector<std::unique_ptr<mpi_window>> windows_;
  int rank_ = 0;
  index_t wanted_ = 0, outside_ = 0; ///< outside: on the heap now
};

} // namespace sp::detail
