// What the groups made from one sp::mpi share in one process: the link, the deadline, and the first failure, which ends them all.
// Whoever finds a failure tells every rank of the root; a wait ends by its condition, by a failure anywhere, or at the deadline.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#include <sp/collective/mpi/failure.hpp>
#include <sp/collective/mpi/farewell.hpp>
#include <sp/collective/mpi/receiver.hpp>
#include <sp/diagnosis/flight_recorder.hpp>

namespace sp::detail {

class mpi_family {
public:
  mpi_family(MPI_Comm from, mpi_options const& options)
      : link_(from, options, [] { free_finished(nullptr); }), options_(options), farewell_(link_.rank(), link_.size()),
        returned_ranks_(std::size_t(link_.size())),
        recorder_(
            std::make_shared<flight_recorder>(link_.rank(), link_.size(), options.flight_records, flight_recorder::new_family())),
        exceptions_(std::uncaught_exceptions()) {
    int level = MPI_THREAD_SINGLE;
    MPI_Query_thread(&level);
    thread_multiple_ = level == MPI_THREAD_MULTIPLE;
    std::lock_guard lock(in_use().mutex);
    in_use().families.push_back(this);
    in_use().count = int(in_use().families.size());
  }
  ~mpi_family() { leave_use(); }

  std::shared_ptr<flight_recorder> const& recorder() const { return recorder_; }
  mpi_link& link() noexcept { return link_; }
  mpi_options const& options() const noexcept { return options_; }
  int world() const noexcept { return link_.rank(); }
  int ranks() const noexcept { return link_.size(); }
  bool failed() const noexcept { return cause_.known(); }
  failure const& cause() const noexcept { return cause_.get(); }
  bool has_returned(int world) const { return returned_ranks_[std::size_t(world)]; }
  /// An exception is on its way that was not when the family was made.
  bool is_unwinding() const noexcept { return std::uncaught_exceptions() > exceptions_; }
  int next_context() const { return next_context_; }
  void take_contexts(int end) { next_context_ = end; }

  /// One operation of this process at a time: MPI may be called by one thread only. An abort that is being sent is waited for.
  [[nodiscard]] bool enter() noexcept {
    for (occupant found = nobody; !occupant_.compare_exchange_weak(found, operation, std::memory_order_acquire); found = nobody) {
      if (found == operation) return false;
      std::this_thread::yield();
    }
    thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    end_ = {};
    return true;
  }
  void leave_operation() noexcept { occupant_.store(nobody, std::memory_order_release); }
  /// For destructors and the end of run(): nothing is refused, but nothing that another thread does runs beside it.
  template <class F>
  void exclusively(F&& f) {
    bool entered = enter();
    while (!entered && thread_.load(std::memory_order_relaxed) != std::this_thread::get_id()) {
      std::this_thread::yield(); // another thread's operation; our own is around us
      entered = enter();
    }
    f();
    if (entered) leave_operation();
  }

  void add(mpi_receiver& m) {
    receivers_.push_back(&m);
    for (std::size_t i = 0; i < early_.size(); ++i) // a quick peer has used the group already
      if (early_[i].head.context == m.context() && !early_[i].delivered) {
        early_[i].delivered = true;
        m.receive(early_[i].peer, early_[i].head, early_[i].data.data(), early_[i].data.size());
      }
    std::erase_if(early_, [](early const& e) { return e.delivered; });
  }
  void remove(mpi_receiver& m) noexcept {
    exclusively([&] { std::erase(receivers_, &m); });
  }

  /// Handles what has arrived. Returns whether anything had.
  bool make_progress() {
    if (abort_requested_.load(std::memory_order_acquire)) fail(take_requested_abort());
    bool const any = poll();
    if (link_.error() != MPI_SUCCESS && !failed()) fail(broken());
    return any;
  }

  void move_on() {
    for (mpi_receiver* m : receivers_) m->move_on();
  }

  /// Asks a rank how far it is. Every question is answered, by ranks that have returned too.
  void ask(int world, mpi_control const& question) {
    ++unanswered_;
    link_.send(world, question);
  }

