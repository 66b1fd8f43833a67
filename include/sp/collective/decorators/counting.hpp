// A communicator that keeps a ledger of what passes through it, per primitive, and otherwise is the one it wraps.
// It has exactly the abilities of the wrapped one; bytes to oneself are copies and are not counted.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include <sp/collective/decorators/forwarding.hpp>
#include <sp/collective/solo.hpp>

namespace sp {

/// What one rank did under one name.
struct ledger_entry {
  index_t operations = 0;     ///< calls
  index_t messages = 0;       ///< parcels with bytes, sent to other ranks
  index_t bytes_sent = 0;     ///< to other ranks
  index_t bytes_received = 0; ///< from other ranks
  index_t publications = 0;   ///< calls of publish
  index_t bytes_published = 0;

  ledger_entry& operator+=(ledger_entry const& o) {
    operations += o.operations;
    messages += o.messages;
    bytes_sent += o.bytes_sent;
    bytes_received += o.bytes_received;
    publications += o.publications;
    bytes_published += o.bytes_published;
    return *this;
  }
  friend bool operator==(ledger_entry const&, ledger_entry const&) = default;
};

/// Entries by primitive. One per rank, not thread safe; a name that has been seen before costs no allocation.
class ledger {
public:
  ledger_entry& at(std::string_view primitive) {
    auto it = entries_.find(primitive);
    return it != entries_.end() ? it->second : entries_.emplace(std::string(primitive), ledger_entry{}).first->second;
  }
  /// What was counted under a name; zeros when nothing was.
  [[nodiscard]] ledger_entry of(std::string_view primitive) const {
    auto it = entries_.find(primitive);
    return it != entries_.end() ? it->second : ledger_entry{};
  }
  [[nodiscard]] ledger_entry total() const {
    ledger_entry sum;
    for (auto const& [name, e] : entries_) sum += e;
    return sum;
  }
  std::map<std::string, ledger_entry, std::less<>> const& entries() const noexcept { return entries_; }
  void clear() { entries_.clear(); }

private:
  std::map<std::string, ledger_entry, std::less<>> entries_;
};

/// Wraps a communicator and counts into a ledger of the caller, which outlives it; so do the groups made by its split().
/// A wrapped ability that hides what it sends is counted by rule, whatever it does inside: all_reduce as a reduce_scatter and an
/// all_gather of the n / size values of each rank, reduce_scatter as everybody's part to everybody, broadcast as the root to each.
/// The fallbacks of operations.hpp are counted as they send: up to 256 values all_reduce is one all_gather of all n.
template <class C>
class counting : public detail::forwarding<counting<C>, C> {
  static_assert(communicator<C>, "sp::counting wraps a communicator: give it rank(), size(), exchange(traffic) and memory_type");
  using base = detail::forwarding<counting<C>, C>;

public:
  using base::rank, base::size;
  using typename base::memory_type;

  counting(C inner, ledger& counts) : base(std::move(inner)), ledger_(&counts) {}

private:
  friend base;

  template <class Call>
  auto do_exchange(traffic const& t, Call&& call) const {
    count(t);
    return call(t);
  }
  template <class Call>
  auto do_all_gather_v(traffic const& t, Call&& call) const {
    count({t.primitive, {}, t.receives});
    for (parcel const& p : t.sends) count_sent(t.primitive, (size() - 1) * total_bytes(p.pieces), size() - 1);
    return call(t);
  }
  template <class T, class Call>
  decltype(auto) do_all_reduce(view<T, 1, memory_type> const& v, Call&& call) const {
    auto bytes_of_part = [&](int r) {
      return (cut(v.extent(0), r + 1, size()) - cut(v.extent(0), r, size())) * index_t(sizeof(T));
    };
    count({"all_reduce", {}, {}});
    index_t const mine = bytes_of_part(rank());
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      index_t const theirs = bytes_of_part(r);
      count_sent("all_reduce", theirs, 1); // values that r sums
      count_sent("all_reduce", mine, 1);   // sums of this rank
      ledger_->at("all_reduce").bytes_received += mine + theirs;
    }
    return call();
  }
  template <class T, class Call>
  decltype(auto) do_reduce_scatter(std::span<view<T, 1, memory_type> const> parts, view<T, 1, memory_type> const& mine,
                                   Call&& call) const {
    count({"reduce_scatter", {}, {}});
    for (int r = 0; r < size(); ++r)
      if (r != rank()) count_sent("reduce_scatter", parts[std::size_t(r)].extent(0) * index_t(sizeof(T)), 1);
    ledger_->at("reduce_scatter").bytes_received += (size() - 1) * mine.extent(0) * index_t(sizeof(T));
    return call();
  }
  template <class Call>
  decltype(auto) do_broadcast(std::span<piece const> pieces, int root, Call&& call) const {
    count({"broadcast", {}, {}});
    if (rank() == root) count_sent("broadcast", (size() - 1) * total_bytes(pieces), size() - 1);
    if (rank() != root) ledger_->at("broadcast").bytes_received += total_bytes(pieces);
    return call(pieces);
  }
  template <class Call>
  auto do_publish(char const* primitive, std::span<piece const> mine, Call&& call) const {
    ledger_entry& e = ledger_->at(primitive);
    ++e.operations;
    ++e.publications;
    e.bytes_published += total_bytes(mine);
    return call();
  }
  /// Barriers.
  template <class Call>
  decltype(auto) do_blocking(char const* primitive, Call&& call) const {
    ++ledger_->at(primitive).operations;
    return call();
  }
  /// Making a group is not counted.
  template <class Call>
  auto do_split(Call&& call) const {
    return call();
  }
  template <class Group>
  auto decorate(Group group) const {
    return counting<Group>(std::move(group), *ledger_);
  }

  void count_sent(char const* primitive, index_t bytes, index_t messages) const {
    if (bytes == 0) return;
    ledger_entry& e = ledger_->at(primitive);
    e.messages += messages;
    e.bytes_sent += bytes;
  }
  void count(traffic const& t) const {
    ledger_entry& e = ledger_->at(t.primitive);
    ++e.operations;
    for (parcel const& p : t.sends)
      if (p.peer != rank()) count_sent(t.primitive, total_bytes(p.pieces), 1);
    for (parcel const& p : t.receives)
      if (p.peer != rank()) e.bytes_received += total_bytes(p.pieces);
  }

  ledger* ledger_;
};

static_assert(communicator<counting<solo>> && has_barrier<counting<solo>> && splittable<counting<solo>> &&
              peer_memory<counting<solo>>);
static_assert(!has_broadcast<counting<solo>> && !has_all_reduce<counting<solo>, float> && !abortable<counting<solo>>);

} // namespace sp
