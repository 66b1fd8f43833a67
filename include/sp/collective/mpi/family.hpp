// What the groups made from one sp::mpi share in one process: the link, the deadline, and the first failure, which ends them all.
// Whoever finds a failure tells every rank of the root; a wait ends by its condition, by a failure anywhere, or at the deadline.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#include <sp/collective/mpi/failure.hpp>
#include <sp/collective/mpi/families.hpp>
#include <sp/collective/mpi/occupant.hpp>
#include <sp/collective/mpi/receiver.hpp>
#include <sp/collective/mpi/termination.hpp>
#include <sp/diagnosis/flight_recorder.hpp>

namespace sp::detail {

class mpi_family {
public:
  mpi_family(MPI_Comm from, mpi_options const& options)
      : link_(from, options, [] { free_terminated(); }), options_(options), termination_(link_.rank(), link_.size()),
        returned_ranks_(std::size_t(link_.size())),
        recorder_(
            std::make_shared<flight_recorder>(link_.rank(), link_.size(), options.flight_records, flight_recorder::new_family())),
        exceptions_(std::uncaught_exceptions()) {
    int level = MPI_THREAD_SINGLE;
    MPI_Query_thread(&level);
    thread_multiple_ = level == MPI_THREAD_MULTIPLE;
    families().add(this);
  }
  ~mpi_family() { families().remove(this); }

  std::shared_ptr<flight_recorder> const& recorder() const { return recorder_; }
  mpi_link& link() noexcept { return link_; }
  mpi_options const& options() const noexcept { return options_; }
  int world() const noexcept { return link_.rank(); }
  int ranks() const noexcept { return link_.size(); }
  bool failed() const noexcept { return cause_.known(); }
  failure const& cause() const noexcept { return cause_.get(); }
  /// All ranks agree: no parcel is copied as a whole for a receiver that wants it in another way than its sender.
  void own_large_parcels() noexcept { options_.large_parcels = mpi_options::parcels::owned; }
  /// What MPI still holds of tokens that were dropped, as `held` of mpi_members::throw_cause.
  std::vector<int> const& held_by_drops() const noexcept { return held_by_drops_; }
  void note_held_by_drop(std::vector<int> const& held) noexcept {
    best_effort([&] { recorder_->log_failure(memory_held_text(held)); });
    best_effort([&] { held_by_drops_.insert(held_by_drops_.end(), held.begin(), held.end()); });
  }
  bool has_returned(int world) const { return returned_ranks_[std::size_t(world)]; }
  /// An exception is on its way that was not when the family was made.
  bool is_unwinding() const noexcept { return std::uncaught_exceptions() > exceptions_; }
  int next_context() const { return next_context_; }
  void take_contexts(int end) { next_context_ = end; }

  /// One operation of this process at a time: MPI may be called by one thread only. An abort that is being sent is waited for.
  [[nodiscard]] bool enter() noexcept {
    while (!occupant_.enter(mpi_occupant::operation)) {
      if (occupant_.current() == mpi_occupant::operation) return false;
      std::this_thread::yield();
    }
    thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    end_ = {};
    return true;
  }
  void leave_operation() noexcept { occupant_.leave(); }
  struct leaving {
    mpi_family* family;
    ~leaving() {
      if (family) family->leave_operation();
    }
  };
  /// For destructors and the end of run(): nothing is refused, but nothing that another thread does runs beside it.
  template <class F>
  void exclusively(F&& f) {
    bool entered = enter();
    while (!entered && !occupant_.in_operation_of_this_thread()) {
      std::this_thread::yield(); // another thread's operation; our own is around us
      entered = enter();
    }
    leaving const guard{entered ? this : nullptr};
    f();
  }

  void add(mpi_receiver& m) {
    for (std::size_t i = 0; i < early_.size(); ++i) // a quick peer has used the group already
      if (early_[i].head.context == m.context() && !early_[i].delivered) {
        early_[i].delivered = true;
        m.receive(early_[i].peer, early_[i].head, early_[i].data.data(), early_[i].data.size());
      }
    std::erase_if(early_, [](early const& e) { return e.delivered; });
    receivers_.push_back(&m); // last: a group that finds no memory for what has come is never made
  }
  void remove(mpi_receiver& m) noexcept {
    exclusively([&] { std::erase(receivers_, &m); });
  }