  /// The first failure is the cause; later ones are its consequences and change nothing. Every rank of the root learns of it, and
  /// receives of open exchanges are withdrawn. `from_peer`: another rank has said so.
  void fail(failure f, bool from_peer = false) {
    auto const change = cause_.add(std::move(f));
    if (change == cause_of_end::change::none) return;
    recorder_->mark_failure(); // its record shows this moment, and is written when everybody has been told
    if (change == cause_of_end::change::first) {
      tell_failure(link_, cause(), !from_peer, [&] {
        if (!polling_) poll();
        return !lower_tells_;
      });
      for (mpi_receiver* m : receivers_) m->withdraw_receives();
    }
    best_effort([&] { write_flight_record(); });
    if (change == cause_of_end::change::first && !from_peer) recorder_->log_failure(cause().why);
  }

  /// From any thread. Below MPI_THREAD_MULTIPLE only MPI's main thread can tell the others at once; otherwise the
  /// rank's own thread does at its next poll.
  void abort(failure f) {
    if (!mpi_is_running()) return; // nobody is left to learn of it
    int main = 0;
    MPI_Is_thread_main(&main);
    for (occupant found = nobody; (main || thread_multiple_) && found != operation; std::this_thread::yield()) {
      found = nobody;
      if (!occupant_.compare_exchange_strong(found, aborting, std::memory_order_acquire)) continue;
      fail(std::move(f));
      return leave_operation();
    }
    std::lock_guard lock(mutex_);
    if (!abort_requested_) requested_abort_ = std::move(f);
    abort_requested_.store(true, std::memory_order_release);
  }

  /// Waits until `done()` holds; false when the family failed first. `inspect()` looks for peers that can never answer, whenever
  /// something has arrived; `ask(time left)` runs while nothing is; at the deadline `late()` fails the family.
  template <class Done, class Inspect, class Ask, class Late>
  bool wait(Done&& done, Inspect&& inspect, Ask&& ask, Late&& late) {
    using clock = std::chrono::steady_clock;
    clock::time_point next_query{};
    clock::duration silence = std::chrono::milliseconds(20);
    bool arrived = true;
    for (std::int64_t polls = 0;; ++polls) {
      if (done()) return true;
      if (failed()) return false;
      if (arrived) inspect();
      arrived = make_progress();
      if (!arrived && polls % polls_between_others == polls_between_others - 1) {
        move_on();
        help_others();
      }
      bool const busy = link_.take_movement() || arrived || polls < options_.spin;
      if (busy && polls % polls_between_clocks != polls_between_clocks - 1) continue;
      auto const now = clock::now(), end = end_of_operation(now);
      if (next_query == clock::time_point{}) next_query = now + silence;
      if (now >= next_query) {
        ask(end - now);
        arrived = true; // a look at who has returned
        silence *= 2;
        next_query = now + std::min<clock::duration>(silence, std::chrono::milliseconds(500));
      }
      if (now >= end && !failed()) late();
      if (busy) continue;
      if (polls % polls_between_clocks == 0) free_finished(nullptr);
      pause(polls < std::int64_t(options_.spin) + busy_polls);
    }
  }
  /// After a failure: waits until `over()`, which asks for requests back, or until a little after the deadline of the operation.
  template <class Over>
  void wait_for_requests(Over&& over) noexcept {
    mpi_receiver::time limit{};
    for (int polls = 0; !over(); ++polls) {
      make_progress();
      auto const now = std::chrono::steady_clock::now();
      if (limit == mpi_receiver::time{}) limit = end_of_operation(now) + options_.deadline / 20 + std::chrono::milliseconds(20);
      if (now >= limit) return;
      pause(polls < busy_polls);
    }
  }

  /// After this rank's body. Usually everybody returns at about the same time, and the tree tells it; else this rank tells all
  /// others, who may be waiting for it, that it will not answer.
  void depart() {
    if (failed() || over_) return;
    over_ = true;
    auto const end = std::chrono::steady_clock::now() + close_grace();
    while (!failed() && !farewell_.everybody_has_returned()) {
      if (std::chrono::steady_clock::now() > end) return tell_return();
      if (!make_progress()) std::this_thread::yield();
      advance_farewell();
    }
  }
  bool is_over() const noexcept { return over_; }
  /// An operation of this rank has thrown because of the failure.
  bool has_told() const noexcept { return told_; }
  void set_told() noexcept { told_ = true; }

