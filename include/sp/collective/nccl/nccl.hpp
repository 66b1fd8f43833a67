// The communicator `sp::nccl`: ranks are devices of a borrowed ncclComm_t, and every exchange is work of the caller's stream.
// No call waits for the device. Deadlines, errors of NCCL and of the device are found by poll(), by the next call, or by a thread.
#pragma once

#include <utility>

#include <sp/collective/nccl/group.hpp>

namespace sp {

template <class C>
class native_sums;

/// A rank of a group of devices. A const handle that is cheap to copy; all handles and groups made from one construction (the family)
/// are used by one thread at a time, but for poll() and abort().
///
/// Borrows the caller's communicator, which must live until the last handle and token have gone, and a queue on its device. sp destroys
/// neither. Construction communicates nothing. The caller may use the communicator for its own operations between those of sp, in the
/// same order on all ranks; sp's run on the queue's lane.
///
/// Order: an operation starts after all work that the queue had been given, and runs on its lane; token.wait() orders it before all
/// later work of the queue and waits for nothing. Each exchange is one group of ncclSend and ncclRecv: a message per peer and tensor,
/// none where there are no bytes. What is not contiguous is packed by one kernel before and unpacked by one behind, in scratch of the call
/// along routes, else in memory of the family. An all-gather of equal parts over the whole communicator is one ncclAllGather.
/// Groups send over the same communicator. Sums are those of the fallbacks: in order of rank, the same bits on every rank; those of NCCL
/// are asked for by sp::native_sums.
///
/// The host waits where NCCL does: ranks that meet for the first time are connected, which takes both.
///
/// In a graph: exchange once with every peer before the capture. Exchanges that are captured are not watched.
/// Limits: a token is waited for before the 8th exchange after it.
///
/// Errors. backend_error: what NCCL or the device reports; timeout: an exchange has not ended a deadline after its begin was seen on this
/// device, because a peer has not come this far or has called something else; short_message: the two parcels to oneself differ; aborted: abort() was called,
/// or this family failed before; bad_state: misuse by this rank, nothing was sent. Each but bad_state ends the family of this rank; NCCL
/// tells the others nothing, so that they find out by their own deadlines. NCCL compares no counts: ranks that disagree about them hang or
/// read wrong bytes, check level 2 tells before.
template <class Queue>
class basic_nccl {
public:
  using memory_type = device_memory;
  static constexpr bool row_lists = true, own_queue = true, packs = true;
  class token;

  basic_nccl(ncclComm_t comm, Queue queue, nccl_options options = {})
      : group_(group_type::world_of(comm, std::move(queue), options)) {}

  int rank() const noexcept { return group_->rank(); }
  int size() const noexcept { return group_->size(); }
  /// The place in the borrowed communicator and its number of ranks, whatever group this is.
  int world_rank() const noexcept { return group_->family().world(); }
  int world_size() const noexcept { return group_->family().ranks(); }
  /// Where this rank's work runs.
  Queue const& queue() const noexcept { return group_->family().queue(); }
  /// The last operations of this rank, over all its groups. An exchange is done there when poll() has seen its end.
  flight_recorder const& flight() const { return *group_->family().recorder(); }

  /// Pieces and parcels stay alive until wait(); `t.primitive` stays alive as long as the communicator: use a literal.
  [[nodiscard]] token exchange(traffic const& t) const;
  [[nodiscard]] token all_gather_v(traffic const& t) const;
  /// Every rank of this group calls split and gets one group; any int is a color. Order within a color: by key, then by rank. The host
  /// waits for all of them.
  [[nodiscard]] basic_nccl split(int color, int key) const { return basic_nccl(group_->split(color, key)); }
  /// Looks at what is under way, from any thread, and throws what this family has failed with. Costs a microsecond or two.
  void poll() const { group_->poll("sp::nccl::poll"); }
  /// Ends the family and calls ncclCommAbort on the borrowed communicator, which the caller must not use or destroy any more. From any
  /// thread. What was under way ends with whatever bytes there are; other ranks find out by their deadlines, or abort too. Returns when every
  /// graph that has captured operations of the communicator has gone.
  void abort(error_info const& why) const { group_->abort(why); }

private:
  template <class C>
  friend class native_sums;
  using group_type = detail::nccl_group<Queue>;
  explicit basic_nccl(std::shared_ptr<group_type> group) : group_(std::move(group)) {}

  std::shared_ptr<group_type> group_;
};

/// An exchange under way. Destroyed unwaited it ends the family; what it uses is given back behind it.
template <class Queue>
class basic_nccl<Queue>::token {
public:
  token(token&& o) noexcept : group_(std::exchange(o.group_, nullptr)), number_(o.number_) {}
  token& operator=(token&& o) noexcept {
    token(std::move(o)).swap(*this);
    return *this;
  }
  ~token() {
    if (group_) group_->drop(number_);
  }
  void wait() {
    if (!group_) fail({errc::bad_state, "this token has been waited for already", "Wait once for each exchange"});
    group_->wait(number_);
    group_.reset();
  }

private:
  friend basic_nccl;
  template <class C>
  friend class native_sums;
  token(std::shared_ptr<group_type> group, std::uint64_t number) : group_(std::move(group)), number_(number) {}
  void swap(token& o) noexcept {
    std::swap(group_, o.group_);
    std::swap(number_, o.number_);
  }

  std::shared_ptr<group_type> group_; ///< null once waited for
  std::uint64_t number_;
};

template <class Queue>
typename basic_nccl<Queue>::token basic_nccl<Queue>::exchange(traffic const& t) const {
  return {group_, group_->exchange(t)};
}
template <class Queue>
typename basic_nccl<Queue>::token basic_nccl<Queue>::all_gather_v(traffic const& t) const {
  return {group_, group_->all_gather(t)};
}

/// The one there is: over the stream of a device. sp::nccl ranks{comm, sp::cuda_queue{stream}};
using nccl = basic_nccl<cuda_queue>;

static_assert(communicator<nccl> && has_row_lists<nccl> && has_own_queue<nccl> && packs_messages<nccl> &&
              has_all_gather_v<nccl> && splittable<nccl> && abortable<nccl> && !peer_memory<nccl>);

} // namespace sp
