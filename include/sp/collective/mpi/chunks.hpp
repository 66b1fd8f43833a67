// The bytes of one parcel in chunks through memory of our own: MPI never holds the caller's memory, so giving up takes no time.
// A few chunks are under way at a time. One that is given up is left to MPI together with its buffer, and nobody reads it.
#pragma once

#include <array>

#include <sp/collective/mpi/link.hpp>
#include <sp/core/piece.hpp>

namespace sp::detail {

/// One direction of one parcel. Both sides cut it in the same places, which the receiver chooses.
class mpi_chunks {
public:
  bool idle() const { return !busy_; }

  void send(mpi_link& link, int peer, int tag, std::span<piece const> pieces, index_t bytes, index_t chunk) {
    start(false, peer, tag, pieces, bytes, chunk);
    post(link);
  }
  void receive(mpi_link& link, int peer, int tag, std::span<piece const> pieces, index_t bytes, index_t chunk) {
    start(true, peer, tag, pieces, bytes, chunk);
    post(link);
  }

  /// Moves what is ready; true when all has moved, or when a message of another length has come. `moved`: bytes that have moved.
  bool test(mpi_link& link, index_t& moved) {
    for (std::size_t step = 0; step < 2 * window; ++step) { // not all at once: the caller also looks at failures and at the clock
      slot& s = slots_[first_ % window];
      int done = 0, count = 0;
      MPI_Status status;
      if (!link.good(MPI_Test(&s.request, &done, &status), "MPI_Test") || !done) return false;
      ++first_;
      link.note_movement();
      if (receiving_) {
        MPI_Get_count(&status, MPI_BYTE, &count);
        if (count == s.length) copy_out(s);
      } else {
        count = s.length;
      }
      moved_ += count;
      moved = moved_;
      bool const as_expected = count == s.length;
      link.chunk_memory().give(std::move(s.memory));
      if (as_expected) post(link);
      if (!as_expected || first_ == posted_) {
        abandon();
        return true;
      }
    }
    return false;
  }

  /// For what no longer matters: MPI keeps the buffers of what is under way.
  void abandon() noexcept {
    for (; first_ < posted_; ++first_) {
      slot& s = slots_[first_ % window];
      if (s.request != MPI_REQUEST_NULL) {
        if (receiving_) MPI_Cancel(&s.request);
        MPI_Request_free(&s.request);
      }
      static_cast<void>(s.memory.release());
    }
    busy_ = false;
  }

private:
  static constexpr std::size_t window = 4;
  struct slot {
    MPI_Request request = MPI_REQUEST_NULL;
    std::unique_ptr<std::byte[]> memory;
    int length = 0;
  };

  void start(bool receiving, int peer, int tag, std::span<piece const> pieces, index_t bytes, index_t chunk) {
    busy_ = true;
    receiving_ = receiving;
    peer_ = peer;
    tag_ = tag;
    left_ = bytes;
    chunk_ = chunk;
    moved_ = 0;
    first_ = posted_ = 0;
    at_ = segment_cursor(pieces);
  }
  /// As many chunks as may be under way.
  void post(mpi_link& link) {
    for (; left_ > 0 && posted_ < first_ + window; ++posted_) {
      slot& s = slots_[posted_ % window];
      s.length = int(min(left_, chunk_));
      s.memory = link.chunk_memory().take();
      if (receiving_) {
        link.good(MPI_Irecv(s.memory.get(), s.length, MPI_BYTE, peer_, tag_, link.comm(), &s.request), "MPI_Irecv");
      } else {
        copy_in(s);
        link.good(MPI_Isend(s.memory.get(), s.length, MPI_BYTE, peer_, tag_, link.comm(), &s.request), "MPI_Isend");
      }
      left_ -= s.length;
    }
  }
  template <class Move>
  void walk(slot const& s, Move&& move) {
    for (index_t at = 0; at < s.length;) {
      index_t const n = min(at_.left(), s.length - at);
      move(s.memory.get() + at, at_.data(), std::size_t(n));
      at_.advance(n);
      at += n;
    }
  }
  void copy_in(slot const& s) {
    walk(s, [](std::byte* chunk, std::byte const* callers, std::size_t n) { std::memcpy(chunk, callers, n); });
  }
  void copy_out(slot const& s) {
    walk(s, [](std::byte const* chunk, std::byte* callers, std::size_t n) { std::memcpy(callers, chunk, n); });
  }

  std::array<slot, window> slots_;
  std::size_t first_ = 0, posted_ = 0; ///< chunks that are complete; those, and chunks under way
  segment_cursor at_{std::span<piece const>{}};
  index_t left_ = 0, chunk_ = 0, moved_ = 0; ///< bytes not posted yet; of a chunk; that have moved
  int peer_ = 0, tag_ = 0;
  bool busy_ = false, receiving_ = false;
};

} // namespace sp::detail
