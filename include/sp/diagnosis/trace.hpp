// Chrome traces (chrome://tracing, Perfetto): complete events of calls and operations, one JSON array per file.
// The file is valid JSON after every flush: when it holds 64 KiB more, when a family ends or fails, and when the process ends. Events
// that a full disk refuses are lost; those before and those after them are not.
#pragma once

#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include <sp/core/observe.hpp>
#include <sp/diagnosis/log.hpp>

namespace sp::detail {

class trace_file {
public:
  explicit trace_file(std::string const& path) : file_(path) {
    if (file_.good()) file_.write("[]\n", 0); // valid from the start, also if the process is killed
  }

  /// One event; `fields` are what stands between the braces after pid. Where memory is short an event is left out as a whole.
  void add(event_origin who, std::string const& fields) {
    std::lock_guard lock(mutex_);
    if (!announced_.contains({who.rank, -1})) {
      event(who, "\"tid\": 0, \"ph\": \"M\", \"name\": \"process_name\", \"args\": {\"name\": " +
                     json_text("rank " + std::to_string(who.rank) + " of " + std::to_string(who.size) + " (" + host_name() + ":" +
                               std::to_string(::getpid()) + ")") +
                     "}");
      clock(who);
      announced_.insert({who.rank, -1});
    }
    event(who, fields);
    last_ = who;
    if (buffer_.size() > 65536) flush_locked();
  }
  /// Names a lane the first time.
  void name_lane(event_origin who, int tid, std::string const& name) {
    {
      std::lock_guard lock(mutex_);
      if (announced_.contains({who.rank, tid})) return;
    }
    add(who, "\"tid\": " + std::to_string(tid) +
                 ", \"ph\": \"M\", \"name\": \"thread_name\", \"args\": {\"name\": " + json_text(name) + "}");
    std::lock_guard lock(mutex_);
    announced_.insert({who.rank, tid});
  }
  void flush() {
    std::lock_guard lock(mutex_);
    flush_locked();
  }

private:
  void event(event_origin who, std::string const& fields) {
    buffer_ += (first_ ? "[\n{\"pid\": " : ",\n{\"pid\": ") + std::to_string(who.rank) + ", " + fields + "}";
    first_ = false;
  }
  /// The same moment on the clock of the events and on the wall: by two of these a tool aligns processes.
  void clock(event_origin who) {
    clock_reading const now = later_reading();
    event(who, "\"tid\": 0, \"ph\": \"M\", \"name\": \"sp_clock\", \"args\": {\"ts\": " + std::to_string(trace_time(now.ticks)) +
                   ", \"wall_us\": " + std::to_string(now.wall / 1000) + "}");
  }
  void flush_locked() {
    if (buffer_.empty()) return;
    clock(last_);
    std::size_t const kept = buffer_.size();
    buffer_ += "\n]\n"; // overwritten by the next flush
    if (file_.good() && file_.write(buffer_, written_))
      written_ += static_cast<long long>(kept);
    else if (file_.good())
      lose();
    buffer_.clear();
  }
  /// After a write that failed half way: the file ends where it ended, and what follows has its names and its clock again.
  void lose() {
    static_cast<void>(file_.cut(written_) && file_.write(written_ == 0 ? "[]\n" : "\n]\n", written_));
    first_ = written_ == 0;
    announced_.clear();
  }

  std::mutex mutex_;
  private_file file_;
  std::string buffer_;
  long long written_ = 0;
  bool first_ = true;
  event_origin last_{};
  std::set<std::pair<int, int>> announced_; ///< (rank, lane) that have a name; lane -1 is the rank itself
};

/// Never destroyed: threads may trace while the process ends.
inline std::map<std::string, trace_file>& trace_files() {
  static auto& files = *new std::map<std::string, trace_file>;
  return files;
}

inline void flush_traces() noexcept {
  best_effort([] {
    std::lock_guard lock(diagnosis_mutex());
    for (auto& [path, file] : trace_files()) best_effort([&file = file] { file.flush(); });
  });
}

inline trace_file& trace_file_of(event_origin who, std::string const& pattern) {
  static int const at_exit = std::atexit([] { flush_traces(); });
  static_cast<void>(at_exit);
  std::string const path = expand(pattern, who.rank, who.family);
  std::lock_guard lock(diagnosis_mutex());
  return trace_files().try_emplace(path, path).first->second;
}

/// A number for each thread that traces.
inline int thread_number() {
  static std::atomic<int> threads{0};
  static thread_local int const mine = threads.fetch_add(1, std::memory_order_relaxed);
  return mine;
}

/// A complete event from `begin` to `end`, both in ticks. Groups have a lane each, and so have the calls of each thread: a rank is
/// in one operation of a group at a time, and calls of a thread are nested, so the events of a lane nest.
inline void trace(operation_record const& r, event_origin who, std::string const& name, subsystem from, std::int64_t begin,
                  std::int64_t end, std::string const& pattern) {
  constexpr int first_call_lane = 1'000'000;
  bool const call = r.kind == operation_kind::call;
  int const lane = call ? first_call_lane + thread_number() : r.group;
  trace_file& file = trace_file_of(who, pattern);
  file.name_lane(who, lane, call ? std::string("calls") : "group " + std::to_string(r.group) + " of " + std::to_string(r.size));
  auto const b = std::int64_t(trace_time(begin) * 1000), e = std::int64_t(trace_time(end) * 1000);
  std::array<char, 128> times{};
  std::snprintf(times.data(), times.size(), "\"ph\": \"X\", \"ts\": %lld.%03d, \"dur\": %lld.%03d, ",
                static_cast<long long>(b / 1000), int(b % 1000), static_cast<long long>((e - b) / 1000), int((e - b) % 1000));
  std::string fields = "\"tid\": " + std::to_string(lane) + ", " + times.data() + "\"name\": " + json_text(name) +
                       ", \"cat\": \"" + subsystem_names[std::size_t(from)] + "\", \"args\": {\"state\": \"" + sp::name(r.state) +
                       "\"";
  if (!call)
    fields += ", \"kind\": \"" + std::string(sp::name(r.kind)) + "\", \"number\": " + std::to_string(r.number) +
              ", \"bytes_out\": " + std::to_string(r.bytes_out) + ", \"bytes_in\": " + std::to_string(r.bytes_in) +
              ", \"peer\": " + std::to_string(r.peer);
  file.add(who, fields + "}");
}

} // namespace sp::detail