  /// The end of the last handle. What cannot be freed now is kept, and looked at again when the next communicator is made.
  static void retire(mpi_family* f) noexcept {
    std::unique_ptr<mpi_family> family(f);
    f->leave_use();
    if (auto before = flight_recorder::record_calls_of_thread(nullptr); before != f->recorder_)
      flight_recorder::record_calls_of_thread(std::move(before));
    if (!mpi_is_running()) return;
    if (f->is_unwinding())
      f->fail({.info = {errc::bad_state, "its last handle was destroyed by an exception", "See what this rank threw", "sp::mpi",
                        f->world(), f->ranks()},
               .world = f->world()});
    f->depart();
    auto const end = std::chrono::steady_clock::now() + f->close_grace();
    while (f->farewell_.everybody_has_returned() && !f->finished() && !f->failed() && std::chrono::steady_clock::now() < end)
      std::this_thread::yield();
    free_finished(std::move(family));
  }
  static void free_finished(std::unique_ptr<mpi_family> family) {
    std::lock_guard lock(unfinished().mutex);
    if (family) unfinished().kept.push_back(std::move(family));
    std::erase_if(unfinished().kept, [](std::unique_ptr<mpi_family>& f) {
      if (f->failed() || !f->finished()) return false; // messages of a failed family may arrive at any time
      f->link_.close();
      return true;
    });
  }

private:
  static constexpr int busy_polls = 2000, polls_between_clocks = 64, polls_between_others = 8;
  static constexpr std::int64_t has_returned_value = -2; ///< in place of how far a rank is
  /// How long a rank that has returned looks after the others: 50 ms among 4, 450 ms among 64 and 1.25 s among 1,000, which take
  /// longer to tell each other, above all where they share cores.
  std::chrono::milliseconds close_grace() const {
    int bits = 2;
    while (1 << bits < ranks() && bits < 30) ++bits;
    return std::chrono::milliseconds(25 * bits * bits / 2);
  }

  struct early {
    int peer;
    mpi_control head;
    std::vector<std::byte> data;
    bool delivered = false;
  };
  /// Of this process, between their construction and the end of the last handle.
  struct families_in_use {
    std::mutex mutex;
    std::vector<mpi_family*> families;
    std::atomic<int> count{0};
  };
  static families_in_use& in_use() {
    static families_in_use all;
    return all;
  }
  void leave_use() noexcept {
    std::lock_guard lock(in_use().mutex);
    std::erase(in_use().families, this);
    in_use().count = int(in_use().families.size());
  }
  /// Peers may wait for what other communicators of this thread have under way, while this one waits.
  void help_others() {
    if (in_use().count.load(std::memory_order_relaxed) < 2) return;
    std::unique_lock lock(in_use().mutex, std::try_to_lock);
    if (!lock) return;
    for (mpi_family* f : in_use().families) {
      occupant found = nobody;
      if (f == this || f->thread_.load(std::memory_order_relaxed) != std::this_thread::get_id() ||
          !f->occupant_.compare_exchange_strong(found, helping, std::memory_order_acquire))
        continue;
      struct leaving {
        mpi_family* family;
        ~leaving() { family->leave_operation(); }
      } const guard{f};
      f->make_progress();
      f->move_on();
    }
  }
  struct unfinished_families {
    std::mutex mutex;
    std::vector<std::unique_ptr<mpi_family>> kept;
  };
  static unfinished_families& unfinished() {
    static unfinished_families all;
    return all;
  }

  /// One deadline for all waits of an operation; it begins when the first of them looks at the clock.
  mpi_receiver::time end_of_operation(mpi_receiver::time now) noexcept {
    if (end_ == mpi_receiver::time{}) end_ = now + options_.deadline;
    return end_;
  }
  static void pause(bool briefly) noexcept {
    if (briefly)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(50));
  }

