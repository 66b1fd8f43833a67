// One rank for each GPU, with an ncclComm_t and a stream as a trainer has them: threads of this process, or with SP_MPI defined the
// processes of an MPI job. Nothing here belongs to sp. A rank that fails ends the program: the others would wait for it.
#pragma once

#include <atomic>
#include <cstdlib>
#include <thread>

#include <nccl.h>
#ifdef SP_MPI
#include <mpi.h>
#endif

#include "gpu.hpp"

namespace gpu {

inline void check(ncclResult_t code) {
  if (code != ncclSuccess) throw std::runtime_error(ncclGetErrorString(code));
}

/// At the begin of main, before the first call of the runtime. A kernel that is loaded when it is first launched may wait until the device is
/// idle, which it is not while a kernel of NCCL there waits for a rank that is a thread of the same process.
inline void load_kernels_at_once() { static_cast<void>(setenv("CUDA_MODULE_LOADING", "EAGER", 0)); }

/// What a rank throws ends the program: the others would wait for it.
template <class Body>
int run_rank(Body const& body) {
  try {
    return body();
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
  }
#ifdef SP_MPI
  MPI_Abort(MPI_COMM_WORLD, 1);
#endif
  std::_Exit(1);
}

#ifdef SP_MPI

/// body(ncclComm_t, cudaStream_t) on every process, the n-th of a machine on its n-th device. Returns what main returns.
template <class Body>
int run_on_devices(int, Body const& body) {
  MPI_Init(nullptr, nullptr);
  int rank = 0, size = 0, place = 0;
  MPI_Comm machine = MPI_COMM_NULL;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &machine);
  MPI_Comm_rank(machine, &place);
  int const here = devices();
  int everywhere = 0, result = skipped;
  MPI_Allreduce(&here, &everywhere, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  if (everywhere > 0)
    result = run_rank([&] {
      check(cudaSetDevice(place % here));
      ncclUniqueId id{};
      if (rank == 0) check(ncclGetUniqueId(&id));
      MPI_Bcast(&id, int(sizeof id), MPI_BYTE, 0, MPI_COMM_WORLD);
      ncclComm_t comm = nullptr;
      check(ncclCommInitRank(&comm, size, id, rank));
      stream const own;
      int const wrong = body(comm, own.handle);
      check(ncclCommDestroy(comm));
      return wrong;
    });
  MPI_Comm_free(&machine);
  MPI_Finalize();
  return result;
}

#else

/// Between GPUs of one process NCCL moves tensors from and to where they lie. Memory of cudaMalloc it opens by itself, memory of
/// cudaMallocAsync is open to its own device only, until somebody says otherwise.
inline void open_memory_to_peers(int devices) {
  for (int device = 0; device < devices; ++device) {
    cudaMemPool_t pool = nullptr;
    check(cudaDeviceGetDefaultMemPool(&pool, device));
    for (int peer = 0; peer < devices; ++peer) {
      int reaches = 0;
      if (peer != device) check(cudaDeviceCanAccessPeer(&reaches, peer, device));
      cudaMemAccessDesc access{};
      access.location.type = cudaMemLocationTypeDevice;
      access.location.id = peer;
      access.flags = cudaMemAccessFlagsProtReadWrite;
      if (reaches) check(cudaMemPoolSetAccess(pool, &access, 1));
    }
  }
}

/// body(ncclComm_t, cudaStream_t) on `size` threads, 0: as many as there are devices; rank r is on device r % devices. Returns what main
/// returns. More ranks than devices need NCCL 2.30 and NCCL_MULTI_RANK_GPU_ENABLE=1.
template <class Body>
int run_on_devices(int size, Body const& body) {
  int const here = devices();
  if (here == 0) return skipped;
  std::vector<int> device_of;
  for (int r = 0; r < (size > 0 ? size : here); ++r) device_of.push_back(r % here);
  std::vector<ncclComm_t> comms(device_of.size());
  run_rank([&] {
    open_memory_to_peers(here);
    check(ncclCommInitAll(comms.data(), int(comms.size()), device_of.data()));
    return 0;
  });
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < comms.size(); ++r)
    threads.emplace_back([&, r] {
      wrong += run_rank([&] {
        check(cudaSetDevice(device_of[r]));
        stream const own;
        return body(comms[r], own.handle);
      });
    });
  for (std::thread& t : threads) t.join();
  for (ncclComm_t comm : comms) static_cast<void>(ncclCommDestroy(comm));
  return wrong == 0 ? 0 : 1;
}

#endif

} // namespace gpu
