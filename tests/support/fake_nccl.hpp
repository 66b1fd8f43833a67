// A fake of NCCL for tests: link tests/support/fake_nccl.cpp in place of the library. Ranks are threads of one process, streams are those
// of the fake CUDA runtime, bytes are copied by the host. It shows what is called, in which order, and what a group waits for.
#pragma once

#include <nccl.h>

#include <chrono>
#include <string>
#include <vector>

/// What tests ask of the fake. Its rules are NCCL's, and stricter where NCCL leaves it to luck:
///
/// - Messages of a pair match in the order in which both sides call; another size or type is an error, where NCCL would hang or corrupt.
/// - Nothing of a group ends before all of it can, and the stream waits as long: a peer that does not come is a hang. After patience() it
///   is told in complaints() instead, and the communicators have an asynchronous error.
/// - Groups of one communicator run one at a time; two at once, as from two streams, are a complaint.
/// - Ranks of one process need CUDA_MODULE_LOADING=EAGER, and memory of pools that is open to the devices of those that they meet.
/// - In a capture no peer may be met that has not been met before, and no communicator be made or ended.
/// - A communicator is split by all its ranks at once, and by none that has a group under way. Of one that does not block the result is null,
///   and is written behind the questions, or when it is aborted.
/// - To destroy or to abort a communicator waits for what streams have been given of it, and for graphs that have captured any of it, as long
///   as patience(). Aborting lets its own groups go on, nobody else's. It is not to be used afterwards, nor given to ncclGetLastError at all.
namespace fake_nccl {

/// What one communicator has been given since it was made.
struct counts {
  int groups = 0, sends = 0, receives = 0, gathers = 0, sums = 0;
  long bytes_sent = 0;
};
[[nodiscard]] counts given(ncclComm_t comm);

/// Ends of groups that could not end, groups at once, sizes that differ, ends of communicators in use, use of those that have ended. Empty in a test that is right.
[[nodiscard]] std::vector<std::string> complaints();
void forget_complaints();
/// How long a group may wait for its peers before that is a complaint; ten seconds at first.
void patience(std::chrono::milliseconds longest);

/// The call of this name fails once with `result`, after `good` calls that do not; of any thread.
void fail_call(char const* name, ncclResult_t result, int good = 0);
/// What ncclCommGetAsyncError says from now on.
void set_async_error(ncclComm_t comm, ncclResult_t result);
/// The next groups and splits of this communicator return ncclInProgress, and so do so many questions after each.
void do_not_block(ncclComm_t comm, int questions);
/// Groups of this communicator return only when it is aborted, or after patience(), and fail, as from ncclGroupEnd that connects it to a peer that does not come.
void never_connect(ncclComm_t comm);
/// NCCL is still at the making of this communicator, which knows nothing yet, for so many questions.
void still_made(ncclComm_t comm, int questions);
/// Communicators that nobody has destroyed or aborted.
[[nodiscard]] int alive();
/// What ncclGetVersion says; 0: the version of the header.
void set_version(int number);
[[nodiscard]] bool is_alive(ncclComm_t comm);
[[nodiscard]] bool was_aborted(ncclComm_t comm);

} // namespace fake_nccl
