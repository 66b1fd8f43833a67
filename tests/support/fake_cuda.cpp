// The fake CUDA runtime: see fake_cuda.hpp. It stands for no version of CUDA, and says nothing about how fast anything is.
// Compiled by itself and linked in place of libcudart.
#include "support/fake_cuda.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <set>
#include <string>

#include <sp/cuda/error.hpp>

using support::elsewhere_region;
using support::interleaving;
using support::late_queue;

namespace fake_cuda {
namespace {

using places = std::set<std::size_t>; ///< nodes

struct node {
  std::function<void()> work;
  places after;
};

/// Streams that one cudaStreamBeginCapture has drawn in.
struct capture {
  unsigned long long number = 0;
  cudaStreamCaptureMode mode{};
  std::thread::id thread{};
  CUstream_st* origin = nullptr;
  bool valid = true;
  bool inside = false; ///< a thread is in a call that adds to it
  std::vector<node> nodes{};
};

struct block {
  std::size_t bytes, taken;
  CUmemPoolHandle_st* pool; ///< null: cudaMalloc
  int device;
};

} // namespace
} // namespace fake_cuda

struct CUstream_st {
  late_queue queue;
  int device;
  std::shared_ptr<fake_cuda::capture> in{}; ///< null: none
  fake_cuda::places last{};                 ///< what its next work comes after, in the capture
};
struct CUevent_st {
  int device;
  late_queue::event point{};
  std::shared_ptr<fake_cuda::capture> in{};
  fake_cuda::places last{};
};
struct CUgraph_st {
  std::vector<fake_cuda::node> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<std::vector<fake_cuda::node> const> nodes;
  unsigned seed;
};
struct CUmemPoolHandle_st {
  struct free_block {
    std::byte* data;
    std::size_t taken;
    CUstream_st* stream;
  };
  int device;
  std::vector<free_block> free{};
  std::set<int> open_to{}; ///< other devices
};

