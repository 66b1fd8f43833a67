// What the groups made from one sp::mpi share in one process: the link, the deadline, and the first failure, which ends them all.
// A failure is told to every rank of the root at once; a wait ends by its condition, by a failure anywhere, or at the deadline.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#include <sp/collective/mpi/failure.hpp>
#include <sp/diagnosis/flight_recorder.hpp>

namespace sp::detail {

/// A group as its family sees it. Ranks here are those of the root.
class mpi_member {
public:
  using time = std::chrono::steady_clock::time_point;
  virtual void hear(int peer, mpi_note const& note, std::byte const* data, std::size_t bytes) = 0;
  virtual void take_back(time until) noexcept = 0;          ///< no peer writes into memory of ours afterwards
  virtual void describe_progress(mpi_note& note) const = 0; ///< for a peer that waits
  int context() const { return context_; }
  mpi_member(mpi_member const&) = delete;

protected:
  explicit mpi_member(int context) : context_(context) {}
  ~mpi_member() = default;

private:
  int context_;
};

class mpi_family {
public:
  mpi_family(MPI_Comm from, mpi_options const& options)
      : link_(from, options), options_(options), gone_(std::size_t(link_.size())), out_(std::size_t(link_.size())),
        recorder_(
            std::make_shared<flight_recorder>(link_.rank(), link_.size(), options.flight_records, flight_recorder::new_family())),
        exceptions_(std::uncaught_exceptions()) {
    int level = MPI_THREAD_SINGLE;
    MPI_Query_thread(&level);
    any_thread_ = level == MPI_THREAD_MULTIPLE;
  }

  std::shared_ptr<flight_recorder> const& recorder() const { return recorder_; }
  mpi_link& link() { return link_; }
  mpi_options const& options() const { return options_; }
  int world() const { return link_.rank(); }
  int ranks() const { return link_.size(); }
  bool failed() const noexcept { return failed_; }
  mpi_failure const& cause() const { return cause_; }
  bool has_left(int world) const { return gone_[std::size_t(world)]; }
  /// It knows that the family has failed, and begins nothing any more; what it said before has arrived.
  bool has_given_up(int world) const { return out_[std::size_t(world)]; }
  /// An exception is on its way that was not when the family was made.
  bool is_unwinding() const noexcept { return std::uncaught_exceptions() > exceptions_; }
  int next_context() const { return next_context_; }
  void take_contexts(int end) { next_context_ = end; }

  /// One operation of this process at a time: MPI may be called by one thread only. An abort that is being told is waited for.
  bool enter() noexcept {
    for (occupant found = nobody; !occupant_.compare_exchange_weak(found, operation, std::memory_order_acquire); found = nobody) {
      if (found == operation) return false;
      std::this_thread::yield();
    }
    return true;
  }
  void leave_operation() noexcept { occupant_.store(nobody, std::memory_order_release); }
  /// For destructors and the end of run(): nothing is refused, but no abort from another thread runs beside it.
  template <class F>
  void undisturbed(F&& f) {
    bool const entered = enter();
    f();
    if (entered) leave_operation();
  }

  void join(mpi_member& m) {
    members_.push_back(&m);
    for (std::size_t i = 0; i < early_.size(); ++i) // a quick peer has used the group already
      if (early_[i].note.context == m.context() && !early_[i].delivered) {
        early_[i].delivered = true;
        m.hear(early_[i].peer, early_[i].note, early_[i].data.data(), early_[i].data.size());
      }
    std::erase_if(early_, [](early const& e) { return e.delivered; });
  }
  void part(mpi_member& m) noexcept { std::erase(members_, &m); }

  /// Handles what has arrived. Returns whether anything had.
  bool pump() {
    if (asked_.load(std::memory_order_acquire)) fail(take_request());
    bool const any =
        link_.poll([&](int peer, mpi_note const& n, std::byte const* data, std::size_t bytes) { hear(peer, n, data, bytes); });
    if (link_.error() != MPI_SUCCESS && !failed_) fail(broken());
    return any;
  }

