// The families of a process: those in use, which help each other, and those that are kept until nothing of theirs is under way.
// Never destroyed, for handles and MPI itself may outlive every static object of the program.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include <sp/core/error.hpp>

namespace sp::detail {

template <class Family>
class mpi_families {
public:
  static mpi_families& of_process() {
    static mpi_families& all = *new mpi_families;
    return all;
  }

  /// In use: between their construction and the end of the last handle.
  void add(Family* f) {
    std::lock_guard lock(in_use_mutex_);
    in_use_.push_back(f);
    count_ = in_use_.size();
  }
  void remove(Family* f) noexcept {
    std::lock_guard lock(in_use_mutex_);
    std::erase(in_use_, f);
    count_ = in_use_.size();
  }
  /// Nothing is done while another thread is here.
  template <class F>
  void for_each_but(Family const* one, F&& f) {
    if (count_.load(std::memory_order_relaxed) == 0) return;
    std::unique_lock lock(in_use_mutex_, std::try_to_lock);
    if (!lock) return;
    for (Family* other : in_use_)
      if (other != one) f(*other);
  }

  /// Without memory to note it, it is kept for ever: MPI may still write into its buffers.
  void keep(std::unique_ptr<Family> f) noexcept {
    std::lock_guard lock(kept_mutex_);
    if (!best_effort([&] { kept_.reserve(kept_.size() + 1); })) return static_cast<void>(f.release());
    kept_.push_back(std::move(f));
  }
  template <class Terminated>
  void erase_kept(Terminated&& terminated) {
    std::lock_guard lock(kept_mutex_);
    std::erase_if(kept_, [&](std::unique_ptr<Family>& f) { return terminated(*f); });
  }

private:
  std::mutex in_use_mutex_, kept_mutex_;
  std::vector<Family*> in_use_;
  std::atomic<std::size_t> count_{0};
  std::vector<std::unique_ptr<Family>> kept_;
};

} // namespace sp::detail