namespace fake_cuda {
namespace {

constexpr int devices = 2;

struct state {
  std::recursive_mutex mutex;
  std::set<CUstream_st*> streams{};
  std::map<void*, block> blocks{};
  std::map<std::byte*, std::size_t> pinned{};
  std::vector<std::weak_ptr<capture>> captures{};
  CUmemPoolHandle_st pools[devices]{{0}, {1}};
  bool peers = true;                       ///< devices can reach each other
  std::set<std::pair<int, int>> enabled{}; ///< work of the first may use memory of the second
  int shared_bytes = 227 * 1024;           ///< of one block
  std::unique_ptr<CUstream_st> legacy{};
  int events = 0, pools_made = 0, graphs = 0;
  unsigned next_seed = 1;
  unsigned long long next_capture = 1;
  cudaError_t device_error = cudaSuccess;
  bool eager = [](char const* how) { return how && std::string(how) == "EAGER"; }(std::getenv("CUDA_MODULE_LOADING"));
  std::map<std::string, long> calls{};
  struct planned {
    cudaError_t code;
    int good;
  };
  std::map<std::string, planned> planned{};
};
state& all() {
  static state the;
  return the;
}

struct thread_state {
  int device = 0;
  cudaError_t last = cudaSuccess;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  unsigned seed = 0; ///< 0: a new one for each stream
  interleaving how = interleaving::random;
};
thread_state& mine() {
  static thread_local thread_state the;
  return the;
}

cudaError_t said(cudaError_t code) {
  if (code != cudaSuccess) mine().last = code;
  return code;
}

/// The begin of a call: how often it was made, and whether it fails.
class entry {
public:
  explicit entry(char const* name) : lock_(all().mutex) {
    ++all().calls[name];
    auto const found = all().planned.find(name);
    if (found == all().planned.end() || found->second.good-- > 0) return;
    failed_ = found->second.code;
    all().planned.erase(found);
  }
  [[nodiscard]] cudaError_t failed() const { return failed_; }
  /// For calls that work of a device is given or waited for by.
  [[nodiscard]] cudaError_t failed_or_lost() const { return failed_ != cudaSuccess ? failed_ : all().device_error; }
  void unlock() { lock_.unlock(); }

private:
  std::unique_lock<std::recursive_mutex> lock_;
  cudaError_t failed_ = cudaSuccess;
};

late_queue new_queue(bool lane) {
  thread_state& t = mine();
  std::lock_guard const lock(all().mutex);
  unsigned const seed = t.seed ? t.seed++ * 31 : all().next_seed++;
  if (t.how == interleaving::random) return late_queue(seed);
  if (t.how == interleaving::lane_first && lane) return late_queue(seed, interleaving::lane_first).lane();
  return late_queue(seed, interleaving::lane_last); // as late as can be
}

CUstream_st& stream_of(CUstream_st* s) {
  if (s) return *s;
  if (!all().legacy) all().legacy.reset(new CUstream_st{new_queue(false), 0});
  return *all().legacy;
}

/// For a call that adds to a graph under capture; the lock is held, once. CUDA leaves it to its callers that there is one such call at a
/// time: it lasts long enough for another thread to come, which spoils the graph.
cudaError_t add_alone(std::shared_ptr<capture> const c) {
  if (c->inside) {
    std::fprintf(stderr, "fake CUDA: two threads are in calls that add to one graph\n");
    c->valid = false;
  }
  if (!c->valid) return cudaErrorStreamCaptureInvalidated;
  c->inside = true;
  all().mutex.unlock();
  std::this_thread::sleep_for(std::chrono::microseconds(1));
  all().mutex.lock();
  c->inside = false;
  return c->valid ? cudaSuccess : cudaErrorStreamCaptureInvalidated;
}

/// What a stream is given; the lock is held, once.
cudaError_t give(CUstream_st& s, std::function<void()> work) {
  if (!s.in) {
    s.queue.give([w = std::move(work)] {
      try {
        w();
      } catch (std::exception const& e) {
        std::fprintf(stderr, "fake CUDA: work of a stream failed: %s\n", e.what());
        fail_device(cudaErrorLaunchFailure);
      }
    });
    return cudaSuccess;
  }
  if (cudaError_t const e = add_alone(s.in); e != cudaSuccess) return e;
  s.in->nodes.push_back({std::move(work), s.last});
  s.last = {s.in->nodes.size() - 1};
  return cudaSuccess;
}

/// Whether calls that CUDA calls potentially unsafe are forbidden to this thread; then they end the captures that forbid them.
bool unsafe_now() {
  bool found = false;
  if (mine().mode == cudaStreamCaptureModeRelaxed) return false;
  for (auto const& weak : all().captures)
    if (auto const c = weak.lock()) {
      bool const own = c->thread == std::this_thread::get_id() && c->mode != cudaStreamCaptureModeRelaxed;
      bool const of_others = mine().mode == cudaStreamCaptureModeGlobal && c->mode == cudaStreamCaptureModeGlobal;
      if (own || of_others) c->valid = false, found = true;
    }
  return found;
}

/// Nodes that must run before one of `last`, and these.
places with_all_before(std::vector<node> const& nodes, places const& last) {
  places found = last;
  for (std::size_t i = nodes.size(); i-- > 0;)
    if (found.contains(i)) found.insert(nodes[i].after.begin(), nodes[i].after.end());
  return found;
}

/// Runs all nodes in a random order that keeps theirs.
void run(std::vector<node> const& nodes, unsigned seed) {
  std::minstd_rand random(seed + 1);
  std::vector<bool> done(nodes.size(), false);
  for (std::size_t count = 0; count < nodes.size(); ++count) {
    std::vector<std::size_t> ready;
    for (std::size_t i = 0; i < nodes.size(); ++i)
      if (!done[i] && std::all_of(nodes[i].after.begin(), nodes[i].after.end(), [&](std::size_t a) { return done[a]; }))
        ready.push_back(i);
    std::size_t const next = ready[random() % ready.size()];
    nodes[next].work();
    done[next] = true;
  }
}

/// What a kernel with these arguments would touch on another device than its own without access; nothing: empty. What looks like an
/// address counts as one.
std::string out_of_reach(std::span<std::byte const> arguments, int device) {
  for (std::size_t at = 0; at + sizeof(void*) <= arguments.size(); at += sizeof(void*)) {
    std::byte* p = nullptr;
    std::memcpy(&p, arguments.data() + at, sizeof p);
    auto const after = all().blocks.upper_bound(p);
    if (after == all().blocks.begin()) continue;
    auto const& [data, b] = *std::prev(after);
    if (p >= static_cast<std::byte*>(data) + b.bytes || b.device == device) continue;
    if (b.pool ? !b.pool->open_to.contains(device) : !all().enabled.contains({device, b.device}))
      return "a kernel on device " + std::to_string(device) + " is given memory of device " + std::to_string(b.device) +
             ", to which it has no access";
  }
  return {};
}

bool is_pinned(std::byte const* p) {
  auto const after = all().pinned.upper_bound(const_cast<std::byte*>(p));
  if (after == all().pinned.begin()) return false;
  auto const& [begin, bytes] = *std::prev(after);
  return p < begin + bytes;
}
/// Rows on their way: as they are now where CUDA may read them now, else as they will be.
cudaError_t copy_rows(void* to, std::size_t to_pitch, void const* from, std::size_t from_pitch, std::size_t width,
                      std::size_t rows, CUstream_st* stream) {
  auto& region = elsewhere_region::get();
  auto* const there = region.real(static_cast<std::byte*>(to));
  auto const* const source = static_cast<std::byte const*>(from);
  auto move = [=](std::byte const* here, std::size_t pitch) {
    for (std::size_t i = 0; i < rows && width > 0; ++i) std::memcpy(there + i * to_pitch, here + i * pitch, width);
  };
  CUstream_st& s = stream_of(stream);
  if (region.holds(from) || is_pinned(source) || s.in)
    return give(s, [=, here = region.real(const_cast<std::byte*>(source))] { move(here, from_pitch); });
  auto taken = std::make_shared<std::vector<std::byte>>(width * rows);
  for (std::size_t i = 0; i < rows && width > 0; ++i) std::memcpy(taken->data() + i * width, source + i * from_pitch, width);
  return give(s, [=] { move(taken->data(), width); });
}

cudaError_t take_from(CUmemPoolHandle_st& pool, void** p, std::size_t bytes, CUstream_st& s) {
  if (s.in) return cudaErrorStreamCaptureUnsupported;
  std::size_t const size = std::size_t(sp::round_up(sp::index_t(bytes), 64)) + 64; // a gap that the address sanitizer sees
  auto const found =
      std::find_if(pool.free.begin(), pool.free.end(), [&](auto const& b) { return b.taken == size && b.stream == &s; });
  std::byte* data = nullptr;
  if (found != pool.free.end()) {
    data = found->data;
    pool.free.erase(found);
  } else {
    try {
      data = elsewhere_region::get().take(size);
    } catch (std::bad_alloc const&) {
      return cudaErrorMemoryAllocation;
    }
  }
  all().blocks[data] = {bytes, size, &pool, s.device};
  *p = data;
  return give(s, [=] { elsewhere_region::get().expose(data, bytes); });
}

void forget(std::shared_ptr<capture> const& c) {
  for (CUstream_st* s : all().streams)
    if (s->in == c) s->in = nullptr, s->last.clear();
}

} // namespace

void streams_of(unsigned seed, interleaving how) {
  mine().seed = seed;
  mine().how = how;
}
void fail_call(char const* name, cudaError_t code, int good) {
  std::lock_guard const lock(all().mutex);
  all().planned[name] = {code, good};
}
void fail_device(cudaError_t code) {
  std::lock_guard const lock(all().mutex);
  all().device_error = code;
}
void peer_access(bool possible) {
  std::lock_guard const lock(all().mutex);
  all().peers = possible;
  all().enabled.clear();
}
void shared_bytes_of_block(int bytes) {
  std::lock_guard const lock(all().mutex);
  all().shared_bytes = bytes;
}
long calls(char const* name) {
  std::lock_guard const lock(all().mutex);
  return all().calls[name];
}
hold::hold(std::initializer_list<cudaStream_t> streams) {
  std::lock_guard const lock(all().mutex);
  for (cudaStream_t s : streams) all_.push_back(std::make_unique<late_queue::hold>(stream_of(s).queue));
}
hold::~hold() { end(); }
void hold::end() { all_.clear(); }
objects alive() {
  std::lock_guard const lock(all().mutex);
  return {int(all().streams.size()), all().events, int(all().blocks.size()), all().pools_made,
          int(all().pinned.size()),  all().graphs};
}

} // namespace fake_cuda

