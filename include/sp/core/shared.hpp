// Shared ownership of one object: what the library needs of <memory>, which would cost every program that includes an entry header.
// Nobody changes the object; it goes with its last owner, in whatever thread that is: the count is atomic.
#pragma once

#include <cstddef>
#include <utility>

namespace sp::detail {

/// An owner of a T that never changes. Copies own the same object; nothing is owned after the default constructor and a move.
template <class T>
class shared {
public:
  shared() = default;
  explicit shared(T object) : at_(new node{std::move(object)}) {}
  shared(shared const& o) noexcept : at_(o.at_) {
    if (at_) __atomic_add_fetch(&at_->owners, 1, __ATOMIC_RELAXED); // a builtin: <atomic> costs as much as <memory>
  }
  shared(shared&& o) noexcept : at_(std::exchange(o.at_, nullptr)) {}
  shared& operator=(shared o) noexcept {
    std::swap(at_, o.at_);
    return *this;
  }
  ~shared() {
    if (!at_) return;
    // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDelete): it cannot follow a count that builtins change
    if (__atomic_sub_fetch(&at_->owners, 1, __ATOMIC_ACQ_REL) == 0) delete at_;
  }
  T const& operator*() const { return at_->object; }
  T const* operator->() const { return &at_->object; }

private:
  struct node {
    T object;
    std::size_t owners = 1;
  };
  node* at_ = nullptr;
};

} // namespace sp::detail
