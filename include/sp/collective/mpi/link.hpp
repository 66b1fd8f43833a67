// Control messages between processes of a private MPI communicator: sent without blocking, in order for each pair of ranks.
// Buffers are reused; MPI's errors are kept for the caller to look at; the communicator is freed only when nothing is under way.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <sp/collective/mpi/types.hpp>

namespace sp {

/// Numbers of an sp::mpi. All ranks give the same eager_limit and largest_message (rank_mismatch otherwise).
struct mpi_options {
  std::chrono::milliseconds deadline =
      std::chrono::minutes(10);               ///< longest wait for a peer before `timeout`; above 0, at most a year
  int spin = 200;                             ///< fruitless polls before a wait lets other processes run between polls
  index_t eager_limit = 3840;                 ///< parcels up to this many bytes travel in one message together with their header
  index_t largest_message = index_t{1} << 30; ///< larger parcels travel in several messages; MPI counts no further than an int
  int flight_records = 64;                    ///< operations that the flight recorder holds; 0: nothing is recorded
  /// How parcels above eager_limit move. owned: in chunks through memory of the communicator; no error has to wait for a peer, and
  /// memory that an operation has thrown for is the caller's. direct: straight from and to the caller's memory, which is faster; an
  /// error waits for what is under way, up to the deadline, and if a peer does not come until then MPI still holds that memory: a
  /// program that frees it, as unwinding does, may crash inside MPI afterwards. Where ranks differ, all are owned.
  enum class parcels { owned, direct } large_parcels = parcels::owned;

  bool owns_large_parcels() const noexcept { return large_parcels == parcels::owned; }
};

namespace detail {

/// A control message, or the head of a longer one. Ranks run the same program on machines of the same kind: it travels as bytes.
struct mpi_control {
  enum kind_type : std::int32_t {
    announcement,   ///< of an exchange: what this rank gives the peer and wants of it
    barrier,        ///< a message of one round
    failure,        ///< the family has ended
    returned,       ///< this rank has returned from its body
    progress_query, ///< how far is the peer?
    progress_reply,
    termination, ///< a step of mpi_termination
    cancelled    ///< a receive, after a failure
  };
  static constexpr std::size_t text_size = 40;
  static constexpr int most_cuts = 6, in_chunks = -1;

  std::int32_t kind = announcement;
  std::int32_t context = 0;       ///< of the group
  std::uint64_t number = 0;       ///< of the exchange or the barrier
  std::int64_t gives = 0;         ///< announcement: bytes sent; 0 < n <= eager_limit of them follow the head
  std::int64_t wants = 0;         ///< announcement: bytes expected; barrier: exchanges entered
  std::int32_t tag = 0;           ///< announcement: where the bytes wanted are to be sent
  std::int32_t purpose = 0;       ///< barrier: the kind of its operation; announcement: how many cuts, or in_chunks
  std::int64_t cuts[most_cuts]{}; ///< announcement: bytes of each message wanted, if there are several; of a chunk
  std::int64_t values[3]{};       ///< progress_reply: what it tells; announcement: barriers entered
  std::uint64_t primitive_hash = 0;
  char primitive[text_size]{}; ///< the beginning of it

  void name(std::string_view text) {
    primitive_hash = 0xcbf29ce484222325u;
    for (char c : text) primitive_hash = (primitive_hash ^ std::uint8_t(c)) * 0x100000001b3u;
    std::size_t const n = text.size() < text_size ? text.size() : text_size - 1;
    std::memcpy(primitive, text.data(), n);
    primitive[n] = 0;
  }
  bool same_primitive(mpi_control const& o) const {
    return primitive_hash == o.primitive_hash && std::strcmp(primitive, o.primitive) == 0;
  }
};

/// Buffers for chunks of large parcels; they are kept for the next one.
class mpi_chunk_memory {
public:
  static constexpr index_t bytes = index_t{1} << 18;