using namespace fake_cuda;

namespace support {
void give_to_stream(CUstream_st* stream, std::function<void()> work) {
  std::lock_guard const lock(all().mutex);
  static_cast<void>(give(stream_of(stream), std::move(work)));
}
void launch_on_stream(CUstream_st* stream, std::function<void()> work, std::span<std::byte const> arguments) {
  cudaError_t code = cudaSuccess;
  {
    entry const e("cudaLaunchKernelEx");
    CUstream_st& s = stream_of(stream);
    code = e.failed_or_lost();
    if (code == cudaSuccess && stream && s.device != mine().device) code = cudaErrorInvalidResourceHandle;
    if (std::string problem = out_of_reach(arguments, s.device); !problem.empty())
      work = [problem] {
        std::fprintf(stderr, "fake CUDA: %s\n", problem.c_str());
        fail_device(cudaErrorIllegalAddress);
      };
    if (code == cudaSuccess) code = give(s, std::move(work));
  }
  sp::detail::cuda_check(said(code), "cudaLaunchKernelEx", "cuda_queue.launch");
}
std::string closed_to(int device, void const* memory) {
  std::lock_guard const lock(all().mutex);
  auto* const p = static_cast<std::byte*>(const_cast<void*>(memory));
  auto const after = all().blocks.upper_bound(p);
  if (!p || after == all().blocks.begin()) return {};
  auto const& [data, b] = *std::prev(after);
  if (p >= static_cast<std::byte*>(data) + b.bytes || b.device == device || !b.pool || b.pool->open_to.contains(device))
    return {};
  return "memory of a pool of device " + std::to_string(b.device) + " is not open to device " + std::to_string(device);
}
bool loads_eagerly() {
  std::lock_guard const lock(all().mutex);
  return all().eager;
}
void ask_stream(CUstream_st* stream) {
  std::lock_guard const lock(all().mutex);
  if (all().streams.contains(stream)) late_queue::ask(stream->queue.record());
}
} // namespace support

