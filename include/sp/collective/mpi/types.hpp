// Derived types of MPI for bytes that do not lie in one row.
// Those of pieces that list their rows are made once and kept, within bounds, until the communicator ends or long after their last use.
#pragma once

#include <array>
#include <map>
#include <utility>
#include <vector>

#include <sp/collective/mpi/calls.hpp>
#include <sp/core/piece.hpp>

namespace sp::detail {

/// A type, freed with it. Messages under way keep what they need.
class mpi_type {
public:
  mpi_type() = default;
  mpi_type(mpi_type&& o) noexcept : type_(std::exchange(o.type_, MPI_DATATYPE_NULL)) {}
  mpi_type& operator=(mpi_type&& o) noexcept {
    std::swap(type_, o.type_);
    return *this;
  }
  ~mpi_type() {
    if (type_ != MPI_DATATYPE_NULL && mpi_is_running()) MPI_Type_free(&type_);
  }
  MPI_Datatype get() const noexcept { return type_; }
  MPI_Datatype* put() noexcept { return &type_; } ///< where MPI writes a new one; there is none yet

private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

/// Bytes without a gap, of a piece that lists no rows and is not empty.
inline index_t run_length(piece const& p) { return max(segment_cursor({&p, 1}).left(), 1); }

/// Types of pieces, each from the piece's data on, so that tensors of equal shape share them.
class mpi_types {
public:
  /// How many runs of bytes the rows are that a piece lists.
  index_t runs(piece const& p) {
    kept const* const k = find(p);
    return k ? k->runs : count_runs(p);
  }
  /// A committed type of one piece. One that is not kept is put into `room`.
  MPI_Datatype of(mpi_calls& mpi, piece const& p, mpi_type& room) {
    kept* const k = find(p);
    mpi_type& type = k ? k->type : room;
    if (k && type.get() != MPI_DATATYPE_NULL) return type.get();
    mpi_type fresh = p.rows.empty() ? block(mpi, p) : rows(mpi, p);
    mpi.good(MPI_Type_commit(fresh.put()), "MPI_Type_commit");
    type = std::move(fresh);
    return type.get();
  }
  /// A committed type of several pieces at absolute addresses, in `room`.
  MPI_Datatype of(mpi_calls& mpi, std::span<piece const> pieces, mpi_type& room) {
    parts_.clear();
    members_.clear();
    rooms_.clear();
    for (piece const& p : pieces) {
      if (p.bytes() == 0) continue;
      members_.push_back(of(mpi, p, rooms_.emplace_back()));
      parts_.lengths.push_back(1);
      mpi.good(MPI_Get_address(p.data, &parts_.places.emplace_back()), "MPI_Get_address");
    }
    mpi_type fresh;
    mpi.good(
        MPI_Type_create_struct(int(members_.size()), parts_.lengths.data(), parts_.places.data(), members_.data(), fresh.put()),
        "MPI_Type_create_struct");
    mpi.good(MPI_Type_commit(fresh.put()), "MPI_Type_commit");
    room = std::move(fresh);
    rooms_.clear();
    return room.get();
  }

  /// An exchange begins. Now and then, what none has asked for since the last time is freed: lists of steps that are over, mostly.
  void begin_exchange() {
    if (++exchanges_ % patience != 0) return;
    for (auto at = kept_.begin(); at != kept_.end();)
      if (std::exchange(at->second.used, false)) {
        ++at;
      } else {
        ranges_ -= at->second.ranges;
        at = kept_.erase(at);
      }
  }
  void clear() noexcept {
    kept_.clear();
    rooms_.clear();
    ranges_ = 0;
  }

private:
  /// Ranges of rows for which types are kept: Open MPI takes 300 bytes for each, 40 MiB for all.
  static constexpr index_t most_ranges = index_t{1} << 17;
  static constexpr int patience = 128; ///< exchanges
  /// What a type is made of, in memory that is used again.
  struct lists {
    std::vector<int> lengths{};
    std::vector<MPI_Aint> places{};
    void clear() noexcept { lengths.clear(), places.clear(); }
  };
  /// List, size of an element, extents but the first, strides.
  using key = std::array<std::uint64_t, 2 * piece::max_rank + 1>;
  struct kept {
    index_t runs = 0;
    index_t ranges = 0;
    mpi_type type{};
    bool used = true; ///< lately
  };

