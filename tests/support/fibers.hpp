// Fibers on Boost.Context: functions with a stack of their own that stop in the middle and go on later, all on one thread.
// Stacks end where there is no access and are used again; the address and the thread sanitizer are told of every switch.
#pragma once

#include <boost/context/detail/fcontext.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "support/sanitized.hpp"

#ifdef SP_TEST_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SP_TEST_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#endif

/// In front of what runs at every switch, on memory of its own: sanitizers would check nothing but the emulator there.
#define SP_TEST_UNCHECKED __attribute__((no_sanitize("address", "thread", "undefined")))

namespace support {

/// One stack. It is given a function, which runs until it suspends or returns whenever resume() is called; then another one.
/// No exception may leave the function, and it does not suspend while it handles one.
class fiber {
public:
  using function = void (*)(void*);

  /// `shift` bytes of the stack stay unused, so that the tops of many stacks do not share the same lines of a cache.
  explicit fiber(std::size_t stack_bytes, std::size_t shift = 0) {
    auto const page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    bytes_ = (stack_bytes + page - 1) / page * page;
    mapped_ = 2 * bytes_; // the lower half has no access: a frame of less than that does not jump over it
    base_ = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    bottom_ = static_cast<std::byte*>(base_) + bytes_; // stacks grow downwards
    if (mprotect(bottom_, bytes_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    inside_ = boost::context::detail::make_fcontext(bottom_ + bytes_ - shift, bytes_ - shift, &entry);
#ifdef SP_TEST_THREAD_SANITIZER
    inside_thread_ = __tsan_create_fiber(0);
#endif
  }
  fiber(fiber const&) = delete;
  fiber& operator=(fiber const&) = delete;
  /// The function has returned.
  ~fiber() {
    function_ = nullptr;
    resume(); // ends the loop, so that the sanitizer forgets the stack
#ifdef SP_TEST_THREAD_SANITIZER
    __tsan_destroy_fiber(inside_thread_);
#endif
    munmap(base_, mapped_);
  }

  void start(function f, void* argument) {
    function_ = f;
    argument_ = argument;
    resume();
  }
  SP_TEST_UNCHECKED void resume() {
    before_switch(&outside_stack_, bottom_, bytes_);
#ifdef SP_TEST_THREAD_SANITIZER
    outside_thread_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(inside_thread_, 0);
#endif
    inside_ = boost::context::detail::jump_fcontext(inside_, this).fctx;
    after_switch(outside_stack_, nullptr, nullptr);
  }
  /// Called from within: goes on where resume() was called.
  SP_TEST_UNCHECKED void suspend() {
    before_switch(&inside_stack_, outside_bottom_, outside_bytes_);
#ifdef SP_TEST_THREAD_SANITIZER
    __tsan_switch_to_fiber(outside_thread_, 0);
#endif
    outside_ = boost::context::detail::jump_fcontext(outside_, nullptr).fctx;
    after_switch(inside_stack_, &outside_bottom_, &outside_bytes_);
  }

private:
  SP_TEST_UNCHECKED static void entry(boost::context::detail::transfer_t from) {
    auto* const self = static_cast<fiber*>(from.data);
    self->outside_ = from.fctx;
    after_switch(nullptr, &self->outside_bottom_, &self->outside_bytes_);
    while (self->function_) {
      self->function_(self->argument_);
      self->suspend();
    }
    before_switch(nullptr, self->outside_bottom_, self->outside_bytes_); // null: this stack is not come back to
#ifdef SP_TEST_THREAD_SANITIZER
    __tsan_switch_to_fiber(self->outside_thread_, 0);
#endif
    boost::context::detail::jump_fcontext(self->outside_, nullptr);
  }

#ifdef SP_TEST_ADDRESS_SANITIZER
  static void before_switch(void** save, void const* bottom, std::size_t bytes) {
    __sanitizer_start_switch_fiber(save, bottom, bytes);
  }
  static void after_switch(void* saved, void const** bottom, std::size_t* bytes) {
    __sanitizer_finish_switch_fiber(saved, bottom, bytes);
  }
#else
  static void before_switch(void**, void const*, std::size_t) {}
  static void after_switch(void*, void const**, std::size_t*) {}
#endif

  void* base_ = nullptr;
  std::byte* bottom_ = nullptr;
  std::size_t mapped_ = 0, bytes_ = 0;
  boost::context::detail::fcontext_t inside_ = nullptr, outside_ = nullptr;
  function function_ = [](void*) {}; // what the loop of a fiber that was never started sees
  void* argument_ = nullptr;
  // of the address sanitizer
  void *inside_stack_ = nullptr, *outside_stack_ = nullptr;
  void const* outside_bottom_ = nullptr;
  std::size_t outside_bytes_ = 0;
#ifdef SP_TEST_THREAD_SANITIZER
  void *inside_thread_ = nullptr, *outside_thread_ = nullptr;
#endif
};

/// Fibers of one thread that wait to be used again.
class fiber_pool {
public:
  static constexpr std::size_t stack_bytes = std::size_t{256} << 10;

  static fiber_pool& of_this_thread() {
    static thread_local fiber_pool pool;
    return pool;
  }
  fiber* take() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<fiber>(stack_bytes, all_.size() % 16 * 256));
      free_.push_back(all_.back().get());
    }
    fiber* const f = free_.back();
    free_.pop_back();
    return f;
  }
  void give(fiber* f) { free_.push_back(f); }

private:
  std::vector<std::unique_ptr<fiber>> all_;
  std::vector<fiber*> free_;
};

} // namespace support
