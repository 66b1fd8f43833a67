// The log: one line per event with time, host, process, rank, level and subsystem, as asked for by level and subsystem.
// A line is one write, so lines of several ranks never mix; a line that cannot be written is lost, never an error.
#pragma once

#include <array>
#include <cstdarg>
#include <cstdio>
#include <ctime>
#include <map>
#include <memory>
#include <span>
#include <string>

#include <sp/diagnosis/clock.hpp>
#include <sp/diagnosis/file.hpp>
#include <sp/diagnosis/settings.hpp>
#include <sp/diagnosis/text.hpp>

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

/// Where the lines of a rank go; files stay open for as long as the process lives.
inline private_file const& log_output(event_origin who, std::string const& pattern) {
  // never destroyed: threads may log while the process ends
  static auto& out = *new private_file(private_file::standard_stream{1, "stdout"});
  static auto& err = *new private_file(private_file::standard_stream{2, "stderr"});
  static auto& files = *new std::map<std::string, private_file>;
  if (pattern.empty() || pattern == "stderr") return err;
  if (pattern == "stdout") return out;
  std::string const path = expand(pattern, who.rank, who.family);
  std::lock_guard lock(diagnosis_mutex());
  private_file const& file = files.try_emplace(path, path, true).first->second;
  return file.good() ? file : err;
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
  /// Ends the line and writes it. It stays one line: what a text says of lines and colours of its own becomes blank.
  void write(private_file const& to) noexcept {
    used_ = std::min(used_, text_.size() - 2);
    if (used_ == text_.size() - 2) used_ = whole_characters({text_.data(), used_}).size();
    for (char& c : std::span(text_.data(), used_))
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
    text_[used_++] = '\n';
    to.write({text_.data(), used_});
  }

private:
  std::array<char, 2048> text_{};
  std::size_t used_ = 0;
};

inline line begin_line(diagnosis::level l, subsystem s, event_origin who) {
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
  if (!logs(l, s)) return;
  best_effort([&] { begin_line(l, s, who).add("%s", text).write(log_output(who, diagnosis::configured().log_file)); });
}

} // namespace sp::detail