  /// Handles what has arrived. Returns whether anything had.
  bool make_progress() {
    if (abort_requested_.load(std::memory_order_acquire)) fail(take_requested_abort());
    bool const any = poll();
    if (link_.error() != MPI_SUCCESS && !failed()) fail(broken_link(link_));
    return any;
  }

  void advance_exchanges() {
    for (mpi_receiver* m : receivers_) m->advance_exchanges();
  }

  /// Asks a rank how far it is. Every query gets a reply, from ranks that have returned too.
  void send_query(int world, mpi_control const& query) {
    ++open_queries_;
    link_.send(world, query);
  }

  /// The first failure is the cause; later ones are its consequences and change nothing. Every rank of the root learns of it, and
  /// receives of open exchanges are cancelled. `from_peer`: another rank has said so.
  void fail(failure f, bool from_peer = false) {
    auto const change = cause_.add(std::move(f));
    if (change == cause_of_end::change::none) return;
    recorder_->mark_failure(); // its record shows this moment, and is written when everybody has been told
    if (change == cause_of_end::change::first) {
      propagate_failure(link_, cause(), !from_peer, [&] {
        if (!polling_) best_effort([&] { poll(); });
        return !lower_rank_propagates_;
      });
      for (mpi_receiver* m : receivers_) m->cancel_receives();
    }
    best_effort([&] { write_flight_record(); });
    if (change == cause_of_end::change::first && !from_peer) best_effort([&] { recorder_->log_failure(cause().why); });
  }
  /// The same for destructors: see failure_in_destructor.
  template <class Make>
  void fail_in_destructor(char const* fallback, Make&& make) noexcept {
    fail(failure_in_destructor(world(), fallback, make));
  }

  /// From any thread. Below MPI_THREAD_MULTIPLE only MPI's main thread can tell the others at once; otherwise the
  /// rank's own thread does at its next poll.
  void abort(failure f) {
    if (!mpi_is_running()) return; // nobody is left to learn of it
    int main = 0;
    MPI_Is_thread_main(&main);
    while ((main || thread_multiple_) && occupant_.current() != mpi_occupant::operation) {
      if (!occupant_.enter(mpi_occupant::aborting)) {
        std::this_thread::yield();
        continue;
      }
      fail(std::move(f));
      return leave_operation();
    }
    std::lock_guard lock(mutex_);
    if (!abort_requested_) requested_abort_ = std::move(f);
    abort_requested_.store(true, std::memory_order_release);
  }

  /// Waits until `done()` holds; false when the family failed first. `inspect()` looks for peers that can never answer, whenever
  /// something has arrived; `query(time left)` runs while nothing is; at the deadline `late()` fails the family.
  template <class Done, class Inspect, class Query, class Late>
  bool wait(Done&& done, Inspect&& inspect, Query&& query, Late&& late) {
    using clock = std::chrono::steady_clock;
    clock::time_point next_query{};
    clock::duration silence = std::chrono::milliseconds(20);
    bool arrived = true;
    for (std::int64_t polls = 0;; ++polls) {
      if (done()) return true;
      if (failed()) return end_of_grace(clock::now()), false;
      if (arrived) inspect();
      arrived = step(polls);
      bool const busy = link_.take_movement() || arrived || polls < options_.spin;
      if (busy && polls % polls_between_clocks != polls_between_clocks - 1) continue;
      auto const now = clock::now(), end = end_of_operation(now);
      if (next_query == clock::time_point{}) next_query = now + silence;
      if (now >= next_query) {
        query(end - now);
        arrived = true; // a look at who has returned
        silence *= 2;
        next_query = now + std::min<clock::duration>(silence, std::chrono::milliseconds(500));
      }
      if (now >= end && !failed()) late();
      if (busy) continue;
      if (polls % polls_between_clocks == 0) free_terminated();
      pause(polls < std::int64_t(options_.spin) + busy_polls);
    }
  }
  /// After a failure: waits until `cancel()`, which cancels requests, says that none is left, or until the grace of the family ends:
  /// what is left then, in however many exchanges, is not waited for again.
  template <class Cancel>
  void wait_for_requests(Cancel&& cancel) noexcept {
    for (int polls = 0; !cancel(); ++polls) {
      best_effort([&] { step(polls); });
      auto const now = std::chrono::steady_clock::now();
      if (now >= end_of_grace(now)) return;
      pause(polls < busy_polls);
    }
  }

