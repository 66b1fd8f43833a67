// Communicators that ncclCommSplit makes of a borrowed one: where NCCL writes them, and how they end.
// A place stays where it is until NCCL writes there no more, and whatever has been made there is ended.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include <sp/collective/nccl/calls.hpp>
#include <sp/cuda/capture.hpp>

namespace sp::detail {

/// Of a communicator that does not block, a split goes on by itself: a thread of NCCL writes the result when it is there, and nobody can ask
/// for less than an abort of the borrowed one to stop that. Everything here is done with the lock of its owner, but abort_with().
class nccl_children {
public:
  nccl_children() = default;
  nccl_children(nccl_children const&) = delete;
  ~nccl_children() {
    for (auto& p : places_)
      if (ncclComm_t const made = read(*p))
        static_cast<void>(ncclCommAbort(made)); // of a split that was given up
      else if (!ended_)
        static_cast<void>(p.release()); // NCCL may be at it still
  }

  void swap(nccl_children& o) noexcept {
    places_.swap(o.places_);
    std::swap(ended_, o.ended_);
  }
  /// For ncclCommSplit, which writes there.
  [[nodiscard]] ncclComm_t* new_place() { return &places_.emplace_back(std::make_unique<place>())->comm; }
  /// The split has ended well: NCCL has written there, and from now on it is looked at.
  ncclComm_t adopt(ncclComm_t const* at) noexcept {
    place& p = **find(at);
    p.adopted = true;
    return read(p);
  }
  /// The split has ended badly: NCCL writes there no more.
  void give_up(ncclComm_t const* at) noexcept {
    if (auto const p = find(at); p != places_.end()) places_.erase(p);
  }
  /// False: it is not here, because it has been aborted.
  bool remove(ncclComm_t child) noexcept {
    return std::erase_if(places_, [&](auto const& p) { return p->adopted && p->comm == child; }) > 0;
  }
  /// f(communicator) of those that are whole, until one is true.
  template <class F>
  bool any_of(F&& f) const {
    return std::any_of(places_.begin(), places_.end(), [&](auto const& p) { return p->adopted && f(p->comm); });
  }

  /// Aborts the borrowed one and all of these at once, because ncclCommAbort waits for the kernels of its communicator: they may be queued
  /// behind one of another communicator that waits for a peer until it is told, too.
  void abort_with(ncclComm_t borrowed) noexcept {
    abort_from(0, borrowed);
    std::erase_if(places_, [](auto const& p) {
      ncclComm_t const made = read(*p);
      if (made && !p->adopted) static_cast<void>(ncclCommAbort(made));
      return made != nullptr;
    });
    ended_ = true; // but for a split that another thread is inside of, which has yet to return
  }

private:
  struct place {
    ncclComm_t comm = nullptr;
    bool adopted = false;
  };
  static ncclComm_t read(place& p) noexcept { return std::atomic_ref(p.comm).load(std::memory_order_acquire); }
  std::vector<std::unique_ptr<place>>::iterator find(ncclComm_t const* at) noexcept {
    return std::find_if(places_.begin(), places_.end(), [&](auto const& p) { return &p->comm == at; });
  }
  /// One on this thread, those from `first` on each on their own; one after the other only where no thread can be had.
  void abort_from(std::size_t first, ncclComm_t one) noexcept {
    relaxed_capture const relaxed; // of another thread
    while (first < places_.size() && !places_[first]->adopted) ++first;
    bool const more = first < places_.size();
    std::thread others;
    if (more) best_effort([&] { others = std::thread([&] { abort_from(first + 1, places_[first]->comm); }); });
    static_cast<void>(ncclCommAbort(one));
    if (others.joinable())
      others.join();
    else if (more)
      abort_from(first + 1, places_[first]->comm);
  }

  std::vector<std::unique_ptr<place>> places_;
  bool ended_ = false; ///< the borrowed one has been aborted
};

} // namespace sp::detail
