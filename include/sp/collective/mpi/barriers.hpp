// Barriers of a group of processes, which may carry a few numbers of each rank to all: log4(ranks) rounds of messages.
// Ranks in barriers of different operations are told so; every wait has the family's deadline, and a timeout names who is missing.
#pragma once

#include <sp/collective/mpi/exchange.hpp>

namespace sp::detail {

/// In round k a rank sends to those 4^k, 2 * 4^k and 3 * 4^k places further on and waits for those as far before it, so the last
/// messages that arrive speak for everybody. Where values are gathered, a message holds those of the 4^k ranks up to its sender.
/// Three messages at a time make half as many rounds as one, and where processes share cores a round is what takes time.
class mpi_barriers : public mpi_exchanges {
public:
  using values = std::array<std::int64_t, 3>;

  mpi_barriers(std::shared_ptr<mpi_family> family, std::vector<int> world_ranks, int rank, int context)
      : mpi_exchanges(std::move(family), std::move(world_ranks), rank, context) {
    for (int stride = 1; stride < size(); stride *= 4)
      for (int j = 1; j < 4 && j * stride < size(); ++j) partners_.push_back({j * stride, stride});
    arrivals_.resize(2 * partners_.size());
  }

  /// Returns when every rank is in the barrier of the same operation.
  void barrier_of(operation_id const& op) {
    begin(op);
    exchange_rounds([](partner const&) { return std::size_t(0); });
    end();
  }
  /// The same, and everybody's values by rank, valid until the next barrier.
  [[nodiscard]] std::span<values const> all_gather(operation_id const& op, values const& mine) {
    begin(op);
    by_distance_.resize(std::size_t(size())); // of the rank that is so many places before this one
    by_distance_[0] = mine;
    exchange_rounds([&](partner const& p) { return std::size_t(std::min(p.stride, size() - p.distance)); });
    end();
    by_rank_.resize(by_distance_.size());
    for (int r = 0; r < size(); ++r) by_rank_[std::size_t(r)] = by_distance_[std::size_t((rank_ - r + size()) % size())];
    return by_rank_;
  }

protected:
  void receive_barrier(int peer, mpi_control const& n, std::byte const* data, std::size_t bytes) {
    std::size_t k = 0;
    while (k < partners_.size() && before(k) != peer) ++k;
    if (k == partners_.size()) return;
    progress_[std::size_t(peer)].barriers = std::int64_t(n.number + 1);
    message& m = arrival(k, n.number);
    if (m.head.number != n.number || m.head.kind != mpi_control::barrier) m.list.clear();
    m.head = n;
    std::size_t const from = m.list.size(), more = bytes / sizeof(values);
    m.list.resize(from + more);
    if (more > 0) std::memcpy(m.list.data() + from, data, more * sizeof(values));
    compare_order(peer, std::uint64_t(n.wants), n.number + 1, n.primitive);
    if (in_barrier_ && n.number == mine_.number) compare(peer, n);
  }

  flight_recorder::ticket barrier_flight_ = 0; ///< of the operation that the barrier is part of

private:
  /// Sent to the rank so many places further on, and awaited from the rank as many before; of the round of this stride.
  struct partner {
    int distance, stride;
  };
  /// From one partner. Long lists come in several messages.
  struct message {
    mpi_control head{.kind = mpi_control::failure}; ///< not a barrier: nothing has come
    std::vector<values> list;
  };
  static constexpr std::size_t values_in_a_message = (mpi_link::smallest_capacity - sizeof(mpi_control)) / sizeof(values);

  int next(std::size_t k) const { return (rank_ + partners_[k].distance) % size(); }
  int before(std::size_t k) const { return (rank_ + size() - partners_[k].distance) % size(); }
  /// A peer is at most one barrier ahead: it cannot finish the next one without us.
  message& arrival(std::size_t k, std::uint64_t number) { return arrivals_[2 * k + number % 2]; }

