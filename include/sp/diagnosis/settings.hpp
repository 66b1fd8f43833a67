// The settings of diagnosis: what is logged, and where logs, flight records and traces go. Read from the environment once.
// The second process-wide setting of sp beside the error handler; what is off costs a relaxed load and a branch.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sp/core/error.hpp>

namespace sp::diagnosis {

/// How much is logged: every level includes those before it.
enum class level { off, error, warn, info, trace };

/// Files are patterns: %h is the host, %p the process, %r the rank of the world, %n counts the communicator families of the
/// process, %% is a percent sign. Missing folders are not made. Every file is created with mode 0600.
struct settings {
  level log = level::off;         ///< SP_DEBUG = OFF, ERROR, WARN, INFO, TRACE
  std::string subsystems = "ALL"; ///< SP_DEBUG_SUBSYS: COLL,ATTN,LOSS,LAYOUT or ALL; ^COLL,LAYOUT is all but these
  std::string log_file = {};      ///< SP_DEBUG_FILE; empty or stderr, stdout, or a pattern
  std::string flight_file = {};   ///< SP_FLIGHT_FILE; empty: nothing is dumped
  std::string trace_file = {};    ///< SP_TRACE_FILE; empty: nothing is traced
  /// A wait that lasts longer is a WARN in the log, and again each time it has doubled.
  std::chrono::milliseconds long_wait = std::chrono::seconds(10);
};

} // namespace sp::diagnosis

namespace sp::detail {

/// The part of the library that a line of the log is about.
enum class subsystem : unsigned { collective, attention, loss, layout };
inline constexpr std::array<char const*, 4> subsystem_names{"COLL", "ATTN", "LOSS", "LAYOUT"};

/// The bits of a list of subsystems as NCCL writes it; a leading ^ excludes the whole list. -1: a name is unknown.
inline int subsystem_bits(std::string_view list) {
  constexpr int everything = (1 << subsystem_names.size()) - 1;
  bool const but = !list.empty() && list.front() == '^';
  int bits = but ? everything : 0;
  while (!list.empty()) {
    std::string_view word = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), word.size() + 1));
    bool const out = but || (!word.empty() && word.front() == '^');
    if (!word.empty() && word.front() == '^') word.remove_prefix(1);
    int bit = word == "ALL" ? everything : 0;
    for (std::size_t i = 0; i < subsystem_names.size(); ++i)
      if (word == subsystem_names[i]) bit = 1 << i;
    if (bit == 0 && !word.empty()) return -1;
    bits = out ? bits & ~bit : bits | bit;
  }
  return bits;
}

/// One configuration; never changed and never freed once it is published, because any thread may be reading it.
struct diagnosis_state {
  diagnosis::settings settings;
  int subsystems = 0;
};

inline std::atomic<diagnosis_state const*> diagnosis_published{nullptr};
inline std::atomic<bool> observing{false}; ///< operations are logged or traced: recorders notify the observers

inline std::mutex& diagnosis_mutex() {
  static std::mutex m;
  return m;
}

/// Publishes settings that are known to be good; only the first call counts if `first`.
inline diagnosis_state const& publish_settings(diagnosis::settings const& s, bool first) {
  static auto& all = *new std::vector<std::unique_ptr<diagnosis_state>>; // keeps the old ones for their readers, at exit as well
  std::lock_guard lock(diagnosis_mutex());
  if (diagnosis_state const* there = diagnosis_published.load(std::memory_order_acquire); first && there) return *there;
  all.push_back(std::make_unique<diagnosis_state>(diagnosis_state{s, subsystem_bits(s.subsystems)}));
  diagnosis_published.store(all.back().get(), std::memory_order_release);
  observing.store(s.log != diagnosis::level::off || !s.trace_file.empty(), std::memory_order_relaxed);
  return *all.back();
}

} // namespace sp::detail

namespace sp::diagnosis {

/// What the environment asks for. A value that means nothing is named on stderr and ignored: a typing mistake ends no training.
inline settings from_environment() {
  auto read = [](char const* variable) {
    char const* value = std::getenv(variable);
    return std::string(value ? value : "");
  };
  auto ignore = [](char const* variable, std::string const& value, char const* choices) {
    std::fprintf(stderr, "sp: %s=%s is ignored; choose %s\n", variable, value.c_str(), choices);
  };
  settings s{level::off, "ALL", read("SP_DEBUG_FILE"), read("SP_FLIGHT_FILE"), read("SP_TRACE_FILE")};
  constexpr std::array<char const*, 5> levels{"OFF", "ERROR", "WARN", "INFO", "TRACE"};
  if (std::string const wanted = read("SP_DEBUG"); !wanted.empty()) {
    std::size_t i = 0;
    while (i < levels.size() && wanted != levels[i]) ++i;
    if (i < levels.size())
      s.log = level(i);
    else
      ignore("SP_DEBUG", wanted, "OFF, ERROR, WARN, INFO or TRACE");
  }
  if (std::string const wanted = read("SP_DEBUG_SUBSYS"); !wanted.empty()) {
    if (detail::subsystem_bits(wanted) >= 0)
      s.subsystems = wanted;
    else
      ignore("SP_DEBUG_SUBSYS", wanted, "from COLL,ATTN,LOSS,LAYOUT,ALL, with ^ in front to exclude");
  }
  return s;
}

/// The settings now. The first question reads the environment, unless configure() came before.
inline settings const& configured() {
  if (auto const* there = detail::diagnosis_published.load(std::memory_order_acquire)) return there->settings;
  return detail::publish_settings(from_environment(), true).settings;
}

/// Replaces all settings, those of the environment too; start from configured() or from_environment() to change a few. Meant for
/// the start of a program: ranks that are running go over to it at their next operation.
inline void configure(settings const& s) {
  if (detail::subsystem_bits(s.subsystems) < 0)
    fail({errc::bad_state, "subsystems \"" + s.subsystems + "\" were asked for",
          "Choose from COLL,ATTN,LOSS,LAYOUT,ALL, with ^ in front to exclude", "diagnosis.configure"});
  detail::publish_settings(s, false);
}

} // namespace sp::diagnosis
