// The fake NCCL: see fake_nccl.hpp. It stands for no version of NCCL, and says nothing about how fast anything is.
// Compiled by itself and linked in place of libnccl, with the fake CUDA runtime.
#include "support/fake_nccl.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include <sp/core/dtype.hpp>

#include "support/fake_cuda.hpp"

namespace fake_nccl {
namespace {

struct launch;

/// One call in a group.
struct operation {
  enum { send, receive, gather, sum } kind;
  std::byte* from = nullptr; ///< the bytes, not the addresses of the library
  std::byte* to = nullptr;
  std::size_t bytes = 0;
  int peer = -1;
  ncclDataType_t type = ncclInt8;
  std::array<void const*, 2> addresses{}; ///< of the library
};

/// A group as its stream runs it: once, or each time a graph is replayed.
struct launch {
  ncclComm_t comm;
  std::size_t left = 0; ///< operations that have not met their peers
};
struct posted {
  std::shared_ptr<launch> by;
  operation what;
};

/// The ranks of one ncclUniqueId.
struct world {
  int size = 0, joined = 0;
  std::vector<ncclComm_t> comms{};
  std::map<std::pair<int, int>, std::deque<posted>> sends{}, receives{}; ///< by sender and receiver
  std::vector<std::deque<posted>> gathers{};                             ///< by rank
  std::vector<std::deque<posted>> sums{};                                ///< by rank
  std::vector<std::array<int, 3>> splits{};                              ///< rank, color and key of those that have come to one
  int split_generation = 0;
  std::map<std::pair<int, int>, std::shared_ptr<world>> parts{}; ///< by generation and color
};

} // namespace
} // namespace fake_nccl

struct ncclComm {
  std::shared_ptr<fake_nccl::world> in;
  int rank, device;
  bool alive = true, aborted = false;
  ncclResult_t async = ncclSuccess;
  fake_nccl::counts given{};
  std::set<int> met{};                      ///< peers of groups outside of captures
  std::shared_ptr<fake_nccl::launch> now{}; ///< the group that runs
  std::set<cudaStream_t> streams{};
  int in_progress = -1, questions = 0; ///< -1: it blocks
  bool never_connects = false;
  int making = 0; ///< questions until it is made
  int parent_rank = -1;
  struct {
    ncclComm_t* to = nullptr; ///< null: no split is under way
    int generation = 0, color = 0;
  } split{};
  int queued = 0; ///< groups that streams have been given and have not passed
  std::shared_ptr<char> const in_graphs = std::make_shared<char>('g'); ///< graphs that have captured a group have it, too
};

