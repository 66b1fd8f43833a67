// Which thread uses a family, and for what: one word, so that whoever finds it taken knows by whom.
// Waits are left to the caller, who knows what he waits for.
#pragma once

#include <atomic>
#include <cstdint>

namespace sp::detail {

class mpi_occupant {
public:
  enum use : std::uintptr_t { nobody, operation, aborting, helping };

  /// False if somebody is inside.
  [[nodiscard]] bool enter(use u) noexcept {
    std::uintptr_t found = nobody;
    return word_.compare_exchange_strong(found, by_this_thread(u), std::memory_order_acquire);
  }
  void leave() noexcept { word_.store(nobody, std::memory_order_release); }
  use current() const noexcept { return use(word_.load(std::memory_order_relaxed) & uses); }
  /// An operation of the calling thread is under way.
  bool in_operation_of_this_thread() const noexcept { return word_.load(std::memory_order_relaxed) == by_this_thread(operation); }

private:
  static constexpr std::uintptr_t uses = 3; ///< the bits that tell one use from another
  /// A thread by an address of its own, whose lowest bits are free.
  static std::uintptr_t by_this_thread(use u) noexcept {
    alignas(8) static thread_local char const self = 0;
    return reinterpret_cast<std::uintptr_t>(&self) | u;
  }
  std::atomic<std::uintptr_t> word_{nobody};
};

} // namespace sp::detail
