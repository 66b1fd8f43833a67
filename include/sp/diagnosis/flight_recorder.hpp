// The flight recorder of one rank: its last operations with states, bytes and times, in a ring buffer that never grows.
// Writing costs a few stores and no allocation; any thread may read it at any time, above all when the rank itself hangs.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sp/core/error.hpp>
#include <sp/diagnosis/clock.hpp>
#include <sp/diagnosis/file.hpp>
#include <sp/diagnosis/observers.hpp>
#include <sp/diagnosis/settings.hpp>
#include <sp/diagnosis/text.hpp>

namespace sp {

/// One rank's place in one group, kept by the communicator for each of its handles' groups. Made by flight_recorder::join.
struct flight_group {
  int id = 0; ///< 0 is the world; the members of a group agree about it
  int rank = 0, size = 1;
  std::uint64_t operations = 0; ///< begun so far
};

/// A communicator family owns one per rank; all groups of the rank share it.
///
///     auto ticket = recorder.begin(group, operation_kind::exchange, t.primitive); // arguments are good: it will happen
///     recorder.posted(ticket, bytes_out, bytes_in);                               // optional
///     recorder.waiting(ticket, peer);  // as soon as it has to block, and again when it waits for another peer
///     recorder.done(ticket);           // or failed(ticket)
///
/// A ticket may outlive its record: events of a record that the ring has lost are ignored. Texts are kept as pointers.
class flight_recorder {
public:
  using ticket = std::uint64_t; ///< 0: not recorded

  /// Room for `records` operations at least; 0 records nothing, and then nothing is logged or traced either.
  flight_recorder(int world_rank, int world_size, int records, int family)
      : rank_(world_rank), size_(world_size), family_(family), mask_(records > 0 ? std::bit_ceil(std::uint64_t(records)) - 1 : 0),
        ring_(records > 0 ? std::make_unique<slot[]>(mask_ + 1) : nullptr) {
    if (!ring_) return;
    diagnosis::configured();
    watch_calls();
  }
  flight_recorder(flight_recorder const&) = delete;
  ~flight_recorder() {
    if (detail::observing.load(std::memory_order_relaxed)) detail::flush_traces();
  }
  /// A number for the recorders of a communicator family of this process: %n in file names.
  static int new_family() {
    static std::atomic<int> families{0};
    return families.fetch_add(1, std::memory_order_relaxed);
  }

  int world_rank() const noexcept { return rank_; }
  bool recording() const noexcept { return ring_ != nullptr; }

  /// A group that this rank is a member of; `world_ranks` in the order of the group. Not for the steady state.
  [[nodiscard]] flight_group join(int id, int rank, std::vector<int> const& world_ranks) {
    if (ring_) {
      std::lock_guard lock(mutex_);
      if (groups_.size() == most_groups) groups_.erase(groups_.begin() + 1); // the world stays
      groups_.emplace_back(id, world_ranks);
    }
    return {id, rank, int(world_ranks.size())};
  }

  ticket begin(flight_group& g, operation_kind kind, char const* primitive) noexcept {
    std::uint64_t const number = g.operations++;
    if (!ring_) return 0;
    return open({.kind = kind,
                 .primitive = primitive,
                 .object = detail::current_site ? detail::current_site->object : "",
                 .call = detail::current_site ? detail::current_site->call : "",
                 .group = g.id,
                 .rank = g.rank,
                 .size = g.size,
                 .number = number});
  }
  void posted(ticket t, std::int64_t bytes_out, std::int64_t bytes_in) noexcept {
    if (slot* s = find(t)) {
      s->bytes_out.store(bytes_out, std::memory_order_release);
      s->bytes_in.store(bytes_in, std::memory_order_release);
      notify_observers(*s, detail::moment::posted);
    }
  }
  /// `peer`: a rank of the world. Called again now and then while it waits.
  void waiting(ticket t, int peer) noexcept {
    if (slot* s = find(t)) {
      s->peer.store(peer, std::memory_order_release);
      if (s->wait.load(std::memory_order_relaxed) != 0) return still_waiting(*s); // perhaps for another peer
      s->wait.store(now(), std::memory_order_release);
      s->state.store(operation_state::waiting, std::memory_order_release);
      notify_observers(*s, detail::moment::waiting);
    }
  }
  void done(ticket t) noexcept { close(t, operation_state::done, detail::moment::done); }
  void failed(ticket t) noexcept { close(t, operation_state::failed, detail::moment::failed); }

