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

  explicit mpi_shape(std::span<piece const> pieces) {
    std::byte* end = nullptr;
    for (piece const& p : pieces) for_each_plain(p, [&](piece const& plain) { add(plain, end); });
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
    index_t const run = max(segment_cursor({&p, 1}).left(), 1);
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
// All else by a derived datatype: 0.55 to 0.95 of the time of packing, whether runs are of 16 bytes or of 64 KiB, because packing
// goes over the bytes twice more. Packed are runs below 16 bytes, parcels beyond one message (both sides would have to cut their
// types at the same byte), and what the receiver wants in messages that do not fit the runs of the sender.
inline constexpr index_t shortest_typed_run = 16;

/// A committed type of all bytes of `pieces`, at absolute addresses.
class mpi_type {
public:
  mpi_type(mpi_link& link, std::span<piece const> pieces, std::vector<MPI_Datatype>& types, std::vector<MPI_Aint>& places,
           std::vector<int>& ones) {
    types.clear();
    places.clear();
    for (piece const& listed : pieces)
      for_each_plain(listed, [&](piece const& p) {
        if (p.bytes() == 0) return;
        types.push_back(of(link, p));
        places.push_back(0);
        link.good(MPI_Get_address(p.data, &places.back()), "MPI_Get_address");
      });
    ones.assign(types.size(), 1);
    link.good(MPI_Type_create_struct(int(types.size()), ones.data(), places.data(), types.data(), &type_),
              "MPI_Type_create_struct");
    link.good(MPI_Type_commit(&type_), "MPI_Type_commit");
    for (MPI_Datatype& t : types) MPI_Type_free(&t);
  }
  mpi_type(mpi_type const&) = delete;
  ~mpi_type() { MPI_Type_free(&type_); } // messages under way keep what they need
  MPI_Datatype get() const { return type_; }

private:
  /// Runs of bytes, in a vector for each dimension around them.
  static MPI_Datatype of(mpi_link& link, piece const& p) {
    index_t const run = segment_cursor({&p, 1}).left();
    int around = p.rank; // dimensions outside a run
    for (index_t length = p.element; length < run && around > 0;) length *= p.extents[std::size_t(--around)];
    while (around > 0 && p.extents[std::size_t(around - 1)] == 1) --around;
    MPI_Datatype type = MPI_BYTE;
    link.good(MPI_Type_contiguous(int(run), MPI_BYTE, &type), "MPI_Type_contiguous");
    for (int d = around; d-- > 0;) {
      MPI_Datatype inner = type;
      link.good(MPI_Type_create_hvector(int(p.extents[std::size_t(d)]), 1, MPI_Aint(p.strides[std::size_t(d)]), inner, &type),
                "MPI_Type_create_hvector");
      MPI_Type_free(&inner);
    }
    return type;
  }
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

/// One direction of one parcel. Reused: a steady state allocates nothing but what MPI does itself.
class mpi_payload {
public:
  bool idle() const { return requests_.empty() && chunks_.idle(); }

  /// `call` is the receiver's: where, and cut how, it wants the bytes.
  void send(mpi_link& link, int peer, mpi_control const& call, std::span<piece const> pieces, index_t bytes,
            mpi_options const& options) {
    if (call.purpose == mpi_control::in_chunks)
      return chunks_.send(link, peer, call.tag, pieces, bytes, std::clamp<index_t>(call.cuts[0], 1, mpi_chunk_memory::bytes));
    index_t const largest = options.largest_message;
    receiving_ = false;
    pieces_ = pieces;
    bytes_ = bytes;
    bool const cuts = call.purpose >= 2 && call.purpose <= mpi_control::most_cuts &&
                      std::accumulate(call.cuts, call.cuts + call.purpose, index_t{0}) == bytes;
    if (cuts)
      cut_.assign(call.cuts, call.cuts + call.purpose);
    else
      cut_.assign(1, bytes);
    typed_ = false;
    staged_ = !direct();
    if (staged_ && !cuts) typed_ = may_be_typed(mpi_shape(pieces), largest);
    staged_ = staged_ && !typed_;
    if (staged_) {
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
    pieces_ = pieces;
    bytes_ = bytes;
    mpi_shape const shape(pieces);
    bool const few = shape.few();
    if (few) {
      call.purpose = int(shape.runs);
      std::copy_n(shape.lengths, shape.runs, call.cuts);
    }
    if (few)
      cut_.assign(shape.lengths, shape.lengths + shape.runs);
    else
      cut_.assign(1, bytes);
    typed_ = false;
    staged_ = !direct();
    if (staged_) typed_ = may_be_typed(shape, largest);
    staged_ = staged_ && !typed_;
    if (staged_) stage();
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
  /// Finds where each message begins; false if one of them does not lie in one row.
  bool direct() {
    begins_.clear();
    segment_cursor c(pieces_);
    for (index_t const length : cut_) {
      if (c.done()) return false;
      begins_.push_back(c.data());
      for (index_t covered = 0; covered < length;) {
        if (c.done() || c.data() != begins_.back() + covered) return false;
        index_t const n = min(c.left(), length - covered);
        covered += n;
        c.advance(n);
      }
    }
    return c.done();
  }
  bool may_be_typed(mpi_shape const& shape, index_t largest) const {
    return bytes_ <= largest && bytes_ >= shortest_typed_run * shape.runs;
  }
  void stage() {
    if (room_ < bytes_) {
      memory_.reset(new std::byte[std::size_t(bytes_)]); // not zeroed, which make_unique would do
      room_ = bytes_;
    }
    begins_.clear();
    index_t at = 0;
    for (index_t const length : cut_) {
      begins_.push_back(memory_.get() + at);
      at += length;
    }
  }
  template <class Start>
  void post(mpi_link& link, index_t largest, Start&& start) {
    if (typed_) {
      mpi_type const type(link, pieces_, types_, places_, ones_);
      requests_.push_back(MPI_REQUEST_NULL);
      return start(MPI_BOTTOM, 1, type.get(), &requests_.back());
    }
    for (std::size_t i = 0; i < cut_.size(); ++i)
      for (index_t at = 0; at < cut_[i]; at += largest) {
        requests_.push_back(MPI_REQUEST_NULL);
        start(begins_[i] + at, int(min(largest, cut_[i] - at)), MPI_BYTE, &requests_.back());
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
  std::vector<MPI_Datatype> types_;
  std::vector<MPI_Aint> places_;
  std::vector<int> ones_;
  std::unique_ptr<std::byte[]> memory_; ///< for pieces that are packed
  index_t room_ = 0;
  std::span<piece const> pieces_;
  std::vector<index_t> cut_;       ///< bytes of each message, before they are cut to the largest
  std::vector<std::byte*> begins_; ///< of each
  index_t bytes_ = 0;
  bool typed_ = false, staged_ = false, receiving_ = false, cancelled_ = false;
  mpi_chunks chunks_; ///< instead of all this, where parcels are owned
};

} // namespace sp::detail
