// What the log and the Chrome trace make of an operation as the flight recorder tells it.
// Called only while one of them is on, see `observing`; failures of theirs change nothing for the operation.
#pragma once

#include <string>
#include <string_view>

#include <sp/diagnosis/trace.hpp>

namespace sp::detail {

/// Where in an operation an observer is called.
enum class moment { entered, posted, waiting, done, failed };

inline subsystem subsystem_of(operation_record const& r) noexcept {
  if (r.kind != operation_kind::call) return subsystem::collective;
  std::string_view const object = r.object;
  if (object.ends_with("_attention")) return subsystem::attention;
  return object.starts_with("gather_") ? subsystem::loss : subsystem::layout;
}

inline void describe(line& text, operation_record const& r) noexcept {
  if (r.kind == operation_kind::call) {
    text.add("%s%s: rank %d of %d", r.object, r.call, r.rank, r.size);
    return;
  }
  text.add("%s: %s %llu of group %d", r.primitive, name(r.kind), static_cast<unsigned long long>(r.number), r.group);
  if (*r.object) text.add(" in %s%s", r.object, r.call);
}

/// Ends of public calls are INFO; everything else about operations is TRACE.
inline void log_operation(operation_record const& r, moment m, event_origin who, diagnosis::settings const& s) {
  bool const call = r.kind == operation_kind::call, end = m == moment::done || m == moment::failed;
  diagnosis::level const level = call && end ? diagnosis::level::info : diagnosis::level::trace;
  subsystem const from = subsystem_of(r);
  if (!logs(level, from) || (m == moment::entered && r.kind == operation_kind::exchange))
    return; // an exchange is logged when its bytes are known
  line text = begin_line(level, from, who);
  describe(text, r);
  if (m == moment::entered) text.add(" enters");
  if (m == moment::posted)
    text.add(" sends %lld bytes, expects %lld", static_cast<long long>(r.bytes_out), static_cast<long long>(r.bytes_in));
  if (m == moment::waiting) text.add(" waits for rank %d of the world", r.peer);
  if (end) text.add(" %s after %.1f us", m == moment::done ? "is done" : "has failed", trace_time(r.end) - trace_time(r.begin));
  text.write(log_output(who, s.log_file));
}

inline void log_wait(operation_record const& r, double us, event_origin who) noexcept {
  best_effort([&] {
    line text = begin_line(diagnosis::level::warn, subsystem::collective, who);
    describe(text, r);
    text.add(" has waited %.1f s for rank %d of the world", us / 1e6, r.peer);
    text.write(log_output(who, diagnosis::configured().log_file));
  });
}

/// An exchange is two events, because others may begin between its posting and its wait.
inline void trace_operation(operation_record const& r, moment m, event_origin who, std::string const& file) {
  subsystem const from = subsystem_of(r);
  bool const exchange = r.kind == operation_kind::exchange;
  if (m == moment::posted && exchange) trace(r, who, r.primitive + std::string(" post"), from, r.begin, ticks(), file);
  if (m != moment::done && m != moment::failed) return;
  if (r.kind == operation_kind::call)
    trace(r, who, std::string(r.object) + r.call, from, r.begin, r.end, file);
  else if (!exchange)
    trace(r, who, r.kind == operation_kind::barrier ? r.primitive : r.primitive + (' ' + std::string(name(r.kind))), from,
          r.begin, r.end, file);
  else if (r.wait != 0)
    trace(r, who, r.primitive + std::string(" wait"), from, r.wait, r.end, file);
}

/// Without memory for a line or an event it is left out.
inline void observe(operation_record const& r, moment m, event_origin who) noexcept {
  best_effort([&] {
    diagnosis::settings const& s = diagnosis::configured();
    bool const line = s.log != diagnosis::level::off && !(m == moment::posted && r.kind != operation_kind::exchange);
    if (line) best_effort([&] { log_operation(r, m, who, s); });
    if (!s.trace_file.empty()) trace_operation(r, m, who, s.trace_file);
  });
}

} // namespace sp::detail
