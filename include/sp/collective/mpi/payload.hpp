// The bytes of one parcel on their way between two processes: straight from and to the caller's memory, or through a buffer.
// Counts are checked on arrival; on failure receives are cancelled, and who used the caller's memory waits until they are complete.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>

#include <sp/collective/mpi/chunks.hpp>

namespace sp::detail {

/// How pieces lie in memory: runs of bytes without a gap, whatever pieces they belong to.
struct mpi_shape {
  static constexpr index_t worth_a_message = 4096;

  index_t runs = 0;
  index_t lengths[mpi_control::most_cuts]{}; ///< of the first runs

  mpi_shape(mpi_types& types, std::span<piece const> pieces) {
    std::byte* end = nullptr;
    for (piece const& p : pieces)
      if (p.rows.size() > std::size_t(mpi_control::most_cuts) && p.bytes() > 0)
        runs += types.runs(p) + mpi_control::most_cuts, end = nullptr; // too many to be listed, and counted once for all calls
      else
        for_each_plain(p, [&](piece const& plain) { add(plain, end); });
  }
  /// A few long runs: each is a message of its own, straight from memory to memory.
  bool few() const {
    if (runs < 2 || runs > mpi_control::most_cuts) return false;
    for (index_t r = 0; r < runs; ++r)
      if (lengths[r] < worth_a_message) return false;
    return true;
  }

private:
  /// `end` is where the piece before it ended.
  void add(piece const& p, std::byte*& end) {
    index_t const bytes = p.bytes();
    if (bytes == 0) return;
    index_t const run = run_length(p);
    if (run < bytes) {
      runs += bytes / run + mpi_control::most_cuts; // too many to be listed
    } else if (runs > 0 && runs <= mpi_control::most_cuts && p.data == end) {
      lengths[runs - 1] += bytes;
    } else {
      if (runs < mpi_control::most_cuts) lengths[runs] = bytes;
      ++runs;
    }
    end = p.data + bytes;
  }
};

// How bytes that do not lie in one row travel; the rules are from bench_mpi, on Open MPI 4.1 over shared memory.
// A few long runs (keys and values, say) as a message each: 0.4 of the time of a derived datatype, which would be copied piecewise.
// All else by derived datatypes: 0.55 to 0.95 of the time of packing, whether runs are of 16 bytes or of 64 KiB, because packing
// goes over the bytes twice more. A few long pieces are a message and a type each, so that types of rows that are listed can be kept
// though tensors move. Packed are runs below 16 bytes, parcels beyond one message (both sides would have to cut their types at the
// same byte), and what the receiver wants in messages that begin or end within pieces of the sender.
inline constexpr index_t shortest_typed_run = 16;

/// One direction of one parcel. Reused: a steady state allocates nothing but what MPI does itself.
class mpi_payload {
public:
  bool idle() const { return requests_.empty() && chunks_.idle(); }