namespace fake_nccl {
namespace {

struct state {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, std::shared_ptr<world>> worlds{};
  std::vector<std::unique_ptr<ncclComm>> comms{}; ///< all that there were: a handle that is old is told from one that lives
  std::vector<std::string> complaints{};
  std::string last_error{};
  std::chrono::milliseconds patience = std::chrono::seconds(10);
  struct planned {
    ncclResult_t result;
    int good;
  };
  std::map<std::string, planned> planned{};
  int version = 0;
  unsigned long long ids = 1;
};
state& all() {
  static state& the = *new state; // streams may still run when the program ends
  return the;
}

/// The calls of this thread between ncclGroupStart and ncclGroupEnd.
struct group {
  struct call {
    ncclComm_t comm;
    cudaStream_t stream;
    operation what;
  };
  int depth = 0;
  ncclResult_t bad = ncclSuccess;
  std::vector<call> calls{};
};
group& mine() {
  static thread_local group the;
  return the;
}

using lock_type = std::unique_lock<std::mutex>;

ncclResult_t planned_failure(char const* name) {
  auto const found = all().planned.find(name);
  if (found == all().planned.end() || found->second.good-- > 0) return ncclSuccess;
  ncclResult_t const result = found->second.result;
  all().planned.erase(found);
  return result;
}
bool known(ncclComm_t comm) {
  return comm && std::any_of(all().comms.begin(), all().comms.end(), [&](auto const& c) { return c.get() == comm && c->alive; });
}
/// For calls of NCCL: one that has ended is nobody's to use.
bool usable(ncclComm_t comm, char const* call) {
  if (comm && !known(comm)) all().complaints.push_back(std::string(call) + " is given a communicator that has ended");
  return known(comm);
}
ncclResult_t refused(ncclComm_t comm, ncclResult_t result, std::string why) {
  if (known(comm)) all().last_error = std::move(why);
  return result;
}
bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  static_cast<void>(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}
std::size_t bytes_of(ncclDataType_t type) {
  switch (type) {
  case ncclInt8:
  case ncclUint8:
    return 1;
  case ncclFloat16:
  case ncclBfloat16:
    return 2;
  case ncclInt64:
  case ncclUint64:
  case ncclFloat64:
    return 8;
  default:
    return 4;
  }
}

// ---- as streams run it; the lock is held -------------------------------------------------------------------------------------------

void complain(world& w, std::string text) {
  for (ncclComm_t c : w.comms)
    if (c && c->async == ncclSuccess) c->async = ncclInternalError;
  all().last_error = text;
  all().complaints.push_back(std::move(text));
}
void met(posted const& p) { --p.by->left; }

void match(world& w, std::pair<int, int> pair) {
  auto &sent = w.sends[pair], &expected = w.receives[pair];
  while (!sent.empty() && !expected.empty()) {
    operation const &s = sent.front().what, &r = expected.front().what;
    if (s.bytes != r.bytes || s.type != r.type)
      complain(w, "rank " + std::to_string(pair.first) + " sends " + std::to_string(s.bytes) + " bytes, rank " +
                      std::to_string(pair.second) + " expects " + std::to_string(r.bytes));
    std::memcpy(r.to, s.from, std::min(s.bytes, r.bytes));
    met(sent.front()), met(expected.front());
    sent.pop_front(), expected.pop_front();
  }
}
void match_gathers(world& w) {
  while (std::all_of(w.gathers.begin(), w.gathers.end(), [](auto const& q) { return !q.empty(); })) {
    for (auto const& to : w.gathers)
      for (std::size_t r = 0; r < w.gathers.size(); ++r) {
        operation const &s = w.gathers[r].front().what, &t = to.front().what;
        if (s.bytes != t.bytes)
          complain(w, "ranks gather blocks of " + std::to_string(s.bytes) + " and " + std::to_string(t.bytes) + " bytes");
        std::memmove(t.to + r * t.bytes, s.from, std::min(s.bytes, t.bytes));
      }
    for (auto& q : w.gathers) met(q.front()), q.pop_front();
  }
}
template <class T>
void add_up(world const& w, std::size_t bytes) {
  std::vector<T> total(bytes / sizeof(T), T(0));
  for (std::size_t r = w.sums.size(); r-- > 0;) // any order but that of ranks
    for (std::size_t i = 0; i < total.size(); ++i) {
      T x;
      std::memcpy(&x, w.sums[r].front().what.from + i * sizeof(T), sizeof(T));
      total[i] = T(total[i] + x);
    }
  for (auto const& q : w.sums) std::memcpy(q.front().what.to, total.data(), bytes);
}
void match_sums(world& w) {
  while (std::all_of(w.sums.begin(), w.sums.end(), [](auto const& q) { return !q.empty(); })) {
    operation const& first = w.sums[0].front().what;
    for (auto const& q : w.sums)
      if (operation const& o = q.front().what; o.bytes != first.bytes || o.type != first.type)
        return complain(w, "ranks add up " + std::to_string(first.bytes) + " and " + std::to_string(o.bytes) + " bytes");
    switch (first.type) {
    case ncclFloat32:
      add_up<float>(w, first.bytes);
      break;
    case ncclFloat64:
      add_up<double>(w, first.bytes);
      break;
    case ncclFloat16:
      add_up<sp::fp16>(w, first.bytes);
      break;
    case ncclBfloat16:
      add_up<sp::bf16>(w, first.bytes);
      break;
    case ncclInt8:
      add_up<std::int8_t>(w, first.bytes);
      break;
    case ncclUint8:
      add_up<std::uint8_t>(w, first.bytes);
      break;
    case ncclInt32:
      add_up<std::int32_t>(w, first.bytes);
      break;
    case ncclUint32:
      add_up<std::uint32_t>(w, first.bytes);
      break;
    case ncclInt64:
      add_up<std::int64_t>(w, first.bytes);
      break;
    case ncclUint64:
      add_up<std::uint64_t>(w, first.bytes);
      break;
    default:
      return complain(w, "a sum of a type that this fake does not add up");
    }
    for (auto& q : w.sums) met(q.front()), q.pop_front();
  }
}
/// What a group that ends early has posted is there no more.
void withdraw(world& w, std::shared_ptr<launch> const& l) {
  auto gone = [&](posted const& p) { return p.by == l; };
  for (auto* list : {&w.sends, &w.receives})
    for (auto& [pair, queue] : *list) std::erase_if(queue, gone);
  for (auto* list : {&w.gathers, &w.sums})
    for (auto& queue : *list) std::erase_if(queue, gone);
}

std::string what_is_missing(ncclComm_t comm, std::vector<operation> const& list) {
  std::string text = "rank " + std::to_string(comm->rank) + " waits for ever in a group with";
  for (operation const& o : list)
    text += o.kind == operation::gather || o.kind == operation::sum
                ? " everybody"
                : (o.kind == operation::send ? " a send to " : " a receive from ") + std::to_string(o.peer);
  return text;
}

/// The streams of a device go on by themselves; the fake's go on when somebody asks.
void ask(std::set<cudaStream_t> const streams, lock_type& lock) {
  lock.unlock();
  for (cudaStream_t s : streams) support::ask_stream(s);
  lock.lock();
}
void ask_all(world& w, lock_type& lock) {
  std::set<cudaStream_t> streams;
  for (ncclComm_t c : w.comms)
    if (c && c->alive) streams.insert(c->streams.begin(), c->streams.end());
  ask(streams, lock);
}
/// As NCCL waits in the end of a communicator.
void wait_for_end(ncclComm_t comm, char const* call, lock_type& lock) {
  auto const end = std::chrono::steady_clock::now() + all().patience;
  auto over = [&] { return comm->queued == 0 && comm->in_graphs.use_count() == 1; };
  while (!all().changed.wait_for(lock, std::chrono::milliseconds(1), over)) {
    if (std::chrono::steady_clock::now() > end)
      return all().complaints.push_back(
          "rank " + std::to_string(comm->rank) + " waits for ever in " + call +
          (comm->queued > 0 ? ": its work is queued behind what does not end" : ": a graph that has captured its work is alive"));
    ask(comm->streams, lock);
  }
}
/// The split under way has ended: NCCL writes what it has made.
void finish_split(ncclComm_t comm) {
  world& w = *comm->in;
  if (!comm->split.to || w.split_generation <= comm->split.generation) return;
  for (ncclComm_t c : w.parts[{comm->split.generation, comm->split.color}]->comms)
    if (c->parent_rank == comm->rank) {
      c->alive = true;
      c->in_progress = comm->in_progress, c->making = std::max(comm->in_progress, 0);
      std::atomic_ref(*comm->split.to).store(c, std::memory_order_release);
    }
  comm->split.to = nullptr;
}

void run(ncclComm_t comm, std::vector<operation> const& list, bool queued) {
  lock_type lock(all().mutex);
  struct passed {
    int& queued;
    ~passed() { queued -= queued > 0, all().changed.notify_all(); }
  };
  std::optional<passed> at_end; // of the stream, not of a graph
  if (queued) at_end.emplace(comm->queued);
  world& w = *comm->in;
  if (comm->aborted || comm->async != ncclSuccess) return;
  if (comm->now) return complain(w, "two groups of rank " + std::to_string(comm->rank) + " run at the same time");
  auto const l = std::make_shared<launch>(launch{comm, list.size()});
  comm->now = l;
  for (operation const& o : list) {
    if (o.kind == operation::gather) {
      w.gathers[std::size_t(comm->rank)].push_back({l, o});
      match_gathers(w);
      continue;
    }
    if (o.kind == operation::sum) {
      w.sums[std::size_t(comm->rank)].push_back({l, o});
      match_sums(w);
      continue;
    }
    std::pair const pair = o.kind == operation::send ? std::pair(comm->rank, o.peer) : std::pair(o.peer, comm->rank);
    (o.kind == operation::send ? w.sends : w.receives)[pair].push_back({l, o});
    match(w, pair);
  }
  all().changed.notify_all();
  auto const end = std::chrono::steady_clock::now() + all().patience;
  auto over = [&] { return l->left == 0 || comm->aborted || comm->async != ncclSuccess; };
  while (!all().changed.wait_for(lock, std::chrono::milliseconds(1), over)) {
    if (std::chrono::steady_clock::now() > end) complain(w, what_is_missing(comm, list));
    ask_all(w, lock);
  }
  if (l->left > 0) withdraw(w, l);
  comm->now = nullptr;
  all().changed.notify_all();
}

// ---- as the host calls it ---------------------------------------------------------------------------------------------------------

/// One call of a group, or a group of its own.
ncclResult_t add(char const* name, ncclComm_t comm, cudaStream_t stream, operation what) {
  bool const alone = mine().depth == 0;
  if (alone) static_cast<void>(ncclGroupStart());
  ncclResult_t result = ncclSuccess;
  {
    lock_type const lock(all().mutex);
    result = planned_failure(name);
    if (result == ncclSuccess && !usable(comm, name)) result = ncclInvalidArgument;
    if (result == ncclSuccess && what.kind < operation::gather && (what.peer < 0 || what.peer >= comm->in->size))
      result = refused(comm, ncclInvalidArgument, "a peer of rank " + std::to_string(what.peer));
    if (result == ncclSuccess) mine().calls.push_back({comm, stream, what});
    if (result != ncclSuccess) mine().bad = result;
  }
  if (!alone) return result;
  ncclResult_t const ended = ncclGroupEnd();
  return result != ncclSuccess ? result : ended;
}
std::byte* real(void const* p) { return support::elsewhere_region::get().real(static_cast<std::byte*>(const_cast<void*>(p))); }
void count(ncclComm_t comm, operation const& o) {
  counts& n = comm->given;
  (o.kind == operation::send      ? n.sends
   : o.kind == operation::receive ? n.receives
   : o.kind == operation::gather  ? n.gathers
                                  : n.sums) += 1;
  if (o.kind == operation::send) n.bytes_sent += long(o.bytes);
}

/// Why a device that may move these bytes cannot; empty: all can.
std::string closed_memory(ncclComm_t comm, operation const& o) {
  for (ncclComm_t c : comm->in->comms)
    for (void const* p : o.addresses)
      if (c && (o.kind >= operation::gather || c->rank == o.peer || c == comm))
        if (std::string why = support::closed_to(c->device, p); !why.empty()) return why;
  return {};
}

/// What the calls of one group gave one communicator, to its stream.
ncclResult_t launch_one(ncclComm_t comm, std::vector<group::call> const& calls) {
  std::vector<operation> list;
  cudaStream_t const stream = calls.front().stream;
  bool const captured = is_captured(stream);
  for (group::call const& c : calls)
    if (std::string const why = closed_memory(comm, c.what); !why.empty()) {
      std::fprintf(stderr, "fake NCCL: %s\n", why.c_str());
      lock_type const lock(all().mutex);
      complain(*comm->in, why);
    }
  {
    lock_type const lock(all().mutex);
    for (group::call const& c : calls) {
      if (c.stream != stream) return refused(comm, ncclInvalidUsage, "a group of one communicator on two streams");
      bool const new_peer = c.what.kind >= operation::gather ? comm->met.size() + 1 < std::size_t(comm->in->size)
                                                             : c.what.peer != comm->rank && !comm->met.contains(c.what.peer);
      if (captured && new_peer) return refused(comm, ncclInvalidUsage, "a peer is met for the first time in a capture");
      list.push_back(c.what);
    }
    for (operation const& o : list) {
      count(comm, o);
      if (o.kind >= operation::gather)
        for (int r = 0; r < comm->in->size; ++r) comm->met.insert(r);
      else
        comm->met.insert(o.peer);
    }
    if (comm->met.contains(comm->rank)) comm->met.erase(comm->rank);
    ++comm->given.groups;
    comm->streams.insert(stream);
    if (comm->in_progress >= 0) comm->questions = comm->in_progress;
    if (!captured && !comm->never_connects) ++comm->queued;
  }
  if (lock_type lock(all().mutex); comm->never_connects) {
    all().changed.wait_for(lock, all().patience, [&] { return comm->aborted; });
    return ncclRemoteError;
  }
  support::give_to_stream(stream, [comm, list, of = captured ? comm->in_graphs : nullptr] { run(comm, list, !of); });
  lock_type const lock(all().mutex);
  return comm->in_progress > 0 ? ncclInProgress : ncclSuccess;
}

} // namespace

/// Kernels that are loaded when they are launched first may wait for the device, and so for a rank whose kernel waits for this one.
static bool may_be_threads(int ranks) {
  if (ranks == 1 || support::loads_eagerly()) return true;
  std::fprintf(stderr, "fake NCCL: ranks that are threads need CUDA_MODULE_LOADING=EAGER before the first call of the runtime\n");
  return false;
}

counts given(ncclComm_t comm) {
  lock_type const lock(all().mutex);
  return comm->given;
}
std::vector<std::string> complaints() {
  lock_type const lock(all().mutex);
  return all().complaints;
}
void forget_complaints() {
  lock_type const lock(all().mutex);
  all().complaints.clear();
}
void patience(std::chrono::milliseconds longest) {
  lock_type const lock(all().mutex);
  all().patience = longest;
}
void fail_call(char const* name, ncclResult_t result, int good) {
  lock_type const lock(all().mutex);
  all().planned[name] = {result, good};
}
void set_async_error(ncclComm_t comm, ncclResult_t result) {
  lock_type const lock(all().mutex);
  comm->async = result;
  all().changed.notify_all();
}
void do_not_block(ncclComm_t comm, int questions) {
  lock_type const lock(all().mutex);
  comm->in_progress = questions;
}
void set_version(int number) {
  lock_type const lock(all().mutex);
  all().version = number;
}
void never_connect(ncclComm_t comm) {
  lock_type const lock(all().mutex);
  comm->never_connects = true;
}
void still_made(ncclComm_t comm, int questions) {
  lock_type const lock(all().mutex);
  comm->making = questions;
}
int alive() {
  lock_type const lock(all().mutex);
  return int(std::count_if(all().comms.begin(), all().comms.end(), [](auto const& c) { return c->alive; }));
}
bool is_alive(ncclComm_t comm) {
  lock_type const lock(all().mutex);
  return known(comm);
}
bool was_aborted(ncclComm_t comm) {
  lock_type const lock(all().mutex);
  return comm->aborted;
}

} // namespace fake_nccl

