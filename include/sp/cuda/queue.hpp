// The queue of a CUDA device: a stream that the caller owns, and beside it one lane for communication. Work of objects, kernels and
// communicators runs there in order; nothing waits for the device but what says so. Handing it work needs nvcc; naming it does not.
#pragma once

#include <sp/core/queue.hpp>
#include <sp/cuda/capture.hpp>
#include <sp/cuda/copy.hpp>
#include <sp/cuda/kernels.hpp>
#include <sp/cuda/launch.hpp>
#include <sp/cuda/peers.hpp>
#include <sp/cuda/plain_copy.hpp>
#include <sp/cuda/profiler_range.hpp>
#include <sp/cuda/streams.hpp>

namespace sp {

/// A handle of a borrowed stream, or of its lane; copies are the same queue. The stream outlives the last handle. One rank's: used by one
/// thread at a time.
///
/// Memory: tensors of device_memory are of the queue's device, or of one that it has peer access to: sp::cuda_local::run gives it to memory
/// of cudaMalloc, sp::device_pool to its own.
/// Capture: what stands between cudaStreamBeginCapture and cudaStreamEndCapture on the stream is captured, the lane's work too, as far as
/// it is waited for, which every token and publication does. In a capture upload() and synchronize() are refused (bad_state), and so is
/// wait() for work that was given before the capture and not waited for then.
/// Threads whose streams are captured into one graph take turns: nothing else makes their calls wait for each other.
/// Errors: backend_error names the call of the runtime that failed, its code and what to do; work that fails later is reported by
/// synchronize(), or by the next call.
class cuda_queue {
public:
  using memory_type = device_memory;
  static constexpr bool finished_on_return = false;
  using event = detail::cuda_event;

  /// A stream of `device`. Makes the lane, and takes 256 KiB in the stream's order and 2 MiB of pinned memory: not while the stream is being
  /// captured.
  cuda_queue(cudaStream_t stream, int device)
      : streams_(std::make_shared<detail::cuda_streams>(stream, device)), mine_(&streams_->main) {}
  /// A stream of the device that is current.
  explicit cuda_queue(cudaStream_t stream) : cuda_queue(stream, current_device()) {}

  friend bool operator==(cuda_queue const& a, cuda_queue const& b) noexcept { return a.mine_ == b.mine_; }

  [[nodiscard]] cudaStream_t stream() const noexcept { return mine_->stream; }
  [[nodiscard]] int device() const noexcept { return streams_->device; }
  /// Shared memory that a block of the device may have.
  [[nodiscard]] index_t shared_bytes_of_block() const noexcept { return streams_->shared_bytes; }
  /// Lets work of both devices use memory of the other one's; sp::cuda_local::run calls it for every two ranks. Errors: unsupported, where
  /// the devices have no way to each other.
  void reach(cuda_queue const& other, int rank, int peer) const {
    if (other.device() == device()) return;
    detail::enable_peer(device(), rank, other.device(), peer);
    detail::enable_peer(other.device(), peer, device(), rank);
  }

  template <std::size_t Rank, class Body>
  void for_each(std::array<index_t, Rank> const& extents, Body const& body) const {
    using kernel = detail::each_index<Rank, Body>;
    static_assert(sizeof(kernel) <= 4096, "sp: a body that a device runs holds at most about 4,000 bytes.");
    auto run = [&](kernel const& k) { launch(k, (index_t(k.indices) + k.threads - 1) / k.threads); };
    detail::plan_indices(kernel{{}, {}, 0, body}, extents, detail::most_indices, run);
  }
  template <class Term, class Store>
  void sums(index_t outputs, index_t terms, Term const& term, Store const& store) const;
  /// Lists of pieces of device memory; one piece a side may be of the host's, pageable memory too: for reading results.
  template <class Few = detail::copy_few, class Many = detail::copy_many>
  void copy(std::span<piece const> to, std::span<piece const> from) const;
  /// The bytes are in pinned memory of the queue when it returns.
  void upload(std::byte* to, std::span<std::byte const> bytes) const {
    if (bytes.empty()) return;
    detail::on_device const here(device(), "cuda_queue.upload");
    if (detail::capture_of(stream(), "cuda_queue.upload") != 0)
      fail({errc::bad_state,
            "bytes of the host are uploaded while the stream is being captured: a graph would replay them as they were",
            detail::capture_remedy, "cuda_queue.upload"});
    mine_->staging.upload(stream(), to, bytes);
  }

  [[nodiscard]] event record() const;
  void wait(event const& before) const;
  [[nodiscard]] cuda_queue lane() const { return {streams_, &streams_->lane}; }
  void synchronize() const {
    detail::on_device const here(device(), "cuda_queue.synchronize");
    if (detail::capture_of(stream(), "cuda_queue.synchronize") != 0)
      fail({errc::bad_state, "the host waits for a stream that is being captured: its work runs when the graph is launched",
            "Leave what reads results on the host (sp::read, check levels 2 and 3, host communicators) out of the capture",
            "cuda_queue.synchronize"});
    detail::cuda_check(cudaStreamSynchronize(stream()), "cudaStreamSynchronize", "cuda_queue.synchronize");
  }

  /// The queue's device is current on this thread while the result lives: for libraries that work on the one that they find, as MPI does.
  [[nodiscard]] detail::on_device make_current() const { return {device(), "cuda_queue.make_current"}; }