  /// The first failure is the cause; later ones are its consequences and change nothing. Every rank of the root is told; memory
  /// of open exchanges is taken back. `learned` from another rank, or found here.
  void fail(mpi_failure f, bool learned = false) {
    if (failed_) {
      if (cause_.provisional && !f.provisional && f.world == cause_.world && f.info.code != errc::aborted) {
        cause_.why = f.why.empty() ? describe(f.info) : std::move(f.why); // the exception that destroyed the token has arrived
        cause_.provisional = false;
        recorder_->dump(flight_record());
      }
      return;
    }
    failed_ = true;
    if (f.why.empty()) f.why = describe(f.info);
    cause_ = std::move(f);
    std::string const record = flight_record(); // as it was, before operations are given up
    if (!learned) tell(false);
    auto const until = std::chrono::steady_clock::now() + last_writes;
    for (mpi_member* m : members_) m->take_back(until);
    tell(true);
    recorder_->dump(record);
    if (!learned) recorder_->log_failure(cause_.why);
  }

  /// From any thread. Below MPI_THREAD_MULTIPLE only MPI's main thread can tell the others at once; otherwise the rank's own thread
  /// does at its next poll.
  void abort(mpi_failure f) {
    if (!mpi_is_running()) return; // nobody is left to be told
    int main = 0;
    MPI_Is_thread_main(&main);
    occupant found = nobody;
    if ((main || any_thread_) && occupant_.compare_exchange_strong(found, teller, std::memory_order_acquire)) {
      fail(std::move(f));
      return leave_operation();
    }
    std::lock_guard lock(mutex_);
    if (!asked_) request_ = std::move(f);
    asked_.store(true, std::memory_order_release);
  }

