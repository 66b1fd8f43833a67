// The ranks of a training run as threads of this process; mpi/ranks.hpp has the same class over processes, cuda/ranks.hpp over a device.
// A program is built with one of these folders in its include path; everything else of the trainer is written once.
#pragma once

#include <algorithm>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <sp/threads.hpp>

namespace trainer {

class ranks {
public:
  using communicator = sp::threads;
  static constexpr bool on_device = false;
  static std::string are() { return "threads of this machine"; }

  ranks(int&, char**&) {}

  /// Why nothing can be run here; empty: it can.
  std::string missing() const { return {}; }
  /// How many a plan may take.
  int most() const { return 4; }
  /// Whether this process prints and writes: it holds rank 0.
  bool lead() const { return true; }
  /// Cores that the threads may run on.
  int cores() const { return std::max(1, int(std::thread::hardware_concurrency())); }
  /// How many of n ranks are in this process.
  static int in_process(int n) { return n; }
  /// Runs body(communicator) on n ranks. Returns what each of them returned, where they lead; elsewhere nothing.
  template <class Body>
  auto run(int n, Body const& body) {
    std::vector<std::invoke_result_t<Body const&, communicator const&>> results(static_cast<std::size_t>(n));
    sp::threads::run(n, [&](communicator const& world) { results[std::size_t(world.rank())] = body(world); });
    return results;
  }
  /// The largest exit code of all processes.
  int agree(int code) const { return code; }
};

} // namespace trainer
