// What every slot of a model has in common: what sits there, owned without its type, and how the ranks meet in it.
// A copy of a slot holds another object like the first one's; a slot that was moved away is empty and says so.
#pragma once

#include <utility>

#include <sp/core/error.hpp>

namespace sp {

/// The role of what leads from a vision tower to a decoder: fusion, deepstack, projections. No attention has it.
struct projection_role {
  static constexpr char const* name = "projection";
};

/// What a slot is a seat for.
enum class slot_kind { attention, fusion, deepstack, linear, conv1d };

/// How the ranks of a sequence meet in one object, for reports.
struct seating {
  char const* object = ""; ///< "ring_attention"
  int ulysses = 1, ring = 1;
  bool wrapped = false; ///< put there by use() or auto_wrap
  int ranks = 1;        ///< all of them
};

namespace detail {

/// What sits in a slot: Self adds its calls.
template <class Self>
class seat_base {
public:
  seat_base(seat_base const&) = delete;
  seat_base& operator=(seat_base const&) = delete;
  virtual ~seat_base() = default;
  virtual Self* clone() const = 0; ///< another object like it, for a slot of its own

  seating const how;

protected:
  explicit seat_base(seating s) : how(s) {}
};

/// Owns it. (No unique_ptr: <memory> costs every model that names a slot.)
template <class Seated>
class seat_owner {
public:
  seat_owner() = default;
  seat_owner(seat_owner const& o) : in_(o.in_ ? o.in_->clone() : nullptr) {}
  seat_owner(seat_owner&& o) noexcept : in_(std::exchange(o.in_, nullptr)) {}
  seat_owner& operator=(seat_owner o) noexcept {
    std::swap(in_, o.in_);
    return *this;
  }
  ~seat_owner() { delete in_; }

  void put(Seated* next) noexcept { delete std::exchange(in_, next); }
  [[nodiscard]] seating how() const noexcept { return in_ ? in_->how : seating{"nothing"}; }
  /// For a call of `slot`; bad_state where nothing sits here.
  Seated const& in(char const* slot) const {
    if (!in_) fail({errc::bad_state, "this slot is empty: it was moved away", "Call the one that it was moved to", slot});
    return *in_;
  }

private:
  Seated* in_ = nullptr;
};

} // namespace detail
} // namespace sp
