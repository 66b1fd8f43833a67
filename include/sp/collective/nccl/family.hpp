// What a rank's groups over one borrowed NCCL communicator share: the communicator, its queue, the watch over exchanges, the cause of its end.
// The communicator is never destroyed here; it is aborted where the caller says so. Memory for packing is kept for reuse.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <sp/collective/family/deadline.hpp>
#include <sp/collective/family/failure.hpp>
#include <sp/collective/nccl/calls.hpp>
#include <sp/collective/nccl/children.hpp>
#include <sp/collective/nccl/options.hpp>
#include <sp/collective/nccl/watch.hpp>
#include <sp/cuda/pool.hpp>
#include <sp/cuda/queue.hpp>

namespace sp::detail {

class nccl_family {
public:
  nccl_family(ncclComm_t comm, cuda_queue queue, nccl_options const& options)
      : comm_(comm), queue_(std::move(queue)), lane_(queue_.lane()), options_(options) {
    check_deadline(options.deadline);
    look_at_library();
    look_at_communicator(comm);
    if (!options_.memory) options_.memory = &pool_.emplace(queue_);
    recorder_ = std::make_shared<flight_recorder>(rank_, size_, options.flight_records, flight_recorder::new_family());
    flight_recorder::record_calls_of_thread(recorder_);
    if (options_.watch) watcher_ = std::thread([this] { keep_watch(); });
  }
  nccl_family(nccl_family const&) = delete;
  ~nccl_family() {
    if (!watcher_.joinable()) return;
    {
      std::lock_guard const lock(mutex_);
      ending_ = true;
    }
    woken_.notify_all();
    watcher_.join();
  }

  /// The place in the communicator.
  int world() const noexcept { return rank_; }
  int ranks() const noexcept { return size_; }
  cuda_queue const& queue() const noexcept { return queue_; }
  cuda_queue const& lane() const noexcept { return lane_; }
  nccl_options const& options() const noexcept { return options_; }
  /// The library found at run time.
  int version() const noexcept { return version_; }
  std::shared_ptr<flight_recorder> const& recorder() const noexcept { return recorder_; }
  /// Null once it has been aborted.
  ncclComm_t comm() const noexcept { return comm_.load(std::memory_order_acquire); }

  [[nodiscard]] int next_group() const noexcept { return next_group_; }
  void take_groups(int end) noexcept { next_group_ = end; }

  bool enter() noexcept { return !busy_.exchange(true, std::memory_order_acquire); }
  void leave() noexcept { busy_.store(false, std::memory_order_release); }

  // ---- how it ends --------------------------------------------------------------------------------------------------------------

  bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }
  failure cause() const {
    std::lock_guard const lock(mutex_);
    return cause_.get();
  }
  /// Ends the family; the first failure is its cause. Not by a thread that has an inside_calls, whose end an abort waits for.
  void fail(failure f) {
    {
      std::lock_guard const lock(mutex_);
      if (!add_cause(std::move(f))) return;
    }
    tell();
  }
  /// The caller's wish: ends the family, and what NCCL has under way with it. May be called from any thread.
  void abort(failure f) {
    fail(std::move(f));
    abort_communicator();
  }

  // ---- exchanges under way ------------------------------------------------------------------------------------------------------

