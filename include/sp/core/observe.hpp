// The record of one operation, the single thing that diagnosis looks at, and the hook that notifies an observer of public calls.
// Costs a relaxed load and a branch per call while there is no observer; observers live in headers that models include.
#pragma once

#include <cstdint>

namespace sp {

/// What a rank does: a public call of the library, or an operation of its communicator.
enum class operation_kind : unsigned char { call, exchange, barrier, publish, release, split };

constexpr char const* name(operation_kind k) {
  constexpr char const* names[] = {"call", "exchange", "barrier", "publish", "release", "split"};
  return names[static_cast<int>(k)];
}

/// How far an operation has come.
enum class operation_state : unsigned char { entered, waiting, done, failed };

constexpr char const* name(operation_state s) {
  constexpr char const* names[] = {"entered", "waiting", "done", "failed"};
  return names[static_cast<int>(s)];
}

/// One operation of one rank. Bytes and times only, never values. Times are ticks of the diagnosis clock, 0 where not reached.
struct operation_record {
  std::uint64_t ticket = 0; ///< counts the operations of the recorder from 1
  operation_kind kind = operation_kind::call;
  operation_state state = operation_state::entered;
  char const* primitive = ""; ///< as the communicator was told it; of a call: ".forward"
  char const* object = "";    ///< of the public call around it, "ring_attention"; empty outside of one
  char const* call = "";      ///< ".forward"
  int group = -1;             ///< -1: a call, which belongs to none
  int rank = -1, size = -1;   ///< within the group
  std::uint64_t number = 0;   ///< of the operation within its group, from 0: the same on all ranks that agree
  std::int64_t bytes_out = 0, bytes_in = 0;
  int peer = -1;                             ///< the rank of the world that is waited for
  std::int64_t begin = 0, wait = 0, end = 0; ///< wait: when it began to block; 0 where it never had to, see flight_recorder
};

struct site;

namespace detail {

/// Is notified of every public call, see `located`. `entered` returns what `left` is given back.
struct call_observer {
  std::uint64_t (*entered)(site const&) noexcept;
  void (*left)(site const&, std::uint64_t, bool failed) noexcept;
};
inline call_observer const* observer = nullptr; // constant data behind it; set once, by the first that observes

} // namespace detail
} // namespace sp