  /// After this rank's body. Usually everybody returns at about the same time, and the tree tells it; else this rank tells all
  /// others, who may be waiting for it, that it will not answer.
  void set_returned() {
    if (failed() || returned_) return;
    returned_ = true;
    auto const end = std::chrono::steady_clock::now() + close_grace();
    for (int polls = 0; !failed() && !termination_.everybody_has_returned(); ++polls) {
      if (std::chrono::steady_clock::now() > end) return send_returned();
      if (!step(polls)) std::this_thread::yield();
      advance_termination();
    }
  }
  bool has_returned() const noexcept { return returned_; }
  /// An operation of this rank has thrown because of the failure.
  bool has_reported() const noexcept { return reported_; }
  void set_reported() noexcept { reported_ = true; }

  /// The end of the last handle. What cannot be freed now is kept, and looked at again when the next communicator is made.
  static void retire(mpi_family* f) noexcept {
    std::unique_ptr<mpi_family> family(f);
    families().remove(f);
    if (auto before = flight_recorder::record_calls_of_thread(nullptr); before != f->recorder_)
      flight_recorder::record_calls_of_thread(std::move(before));
    if (!mpi_is_running()) return;
    if (f->is_unwinding())
      f->fail_in_destructor("handle dropped", [&] {
        return failure{.info = {errc::bad_state, "its last handle was destroyed by an exception", "See what this rank threw",
                                "sp::mpi", f->world(), f->ranks()}};
      });
    best_effort([&] { f->terminate(); });
    f->link_.types().clear();
    families().keep(std::move(family));
    best_effort([] { free_terminated(); });
  }
  static void free_terminated() {
    families().erase_kept([](mpi_family& f) {
      if (f.failed() || !f.terminated()) return false; // messages of a failed family may arrive at any time
      f.link_.close();
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
  static mpi_families<mpi_family>& families() { return mpi_families<mpi_family>::of_process(); }
  /// One step of every wait: takes what has arrived, and moves, now and then, what else this thread has under way.
  bool step(std::int64_t polls) {
    bool const arrived = make_progress();
    if (!arrived && polls % polls_between_others == polls_between_others - 1) {
      advance_exchanges();
      help_others();
    }
    return arrived;
  }
  /// Peers may wait for what other communicators of this thread have under way, while this one waits.
  void help_others() {
    families().for_each_but(this, [](mpi_family& f) {
      if (f.thread_.load(std::memory_order_relaxed) != std::this_thread::get_id() || !f.occupant_.enter(mpi_occupant::helping))
        return;
      leaving const guard{&f};
      f.make_progress();
      f.advance_exchanges();
    });
  }
  /// Takes part in the termination, and gives the others a moment to do the same.
  void terminate() {
    set_returned();
    auto const end = std::chrono::steady_clock::now() + close_grace();
    for (int polls = 0; termination_.everybody_has_returned() && !terminated() && !failed(); ++polls) {
      if (std::chrono::steady_clock::now() >= end) return;
      if (!step(polls)) std::this_thread::yield();
    }
  }

  /// One deadline for all waits of an operation; it begins when the first of them looks at the clock.
  mpi_receiver::time end_of_operation(mpi_receiver::time now) noexcept {
    if (end_ == mpi_receiver::time{}) end_ = now + options_.deadline;
    return end_;
  }
  /// One for the whole family, a little after the end of the operation that was the first to fail.
  mpi_receiver::time end_of_grace(mpi_receiver::time now) noexcept {
    if (grace_ == mpi_receiver::time{}) grace_ = end_of_operation(now) + options_.deadline / 20 + std::chrono::milliseconds(20);
    return grace_;
  }
  static void pause(bool briefly) noexcept {
    if (briefly)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(50));
  }

  bool poll() {
    struct taking { // a message that was not taken is lost, and with it the family
      mpi_family& family;
      bool outer, taken = false;
      ~taking() {
        family.polling_ = outer;
        if (!taken) family.fail_in_destructor("message lost", [&] { return lost_message(family.link_); });
      }
    } state{*this, std::exchange(polling_, true)};
    bool const any = link_.poll(
        [&](int peer, mpi_control const& n, std::byte const* data, std::size_t bytes) { receive(peer, n, data, bytes); });
    state.taken = true;
    return any;
  }
  void receive(int peer, mpi_control const& n, std::byte const* data, std::size_t bytes) {
    if (n.kind == mpi_control::failure) {
      if (n.purpose && peer < world()) lower_rank_propagates_ = true;
      return failed() ? void() : fail(failure_message::read(data, bytes), true);
    }
    if (failed() && n.kind != mpi_control::cancelled) return;
    switch (n.kind) {
    case mpi_control::termination:
      return termination_.receive(n);
    case mpi_control::returned:
      returned_ranks_[std::size_t(peer)] = true;
      return reply(peer, n.context);
    case mpi_control::progress_query:
      return reply(peer, n.context);
    case mpi_control::progress_reply:
      --open_queries_;
      if (n.values[0] == has_returned_value) returned_ranks_[std::size_t(peer)] = true;
      if (n.values[0] == has_returned_value) return;
      break;
    default:
      break;
    }
    for (mpi_receiver* m : receivers_)
      if (m->context() == n.context) return m->receive(peer, n, data, bytes);
    if (!failed() && (n.kind == mpi_control::announcement || n.kind == mpi_control::barrier))
      early_.push_back({peer, n, {data, data + bytes}});
  }
  void reply(int peer, int context) {
    mpi_control n;
    n.kind = mpi_control::progress_reply;
    n.context = context;
    n.values[0] = returned_ ? has_returned_value : -1; // no such group here
    for (mpi_receiver* m : receivers_)
      if (m->context() == context && !returned_) m->report_progress(n);
    link_.send(peer, n);
  }
  void send_returned() {
    mpi_control n;
    n.kind = mpi_control::returned;
    for (int r = 0; r < ranks(); ++r)
      if (r != world() && !returned_ranks_[std::size_t(r)]) send_query(r, n); // the reply tells that it has come
  }
  void advance_termination() {
    if (!failed()) termination_.advance(returned_, open_queries_ == 0, [&](int r, mpi_control const& n) { link_.send(r, n); });
  }
  void write_flight_record() const {
    if (flight_recorder::dumps()) recorder_->dump(recorder_->json(&cause().info, cause().why, cause().world));
  }
  failure take_requested_abort() {
    std::lock_guard lock(mutex_);
    abort_requested_ = false;
    return std::move(requested_abort_);
  }
  /// Nothing of this family is under way any more, in either direction.
  bool terminated() {
    poll();
    advance_termination();
    return !failed() && termination_.done() && link_.flushed();
  }

  mpi_link link_;
  mpi_options options_;
  mpi_termination termination_;
  std::int64_t open_queries_ = 0; ///< of this rank, without a reply so far
  std::vector<mpi_receiver*> receivers_;
  std::vector<early> early_;
  std::vector<bool> returned_ranks_; ///< by rank, as far as this one has heard
  std::shared_ptr<flight_recorder> recorder_;
  int exceptions_, next_context_ = 1;
  std::vector<int> held_by_drops_;
  bool returned_ = false, reported_ = false, thread_multiple_ = false; ///< returned: this rank, from its body
  bool polling_ = false, lower_rank_propagates_ = false; ///< lower_rank_propagates: it has found a failure, and tells everybody
  cause_of_end cause_{};
  mpi_receiver::time end_{};   ///< of the operation under way; not set before a wait looks at the clock
  mpi_receiver::time grace_{}; ///< until when memory under way is waited for after a failure; set by the first that fails
  mpi_occupant occupant_;
  std::atomic<std::thread::id> thread_{std::this_thread::get_id()}; ///< of the last operation; helped from there
  std::atomic<bool> abort_requested_{false};
  std::mutex mutex_;
  failure requested_abort_{};
};

} // namespace sp::detail
