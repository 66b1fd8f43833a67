// The communicator `sp::mpi_device`: ranks are processes of an MPI job whose tensors lie in the memory of devices, where MPI takes such.
// It synchronises: the queue is waited for before anything is sent, and wait() returns when the bytes have come.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <sp/collective/family/messages.hpp>
#include <sp/collective/mpi/mpi.hpp>
#include <sp/collective/own_parcels.hpp>
#include <sp/collective/threads/on_exception.hpp>
#include <sp/core/memory.hpp>
#include <sp/core/queue.hpp>

namespace sp {

namespace detail {

/// What the MPI that was found says, and the address by which it knows a byte of the queue's memory.
struct mpi_found {
  static bool takes_device_memory() { return mpi_takes_device_memory(); }
  static std::byte* address(std::byte* p) noexcept { return p; }
};

/// MPI works on the device that is current, and takes its memory for that one's: the queue's is, while the result lives.
template <class Queue>
auto current_for_mpi([[maybe_unused]] Queue const& queue) {
  if constexpr (requires { queue.make_current(); })
    return queue.make_current();
  else
    return 0;
}

/// One exchange under way: a block of bytes for each peer and direction.
template <class Memory>
struct mpi_device_exchange {
  message_list messages;
  std::vector<piece> pieces;
  std::vector<parcel> sends, receives;
  std::optional<owned<std::byte, 1, Memory>> packed; ///< where the caller's room is too small
};

/// A group of ranks, and the exchanges that it uses again.
template <class Queue, class Found>
class mpi_device_group {
public:
  using memory_type = typename Queue::memory_type;
  using exchange_type = mpi_device_exchange<memory_type>;

  mpi_device_group(mpi ranks, Queue queue, basic_allocator<memory_type>& memory)
      : ranks_(std::move(ranks)), queue_(std::move(queue)), memory_(&memory) {}

  mpi const& ranks() const noexcept { return ranks_; }
  Queue const& queue() const noexcept { return queue_; }
  basic_allocator<memory_type>& memory() const noexcept { return *memory_; }

  /// Packs what is not contiguous and waits for the queue; then all bytes to send lie in e.sends, and MPI may write e.receives.
  std::unique_ptr<exchange_type> prepare(traffic const& t) {
    auto e = std::move(spare_);
    if (!e) e = std::make_unique<exchange_type>();
    traffic whole = t;
    whole.form.same_pieces = false; // one block for each peer: MPI is given no lists of addresses
    auto const own = own_parcels_of_equal_bytes(ranks_.rank(), t, [&](std::string problem, char const* remedy) {
      error_info const why{errc::short_message, std::move(problem), remedy, t.primitive, ranks_.rank(), ranks_.size()};
      ranks_.abort(why);
      fail(why);
    });
    e->messages.assign(whole, ranks_.rank());
    index_t const bytes = e->messages.room();
    if (bytes > index_t(t.form.room.size())) e->packed.emplace(*memory_, std::array{bytes});
    e->messages.place(e->packed ? e->packed->tensor.data : t.form.room.data());
    copy(own.second, own.first);
    copy(e->messages.packs().to, e->messages.packs().from);
    queue_.synchronize();
    list(*e);
    return e;
  }
  /// Behind the bytes that have come.
  void finish(std::unique_ptr<exchange_type> e) {
    copy(e->messages.unpacks().to, e->messages.unpacks().from);
    e->packed.reset(); // in the order of the queue
    spare_ = std::move(e);
  }
  /// Of one that has failed: MPI may still hold its memory.
  void keep(std::unique_ptr<exchange_type> e) noexcept {
    best_effort([&] { failed_.push_back(std::move(e)); });
    static_cast<void>(e.release()); // without memory to note it, it is kept for ever
  }

private:
  void copy(std::span<piece const> to, std::span<piece const> from) const {
    if (total_bytes(to) > 0) queue_.copy(to, from);
  }
  static void list(exchange_type& e) {
    auto const out = e.messages.sends(), in = e.messages.receives();
    e.pieces.clear(), e.sends.clear(), e.receives.clear();
    for (auto list : {out, in})
      for (auto const& m : list) e.pieces.push_back(message_list::block_of(Found::address(m.block.data), m.block.bytes));
    for (std::size_t i = 0; i < out.size(); ++i) e.sends.push_back({out[i].block.peer, {&e.pieces[i], 1}});
    for (std::size_t i = 0; i < in.size(); ++i) e.receives.push_back({in[i].block.peer, {&e.pieces[out.size() + i], 1}});
  }