  std::unique_ptr<std::byte[]> take() {
    if (free_.empty()) {
      free_.reserve(++made_);
      return std::unique_ptr<std::byte[]>(new std::byte[std::size_t(bytes)]); // not zeroed, which make_unique would do
    }
    auto last = std::move(free_.back());
    free_.pop_back();
    return last;
  }
  void give(std::unique_ptr<std::byte[]> chunk) noexcept { free_.push_back(std::move(chunk)); }

private:
  std::vector<std::unique_ptr<std::byte[]>> free_;
  std::size_t made_ = 0;
};

class mpi_link : public mpi_calls {
public:
  static constexpr int control_tag = 0, first_data_tag = 1, data_tags = 16384;
  static constexpr std::size_t smallest_capacity = sizeof(mpi_control) + 2048; ///< room for the texts of a failure

  /// Collective over `from`, with a deadline; idle() runs while others are waited for. After a timeout the duplication stays under way.
  template <class Idle>
  mpi_link(MPI_Comm from, mpi_options const& options, Idle&& idle)
      : capacity_(sizeof(mpi_control) + std::size_t(options.eager_limit)) {
    if (!mpi_is_running())
      fail({errc::bad_state, "MPI is not running: MPI_Init has not been called, or MPI_Finalize has",
            "Make the communicator after MPI_Init and let its last handle go before MPI_Finalize", "sp::mpi"});
    if (from == MPI_COMM_NULL)
      fail({errc::bad_state, "MPI_COMM_NULL was given", "Give a communicator of this process", "sp::mpi"});
    if (capacity_ < smallest_capacity) capacity_ = smallest_capacity;
    check_tags(from);
    duplicate(from, options.deadline, idle);
    mpi_check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    mpi_check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    mpi_check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    for (int i = 0; i < 4; ++i) add_sent_control(); // nearly always enough, so that a failure is told without memory
    for (slot& s : slots_) {
      s.bytes.resize(capacity_);
      mpi_check(MPI_Recv_init(s.bytes.data(), int(capacity_), MPI_BYTE, MPI_ANY_SOURCE, control_tag, comm_, &s.request),
                "MPI_Recv_init");
      mpi_check(MPI_Start(&s.request), "MPI_Start");
    }
  }
  mpi_link(mpi_link const&) = delete;
  /// Frees nothing: see close().
  ~mpi_link() = default;

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  MPI_Comm comm() const noexcept { return comm_; }
  [[nodiscard]] int next_data_tag() noexcept { return first_data_tag + int(tags_used_++ % data_tags); }
  mpi_chunk_memory& chunk_memory() noexcept { return chunk_memory_; }
  mpi_types& types() noexcept { return types_; }
  /// Bytes of a large parcel have moved: who waits for them goes on polling.
  void note_movement() noexcept { moved_ = true; }
  [[nodiscard]] bool take_movement() noexcept { return std::exchange(moved_, false); }

  void send(int peer, mpi_control const& m) {
    send(peer, m, 0, [](std::byte*) {});
  }
  /// Sends `m` and up to eager_limit bytes that `fill(std::byte*)` writes behind it.
  template <class Fill>
  void send(int peer, mpi_control const& m, std::size_t bytes, Fill&& fill) {
    sent_control& s = unused();
    std::memcpy(s.bytes.data(), &m, sizeof m);
    fill(s.bytes.data() + sizeof m);
    if (!good(MPI_Isend(s.bytes.data(), int(sizeof m + bytes), MPI_BYTE, peer, control_tag, comm_, &s.request), "MPI_Isend"))
      s.request = MPI_REQUEST_NULL;
    else
      is_complete(s);
  }