  bool poll() {
    bool const outer = std::exchange(polling_, true);
    bool const any = link_.poll(
        [&](int peer, mpi_control const& n, std::byte const* data, std::size_t bytes) { receive(peer, n, data, bytes); });
    polling_ = outer;
    return any;
  }
  void receive(int peer, mpi_control const& n, std::byte const* data, std::size_t bytes) {
    if (n.kind == mpi_control::failure) {
      if (n.purpose && peer < world()) lower_tells_ = true;
      return failed() ? void() : fail(failure_message::read(data, bytes), true);
    }
    if (failed() && n.kind != mpi_control::withdrawn) return;
    switch (n.kind) {
    case mpi_control::farewell:
      return farewell_.receive(n);
    case mpi_control::returned:
      returned_ranks_[std::size_t(peer)] = true;
      return answer(peer, n.context);
    case mpi_control::progress_query:
      return answer(peer, n.context);
    case mpi_control::progress_reply:
      --unanswered_;
      if (n.values[0] == has_returned_value) returned_ranks_[std::size_t(peer)] = true;
      if (n.values[0] == has_returned_value) return;
      break;
    default:
      break;
    }
    for (mpi_receiver* m : receivers_)
      if (m->context() == n.context) return m->receive(peer, n, data, bytes);
    if (!failed() && (n.kind == mpi_control::announcement || n.kind == mpi_control::meeting))
      early_.push_back({peer, n, {data, data + bytes}});
  }
  void answer(int peer, int context) {
    mpi_control n;
    n.kind = mpi_control::progress_reply;
    n.context = context;
    n.values[0] = over_ ? has_returned_value : -1; // no such group here
    for (mpi_receiver* m : receivers_)
      if (m->context() == context && !over_) m->report_progress(n);
    link_.send(peer, n);
  }
  void tell_return() {
    mpi_control n;
    n.kind = mpi_control::returned;
    for (int r = 0; r < ranks(); ++r)
      if (r != world() && !returned_ranks_[std::size_t(r)]) ask(r, n); // the answer tells that it has come
  }
  void advance_farewell() {
    if (!failed()) farewell_.advance(over_, unanswered_ == 0, [&](int r, mpi_control const& n) { link_.send(r, n); });
  }
  void write_flight_record() const {
    if (flight_recorder::dumps()) recorder_->dump(recorder_->json(&cause().info, cause().why, cause().world));
  }
  failure take_requested_abort() {
    std::lock_guard lock(mutex_);
    abort_requested_ = false;
    return std::move(requested_abort_);
  }
  failure broken() const {
    failure f;
    f.info = {errc::backend_error,
              std::string(link_.failed_call()) + " failed, " + mpi_error_text(link_.error()),
              "See the text of your MPI",
              "",
              world(),
              ranks()};
    f.world = f.one = f.other = world();
    f.group = failure::every_group;
    return f;
  }
  /// Nothing of this family is under way any more, in either direction.
  bool finished() {
    poll();
    advance_farewell();
    return !failed() && farewell_.done() && link_.flushed();
  }

  mpi_link link_;
  mpi_options options_;
  mpi_farewell farewell_;
  std::int64_t unanswered_ = 0; ///< questions of this rank
  std::vector<mpi_receiver*> receivers_;
  std::vector<early> early_;
  std::vector<bool> returned_ranks_; ///< by rank, as far as this one has heard
  std::shared_ptr<flight_recorder> recorder_;
  int exceptions_, next_context_ = 1;
  bool over_ = false, told_ = false, thread_multiple_ = false; ///< over: this rank has returned from its body
  bool polling_ = false, lower_tells_ = false; ///< lower_tells: a lower rank has found a failure, and tells everybody
  cause_of_end cause_{};
  mpi_receiver::time end_{}; ///< of the operation under way; not set before a wait looks at the clock
  enum occupant : int { nobody, operation, aborting, helping };
  std::atomic<occupant> occupant_{nobody};
  std::atomic<std::thread::id> thread_{std::this_thread::get_id()}; ///< of the last operation
  std::atomic<bool> abort_requested_{false};
  std::mutex mutex_;
  failure requested_abort_{};
};

} // namespace sp::detail