  /// `call` is the receiver's: where, and cut how, it wants the bytes.
  void send(mpi_link& link, int peer, mpi_control const& call, std::span<piece const> pieces, index_t bytes,
            mpi_options const& options) {
    if (call.purpose == mpi_control::in_chunks)
      return chunks_.send(link, peer, call.tag, pieces, bytes, std::clamp<index_t>(call.cuts[0], 1, mpi_chunk_memory::bytes));
    receiving_ = false;
    bool const cuts = call.purpose >= 2 && call.purpose <= mpi_control::most_cuts &&
                      std::accumulate(call.cuts, call.cuts + call.purpose, index_t{0}) == bytes;
    cut_.assign(call.cuts, call.cuts + (cuts ? call.purpose : 0));
    if (!cuts) cut_.push_back(bytes);
    index_t const largest = options.largest_message;
    begin(pieces, bytes);
    if (!direct() && !typed(mpi_shape(link.types(), pieces), largest)) {
      stage();
      piece const packed = flat(memory_.get(), bytes);
      copy({&packed, 1}, pieces);
    }
    post(link, largest, [&](void* from, int count, MPI_Datatype type, MPI_Request* r) {
      link.good(MPI_Isend(from, count, type, peer, call.tag, link.comm(), r), "MPI_Isend");
    });
  }
  /// Writes into `call` how the bytes are wanted.
  void receive(mpi_link& link, int peer, mpi_control& call, std::span<piece const> pieces, index_t bytes,
               mpi_options const& options) {
    index_t const largest = options.largest_message;
    if (options.owns_large_parcels()) {
      call.purpose = mpi_control::in_chunks;
      call.cuts[0] = min(largest, mpi_chunk_memory::bytes);
      return chunks_.receive(link, peer, call.tag, pieces, bytes, call.cuts[0]);
    }
    receiving_ = true;
    cancelled_ = false;
    begin(pieces, bytes);
    mpi_shape const shape(link.types(), pieces);
    if (shape.few())
      cut_.assign(shape.lengths, shape.lengths + shape.runs);
    else if (!may_be_typed(shape) || !cut_by_pieces(largest))
      cut_.assign(1, bytes);
    if (cut_.size() > 1) {
      call.purpose = int(cut_.size());
      std::copy(cut_.begin(), cut_.end(), call.cuts);
    }
    if (!direct() && !typed(shape, largest)) stage();
    post(link, largest, [&](void* to, int count, MPI_Datatype type, MPI_Request* r) {
      link.good(MPI_Irecv(to, count, type, peer, call.tag, link.comm(), r), "MPI_Irecv");
    });
  }

  /// True when all has moved. `moved` is then the number of bytes that arrived; a send counts what it was given.
  bool test(mpi_link& link, index_t& moved) {
    if (!chunks_.idle()) return chunks_.test(link, moved);
    int all = 0;
    statuses_.resize(requests_.size());
    if (!link.good(MPI_Testall(int(requests_.size()), requests_.data(), &all, statuses_.data()), "MPI_Testall") || !all)
      return false;
    moved = receiving_ ? arrived() : bytes_;
    if (receiving_ && staged_ && moved == bytes_) {
      piece const packed = flat(memory_.get(), bytes_);
      copy(pieces_, {&packed, 1});
    }
    requests_.clear();
    return true;
  }

  /// Nobody wants the bytes any more; true when MPI does not use the caller's memory any more. What has begun has to complete, and a
  /// send whose receiver has not come cannot be taken back.
  bool cancel() noexcept {
    chunks_.abandon();
    if (receiving_ && !std::exchange(cancelled_, true))
      for (MPI_Request& r : requests_)
        if (r != MPI_REQUEST_NULL) MPI_Cancel(&r);
    if (staged_) abandon();
    return is_complete();
  }
  /// For what nobody waits for any longer. A buffer of our own is left to MPI; the caller's memory stays in its hands.
  void abandon() noexcept {
    chunks_.abandon();
    bool under_way = false;
    for (MPI_Request& r : requests_)
      if (r != MPI_REQUEST_NULL) {
        MPI_Request_free(&r);
        under_way = true;
      }
    if (under_way && staged_) {
      static_cast<void>(memory_.release());
      room_ = 0;
    }
    requests_.clear();
  }

private:
  /// From one place on, cut to the largest message that is allowed; or of pieces, by a type.
  struct message {
    std::byte* at;
    index_t bytes;
    std::span<piece const> pieces{};
  };