  /// The family has failed: from now on json() tells what the rank was doing at this moment, whatever its operations come to, and
  /// nothing new is recorded.
  void mark_failure() noexcept {
    std::int64_t none = 0;
    failed_at_.compare_exchange_strong(none, detail::ticks(), std::memory_order_relaxed);
  }

  /// From now on the public calls of this thread are recorded in `r`, which may be null; returns who recorded them before. While the
  /// thread destroys its last objects (a static communicator dies after main) nobody records them.
  static std::shared_ptr<flight_recorder> record_calls_of_thread(std::shared_ptr<flight_recorder> r) {
    if (thread_has_ended) return nullptr;
    std::swap(of_thread.recorder, r);
    return r;
  }

  /// The operations that the ring still holds, oldest first. A record that is being overwritten is left out.
  [[nodiscard]] std::vector<operation_record> snapshot() const {
    std::vector<operation_record> list;
    std::uint64_t const last = recorded(), room = ring_ ? mask_ + 1 : 0;
    for (std::uint64_t t = last > room ? last - room + 1 : 1; t <= last; ++t)
      if (operation_record r = ring_[t & mask_].read(); r.ticket == t) list.push_back(r);
    return list;
  }
  /// Operations begun so far.
  std::uint64_t recorded() const noexcept { return next_.load(std::memory_order_acquire); }

  /// One JSON object: who this is, why the family failed (`cause` may be null), groups and operations. Times are wall times.
  [[nodiscard]] std::string json(error_info const* cause, std::string_view why, int failed_rank) const;

  /// Tells the log that the family has ended, and flushes traces. Once per family, or once per process.
  void log_failure(std::string_view why) const {
    if (!ring_ || !detail::observing.load(std::memory_order_relaxed)) return;
    detail::log(diagnosis::level::error, detail::subsystem::collective, {rank_, size_, family_}, std::string(why).c_str());
    detail::flush_traces();
  }
  /// Writes `json` to the file of this rank that the settings ask for; nothing if they ask for none. True if it was written.
  /// Traces are flushed first, so that they too show the moment of a failure.
  bool dump(std::string_view json) const noexcept;
  static bool dumps() { return !diagnosis::configured().flight_file.empty(); }

private:
  static constexpr std::size_t most_groups = 64;
  static inline constinit thread_local bool thread_has_ended = false; ///< never destroyed
  struct thread_slot {
    std::shared_ptr<flight_recorder> recorder;
    ~thread_slot() { thread_has_ended = true; }
  };
  static inline thread_local thread_slot of_thread{};
  static flight_recorder* recorder_of_thread() noexcept { return thread_has_ended ? nullptr : of_thread.recorder.get(); }

  struct alignas(64) slot {
    std::atomic<ticket> id{0}; ///< 0 while the fields below change hands
    std::atomic<operation_kind> kind{};
    std::atomic<operation_state> state{};
    std::atomic<char const*> primitive{""}, object{""}, call{""};
    std::atomic<int> group{-1}, rank{-1}, size{-1}, peer{-1};
    std::atomic<std::uint64_t> number{0};
    std::atomic<std::int64_t> bytes_out{0}, bytes_in{0}, begin{0}, wait{0}, end{0};
    std::atomic<double> warned_us{0}; ///< us of waiting when the log warned last

    // A reader that sees one new field (acquire) sees that id was zeroed before it (release), and drops what it has read.
    void write(ticket t, operation_record const& r) noexcept {
      constexpr auto order = std::memory_order_release;
      id.store(0, order);
      kind.store(r.kind, order), state.store(r.state, order), primitive.store(r.primitive, order);
      object.store(r.object, order), call.store(r.call, order), group.store(r.group, order), rank.store(r.rank, order);
      size.store(r.size, order), peer.store(r.peer, order), number.store(r.number, order), bytes_out.store(0, order);
      bytes_in.store(0, order), wait.store(0, order), end.store(0, order), begin.store(r.begin, order);
      warned_us.store(0, order), id.store(t, order);
    }
    operation_record read() const noexcept {
      constexpr auto order = std::memory_order_acquire;
      operation_record r{id.load(order),     kind.load(order),   state.load(order),     primitive.load(order),
                         object.load(order), call.load(order),   group.load(order),     rank.load(order),
                         size.load(order),   number.load(order), bytes_out.load(order), bytes_in.load(order),
                         peer.load(order),   begin.load(order),  wait.load(order),      end.load(order)};
      if (id.load(std::memory_order_relaxed) != r.ticket) r.ticket = 0;
      return r;
    }
  };