using namespace fake_nccl;

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  lock_type const lock(all().mutex);
  *version = all().version ? all().version : NCCL_VERSION_CODE;
  return planned_failure("ncclGetVersion");
}
char const* ncclGetErrorString(ncclResult_t result) {
  switch (int(result)) {
  case ncclSuccess:
    return "no error";
  case ncclSystemError:
    return "unhandled system error (fake)";
  case ncclInternalError:
    return "internal error (fake)";
  case ncclInvalidArgument:
    return "invalid argument (fake)";
  case ncclInvalidUsage:
    return "invalid usage (fake)";
  default:
    return "another result (fake)";
  }
}
char const* ncclGetLastError(ncclComm_t comm) {
  lock_type const lock(all().mutex);
  if (comm) all().complaints.push_back("ncclGetLastError is given a communicator, which another thread may be ending");
  return all().last_error.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  lock_type const lock(all().mutex);
  std::memset(id, 0, sizeof *id);
  unsigned long long const number = all().ids++;
  std::memcpy(id, &number, sizeof number);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
  int device = 0;
  static_cast<void>(cudaGetDevice(&device));
  lock_type lock(all().mutex);
  auto& in = all().worlds[std::string(id.internal, sizeof id.internal)];
  if (!in) in = std::make_shared<world>(world{size});
  if (size < 1 || rank < 0 || rank >= size || size != in->size) return ncclInvalidArgument;
  if (!may_be_threads(size)) return ncclInvalidUsage;
  in->comms.resize(std::size_t(size));
  in->gathers.resize(std::size_t(size)), in->sums.resize(std::size_t(size));
  all().comms.push_back(std::unique_ptr<ncclComm>(new ncclComm{in, rank, device}));
  *comm = in->comms[std::size_t(rank)] = all().comms.back().get();
  ++in->joined;
  all().changed.notify_all();
  auto const w = in;
  if (!all().changed.wait_for(lock, all().patience, [&] { return w->joined == size; })) return ncclSystemError;
  return ncclSuccess;
}
ncclResult_t ncclCommInitAll(ncclComm_t* comms, int size, int const* devices) {
  if (!may_be_threads(size)) return ncclInvalidUsage;
  lock_type const lock(all().mutex);
  auto const in = std::make_shared<world>(world{size, size});
  in->gathers.resize(std::size_t(size)), in->sums.resize(std::size_t(size));
  for (int r = 0; r < size; ++r) {
    all().comms.push_back(std::unique_ptr<ncclComm>(new ncclComm{in, r, devices ? devices[r] : r}));
    in->comms.push_back(comms[r] = all().comms.back().get());
  }
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  lock_type lock(all().mutex);
  if (!usable(comm, "ncclCommDestroy")) return ncclInvalidArgument;
  if (comm->now) complain(*comm->in, "rank " + std::to_string(comm->rank) + " destroys a communicator whose group runs");
  wait_for_end(comm, "ncclCommDestroy", lock);
  comm->alive = false;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  lock_type lock(all().mutex);
  if (!usable(comm, "ncclCommAbort")) return ncclInvalidArgument;
  comm->alive = false;
  comm->aborted = true;
  all().changed.notify_all();
  finish_split(comm);
  wait_for_end(comm, "ncclCommAbort", lock);
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  lock_type const lock(all().mutex);
  if (ncclResult_t const bad = planned_failure("ncclCommGetAsyncError"); bad != ncclSuccess) return bad;
  if (!usable(comm, "ncclCommGetAsyncError")) return ncclInvalidArgument;
  if (comm->making > 0) return --comm->making, *result = ncclInProgress, ncclSuccess;
  if (comm->split.to && comm->questions == 0) finish_split(comm);
  if (comm->split.to && comm->questions == 0) return *result = ncclInProgress, ncclSuccess;
  *result = comm->async == ncclSuccess && comm->questions > 0 ? (--comm->questions, ncclInProgress) : comm->async;
  return ncclSuccess;
}
ncclResult_t ncclCommCount(ncclComm_t const comm, int* count) {
  lock_type const lock(all().mutex);
  return usable(comm, "ncclCommCount") && comm->making == 0 ? (*count = comm->in->size, ncclSuccess) : ncclInvalidArgument;
}
ncclResult_t ncclCommCuDevice(ncclComm_t const comm, int* device) {
  lock_type const lock(all().mutex);
  return usable(comm, "ncclCommCuDevice") && comm->making == 0 ? (*device = comm->device, ncclSuccess) : ncclInvalidArgument;
}
ncclResult_t ncclCommUserRank(ncclComm_t const comm, int* rank) {
  lock_type const lock(all().mutex);
  return usable(comm, "ncclCommUserRank") && comm->making == 0 ? (*rank = comm->rank, ncclSuccess) : ncclInvalidArgument;
}
ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* made, ncclConfig_t*) {
  lock_type lock(all().mutex);
  if (ncclResult_t const bad = planned_failure("ncclCommSplit"); bad != ncclSuccess) return bad;
  if (!usable(comm, "ncclCommSplit") || color < 0) return ncclInvalidArgument;
  *made = nullptr;
  world& w = *comm->in;
  if (comm->now) complain(w, "rank " + std::to_string(comm->rank) + " splits a communicator whose group runs");
  int const mine = w.split_generation;
  w.splits.push_back({comm->rank, color, key});
  if (w.splits.size() == std::size_t(w.size)) { // the last one makes them all
    std::stable_sort(w.splits.begin(), w.splits.end(), [](auto const& a, auto const& b) {
      return std::array{a[1], a[2], a[0]} < std::array{b[1], b[2], b[0]};
    });
    for (auto const& [rank, c, k] : std::exchange(w.splits, {})) {
      auto& part = w.parts[{mine, c}];
      if (!part) part = std::make_shared<world>();
      all().comms.push_back(std::unique_ptr<ncclComm>(new ncclComm{part, part->size++, w.comms[std::size_t(rank)]->device}));
      part->comms.push_back(all().comms.back().get());
      part->gathers.resize(std::size_t(part->size)), part->sums.resize(std::size_t(part->size));
      all().comms.back()->parent_rank = rank;
      all().comms.back()->alive = false; // until its rank has it
    }
    ++w.split_generation;
    all().changed.notify_all();
  }
  comm->split = {made, mine, color};
  if (comm->in_progress >= 0) return comm->questions = comm->in_progress, ncclInProgress;
  if (!all().changed.wait_for(lock, all().patience, [&] { return w.split_generation > mine || comm->aborted; }) || comm->aborted)
    return comm->split.to = nullptr, ncclSystemError;
  finish_split(comm);
  return ncclSuccess;
}