  bool is_complete() noexcept {
    bool all = true;
    for (MPI_Request& r : requests_)
      if (int done = 1; MPI_Test(&r, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS) all = all && done;
    if (all) requests_.clear();
    return all;
  }
  static piece flat(std::byte* data, index_t bytes) {
    piece p;
    p.data = data;
    p.rank = 1;
    p.extents[0] = bytes;
    p.strides[0] = 1;
    return p;
  }
  void begin(std::span<piece const> pieces, index_t bytes) {
    pieces_ = pieces;
    bytes_ = bytes;
    staged_ = false;
  }
  /// Every message lies in one row of the caller's memory; false if one does not.
  bool direct() {
    messages_.clear();
    segment_cursor c(pieces_);
    for (index_t const length : cut_) {
      if (c.done()) return false;
      message const& m = messages_.emplace_back(message{c.data(), length});
      for (index_t covered = 0; covered < length;) {
        if (c.done() || c.data() != m.at + covered) return false;
        index_t const n = min(c.left(), length - covered);
        covered += n;
        c.advance(n);
      }
    }
    return c.done();
  }
  bool may_be_typed(mpi_shape const& shape) const { return bytes_ >= shortest_typed_run * shape.runs; }
  /// Every message is made of whole pieces, of which MPI can be given types.
  bool typed(mpi_shape const& shape, index_t largest) {
    if (!may_be_typed(shape)) return false;
    messages_.clear();
    std::size_t next = 0;
    for (index_t const length : cut_) {
      while (next < pieces_.size() && pieces_[next].bytes() == 0) ++next;
      std::size_t const first = next;
      index_t held = 0;
      while (next < pieces_.size() && held < length) held += pieces_[next++].bytes();
      if (held != length || length > largest) return false;
      messages_.push_back({nullptr, length, pieces_.subspan(first, next - first)});
    }
    return true;
  }
  /// A message for each piece, if they are few and long.
  bool cut_by_pieces(index_t largest) {
    cut_.clear();
    for (piece const& p : pieces_)
      if (index_t const bytes = p.bytes(); bytes > 0) {
        if (bytes < mpi_shape::worth_a_message || bytes > largest || cut_.size() == std::size_t(mpi_control::most_cuts))
          return false;
        cut_.push_back(bytes);
      }
    return true;
  }
  void stage() {
    staged_ = true;
    if (room_ < bytes_) {
      memory_.reset(new std::byte[std::size_t(bytes_)]); // not zeroed, which make_unique would do
      room_ = bytes_;
    }
    messages_.clear();
    index_t at = 0;
    for (index_t const length : cut_) {
      messages_.push_back({memory_.get() + at, length, {}});
      at += length;
    }
  }
  template <class Start>
  void post(mpi_link& link, index_t largest, Start&& start) {
    for (message const& m : messages_) {
      mpi_type room;
      auto const typed = [&](void* at, MPI_Datatype type) {
        requests_.push_back(MPI_REQUEST_NULL);
        start(at, 1, type, &requests_.back());
      };
      if (m.pieces.size() == 1) typed(m.pieces[0].data, link.types().of(link, m.pieces[0], room));
      if (m.pieces.size() > 1) typed(MPI_BOTTOM, link.types().of(link, m.pieces, room));
      for (index_t at = 0; m.pieces.empty() && at < m.bytes; at += largest) {
        requests_.push_back(MPI_REQUEST_NULL);
        start(m.at + at, int(min(largest, m.bytes - at)), MPI_BYTE, &requests_.back());
      }
    }
  }
  index_t arrived() const {
    index_t sum = 0;
    for (MPI_Status const& s : statuses_) {
      int count = 0;
      MPI_Get_count(&s, MPI_BYTE, &count);
      sum += count;
    }
    return sum;
  }

  std::vector<MPI_Request> requests_; ///< empty when nothing is under way
  std::vector<MPI_Status> statuses_;
  std::unique_ptr<std::byte[]> memory_; ///< for pieces that are packed
  index_t room_ = 0;
  std::span<piece const> pieces_;
  std::vector<index_t> cut_; ///< bytes of each message
  std::vector<message> messages_;
  index_t bytes_ = 0;
  bool staged_ = false, receiving_ = false, cancelled_ = false;
  mpi_chunks chunks_; ///< instead of all this, where parcels are owned
};

} // namespace sp::detail
