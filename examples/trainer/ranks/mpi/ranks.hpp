// The ranks of a training run as processes that mpirun started; threads/ranks.hpp has the same class over threads.
// Processes that a plan does not need sleep until it is done, without a deadline: training may take hours.
#pragma once

#include <chrono>
#include <exception>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <unistd.h>

#include <sp/mpi.hpp>

namespace trainer {

class ranks {
public:
  using communicator = sp::mpi;
  static constexpr bool on_device = false;
  static std::string are() { return "processes under MPI"; }

  ranks(int& argc, char**& argv) : session_(argc, argv), world_(MPI_COMM_WORLD) {}

  std::string missing() const { return {}; }
  int most() const { return world_.size(); }
  bool lead() const { return world_.rank() == 0; }

  /// Of this machine: mpirun may bind a process to one of them, but the processes share them all.
  int cores() const { return int(sysconf(_SC_NPROCESSORS_ONLN)); }

  static int in_process(int) { return 1; }

  template <class Body>
  auto run(int n, Body const& body) {
    using result = std::invoke_result_t<Body const&, communicator const&>;
    static_assert(std::is_trivially_copyable_v<result>, "results travel as bytes");
    result mine{};
    std::exception_ptr failure;
    try {
      bool const needed = world_.rank() < n;
      communicator const group = world_.split(needed ? 0 : 1, world_.rank());
      if (needed) mine = body(group);
    } catch (std::exception const& e) { // whoever waits for this rank must learn of it
      failure = std::current_exception();
      world_.abort({sp::errc::peer_failed, e.what()});
    }
    bool const failed = agree(failure != nullptr) != 0; // also a barrier that everybody leaves together
    if (failure) std::rethrow_exception(failure);
    if (failed) world_.barrier(); // throws what the rank that failed had to say
    std::vector<result> all(lead() ? std::size_t(most()) : 0);
    MPI_Request request;
    MPI_Igather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
    sleep_until(request);
    if (lead()) all.resize(std::size_t(n));
    return all;
  }

  int agree(int code) const {
    int largest = 0;
    MPI_Request request;
    MPI_Iallreduce(&code, &largest, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD, &request);
    sleep_until(request);
    return largest;
  }

private:
  /// MPI from the first line of main to the last.
  struct session {
    session(int& argc, char**& argv) { MPI_Init(&argc, &argv); }
    session(session const&) = delete;
    ~session() { MPI_Finalize(); }
  };

  /// MPI_Wait would keep a processor busy that the ranks at work need.
  static void sleep_until(MPI_Request request) {
    int done = 0;
    for (MPI_Test(&request, &done, MPI_STATUS_IGNORE); !done; MPI_Test(&request, &done, MPI_STATUS_IGNORE))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  session session_;
  sp::mpi world_;
};

} // namespace trainer