  /// Times cost more than all the rest of a record. Without observers an operation takes one when it has to block, and when it
  /// fails; calls take two; what never blocks begins at the last time taken, at most 16 operations ago, and has no end.
  ticket open(operation_record r) noexcept {
    if (failed_at_.load(std::memory_order_relaxed) != 0) return 0;
    ticket const t = next_.fetch_add(1, std::memory_order_relaxed) + 1;
    slot& s = ring_[t & mask_];
    bool const exact = r.kind == operation_kind::call || t % 16 == 1 || detail::observing.load(std::memory_order_relaxed);
    r.begin = exact ? now() : last_time_.load(std::memory_order_relaxed);
    s.write(t, r);
    notify_observers(s, detail::moment::entered);
    return t;
  }
  slot* find(ticket t) const noexcept {
    if (t == 0) return nullptr;
    slot* s = &ring_[t & mask_];
    return s->id.load(std::memory_order_relaxed) == t ? s : nullptr;
  }
  void close(ticket t, operation_state state, detail::moment m) noexcept {
    if (slot* s = find(t); s && s->state.load(std::memory_order_relaxed) < operation_state::done) { // the first end counts
      bool const exact = state == operation_state::failed || s->kind.load(std::memory_order_relaxed) == operation_kind::call ||
                         detail::observing.load(std::memory_order_relaxed);
      if (exact) s->end.store(now(), std::memory_order_release);
      s->state.store(state, std::memory_order_release);
      notify_observers(*s, m);
    }
  }
  std::int64_t now() noexcept {
    std::int64_t const t = detail::ticks();
    last_time_.store(t, std::memory_order_relaxed);
    return t;
  }
  void still_waiting(slot& s) const noexcept {
    using enum diagnosis::level;
    if (!detail::observing.load(std::memory_order_relaxed) || !detail::logs(warn, detail::subsystem::collective)) return;
    double const limit = 1000 * double(diagnosis::configured().long_wait.count()),
                 warned_us = s.warned_us.load(std::memory_order_relaxed);
    double const us = detail::trace_time(detail::ticks()) - detail::trace_time(s.wait.load(std::memory_order_relaxed));
    if (us < limit || us < 2 * warned_us) return;
    s.warned_us.store(us, std::memory_order_relaxed);
    detail::log_wait(s.read(), us, {rank_, size_, family_});
  }
  void notify_observers(slot const& s, detail::moment m) const noexcept {
    if (detail::observing.load(std::memory_order_relaxed)) detail::observe(s.read(), m, {rank_, size_, family_});
  }
  struct open_call {
    ticket id;
    std::int64_t begin;
  };
  struct call_stack {
    std::array<open_call, 16> list;
    std::size_t depth;
  };
  static inline thread_local call_stack open_calls{};

  static operation_record call_record(site const& s) noexcept {
    return {.primitive = s.call, .object = s.object, .call = s.call, .rank = s.rank, .size = s.size};
  }
  std::uint64_t enter(site const& s) noexcept;
  void leave(site const& s, std::uint64_t depth, operation_state state) noexcept;
  /// From now on `located` tells the recorder of the thread.
  static void watch_calls() noexcept;
  static std::string describe(operation_record const& r, detail::clock_reading const& now);
  /// An operation that has ended because the family failed, as it was before.
  operation_record at_failure(operation_record r) const noexcept {
    std::int64_t const failed = failed_at_.load(std::memory_order_relaxed);
    if (failed == 0 || r.state != operation_state::failed || r.end < failed) return r;
    r.state = r.wait != 0 && r.wait <= failed ? operation_state::waiting : operation_state::entered;
    r.end = 0;
    return r;
  }

