// What a group of processes does for its family: it takes its messages, moves its parcels, and cancels what is under way.
// The family knows its groups by this interface only.
#pragma once

#include <chrono>

#include <sp/collective/mpi/link.hpp>

namespace sp::detail {

/// Receives the messages of one group. Ranks here are those of the root.
class mpi_receiver {
public:
  using time = std::chrono::steady_clock::time_point;
  virtual void receive(int peer, mpi_control const& m, std::byte const* data, std::size_t bytes) = 0;
  virtual void cancel_receives() noexcept = 0;            ///< without waiting: close() of each exchange waits for what has begun
  virtual void advance_exchanges() = 0;                   ///< large parcels of all open exchanges
  virtual void report_progress(mpi_control& m) const = 0; ///< for a peer that waits
  int context() const { return context_; }
  mpi_receiver(mpi_receiver const&) = delete;

protected:
  explicit mpi_receiver(int context) : context_(context) {}
  ~mpi_receiver() = default;

private:
  int context_;
};

} // namespace sp::detail