  /// Whether the stream is part of a capture.
  [[nodiscard]] bool capturing() const {
    detail::on_device const here(device(), "cuda_queue.capturing");
    return detail::capture_of(stream(), "cuda_queue.capturing") != 0;
  }
  /// An NVTX range of domain "sp" around what this thread does while the result lives; see <sp/cuda/profiler_range.hpp>.
  [[nodiscard]] static detail::profiler_range named(char const* object, char const* call) noexcept { return {object, call}; }

  /// A kernel of this library's form (see cuda/block.hpp) over `blocks` blocks, up to 2^31 - 1.
  template <class Kernel>
  void launch(Kernel const& kernel, index_t blocks, index_t shared_bytes = 0) const {
    if (blocks <= 0) return;
    detail::on_device const here(device(), detail::launch_name);
    detail::capture_turn const turn(stream(), detail::launch_name);
    detail::launch(stream(), kernel, blocks, shared_bytes);
  }

  /// For calls of the caller's that give the stream work (kernels, libraries) where several threads are captured into one graph: while the
  /// result lives no queue adds to a graph. Not around calls that wait for other ranks, as those of sp do. Outside of captures it does nothing.
  [[nodiscard]] detail::capture_turn capture_turn() const { return {stream(), "cuda_queue.capture_turn"}; }

private:
  cuda_queue(std::shared_ptr<detail::cuda_streams> streams, detail::cuda_side* mine)
      : streams_(std::move(streams)), mine_(mine) {}

  static int current_device() {
    int device = 0;
    detail::cuda_check(cudaGetDevice(&device), "cudaGetDevice", "cuda_queue");
    return device;
  }
  bool is_lane() const noexcept { return mine_ == &streams_->lane; }

  std::shared_ptr<detail::cuda_streams> streams_;
  detail::cuda_side* mine_; ///< of these streams
};

template <class Term, class Store>
void cuda_queue::sums(index_t outputs, index_t terms, Term const& term, Store const& store) const {
  using sum = std::remove_cvref_t<decltype(term(index_t{}, index_t{}))>;
  static_assert(std::is_trivially_copyable_v<sum>, "sp: the type of a sum on a device must be trivially copyable.");
  detail::sum_groups const groups(terms);
  index_t const parts = outputs * groups.count, shared = detail::sum_groups::threads * index_t(sizeof(sum));
  bool const few = groups.count > 1 && outputs < 1024 && parts * index_t(sizeof(sum)) <= index_t(detail::sum_room::bytes);
  if (!few || mine_ != &streams_->main) // the room is the main stream's
    return launch(detail::whole_sums<sum, Term, Store>{groups, term, store}, outputs, shared);
  auto* const room = static_cast<sum*>(streams_->sums());
  using joined = detail::joined_sums<sum, Store>;
  launch(detail::part_sums<sum, Term>{groups, term, room}, parts, shared);
  launch(joined{outputs, groups.count, room, store}, (outputs + joined::threads - 1) / joined::threads);
}

inline cuda_queue::event cuda_queue::record() const {
  constexpr char const* primitive = "cuda_queue.record";
  detail::on_device const here(device(), primitive);
  detail::capture_turn const turn(stream(), primitive);
  auto* const node = streams_->events->take();
  event e(streams_->events, node); // given back if the call fails
  detail::cuda_check(cudaEventRecord(node->event, stream()), "cudaEventRecord", primitive);
  node->of_lane = is_lane();
  node->number = ++mine_->recorded;
  node->capture = turn.number();
  return e;
}

inline void cuda_queue::wait(event const& before) const {
  constexpr char const* primitive = "cuda_queue.wait";
  auto const* const point = before.point();
  bool const own = before.is_of(streams_->events);
  if (!point || (own && point->of_lane == is_lane())) return; // the order of the stream itself
  detail::on_device const here(device(), primitive);
  detail::capture_turn const turn(stream(), primitive, point->capture); // the wait may be what draws the stream in
  bool const before_capture = point->capture == 0;
  if (own && before_capture && point->number <= mine_->seen) return; // it has waited for that before
  if (turn.number() != 0 && before_capture)
    fail({errc::bad_state, "work that was given before the capture of a stream is waited for within the capture",
          "End every exchange, and wait once for the other queues, before cudaStreamBeginCapture", primitive});
  detail::cuda_check(cudaStreamWaitEvent(stream(), point->event, 0), "cudaStreamWaitEvent", primitive);
  if (own && before_capture) mine_->seen = point->number;
}

template <class Few, class Many>
void cuda_queue::copy(std::span<piece const> to, std::span<piece const> from) const {
  constexpr char const* primitive = "cuda_queue.copy";
  detail::block_cursor const t(to), f(from);
  if (t.done() || f.done()) return;
  detail::on_device const here(device(), primitive);
  detail::capture_turn const turn(stream(), primitive);
  if (detail::copy_plain(stream(), to, from, primitive)) return;
  auto go = [&](auto const& kernel) { launch(kernel, kernel.blocks()); };
  if (to.size() + from.size() <= 64) // lists of rows may be longer: then it takes some launches
    detail::plan_copies<Few>(t, f, go);
  else
    detail::plan_copies<Many>(t, f, go);
}

static_assert(queue<cuda_queue>);

} // namespace sp