extern "C" {

// ---- errors -----------------------------------------------------------------------------------------------------------------------

cudaError_t cudaGetLastError() { return std::exchange(mine().last, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return mine().last; }
char const* cudaGetErrorName(cudaError_t code) {
  switch (code) {
#define SP_FAKE_NAME(x)                                                                                                          \
  case x:                                                                                                                        \
    return #x;
    SP_FAKE_NAME(cudaSuccess)
    SP_FAKE_NAME(cudaErrorInvalidValue)
    SP_FAKE_NAME(cudaErrorMemoryAllocation)
    SP_FAKE_NAME(cudaErrorInvalidDevice)
    SP_FAKE_NAME(cudaErrorInvalidResourceHandle)
    SP_FAKE_NAME(cudaErrorIllegalAddress)
    SP_FAKE_NAME(cudaErrorLaunchFailure)
    SP_FAKE_NAME(cudaErrorIllegalState)
    SP_FAKE_NAME(cudaErrorNotReady)
    SP_FAKE_NAME(cudaErrorStreamCaptureUnsupported)
    SP_FAKE_NAME(cudaErrorStreamCaptureInvalidated)
    SP_FAKE_NAME(cudaErrorStreamCaptureMerge)
    SP_FAKE_NAME(cudaErrorStreamCaptureUnmatched)
    SP_FAKE_NAME(cudaErrorStreamCaptureUnjoined)
    SP_FAKE_NAME(cudaErrorStreamCaptureIsolation)
    SP_FAKE_NAME(cudaErrorStreamCaptureWrongThread)
    SP_FAKE_NAME(cudaErrorCapturedEvent)
    SP_FAKE_NAME(cudaErrorNotSupported)
    SP_FAKE_NAME(cudaErrorPeerAccessAlreadyEnabled)
    SP_FAKE_NAME(cudaErrorPeerAccessUnsupported)
    SP_FAKE_NAME(cudaErrorInvalidConfiguration)
#undef SP_FAKE_NAME
  default:
    return "unrecognized error code";
  }
}
char const* cudaGetErrorString(cudaError_t) { return "as the fake runtime of the tests says"; }

// ---- devices ----------------------------------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* n) {
  entry const e("cudaGetDeviceCount");
  return *n = devices, cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  if (entry const e("cudaGetDevice"); e.failed()) return said(e.failed());
  return *device = mine().device, cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (entry const e("cudaSetDevice"); e.failed()) return said(e.failed());
  if (device < 0 || device >= devices) return said(cudaErrorInvalidDevice);
  return mine().device = device, cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::snprintf(p->name, sizeof p->name, "%s", "a fake of CUDA on the host: no device");
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  entry const e("cudaDeviceCanAccessPeer");
  if (e.failed()) return said(e.failed());
  return *can = all().peers && device != peer, cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  entry const e("cudaDeviceEnablePeerAccess");
  if (e.failed()) return said(e.failed());
  if (peer == mine().device) return said(cudaErrorInvalidDevice);
  if (!all().peers) return said(cudaErrorPeerAccessUnsupported);
  return said(all().enabled.insert({mine().device, peer}).second ? cudaSuccess : cudaErrorPeerAccessAlreadyEnabled);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  entry const e("cudaDeviceGetAttribute");
  if (e.failed()) return said(e.failed());
  if (attribute != cudaDevAttrMaxSharedMemoryPerBlockOptin) return said(cudaErrorInvalidValue);
  return *value = all().shared_bytes, cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = -5, cudaSuccess; }
cudaError_t cudaDeviceSynchronize() {
  std::vector<late_queue> queues;
  {
    if (entry const e("cudaDeviceSynchronize"); e.failed_or_lost()) return said(e.failed_or_lost());
    if (unsafe_now()) return said(cudaErrorStreamCaptureUnsupported);
    for (CUstream_st* s : all().streams) queues.push_back(s->queue);
  }
  for (late_queue const& q : queues) q.synchronize();
  return said(all().device_error);
}

// ---- streams ----------------------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  entry const e("cudaStreamCreateWithPriority");
  if (e.failed()) return said(e.failed());
  *stream = new CUstream_st{new_queue(flags & cudaStreamNonBlocking), mine().device};
  all().streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { // what fails was done all the same, here and where others give back
  cudaError_t failed = cudaSuccess;
  {
    entry const e("cudaStreamDestroy");
    failed = e.failed();
    if (all().streams.erase(stream) == 0) return said(cudaErrorInvalidResourceHandle);
  }
  delete stream; // what it was given is done first
  return said(failed);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  late_queue queue;
  {
    entry const e("cudaStreamSynchronize");
    if (e.failed_or_lost()) return said(e.failed_or_lost());
    CUstream_st& s = stream_of(stream);
    if (s.in) s.in->valid = false;
    if (s.in || unsafe_now()) return said(cudaErrorStreamCaptureUnsupported);
    queue = s.queue;
  }
  queue.synchronize();
  return said(all().device_error);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  entry const e("cudaStreamWaitEvent");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  CUstream_st& s = stream_of(stream);
  if (!event->in) {
    if (s.in) return s.in->valid = false, said(cudaErrorStreamCaptureIsolation);
    s.queue.wait(event->point);
    return cudaSuccess;
  }
  if (!event->in->valid) return said(cudaErrorStreamCaptureInvalidated);
  if (s.in && s.in != event->in) {
    s.in->valid = event->in->valid = false;
    return said(cudaErrorStreamCaptureMerge);
  }
  if (event->in->origin == nullptr) return said(cudaErrorCapturedEvent); // that capture has ended
  if (cudaError_t const alone = add_alone(event->in); alone != cudaSuccess) return said(alone);
  s.in = event->in;
  s.last.insert(event->last.begin(), event->last.end());
  return cudaSuccess;
}

// ---- events -----------------------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  entry const e("cudaEventCreateWithFlags");
  if (e.failed()) return said(e.failed());
  ++all().events;
  *event = new CUevent_st{mine().device};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  entry const e("cudaEventDestroy");
  --all().events;
  delete event;
  return said(e.failed());
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  entry const e("cudaEventRecord");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  CUstream_st& s = stream_of(stream);
  if (event->device != s.device) return said(cudaErrorInvalidResourceHandle);
  if (s.in)
    if (cudaError_t const alone = add_alone(s.in); alone != cudaSuccess) return said(alone);
  event->in = s.in;
  event->last = s.last;
  if (!s.in) event->point = s.queue.record();
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  entry const e("cudaEventQuery");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  if (unsafe_now()) return said(cudaErrorStreamCaptureUnsupported);
  if (event->in) return said(cudaErrorCapturedEvent);
  late_queue::ask(event->point); // a device gets there without being waited for
  return late_queue::finished(event->point) ? cudaSuccess : said(cudaErrorNotReady);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  late_queue::event point;
  {
    entry const e("cudaEventSynchronize");
    if (e.failed_or_lost()) return said(e.failed_or_lost());
    if (unsafe_now()) return said(cudaErrorStreamCaptureUnsupported);
    if (event->in) return said(cudaErrorCapturedEvent);
    point = event->point;
  }
  late_queue::finish(point);
  return said(all().device_error);
}