  /// Gives every message that has arrived to `handle(peer, message, data, bytes)`. Returns whether there was one.
  template <class Handle>
  bool poll(Handle&& handle) {
    for (bool any = false;; any = true) {
      slot& s = slots_[next_]; // messages match slots in the order in which these were started, so this is the oldest
      int done = 0, count = 0;
      MPI_Status status;
      if (!good(MPI_Test(&s.request, &done, &status), "MPI_Test") || !done) return any;
      MPI_Get_count(&status, MPI_BYTE, &count);
      mpi_control m;
      if (std::size_t(count) < sizeof m) return good(MPI_ERR_TRUNCATE, "a control message");
      std::memcpy(&m, s.bytes.data(), sizeof m);
      struct restarting { // also if handle() throws: the next message is looked for in the next slot
        mpi_link& link;
        slot& s;
        ~restarting() {
          link.good(MPI_Start(&s.request), "MPI_Start");
          link.next_ = (link.next_ + 1) % slot_count;
        }
      } const restart{*this, s};
      handle(status.MPI_SOURCE, m, s.bytes.data() + sizeof m, std::size_t(count) - sizeof m);
    }
  }

  /// True when all messages have left this process.
  bool flushed() {
    for (auto& s : sent_)
      if (!is_complete(*s)) return false;
    return true;
  }
  /// Frees the communicator. Only when every peer's last message has arrived: a late one could reach the next communicator.
  /// The standard makes MPI_Comm_free collective and expects it to be local, as it is in Open MPI and MPICH: nobody is waited for.
  void close() {
    for (slot& s : slots_) {
      MPI_Cancel(&s.request);
      MPI_Wait(&s.request, MPI_STATUS_IGNORE);
      MPI_Request_free(&s.request);
    }
    MPI_Comm_free(&comm_);
  }

private:
  static constexpr std::size_t slot_count = 8;
  struct slot {
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  struct sent_control {
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  static void check_tags(MPI_Comm from) {
    int *largest = nullptr, known = 0;
    mpi_check(MPI_Comm_get_attr(from, MPI_TAG_UB, static_cast<void*>(&largest), &known), "MPI_Comm_get_attr");
    if (known && *largest < first_data_tag + data_tags)
      fail({errc::backend_error, "this MPI has tags up to " + std::to_string(*largest) + " only",
            "At least " + std::to_string(first_data_tag + data_tags) + " are needed; the standard promises 32767", "sp::mpi"});
  }
  template <class Idle>
  void duplicate(MPI_Comm from, std::chrono::milliseconds deadline, Idle& idle) {
    MPI_Request request = MPI_REQUEST_NULL;
    auto made = std::make_unique<MPI_Comm>(MPI_COMM_NULL); // not a member: late ranks make MPI write here at any time
    mpi_check(MPI_Comm_idup(from, made.get(), &request), "MPI_Comm_idup");
    auto const end = std::chrono::steady_clock::now() + deadline;
    for (int done = 0;;) {
      mpi_check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done) comm_ = *made;
      if (done) return;
      if (std::chrono::steady_clock::now() >= end) {
        static_cast<void>(made.release());
        fail({errc::timeout, "not every rank made its communicator within " + std::to_string(deadline.count()) + " ms",
              "All ranks of the MPI communicator construct sp::mpi", "sp::mpi"});
      }
      idle();
      std::this_thread::yield();
    }
  }
  bool is_complete(sent_control& s) {
    int done = s.request == MPI_REQUEST_NULL;
    if (!done && !good(MPI_Test(&s.request, &done, MPI_STATUS_IGNORE), "MPI_Test")) done = 0;
    return done;
  }
  sent_control& add_sent_control() {
    auto fresh = std::make_unique<sent_control>();
    fresh->bytes.resize(capacity_);
    sent_.push_back(std::move(fresh));
    return *sent_.back();
  }
  sent_control& unused() {
    for (std::size_t i = 0; i < sent_.size(); ++i) { // the oldest first: it is nearly always free
      sent_at_ = (sent_at_ + 1) % sent_.size();
      if (is_complete(*sent_[sent_at_])) return *sent_[sent_at_];
    }
    return add_sent_control();
  }

  std::size_t capacity_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 0;
  slot slots_[slot_count];
  std::size_t next_ = 0;
  std::vector<std::unique_ptr<sent_control>> sent_;
  std::size_t sent_at_ = 0;
  std::uint64_t tags_used_ = 0;
  mpi_chunk_memory chunk_memory_;
  mpi_types types_;
  bool moved_ = false;
};

} // namespace detail
} // namespace sp
