// What the calls of a slot return, whatever sits in it: `saved` of a forward call, `prepared` of a batch, both without their types.
// Memory of a saved is used again by the next one of the same slot: a step that is like the one before allocates nothing here.
#pragma once

#include <utility>

#include <sp/attention/kernel_results.hpp>
#include <sp/backend/concepts.hpp>
#include <sp/core/error.hpp>
#include <sp/core/serial.hpp>

namespace sp {

namespace detail {

/// Its address names the type X.
template <class X>
inline constexpr char type_tag = 0;

/// What attention objects save, in which sp::kernel_results finds what kernels returned; others save none of it.
template <class Saved>
concept saves_kernel_results = requires(Saved const& s) {
  s.entries;
}
|| requires(Saved const& s) { s.by_backend; }
|| requires(Saved const& s) { s.inner; };

/// What all boxes of saved begin with.
struct saved_box {
  void const* type = nullptr;              ///< type_tag of what is inside
  std::uint64_t seat = 0;                  ///< number of the seat that made it
  void (*give_back)(saved_box*) = nullptr; ///< what is inside ends; the box may be used again
  void const* (*content)(saved_box const*) = nullptr;
  void (*results)(saved_box const*, void const* type,
                  void* list) = nullptr; ///< adds kernel results of that type to a vector of theirs
};

/// Boxes of one seat. They outlive it while one is out.
template <class Saved>
class saved_boxes {
  struct box : saved_box {
    Saved value{};
    saved_boxes* home = nullptr;
    box* next = nullptr;
  };

public:
  saved_boxes() = default;
  saved_boxes(saved_boxes const&) = delete;
  saved_boxes& operator=(saved_boxes const&) = delete;

  /// An empty one for `seat`.
  box* take(std::uint64_t seat) {
    box* b = free_;
    if (b) {
      free_ = b->next;
    } else {
      b = new box;
      b->type = &type_tag<Saved>;
      b->give_back = [](saved_box* x) { static_cast<box*>(x)->home->back(static_cast<box*>(x)); };
      b->content = [](saved_box const* x) -> void const* { return &static_cast<box const*>(x)->value; };
      b->results = [](saved_box const* x, void const* type, void* list) {
        if constexpr (saves_kernel_results<Saved>) {
          using entry = typename decltype(kernel_result_type<Saved>())::type;
          if constexpr (!std::is_same_v<entry, nothing>)
            if (type == &type_tag<entry>)
              *static_cast<std::vector<entry const*>*>(list) = kernel_results(static_cast<box const*>(x)->value);
        }
      };
      b->home = this;
    }
    b->seat = seat;
    ++out_;
    return b;
  }
  static Saved& value(saved_box* b) { return static_cast<box*>(b)->value; }

  /// Instead of delete: the seat has no more use for it.
  void leave() {
    left_ = true;
    if (out_ == 0) delete this;
  }

private:
  ~saved_boxes() {
    while (free_) delete std::exchange(free_, free_->next);
  }
  void back(box* b) {
    b->value = Saved{}; // its memory goes back to where it came from
    b->next = free_;
    free_ = b;
    if (--out_ == 0 && left_) delete this;
  }

  box* free_ = nullptr;
  std::size_t out_ = 0;
  bool left_ = false;
};

} // namespace detail

/// What forward of a slot returned, for one backward call of the same slot with tensors of T. Movable; what it holds goes back to the
/// allocators of the forward call when it is consumed or destroyed.
template <class T>
class slot_saved {
public:
  using element_type = T;

  slot_saved() = default;
  explicit slot_saved(detail::saved_box* b) : box_(b) {}
  slot_saved(slot_saved&& o) noexcept : box_(std::exchange(o.box_, nullptr)) {}
  slot_saved& operator=(slot_saved&& o) noexcept {
    std::swap(box_, o.box_);
    return *this;
  }
  ~slot_saved() { consume(); }

  /// What the object in the slot saved, if it is a Saved; null otherwise.
  template <class Saved>
  [[nodiscard]] Saved const* as() const noexcept {
    return box_ && box_->type == &detail::type_tag<Saved> ? static_cast<Saved const*>(box_->content(box_)) : nullptr;
  }

  /// What a kernel returned from forward, if it returns a Result: as sp::kernel_results lists it.
  template <class Result>
  [[nodiscard]] std::vector<Result const*> results() const {
    std::vector<Result const*> list;
    if (box_) box_->results(box_, &detail::type_tag<Result>, &list);
    return list;
  }

  // ---- for slots -----------------------------------------------------------------------------------------------------------------

  /// The box, which `seat` made; bad_state otherwise.
  [[nodiscard]] detail::saved_box* of(std::uint64_t seat) const {
    if (!box_)
      fail({errc::bad_state, "this saved token was used already, moved away, or never made",
            "Pass to backward what forward of the same step returned"});
    if (box_->seat != seat)
      fail({errc::bad_state, "saved belongs to another slot, or to what sat in this one before it was wrapped",
            "Pass the saved that forward of the same slot returned, and wrap between steps"});
    return box_;
  }
  void consume() noexcept {
    if (auto* b = std::exchange(box_, nullptr)) b->give_back(b);
  }

private:
  detail::saved_box* box_ = nullptr;
};

/// The geometry of one batch, made by a slot for itself and for all slots that hold the same kind of object at the same place. Movable.
class slot_prepared {
public:
  slot_prepared() = default;
  template <class Prepared>
  explicit slot_prepared(Prepared* p)
      : object_(p), type_(&detail::type_tag<Prepared>), destroy_([](void* x) { delete static_cast<Prepared*>(x); }) {}
  slot_prepared(slot_prepared&& o) noexcept : object_(std::exchange(o.object_, nullptr)), type_(o.type_), destroy_(o.destroy_) {}
  slot_prepared& operator=(slot_prepared&& o) noexcept {
    std::swap(object_, o.object_);
    std::swap(type_, o.type_);
    std::swap(destroy_, o.destroy_);
    return *this;
  }
  ~slot_prepared() {
    if (object_) destroy_(object_);
  }

  /// What the object in a slot prepared; bad_state unless it is a Prepared.
  template <class Prepared>
  [[nodiscard]] Prepared& as() const {
    if (!object_ || type_ != &detail::type_tag<Prepared>)
      fail({errc::bad_state,
            object_ ? "this geometry was prepared for another kind of object than sits in the slot"
                    : "this geometry was not made by prepare()",
            "Prepare with this slot, after it was wrapped"});
    return *static_cast<Prepared*>(object_);
  }

private:
  void* object_ = nullptr;
  void const* type_ = nullptr;
  void (*destroy_)(void*) = nullptr;
};

} // namespace sp