  /// Whether what the queue is given, and so what the lane is given behind it, becomes part of a graph.
  bool captured(char const* primitive) const { return capture_of(queue_.stream(), primitive) != 0; }
  /// From now on the exchange between two points of the lane is looked at.
  void watch(cuda_event begin, cuda_event end, watched_exchange const& what) {
    std::lock_guard const lock(mutex_);
    watch_.add(std::move(begin), std::move(end), what);
  }
  /// Looks at what is under way; a failure that it finds ends the family.
  void look() {
    if (failed()) return;
    {
      std::lock_guard const lock(mutex_);
      auto found = finding();
      if (!found || !add_cause(std::move(*found))) return;
    }
    tell();
  }
  /// The same now and then, at the begin of an operation: it costs less than to ask the device.
  void look_now_and_then() {
    {
      std::lock_guard const lock(mutex_);
      if (!watch_.wants_look()) return;
    }
    look();
  }
  /// Whether everything that is watched has ended.
  bool quiet() const {
    std::lock_guard const lock(mutex_);
    return watch_.empty();
  }
  /// A communicator that does not block has been given calls: returns when NCCL has taken them, or has not by the deadline. Asks under
  /// the lock: two threads that ask about one communicator would both end what NCCL has under way for it.
  [[nodiscard]] ncclResult_t settle(ncclComm_t c) const {
    auto const end = exchange_watch::clock::now() + options_.deadline;
    for (;;) {
      ncclResult_t state = ncclSuccess;
      {
        std::lock_guard const lock(mutex_);
        if (!comm()) return ncclInvalidUsage; // aborted meanwhile, and c with it
        if (ncclResult_t const asked = ncclCommGetAsyncError(c, &state); asked != ncclSuccess) return asked;
      }
      if (!is_in_progress(state) || exchange_watch::clock::now() >= end || failed()) return state;
      std::this_thread::yield();
    }
  }

  /// Calls of NCCL for one operation, while it lives. They may wait for peers: to be connected takes both. So look() finds them when they
  /// take longer than the deadline, and an abort lets them return first, if they do.
  class inside_calls {
  public:
    inside_calls(nccl_family& f, watched_exchange const& what) : family_(f) {
      std::lock_guard const lock(f.mutex_);
      comm_ = f.comm();
      f.inside_ = exchange_watch::clock::now();
      f.inside_what_ = what;
    }
    inside_calls(inside_calls const&) = delete;
    ~inside_calls() {
      {
        std::lock_guard const lock(family_.mutex_);
        family_.inside_.reset();
      }
      family_.returned_.notify_all();
    }
    /// Null once it has been aborted.
    ncclComm_t comm() const noexcept { return comm_; }

  private:
    nccl_family& family_;
    ncclComm_t comm_ = nullptr;
  };

  // ---- communicators made of the borrowed one -----------------------------------------------------------------------------------

#if NCCL_VERSION_CODE >= 21800
  /// ncclCommSplit of the borrowed one: `made` is null, or is aborted with it, and its errors are looked for.
  [[nodiscard]] ncclResult_t split(int color, int key, watched_exchange const& what, ncclComm_t& made) {
    ncclComm_t* place = nullptr;
    {
      std::lock_guard const lock(mutex_);
      if (!comm()) return ncclInvalidUsage;
      place = children_.new_place();
    }
    ncclResult_t result = ncclInvalidUsage;
    {
      inside_calls const inside(*this, what);
      if (inside.comm()) result = ncclCommSplit(inside.comm(), color, key, place, nullptr);
    }
    if (is_in_progress(result)) result = settle(comm());
    {
      std::lock_guard const lock(mutex_);
      if (!comm()) return ncclInvalidUsage; // aborted meanwhile, and what was made with it
      if (result == ncclSuccess) made = children_.adopt(place);
      if (result != ncclSuccess && !is_in_progress(result)) children_.give_up(place);
    }
    return made ? settle(made) : result;
  }
#endif
  /// Ends one. NCCL waits there for what it has under way and for graphs that have captured any of it, and may wait for the other ranks of
  /// its node.
  void disown(ncclComm_t child) noexcept {
    {
      std::lock_guard const lock(mutex_);
      if (!children_.remove(child)) return; // aborted
    }
    static_cast<void>(failed() ? ncclCommAbort(child) : ncclCommDestroy(child));
  }
  /// Tokens that have not been waited for; counted by the thread that uses the family.
  int open_exchanges = 0;

  // ---- memory for packing -------------------------------------------------------------------------------------------------------