  /// Waits until `done()` holds; false when the family failed first. `inspect()` looks for peers that can never answer, whenever
  /// something was heard; `ask()` runs while nothing is; at the deadline `late()` fails the family.
  template <class Done, class Inspect, class Ask, class Late>
  bool wait(Done&& done, Inspect&& inspect, Ask&& ask, Late&& late) {
    using clock = std::chrono::steady_clock;
    clock::time_point end{}, next_question{};
    clock::duration silence = std::chrono::milliseconds(20);
    bool heard = true;
    for (std::int64_t polls = 0;; ++polls) {
      if (done()) return true;
      if (failed_) return false;
      if (heard) inspect();
      heard = pump();
      if (heard || polls < options_.spin) continue;
      auto const now = clock::now();
      if (end == clock::time_point{}) {
        end = now + options_.deadline;
        next_question = now + silence;
      }
      if (now >= next_question) {
        ask();
        heard = true; // a look at who has left
        silence *= 2;
        next_question = now + std::min<clock::duration>(silence, std::chrono::milliseconds(500));
      }
      if (now >= end && !failed_) late();
      if (polls < options_.spin + patience)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  /// After this rank's body: who still waits for this rank learns that it will not answer.
  void leave() {
    if (failed_ || left_) return;
    left_ = true;
    mpi_note n;
    n.kind = mpi_note::farewell;
    for (int r = 0; r < ranks(); ++r)
      if (r != world()) link_.send(r, n, 0, [](std::byte*) {});
  }
  bool left() const { return left_; }

  /// How long an operation that has failed waits for peers that may be reading what it sends.
  static mpi_member::time end_of_reads() { return std::chrono::steady_clock::now() + last_reads; }
  /// Waits for a send that `peer` may be reading: until it is over, or the peer has taken its receives back, or `end`.
  template <class Sent>
  void drain(int peer, mpi_member::time end, Sent&& sent) noexcept {
    while (!sent() && !out_[std::size_t(peer)] && std::chrono::steady_clock::now() < end) {
      link_.poll([&](int p, mpi_note const& n, std::byte const* data, std::size_t bytes) { hear(p, n, data, bytes); });
      std::this_thread::yield();
    }
  }

  /// The end of the last handle. What cannot be freed now is kept, and looked at again when the next communicator is made.
  static void retire(mpi_family* f) noexcept {
    std::unique_ptr<mpi_family> family(f);
    if (auto heard = flight_recorder::listen(nullptr); heard != f->recorder_) flight_recorder::listen(std::move(heard));
    if (!mpi_is_running()) return;
    if (f->is_unwinding())
      f->fail({{errc::bad_state, "its last handle was destroyed by an exception", "See what this rank threw", "sp::mpi",
                f->world(), f->ranks()},
               f->world()});
    f->leave();
    auto const end = std::chrono::steady_clock::now() + farewell_time;
    while (!f->finished() && !f->failed_ && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    bury(std::move(family));
  }
  static void bury(std::unique_ptr<mpi_family> family) {
    std::lock_guard lock(graves().mutex);
    if (family) graves().kept.push_back(std::move(family));
    std::erase_if(graves().kept, [](std::unique_ptr<mpi_family>& f) {
      if (f->failed_ || !f->finished()) return false; // messages of a failed family may arrive at any time
      f->link_.close();
      return true;
    });
  }

private:
  static constexpr int patience = 2000;
  static constexpr auto last_writes = std::chrono::milliseconds(40), last_reads = last_writes,
                        farewell_time = std::chrono::milliseconds(50);

  struct early {
    int peer;
    mpi_note note;
    std::vector<std::byte> data;
    bool delivered = false;
  };
  struct graveyard {
    std::mutex mutex;
    std::vector<std::unique_ptr<mpi_family>> kept;
  };
  static graveyard& graves() {
    static graveyard all;
    return all;
  }

  void hear(int peer, mpi_note const& n, std::byte const* data, std::size_t bytes) {
    switch (n.kind) {
    case mpi_note::failure:
      if (n.number) out_[std::size_t(peer)] = true;
      return fail(mpi_failure::read(data, bytes), true);
    case mpi_note::farewell:
      gone_[std::size_t(peer)] = true;
      return;
    case mpi_note::question:
      return answer(peer, n.context);
    default:
      break;
    }
    if (failed_ && n.kind != mpi_note::meeting && n.kind != mpi_note::parting) return; // these two decide about blocking calls
    for (mpi_member* m : members_)
      if (m->context() == n.context) return m->hear(peer, n, data, bytes);
    if (!failed_ && (n.kind == mpi_note::call || n.kind == mpi_note::meeting)) early_.push_back({peer, n, {data, data + bytes}});
  }
  void answer(int peer, int context) {
    if (failed_ || left_) return;
    mpi_note n;
    n.kind = mpi_note::answer;
    n.context = context;
    n.values[0] = -1; // no such group here
    for (mpi_member* m : members_)
      if (m->context() == context) m->describe_progress(n);
    link_.send(peer, n, 0, [](std::byte*) {});
  }
  /// Of this rank, if the settings ask for a file.
  std::string flight_record() const {
    return flight_recorder::dumps() ? recorder_->json(&cause_.info, cause_.why, cause_.world) : std::string();
  }
  /// `out`: this rank has taken its memory back and will not receive any more.
  void tell(bool out) {
    mpi_note n;
    n.kind = mpi_note::failure;
    n.number = out;
    for (int r = 0; r < ranks(); ++r)
      if (r != world()) link_.send(r, n, cause_.bytes(), [&](std::byte* to) { cause_.write(to); });
  }
  mpi_failure take_request() {
    std::lock_guard lock(mutex_);
    asked_ = false;
    return std::move(request_);
  }
  mpi_failure broken() const {
    mpi_failure f;
    f.info = {errc::backend_error,
              std::string(link_.failed_call()) + " failed, " + mpi_error_text(link_.error()),
              "See the text of your MPI",
              "",
              world(),
              ranks()};
    f.world = f.one = f.other = world();
    f.context = mpi_failure::any_context;
    return f;
  }
  /// Nothing of this family is under way any more, in either direction.
  bool finished() {
    link_.poll([&](int p, mpi_note const& n, std::byte const* data, std::size_t bytes) { hear(p, n, data, bytes); });
    return left_ && link_.flushed() && std::count(gone_.begin(), gone_.end(), true) == ranks() - 1;
  }

  mpi_link link_;
  mpi_options options_;
  std::vector<mpi_member*> members_;
  std::vector<early> early_;
  std::vector<bool> gone_, out_; ///< by rank: has returned; has failed and taken its memory back
  std::shared_ptr<flight_recorder> recorder_;
  int exceptions_, next_context_ = 1;
  bool failed_ = false, left_ = false, any_thread_ = false;
  mpi_failure cause_{};
  enum occupant : int { nobody, operation, teller };
  std::atomic<occupant> occupant_{nobody};
  std::atomic<bool> asked_{false};
  std::mutex mutex_;
  mpi_failure request_{};
};

} // namespace sp::detail
