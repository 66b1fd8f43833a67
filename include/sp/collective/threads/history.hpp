// The last operations that a rank has begun in a group, numbered as all its ranks count them: a peer that waits looks whether the
// rank does something else in the same place. Costs the rank a few stores per operation; peers read at any time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include <sp/collective/family/operation_id.hpp>

namespace sp::detail {

class operation_history {
public:
  /// The rank begins its operation `number`, counted from 0.
  void begin(std::uint64_t number, operation_id const& what) noexcept {
    constexpr auto order = std::memory_order_release;
    step& s = steps_[number % length];
    s.ordinal.store(0, order); // who sees a new field sees this zero, too
    s.kind.store(what.kind, order);
    s.primitive.store(what.primitive, order);
    s.number.store(what.number, order);
    s.ordinal.store(number + 1, order);
  }

  /// What operation `number` is; nothing if it has not begun, or was forgotten.
  std::optional<operation_id> find(std::uint64_t number) const noexcept {
    constexpr auto order = std::memory_order_acquire;
    step const& s = steps_[number % length];
    if (s.ordinal.load(order) != number + 1) return {};
    operation_id const what{s.kind.load(order), s.primitive.load(order), s.number.load(order)};
    if (s.ordinal.load(std::memory_order_relaxed) != number + 1) return {};
    return what;
  }

private:
  static constexpr std::uint64_t length = 16; ///< more than a rank has open at a time: 8 exchanges, 4 publications

  struct step {
    std::atomic<std::uint64_t> ordinal{0}; ///< its number + 1; 0 while the fields below change
    std::atomic<operation_id::kind_type> kind{};
    std::atomic<char const*> primitive{""};
    std::atomic<std::int64_t> number{0};
  };
  std::array<step, length> steps_{};
};

} // namespace sp::detail