  void begin(operation_id const& op) {
    forget_replies();
    id_ = op;
    in_barrier_ = true;
    mine_ = mpi_control{};
    mine_.kind = mpi_control::barrier;
    mine_.context = context();
    mine_.number = barriers_++;
    mine_.gives = op.number;
    mine_.purpose = op.kind;
    mine_.wants = std::int64_t(entered_);
    mine_.name(op.primitive);
    for (std::size_t k = 0; k < partners_.size() && !family_->failed(); ++k)
      if (message const& m = arrival(k, mine_.number); is_of_this_barrier(m)) compare(before(k), m.head);
  }
  void end() {
    in_barrier_ = false;
    if (family_->failed()) throw_cause(id_.primitive, int(mine_.number));
  }
  /// `values_for(partner)`: how many values are sent to each, and come from each.
  template <class ValuesFor>
  void exchange_rounds(ValuesFor&& values_for) {
    for (std::size_t first = 0, last = 0; first < partners_.size() && !family_->failed(); first = last) {
      while (last < partners_.size() && partners_[last].stride == partners_[first].stride) ++last;
      for (std::size_t k = first; k < last; ++k) post(k, values_for(partners_[k]));
      for (std::size_t k = first; k < last && !family_->failed(); ++k) {
        std::size_t const n = values_for(partners_[k]);
        await(k, n);
        if (!family_->failed())
          std::copy_n(arrival(k, mine_.number).list.begin(), n, by_distance_.begin() + (n > 0 ? partners_[k].distance : 0));
      }
    }
  }
  /// Sends the first n values known.
  void post(std::size_t k, std::size_t n) {
    std::size_t at = 0;
    do {
      std::size_t const part = std::min(n - at, values_in_a_message);
      family_->link().send(world(next(k)), mine_, part * sizeof(values), [&](std::byte* to) {
        if (part > 0) std::memcpy(to, by_distance_.data() + at, part * sizeof(values));
      });
      at += part;
    } while (at < n);
  }
  void await(std::size_t k, std::size_t n) {
    message const& m = arrival(k, mine_.number);
    auto has_come = [&] { return is_of_this_barrier(m) && m.list.size() >= n; };
    if (has_come()) return;
    int const peer = before(k);
    recorder().waiting(barrier_flight_, world(peer));
    auto gone = [&] {
      if (!has_come() && family_->has_returned(world(peer))) fail_returned(peer, id_.primitive, int(mine_.number));
    };
    progress_queries queries(family_->options().deadline);
    family_->wait(
        has_come, gone, [&](auto left) { queries.everybody_now(left) ? query_progress() : query_progress_of(peer); },
        [&] { too_late(peer); });
  }
  /// Names the ranks that are not known to have come; the one waited for may be waiting itself.
  void too_late(int peer) {
    int first = -1;
    std::string missing;
    for (int r = 0; r < size(); ++r) {
      if (r == rank_ || progress_[std::size_t(r)].barriers > std::int64_t(mine_.number)) continue;
      missing += (missing.empty() ? "rank " : ", rank ") + std::to_string(r);
      if (first < 0) first = r;
    }
    if (first < 0) missing = "rank " + std::to_string(first = peer);
    fail_late(first, missing, id_.primitive, int(mine_.number));
  }

  bool is_of_this_barrier(message const& m) const { return m.head.kind == mpi_control::barrier && m.head.number == mine_.number; }
  void compare(int peer, mpi_control const& n) {
    if (n.purpose == mine_.purpose && n.gives == mine_.gives && n.same_primitive(mine_)) return;
    fail_operations(peer, purpose_text(mine_), purpose_text(n), id_.primitive, int(mine_.number));
  }
  static std::string purpose_text(mpi_control const& n) {
    return operation_id::text(operation_id::kind_type(n.purpose), {n.primitive, ::strnlen(n.primitive, mpi_control::text_size)},
                              n.gives);
  }

  bool in_barrier_ = false;
  operation_id id_{};
  mpi_control mine_{};
  std::vector<partner> partners_;
  std::vector<message> arrivals_; ///< by partner, for this barrier and the next
  std::vector<values> by_distance_, by_rank_;
};

} // namespace sp::detail