  /// A block of at least so many bytes, which stays where it is until the family goes; give_back() in the order of the queue.
  std::byte* borrow(index_t bytes, char const* primitive) {
    spare_block* best = nullptr;
    for (spare_block& b : blocks_)
      if (!b.used && b.memory.tensor.extent(0) >= bytes && (!best || b.memory.tensor.extent(0) < best->memory.tensor.extent(0)))
        best = &b;
    if (!best) {
      if (captured(primitive))
        sp::fail({errc::bad_state, std::to_string(bytes) + " bytes are needed to pack messages, and a graph is being captured",
                  "Make the same call once before the capture: what it takes is kept", primitive, rank_, size_});
      best = &blocks_.emplace_back(
          spare_block{owned<std::byte, 1, device_memory>(*options_.memory, {round_up(bytes, index_t(1) << 16)}), false});
    }
    best->used = true;
    return best->memory.tensor.data;
  }
  void give_back(std::byte* block) noexcept {
    for (spare_block& b : blocks_)
      if (b.memory.tensor.data == block) b.used = false;
  }

private:
  struct spare_block {
    owned<std::byte, 1, device_memory> memory;
    bool used;
  };

  void look_at_library() {
    nccl_check(ncclGetVersion(&version_), "ncclGetVersion");
    if (version_ < oldest_nccl || version_ / 10000 > NCCL_VERSION_CODE / 10000)
      sp::fail({errc::unsupported,
                "NCCL " + nccl_version_text(version_) + " was found, this program was compiled with the header of " +
                    nccl_version_text(NCCL_VERSION_CODE),
                "Load NCCL 2.8 or later, of the major version of the header"});
  }
  void look_at_communicator(ncclComm_t comm) {
    if (!comm)
      sp::fail(
          {errc::bad_state, "a null ncclComm_t was given", "Give a communicator that ncclCommInitRank has made", "sp::nccl"});
    // One that does not block may still be at its own making, and knows nothing until then.
    if (ncclResult_t const state = settle(comm); state != ncclSuccess)
      sp::fail(
          {is_in_progress(state) ? errc::timeout : errc::backend_error,
           nccl_text(is_in_progress(state) ? "the communicator is still being made" : "the communicator cannot be used", state),
           nccl_remedy(state), "sp::nccl"});
    nccl_check(ncclCommUserRank(comm, &rank_), "ncclCommUserRank");
    nccl_check(ncclCommCount(comm, &size_), "ncclCommCount");
    int device = -1;
    nccl_check(ncclCommCuDevice(comm, &device), "ncclCommCuDevice");
    if (device != queue_.device())
      sp::fail(
          {errc::bad_state,
           "the communicator is on device " + std::to_string(device) + ", the queue on device " + std::to_string(queue_.device()),
           "Make the queue of a stream of the communicator's device", "sp::nccl", rank_, size_});
  }

  // With the lock:
  bool add_cause(failure f) {
    bool const first = cause_.add(std::move(f)) == cause_of_end::change::first;
    if (first) recorder_->mark_failure();
    failed_.store(true, std::memory_order_release);
    return first;
  }
  std::optional<failure> finding() {
    relaxed_capture const relaxed; // of another thread
    if (auto f = inside_ ? late_calls() : asynchronous_error()) return f;
    switch (watch_.look(
        options_.deadline, [&](watched_exchange const& x) { recorder_->done(x.flight); },
        [&](watched_exchange const& x) { recorder_->waiting(x.flight, x.peers[0]); })) {
    case exchange_watch::finding::late:
      return failure_of(errc::timeout,
                        no_answer_within(options_.deadline) + ": the exchange with " + watch_.first().peers_text() +
                            " has begun on this rank's device and has not ended",
                        "Look at the records of those ranks: one of them has not come this far, or made another operation");
    case exchange_watch::finding::error:
      return failure_of(errc::backend_error,
                        std::string("the device reports ") + cudaGetErrorName(watch_.device_error()) + " (" +
                            cudaGetErrorString(watch_.device_error()) + ")",
                        "Work given earlier has failed: compute-sanitizer names it");
    case exchange_watch::finding::nothing:
      break;
    }
    return std::nullopt;
  }
  /// While another thread is inside of NCCL it is not asked anything.
  std::optional<failure> late_calls() const {
    if (exchange_watch::clock::now() - *inside_ < options_.deadline) return std::nullopt;
    return failure_of(
        errc::timeout,
        no_answer_within(options_.deadline) + ": calls of NCCL with " + inside_what_.peers_text() + " have not returned",
        "Ranks that meet for the first time are connected, which takes both: look at the records of those ranks", &inside_what_);
  }
  std::optional<failure> asynchronous_error() const {
    ncclResult_t asked = ncclSuccess, state = ncclSuccess;
    auto bad = [&](ncclComm_t c) {
      asked = ncclCommGetAsyncError(c, &state);
      return asked != ncclSuccess || (state != ncclSuccess && !is_in_progress(state));
    };
    ncclComm_t const borrowed = comm();
    if (!borrowed || (!bad(borrowed) && !children_.any_of(bad))) return std::nullopt;
    if (asked != ncclSuccess)
      return failure_of(errc::backend_error, nccl_text("ncclCommGetAsyncError", asked), nccl_remedy(asked));
    return failure_of(errc::backend_error, nccl_text("an asynchronous error", state), nccl_remedy(state));
  }
  /// Of `what`, or else of the first exchange under way.
  failure failure_of(errc code, std::string problem, char const* remedy, watched_exchange const* what = nullptr) const {
    failure f;
    f.info = {code, std::move(problem), remedy, "sp::nccl", rank_, size_};
    f.group = failure::every_group;
    f.world = f.one = f.other = rank_;
    if (!what && watch_.empty()) return f;
    watched_exchange const& x = what ? *what : watch_.first();
    f.group = x.group;
    f.info.primitive = x.primitive;
    f.info.rank = x.rank, f.info.size = x.size, f.info.step = x.step;
    if (x.peer_count == 1) f.info.peer = x.peers[0];
    return f;
  }

