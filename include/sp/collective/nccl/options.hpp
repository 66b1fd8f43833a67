// What the caller of sp::nccl may choose: how long exchanges may take, who looks, and what becomes of the borrowed communicator.
// Numbers only; each rank has its own, and nothing is compared.
#pragma once

#include <chrono>

#include <sp/core/memory.hpp>

namespace sp {

/// Nobody but the caller of poll() looks at exchanges under way, unless `watch` asks for a thread.
struct nccl_options {
  std::chrono::milliseconds deadline =
      std::chrono::minutes(10);  ///< of an exchange from its begin on the device; above 0, at most a year
  int flight_records = 64;       ///< operations that the flight recorder holds; 0: none
  bool abort_on_failure = false; ///< a failure that this rank finds calls ncclCommAbort, which waits until graphs of it have gone
  bool watch = false;            ///< a thread of this family calls poll() for the caller
  basic_allocator<device_memory>* memory = nullptr; ///< for pieces that are packed without room; null: a pool of its own
};

} // namespace sp