  int rank_, size_, family_;
  std::uint64_t mask_;
  std::unique_ptr<slot[]> ring_;
  std::atomic<ticket> next_{0};
  std::atomic<std::int64_t> last_time_{0}, failed_at_{0};
  mutable std::mutex mutex_; ///< guards groups_
  std::vector<std::pair<int, std::vector<int>>> groups_;
};

inline void flight_recorder::watch_calls() noexcept {
  static constexpr detail::call_observer observer{
      [](site const& s) noexcept -> std::uint64_t {
        flight_recorder* const r = recorder_of_thread();
        return r ? r->enter(s) : 0;
      },
      [](site const& s, std::uint64_t depth, bool failed) noexcept {
        auto const how = failed ? operation_state::failed : operation_state::done;
        if (flight_recorder* const r = recorder_of_thread(); r && depth) r->leave(s, depth, how);
      },
  };
  __atomic_store_n(&detail::observer, &observer, __ATOMIC_RELAXED);
}

inline std::uint64_t flight_recorder::enter(site const& s) noexcept {
  if (!ring_ || open_calls.depth == open_calls.list.size()) return 0;
  ticket const t = open(call_record(s));
  open_calls.list[open_calls.depth] = {t, t ? ring_[t & mask_].begin.load(std::memory_order_relaxed) : now()};
  return ++open_calls.depth;
}

inline void flight_recorder::leave(site const& s, std::uint64_t depth, operation_state state) noexcept {
  auto const m = state == operation_state::done ? detail::moment::done : detail::moment::failed;
  auto const [t, begin] = open_calls.list[open_calls.depth = depth - 1];
  if (find(t)) return close(t, state, m);
  if (!detail::observing.load(std::memory_order_relaxed)) return;
  operation_record r = call_record(s); // the operations of a long call have pushed it out of the ring
  r.state = state, r.begin = begin, r.end = detail::ticks();
  detail::observe(r, m, {rank_, size_, family_});
}

inline std::string flight_recorder::describe(operation_record const& r, detail::clock_reading const& now) {
  auto time = [&](std::int64_t t) { return std::to_string(t ? detail::wall_time(t, now) / 1000 : 0); };
  auto field = [](char const* name, auto value) { return std::string(", \"") + name + "\": " + std::to_string(value); };
  std::string text = "{\"kind\": " + detail::json_text(name(r.kind)) + ", \"state\": " + detail::json_text(name(r.state)) +
                     ", \"primitive\": " + detail::json_text(r.primitive) +
                     ", \"call\": " + detail::json_text(std::string(r.object) + r.call);
  text += field("group", r.group) + field("number", r.number) + field("rank", r.rank) + field("size", r.size);
  text += field("peer", r.peer) + field("bytes_out", r.bytes_out) + field("bytes_in", r.bytes_in);
  return text + ", \"begin_us\": " + time(r.begin) + ", \"wait_us\": " + time(r.wait) + ", \"end_us\": " + time(r.end) + "}";
}

inline std::string flight_recorder::json(error_info const* cause, std::string_view why, int failed_rank) const {
  auto const now = detail::later_reading();
  std::string text = "{\"sp_flight\": 1, \"host\": " + detail::json_text(detail::host_name()) +
                     ", \"pid\": " + std::to_string(::getpid()) + ", \"rank\": " + std::to_string(rank_) +
                     ", \"size\": " + std::to_string(size_) + ",\n \"dumped_us\": " + std::to_string(now.wall / 1000) +
                     ", \"recorded\": " + std::to_string(recorded());
  text += ",\n \"failure\": ";
  if (cause)
    text += "{\"code\": " + detail::json_text(sp::name(cause->code)) + ", \"rank\": " + std::to_string(failed_rank) +
            ", \"primitive\": " + detail::json_text(cause->primitive) + ", \"peer\": " + std::to_string(cause->peer) +
            ", \"why\": " + detail::json_text(why) + "}";
  else
    text += "null";
  text += ",\n \"groups\": [";
  {
    std::lock_guard lock(mutex_);
    for (auto const& [id, members] : groups_) {
      text += (&id == &groups_.front().first ? "{\"group\": " : ", {\"group\": ") + std::to_string(id) + ", \"ranks\": [";
      for (std::size_t i = 0; i < members.size(); ++i) text += (i ? ", " : "") + std::to_string(members[i]);
      text += "]}";
    }
  }
  text += "],\n \"operations\": [";
  char const* between = "\n  ";
  for (operation_record const& r : snapshot()) text += std::exchange(between, ",\n  ") + describe(at_failure(r), now);
  return text + "]}\n";
}

inline bool flight_recorder::dump(std::string_view json) const noexcept {
  if (detail::observing.load(std::memory_order_relaxed)) detail::flush_traces();
  bool good = false;
  detail::best_effort([&] {
    std::string const& pattern = diagnosis::configured().flight_file;
    if (pattern.empty()) return;
    detail::private_file const file(detail::expand(pattern, rank_, family_));
    good = file.good() && file.write(json);
  });
  if (good) detail::log(diagnosis::level::info, detail::subsystem::collective, {rank_, size_, family_}, "flight record written");
  return good;
}

} // namespace sp
