// The log: one line per event with time, host, process, rank, level and subsystem, as asked for by level and subsystem.
// A line is one write, so lines of several ranks never mix; a line that cannot be written is lost, never an error.
#pragma once

#include <array>
#include <cstdarg>
#include <cstdio>
#include <ctime>
#include <map>
#include <memory>
#include <string>

#include <sp/diagnosis/clock.hpp>
#include <sp/diagnosis/file.hpp>
#include <sp/diagnosis/settings.hpp>

namespace sp::detail {

/// Which rank a line or an event comes from: its place in the world, and which family of communicators of this process.
struct event_origin {
  int rank = -1, size = -1, family = 0;
};

/// Whether a line would be written.
inline bool logs(diagnosis::level l, subsystem s) noexcept {
  diagnosis_state const* now = diagnosis_published.load(std::memory_order_acquire);
  return now && l <= now->settings.log && (now->subsystems >> unsigned(s) & 1) != 0;
}

/// The descriptor that the lines of a rank go to; files stay open for as long as the process lives.
inline int log_descriptor(event_origin who, std::string const& pattern) {
  if (pattern.empty() || pattern == "stderr") return 2;
  if (pattern == "stdout") return 1;
  static auto& files = *new std::map<std::string, private_file>; // never destroyed: threads may log while the process ends
  std::string const path = expand(pattern, who.rank, who.family);
  std::lock_guard lock(diagnosis_mutex());
  auto at = files.find(path);
  if (at == files.end()) at = files.emplace(path, private_file(path, true)).first;
  return at->second.good() ? at->second.descriptor() : 2;
}

/// A text that is cut where it does not fit: nothing of it is allocated.
class line {
public:
  [[gnu::format(printf, 2, 3)]] line& add(char const* format, ...) noexcept {
    std::va_list values;
    va_start(values, format);
    int const n = std::vsnprintf(text_.data() + used_, text_.size() - used_, format, values);
    va_end(values);
    if (n > 0) used_ = std::min(used_ + std::size_t(n), text_.size() - 1);
    return *this;
  }
  /// Ends the line and writes it.
  void write(int descriptor) noexcept {
    used_ = std::min(used_, text_.size() - 2);
    text_[used_++] = '\n';
    while (::write(descriptor, text_.data(), used_) < 0 && errno == EINTR) {
    }
  }

private:
  std::array<char, 2048> text_{};
  std::size_t used_ = 0;
};

inline line begin_line(diagnosis::level l, subsystem s, event_origin who) noexcept {
  constexpr std::array<char const*, 5> names{"OFF", "ERROR", "WARN", "INFO", "TRACE"};
  std::int64_t const us = clock_reading::now().wall / 1000;
  std::time_t const seconds = std::time_t(us / 1'000'000);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  line text;
  text.add("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ ", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
           utc.tm_sec, int(us % 1'000'000));
  text.add("%s:%d:%d %s %s ", host_name().c_str(), int(::getpid()), who.rank, names[std::size_t(l)],
           subsystem_names[std::size_t(s)]);
  return text;
}

inline void log(diagnosis::level l, subsystem s, event_origin who, char const* text) noexcept {
  if (logs(l, s)) begin_line(l, s, who).add("%s", text).write(log_descriptor(who, diagnosis::configured().log_file));
}

} // namespace sp::detail