  mpi ranks_;
  Queue queue_;
  basic_allocator<memory_type>* memory_;
  std::unique_ptr<exchange_type> spare_;
  std::vector<std::unique_ptr<exchange_type>> failed_;
};

} // namespace detail

/// A rank of a group of processes whose tensors are in the memory of `Queue`, as sp::cuda_queue. A const handle that is cheap to copy.
///
/// sp::mpi over device memory, for an MPI that says that it is CUDA-aware; any other is refused (unsupported). Construction is collective,
/// and its errors, limits and progress are those of sp::mpi with `parcels::direct`, which eager_limit and large_parcels of the options are
/// set to: see there what becomes of memory after an error. Borrows the communicator, and `memory`, from which pieces that are not contiguous
/// and bring no room are packed: both outlive the last handle. The queue's device is current while MPI is called.
///
/// It synchronises. An exchange begins when everything that the queue had been given is done: the host waits for that. token.wait() waits on
/// the host for the bytes, and orders what unpacks them before later work of the queue. Nothing of it can be captured in a graph, and
/// exchanges do not overlap with the rank's own kernels that are given before them.
template <class Queue, class Found = detail::mpi_found>
class mpi_device {
  using group_type = detail::mpi_device_group<Queue, Found>;

public:
  using memory_type = typename Queue::memory_type;
  static constexpr bool row_lists = true, own_queue = true, packs = true;
  class token;

  mpi_device(MPI_Comm comm, Queue queue, basic_allocator<memory_type>& memory, mpi_options options = {})
      : mpi_device(mpi(comm, checked(options)), std::move(queue), memory) {}

  /// body(mpi_device const&) on this rank; otherwise as mpi::run.
  template <class Body>
  static void run(MPI_Comm comm, Queue queue, basic_allocator<memory_type>& memory, Body&& body, mpi_options options = {}) {
    mpi::run(
        comm, [&](mpi const& ranks) { body(mpi_device(ranks, queue, memory)); }, checked(options));
  }

  int rank() const noexcept { return group_->ranks().rank(); }
  int size() const noexcept { return group_->ranks().size(); }
  int world_rank() const noexcept { return group_->ranks().world_rank(); }
  int world_size() const noexcept { return group_->ranks().world_size(); }
  Queue const& queue() const noexcept { return group_->queue(); }
  flight_recorder const& flight() const { return group_->ranks().flight(); }

  /// The caller's room and receive memory are MPI's until wait() returns; pieces and parcels stay alive as long.
  [[nodiscard]] token exchange(traffic const& t) const {
    [[maybe_unused]] auto const here = detail::current_for_mpi(queue());
    auto e = group_->prepare(t);
    std::optional<mpi::token> inner;
    detail::try_or(
        [&] {
          inner.emplace(group_->ranks().exchange({t.primitive, e->sends, e->receives}));
        },
        [&] { group_->keep(std::move(e)); });
    return token(group_, std::move(e), std::move(*inner));
  }
  /// Of the queues too: all work that they have been given is done.
  void barrier() const {
    [[maybe_unused]] auto const here = detail::current_for_mpi(queue());
    queue().synchronize();
    group_->ranks().barrier();
  }
  [[nodiscard]] mpi_device split(int color, int key) const {
    return mpi_device(group_->ranks().split(color, key), queue(), group_->memory());
  }
  void abort(error_info const& why) const { group_->ranks().abort(why); }

private:
  mpi_device(mpi ranks, Queue queue, basic_allocator<memory_type>& memory)
      : group_(std::make_shared<group_type>(std::move(ranks), std::move(queue), memory)) {}

  /// No byte of a tensor may be touched on the host.
  static mpi_options checked(mpi_options options) {
    if (!Found::takes_device_memory())
      fail({errc::unsupported, "this MPI does not say that it takes memory of devices: " + detail::mpi_library_name(),
            "Use a CUDA-aware MPI (Open MPI: configured with --with-cuda, see ompi_info), or sp::nccl", "sp::mpi_device"});
    options.eager_limit = 0;
    options.large_parcels = mpi_options::parcels::direct;
    return options;
  }

  std::shared_ptr<group_type> group_;
};
template <class Queue, class Memory, class... Options>
mpi_device(MPI_Comm, Queue, Memory&, Options...) -> mpi_device<Queue>;

/// An exchange under way. Destroyed unwaited it ends the family, as one of sp::mpi.
template <class Queue, class Found>
class mpi_device<Queue, Found>::token {
public:
  token(token&&) noexcept = default;
  token& operator=(token&& o) noexcept {
    token(std::move(o)).swap(*this);
    return *this;
  }
  ~token() {
    if (!exchange_) return;
    detail::best_effort([&] {
      [[maybe_unused]] auto const here = detail::current_for_mpi(group_->queue());
      inner_.reset(); // ends the family, and takes its memory back
    });
    group_->keep(std::move(exchange_));
  }
  void wait() {
    if (!exchange_) fail({errc::bad_state, "this token has been waited for already", "Wait once for each exchange"});
    [[maybe_unused]] auto const here = detail::current_for_mpi(group_->queue());
    inner_->wait();
    inner_.reset();
    group_->finish(std::move(exchange_));
  }

private:
  friend mpi_device;
  using exchange_type = typename group_type::exchange_type;
  token(std::shared_ptr<group_type> group, std::unique_ptr<exchange_type> e, mpi::token inner)
      : group_(std::move(group)), exchange_(std::move(e)), inner_(std::move(inner)) {}
  void swap(token& o) noexcept {
    std::swap(group_, o.group_);
    std::swap(exchange_, o.exchange_);
    std::swap(inner_, o.inner_);
  }

  std::shared_ptr<group_type> group_;
  std::unique_ptr<exchange_type> exchange_; ///< null once waited for
  std::optional<mpi::token> inner_;
};

} // namespace sp