// ---- captures and graphs ----------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  entry const e("cudaStreamBeginCapture");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  if (!stream) return said(cudaErrorStreamCaptureUnsupported);
  if (stream->in) return said(cudaErrorIllegalState);
  stream->in = std::make_shared<capture>(capture{all().next_capture++, mode, std::this_thread::get_id(), stream});
  all().captures.push_back(stream->in);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  entry const e("cudaStreamEndCapture");
  *graph = nullptr;
  auto const c = stream->in;
  if (!c) return said(cudaErrorIllegalState);
  if (c->origin != stream) return said(cudaErrorStreamCaptureUnmatched);
  if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id())
    return said(cudaErrorStreamCaptureWrongThread);
  places const joined = with_all_before(c->nodes, stream->last);
  bool whole = true;
  for (CUstream_st* s : all().streams)
    if (s->in == c) whole = whole && std::includes(joined.begin(), joined.end(), s->last.begin(), s->last.end());
  forget(c);
  c->origin = nullptr;
  std::erase_if(all().captures, [&](auto const& weak) { return weak.lock() == c; });
  if (!c->valid || !whole) c->nodes.clear(); // events that were recorded in it may live on
  if (!c->valid) return said(cudaErrorStreamCaptureInvalidated);
  if (!whole) return said(cudaErrorStreamCaptureUnjoined);
  ++all().graphs;
  *graph = new CUgraph_st{std::move(c->nodes)};
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* number,
                                     cudaGraph_t*, cudaGraphNode_t const**, cudaGraphEdgeData const**, std::size_t*) {
  entry const e("cudaStreamGetCaptureInfo");
  if (e.failed()) return said(e.failed());
  CUstream_st const& s = stream_of(stream);
  *status = !s.in         ? cudaStreamCaptureStatusNone
            : s.in->valid ? cudaStreamCaptureStatusActive
                          : cudaStreamCaptureStatusInvalidated;
  if (number && s.in) *number = s.in->number;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return cudaStreamGetCaptureInfo(stream, status, nullptr, nullptr, nullptr, nullptr, nullptr);
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, mine().mode);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  entry const e("cudaGraphInstantiate");
  if (e.failed()) return said(e.failed());
  *exec = new CUgraphExec_st{std::make_shared<std::vector<node> const>(graph->nodes), all().next_seed++};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  entry const e("cudaGraphLaunch");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  CUstream_st& s = stream_of(stream);
  if (s.in) return said(cudaErrorNotSupported); // a graph in a graph: not in this fake
  return said(give(s, [nodes = exec->nodes, seed = exec->seed++] { run(*nodes, seed); }));
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  entry const e("cudaGraphDestroy");
  --all().graphs;
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  entry const e("cudaGraphExecDestroy");
  delete exec;
  return cudaSuccess;
}