ncclResult_t ncclSend(void const* from, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return add("ncclSend", comm, stream, {operation::send, real(from), nullptr, count * bytes_of(type), peer, type, {from}});
}
ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return add("ncclRecv", comm, stream, {operation::receive, nullptr, real(to), count * bytes_of(type), peer, type, {to}});
}
ncclResult_t ncclAllGather(void const* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return add("ncclAllGather", comm, stream,
             {operation::gather, real(from), real(to), count * bytes_of(type), -1, type, {from, to}});
}

ncclResult_t ncclAllReduce(void const* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  if (op != ncclSum) return ncclInvalidArgument;
  return add("ncclAllReduce", comm, stream, {operation::sum, real(from), real(to), count * bytes_of(type), -1, type, {from, to}});
}

ncclResult_t ncclGroupStart() {
  lock_type const lock(all().mutex);
  ncclResult_t const bad = planned_failure("ncclGroupStart");
  if (bad == ncclSuccess) ++mine().depth;
  return bad;
}
ncclResult_t ncclGroupEnd() {
  group& g = mine();
  if (g.depth == 0) return ncclInvalidUsage;
  if (--g.depth > 0) return ncclSuccess;
  std::vector<group::call> const calls = std::exchange(g.calls, {});
  ncclResult_t result = std::exchange(g.bad, ncclSuccess);
  {
    lock_type const lock(all().mutex);
    if (result == ncclSuccess) result = planned_failure("ncclGroupEnd");
  }
  if (result != ncclSuccess) return result; // nothing of it is started
  std::vector<ncclComm_t> comms;
  for (group::call const& c : calls)
    if (std::find(comms.begin(), comms.end(), c.comm) == comms.end()) comms.push_back(c.comm);
  for (ncclComm_t comm : comms) {
    std::vector<group::call> of;
    std::copy_if(calls.begin(), calls.end(), std::back_inserter(of), [&](auto const& c) { return c.comm == comm; });
    if (ncclResult_t const one = launch_one(comm, of); one != ncclSuccess) result = one;
  }
  return result;
}

} // extern "C"