  static key key_of(piece const& p) {
    key k{p.rows.serial, std::uint64_t(p.element)};
    for (std::size_t d = 0; d < piece::max_rank; ++d) {
      if (d > 0) k[1 + d] = d < std::size_t(p.rank) ? std::uint64_t(p.extents[d]) : 0;
      k[1 + piece::max_rank + d] = d < std::size_t(p.rank) ? std::uint64_t(p.strides[d]) : 0;
    }
    return k;
  }
  /// What is kept for a piece, or null if nothing may be kept for it.
  kept* find(piece const& p) {
    if (p.rows.empty() || p.rows.serial == 0) return nullptr;
    key const k = key_of(p);
    if (auto const at = kept_.find(k); at != kept_.end()) {
      at->second.used = true;
      return &at->second;
    }
    index_t const ranges = index_t(p.rows.size());
    if (ranges_ + ranges > most_ranges) return nullptr;
    kept* const fresh = &kept_.emplace(k, kept{count_runs(p), ranges}).first->second;
    ranges_ += ranges;
    return fresh;
  }
  static index_t count_runs(piece const& p) {
    index_t n = 0;
    for_each_plain(p, [&](piece const& part) {
      if (index_t const bytes = part.bytes(); bytes > 0) n += bytes / run_length(part);
    });
    return n;
  }
  /// A piece that lists no rows: runs of bytes, in a vector for each dimension around them.
  static mpi_type block(mpi_calls& mpi, piece const& p) {
    index_t const run = run_length(p);
    int around = p.rank; // dimensions outside a run
    for (index_t length = p.element; length < run && around > 0;) length *= p.extents[std::size_t(--around)];
    mpi_type type;
    mpi.good(MPI_Type_contiguous(int(run), MPI_BYTE, type.put()), "MPI_Type_contiguous");
    for (int i = around; i-- > 0;) {
      auto const d = std::size_t(i);
      if (p.extents[d] == 1) continue;
      mpi_type outer;
      mpi.good(MPI_Type_create_hvector(int(p.extents[d]), 1, MPI_Aint(p.strides[d]), type.get(), outer.put()),
               "MPI_Type_create_hvector");
      type = std::move(outer);
    }
    return type;
  }
  /// The rows that a piece lists: blocks of rows at the step that its ranges have in common; rows of other ranges are blocks of one.
  mpi_type rows(mpi_calls& mpi, piece const& p) {
    piece one = p;
    one.rows = {};
    one.extents[0] = 1;
    index_t step = 1;
    for (row_range const& r : p.rows)
      if (r.count > 1 && r.step > 0) {
        step = r.step;
        break;
      }
    blocks_.clear();
    auto add = [&](index_t first, index_t count) {
      blocks_.lengths.push_back(int(count));
      blocks_.places.push_back(MPI_Aint(first * p.strides[0]));
    };
    for (row_range const& r : p.rows)
      if (r.step == step)
        add(r.first, r.count);
      else
        for (index_t i = 0; i < r.count; ++i) add(r.first + i * r.step, 1);
    mpi_type const row = block(mpi, one);
    mpi_type spaced, all;
    mpi.good(MPI_Type_create_resized(row.get(), 0, MPI_Aint(step * p.strides[0]), spaced.put()), "MPI_Type_create_resized");
    mpi.good(MPI_Type_create_hindexed(int(blocks_.lengths.size()), blocks_.lengths.data(), blocks_.places.data(), spaced.get(),
                                      all.put()),
             "MPI_Type_create_hindexed");
    return all;
  }

  std::map<key, kept> kept_;
  index_t ranges_ = 0; ///< of all that is kept
  unsigned exchanges_ = 0;
  lists parts_{}, blocks_{};          ///< of a type of several pieces, and of one of rows
  std::vector<MPI_Datatype> members_; ///< of that type of several pieces, and those that are not kept
  std::vector<mpi_type> rooms_;
};

} // namespace sp::detail