// ---- memory -----------------------------------------------------------------------------------------------------------------------

cudaError_t cudaMallocFromPoolAsync(void** p, std::size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  entry const e("cudaMallocFromPoolAsync");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  return said(take_from(*pool, p, bytes, stream_of(stream)));
}
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  entry const e("cudaMalloc");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  if (unsafe_now()) return said(cudaErrorStreamCaptureUnsupported);
  std::byte* const data = elsewhere_region::get().take(std::size_t(sp::round_up(sp::index_t(bytes), 64)) + 64);
  elsewhere_region::get().expose(data, bytes);
  all().blocks[data] = {bytes, std::size_t(sp::round_up(sp::index_t(bytes), 64)) + 64, nullptr, mine().device};
  return *p = data, cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  if (cudaError_t const e = cudaDeviceSynchronize(); e != cudaSuccess) return e;
  entry const e("cudaFree");
  auto const found = all().blocks.find(p);
  if (found == all().blocks.end() || found->second.pool) return said(cudaErrorInvalidValue);
  block const b = found->second;
  all().blocks.erase(found);
  elsewhere_region::get().scribble(static_cast<std::byte*>(p), b.bytes);
  elsewhere_region::get().give(static_cast<std::byte*>(p), b.taken);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** p, std::size_t bytes, cudaStream_t stream) {
  entry const e("cudaMallocAsync");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  CUstream_st& s = stream_of(stream);
  return said(take_from(all().pools[s.device], p, bytes, s));
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  entry const e("cudaFreeAsync");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  CUstream_st& s = stream_of(stream);
  auto const found = all().blocks.find(p);
  if (found == all().blocks.end() || !found->second.pool) return said(cudaErrorInvalidValue);
  if (s.in) return s.in->valid = false, said(cudaErrorInvalidValue);
  block const b = found->second;
  all().blocks.erase(found);
  b.pool->free.push_back({static_cast<std::byte*>(p), b.taken, &s});
  return said(give(s, [=] { elsewhere_region::get().scribble(static_cast<std::byte*>(p), b.bytes); }));
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  entry const e("cudaDeviceGetDefaultMemPool");
  if (device < 0 || device >= devices) return said(cudaErrorInvalidDevice);
  return *pool = &all().pools[device], cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, cudaMemPoolProps const* properties) {
  entry const e("cudaMemPoolCreate");
  if (e.failed()) return said(e.failed());
  ++all().pools_made;
  *pool = new CUmemPoolHandle_st{properties->location.id};
  return cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  entry const e("cudaMemPoolDestroy");
  --all().pools_made;
  for (auto const& b : pool->free) {
    auto back = [b] { elsewhere_region::get().give(b.data, b.taken); };
    all().streams.contains(b.stream) ? static_cast<void>(give(*b.stream, back)) : back();
  }
  delete pool;
  return said(e.failed());
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, cudaMemAccessDesc const* access, std::size_t count) {
  entry const e("cudaMemPoolSetAccess");
  if (e.failed()) return said(e.failed());
  for (std::size_t i = 0; i < count; ++i)
    if (access[i].flags == cudaMemAccessFlagsProtReadWrite) pool->open_to.insert(access[i].location.id);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  entry const e("cudaHostAlloc");
  if (e.failed()) return said(e.failed());
  if (unsafe_now()) return said(cudaErrorStreamCaptureUnsupported);
  auto* const data = static_cast<std::byte*>(::operator new(bytes, std::align_val_t(64)));
  all().pinned[data] = bytes;
  *p = data;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  entry const e("cudaFreeHost");
  if (unsafe_now()) return said(cudaErrorStreamCaptureUnsupported);
  if (all().pinned.erase(static_cast<std::byte*>(p)) == 0) return said(cudaErrorInvalidValue);
  ::operator delete(p, std::align_val_t(64));
  return said(e.failed());
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, void const* p) {
  entry const e("cudaPointerGetAttributes");
  if (e.failed()) return said(e.failed());
  *a = {};
  a->type = elsewhere_region::get().holds(p)              ? cudaMemoryTypeDevice
            : is_pinned(static_cast<std::byte const*>(p)) ? cudaMemoryTypeHost
                                                          : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  entry const e("cudaMemcpyAsync");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  return said(copy_rows(to, bytes, from, bytes, bytes, 1, stream));
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, void const* from, std::size_t from_pitch, std::size_t width,
                              std::size_t rows, cudaMemcpyKind, cudaStream_t stream) {
  entry const e("cudaMemcpy2DAsync");
  if (e.failed_or_lost()) return said(e.failed_or_lost());
  if (to_pitch < width || from_pitch < width) return said(cudaErrorInvalidValue);
  return said(copy_rows(to, to_pitch, from, from_pitch, width, rows, stream));
}

} // extern "C"
