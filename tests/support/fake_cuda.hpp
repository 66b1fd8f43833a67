// A fake of the CUDA runtime for tests: link tests/support/fake_cuda.cpp in place of the runtime. No device is involved.
// Streams are late queues of their own, device memory faults on the host, and what a capture forbids fails as CUDA says.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "support/late_queue.hpp"

namespace support {

/// Queues work on a stream, as a kernel is; in a capture it becomes a node of the graph, and may run several times. What it throws is
/// printed, and ends the device as a failed kernel does: see fake_cuda::fail_device.
void give_to_stream(CUstream_st* stream, std::function<void()> work);

/// The same for a kernel with these arguments, or sp::error as cudaLaunchKernelEx would be reported: the stream's device is current, and a
/// kernel that is given memory without access to it fails when it runs.
void launch_on_stream(CUstream_st* stream, std::function<void()> work, std::span<std::byte const> arguments);

/// Whether kernels of this device may use this memory; empty, or why not. Memory of cudaMalloc counts as open: NCCL, whose kernels are meant,
/// opens it between devices of one process.
[[nodiscard]] std::string closed_to(int device, void const* memory);

/// Whether CUDA_MODULE_LOADING was EAGER at the first call of the runtime.
[[nodiscard]] bool loads_eagerly();

/// What a stream has been given by now is asked for: a device goes on by itself, a late queue when somebody waits. A stream that has gone
/// is none of anybody's.
void ask_stream(CUstream_st* stream);

} // namespace support

/// What tests ask of the fake. It knows the calls that sp makes and those that tests need, in their plain forms:
///
/// - cudaStream_t: runs late, on a thread of its own; how late, and how it takes turns with others, is drawn: see streams_of.
/// - memory of cudaMallocAsync: addresses that fault on the host (support::elsewhere_region), 0xFF when it is new, 0xFE after the free
///   has run in the order of its stream, by which time the same stream may have it again.
/// - pageable memory is read when a copy is given and written when it runs; pinned memory is read and written when it runs.
/// - captures: nodes and their order are kept; a launch runs them one by one, in a random order that keeps theirs. Allocations in a
///   capture are refused: CUDA would allow them.
///   Two threads in calls that add to one graph at the same time spoil it.
/// - devices: two. Streams, events and memory know theirs. A kernel may be given memory of the other one once cudaDeviceEnablePeerAccess or
///   cudaMemPoolSetAccess has given access; the runtime's own copies need none.
namespace fake_cuda {

/// Streams that this thread makes from now on. Those made with cudaStreamNonBlocking count as lanes.
void streams_of(unsigned seed, support::interleaving how = support::interleaving::random);

/// The call of this name fails once with `code`, after `good` calls that do not; of any thread.
void fail_call(char const* name, cudaError_t code, int good = 0);
/// From now on every call that gives or waits for work returns `code`, as after a kernel that failed; cudaSuccess: no more.
void fail_device(cudaError_t code);
/// From now on devices can reach each other's memory, or not. What cudaDeviceEnablePeerAccess had given is taken away.
void peer_access(bool possible);
/// Shared memory that a block may have, of every device: 227 KiB unless a test says otherwise.
void shared_bytes_of_block(int bytes);
/// How often a call was made since the program began.
[[nodiscard]] long calls(char const* name);

/// While it lives nothing runs on these streams, and who waits for them gets an exception.
class [[nodiscard]] hold {
public:
  explicit hold(std::initializer_list<cudaStream_t> streams);
  hold(hold const&) = delete;
  ~hold();
  void end();

private:
  std::vector<std::unique_ptr<support::late_queue::hold>> all_;
};

/// What exists now.
struct objects {
  int streams, events, blocks, pools, pinned, graphs;
  friend bool operator==(objects const&, objects const&) = default;
};
[[nodiscard]] objects alive();

} // namespace fake_cuda
