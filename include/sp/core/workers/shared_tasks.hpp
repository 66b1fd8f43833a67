// The tasks of one parallel() call, taken by several threads: in order, each once, with one end for all.
// What a task throws is kept, no further one begins, and the caller throws the exception of the lowest task: that of one thread.
#pragma once

#include <atomic>
#include <exception>
#if !defined(__SSE__)
#include <cfenv>
#endif

#include <sp/core/queue.hpp>

namespace sp::detail {

inline thread_local bool runs_task = false; ///< of a parallel() call: another one inside it keeps to its thread

/// How a thread rounds and what it does with denormal numbers: tasks compute as their caller does.
class float_environment {
public:
#if defined(__SSE__)
  static float_environment now() { return float_environment(__builtin_ia32_stmxcsr()); }
  void set() const { __builtin_ia32_ldmxcsr(control_); }

private:
  explicit float_environment(unsigned control) : control_(control) {}
  unsigned control_;
#else
  static float_environment now() {
    float_environment e;
    std::fegetenv(&e.all_);
    return e;
  }
  void set() const { std::fesetenv(&all_); }

private:
  std::fenv_t all_{};
#endif
};

/// What a thread takes over from the caller while it runs tasks: how it rounds, and the call that errors name.
class as_the_caller {
public:
  struct of {
    float_environment numbers = float_environment::now();
    site const* place = current_site;
    bool const* thread = &runs_task; ///< differs from thread to thread
  };
  explicit as_the_caller(of const& caller) : other_(own_.thread != caller.thread) {
    runs_task = true;
    current_site = caller.place;
    if (other_) caller.numbers.set();
  }
  as_the_caller(as_the_caller const&) = delete;
  as_the_caller& operator=(as_the_caller const&) = delete;
  ~as_the_caller() {
    runs_task = false;
    current_site = own_.place;
    if (other_) own_.numbers.set();
  }

private:
  of own_;
  bool other_;
};

/// Tasks 0 ... n - 1. Threads call run(thread) at any time until the last has come back; it takes tasks until there are none.
template <class Task>
class shared_tasks {
public:
  shared_tasks(index_t n, Task const& task) : n_(n), task_(task) {}

  void run(int thread) noexcept {
    if (next_.load(std::memory_order_relaxed) >= n_) return; // others were quicker
    as_the_caller scope(caller_);
    for (index_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n_;) {
#if defined(__cpp_exceptions)
      try {
        run_task(task_, i, thread);
      } catch (...) {
        keep(i);
      }
#else
      run_task(task_, i, thread);
#endif
    }
  }

  /// Where all threads are back: throws what the lowest of the tasks that threw has thrown.
  void finish() {
#if defined(__cpp_exceptions)
    if (thrown_) std::rethrow_exception(thrown_);
#endif
  }

private:
#if defined(__cpp_exceptions)
  void keep(index_t i) noexcept {
    next_.store(n_, std::memory_order_relaxed); // all below i have begun already: the lowest that throws is always here
    while (keeping_.test_and_set(std::memory_order_acquire)) {
    }
    if (!thrown_ || i < thrower_) {
      thrown_ = std::current_exception();
      thrower_ = i;
    }
    keeping_.clear(std::memory_order_release);
  }

  std::atomic_flag keeping_{};
  index_t thrower_ = 0;
  std::exception_ptr thrown_{};
#endif
  index_t n_;
  Task const& task_;
  as_the_caller::of caller_{};
  alignas(64) std::atomic<index_t> next_{0};
};

} // namespace sp::detail