  /// Behind a failure, without the lock: logs and records are written, and the communicator is aborted where the options say so.
  void tell() noexcept {
    best_effort([&] {
      failure const f = cause();
      if (flight_recorder::dumps()) recorder_->dump(recorder_->json(&f.info, f.why, f.world));
      recorder_->log_failure(f.why);
    });
    if (options_.abort_on_failure) abort_communicator();
  }
  /// Kernels of NCCL that wait for peers end, and the streams behind them go on with whatever bytes there are. NCCL is called without the
  /// lock, for it may wait there until other ranks abort too, and until graphs of it have gone. Calls of another thread that are under way
  /// get a moment to return, because NCCL frees what they work on; those that wait for a peer do not return before.
  void abort_communicator() noexcept {
    ncclComm_t borrowed = nullptr;
    nccl_children children;
    {
      std::unique_lock lock(mutex_); // who looks is asking the communicator
      borrowed = comm_.exchange(nullptr, std::memory_order_acq_rel);
      if (!borrowed) return;
      children.swap(children_);
      returned_.wait_for(lock, std::min<std::chrono::milliseconds>(options_.deadline, std::chrono::seconds(1)),
                         [&] { return !inside_; });
    }
    children.abort_with(borrowed);
    std::lock_guard const lock(mutex_);
    children.swap(children_); // what is left of them is for the end of the family
  }

  void keep_watch() {
    relaxed_capture const relaxed;
    auto const pause = std::clamp(options_.deadline / 8, std::chrono::milliseconds(1), std::chrono::milliseconds(1000));
    static_cast<void>(cudaSetDevice(queue_.device()));
    for (std::unique_lock lock(mutex_); !ending_;) {
      woken_.wait_for(lock, pause);
      if (ending_) return;
      lock.unlock();
      best_effort([&] { look(); });
      lock.lock();
    }
  }

  std::atomic<ncclComm_t> comm_;
  cuda_queue queue_, lane_;
  nccl_options options_;
  int rank_ = 0, size_ = 1, version_ = 0, next_group_ = 1;
  std::atomic<bool> busy_{false}, failed_{false};
  std::shared_ptr<flight_recorder> recorder_;
  std::optional<device_pool> pool_;
  std::deque<spare_block> blocks_; ///< given back before the pool goes
  mutable std::mutex mutex_;       ///< guards what follows
  cause_of_end cause_;
  exchange_watch watch_;
  nccl_children children_;
  std::optional<exchange_watch::clock::time_point> inside_; ///< since when a thread has been inside of NCCL
  watched_exchange inside_what_;
  bool ending_ = false;
  std::condition_variable woken_, returned_;
  std::thread watcher_; // last: it uses all of the above
};

} // namespace sp::detail
