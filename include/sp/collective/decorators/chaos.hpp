// A communicator that misbehaves on purpose: seeded delays, a failing call, corrupted, short or doubled messages.
// What it does depends on (seed, rank, call number) alone, so every failure replays; it has the abilities of what it wraps.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <sp/collective/decorators/forwarding.hpp>
#include <sp/collective/solo.hpp>

namespace sp {

/// Numbers count from 0; -1 means never. Each rank counts for itself, over the communicator and all groups split from it.
struct chaos_options {
  std::uint64_t seed = 0;
  std::chrono::microseconds max_delay{0}; ///< longest delay before a call or a wait; some calls only yield, some go straight on
  index_t fail_at = -1;      ///< this call (exchange, barrier, publish, split, ...) throws backend_error instead of running
  index_t corrupt_at = -1;   ///< in this message received from another rank one bit is flipped
  index_t truncate_at = -1;  ///< of this message sent to another rank the last rows are missing
  index_t duplicate_at = -1; ///< this message to another rank holds its bytes twice
};

namespace detail {

/// A counter-based generator: the n-th number of a stream, by the finaliser of splitmix64.
constexpr std::uint64_t chaos_number(std::uint64_t seed, std::uint64_t stream, std::uint64_t n) {
  std::uint64_t x = seed + 0x9e3779b97f4a7c15u * (stream * 0x100000001b3u + n + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

struct chaos_state {
  chaos_options options;
  int rank = 0;
  index_t calls = 0, events = 0, sent = 0, received = 0;

  std::uint64_t draw() { return chaos_number(options.seed, std::uint64_t(rank), std::uint64_t(events++)); }

  void delay() {
    std::uint64_t const x = draw();
    if (options.max_delay.count() <= 0 || x % 4 == 0) return;
    if (x % 4 == 1) return std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(std::int64_t((x >> 2) % std::uint64_t(options.max_delay.count() + 1))));
  }
  /// Opens a call: waits its delay and fails if it is its turn.
  void call(char const* primitive, int size) {
    delay();
    if (index_t const n = calls++; n == options.fail_at)
      fail({errc::backend_error, "call " + std::to_string(n) + " fails as asked (chaos)", "Leave fail_at at -1", primitive, rank,
            size, int(n)});
  }
};

/// The parcels of one exchange as chaos sends them; null in the usual case that nothing is changed.
struct chaos_parcels {
  std::vector<parcel> sends;
  std::vector<piece> shortened, doubled;

  /// Without the last row of the last piece that has bytes.
  void truncate(parcel& p) {
    shortened.clear();
    for (piece const& x : p.pieces) for_each_plain(x, [&](piece const& plain) { shortened.push_back(plain); });
    while (!shortened.empty() && shortened.back().bytes() == 0) shortened.pop_back();
    piece& last = shortened.back();
    int d = 0;
    while (d < last.rank && last.extents[std::size_t(d)] == 1) ++d;
    if (d == last.rank)
      shortened.pop_back();
    else
      --last.extents[std::size_t(d)];
    p.pieces = shortened;
  }
  void duplicate(parcel& p) {
    doubled.assign(p.pieces.begin(), p.pieces.end());
    doubled.insert(doubled.end(), p.pieces.begin(), p.pieces.end());
    p.pieces = doubled;
  }
};

/// Flips one bit of the bytes that `list` holds.
inline void flip_bit(std::span<piece const> list, std::uint64_t random) {
  index_t at = index_t(random / 8 % std::uint64_t(total_bytes(list)));
  segment_cursor c(list);
  while (at >= c.left()) {
    at -= c.left();
    c.advance(c.left());
  }
  c.data()[at] ^= std::byte(1u << (random % 8));
}

template <token Token>
class chaos_token {
public:
  chaos_token(std::shared_ptr<chaos_state> state, std::unique_ptr<chaos_parcels> parcels, Token inner,
              std::span<piece const> victim)
      : state_(std::move(state)), parcels_(std::move(parcels)), inner_(std::move(inner)), victim_(victim) {}
  chaos_token(chaos_token&&) noexcept = default;
  chaos_token& operator=(chaos_token&& o) noexcept { // the old token dies in `old`, before the parcels it reads
    chaos_token old(std::move(o));
    std::swap(state_, old.state_);
    std::swap(parcels_, old.parcels_);
    std::swap(inner_, old.inner_);
    std::swap(victim_, old.victim_);
    return *this;
  }
  void wait() {
    state_->delay();
    inner_.wait();
    if (!victim_.empty()) flip_bit(victim_, state_->draw()); // which the host can read: chaos was not made otherwise
  }

private:
  std::shared_ptr<chaos_state> state_;
  std::unique_ptr<chaos_parcels> parcels_; // dies after the token that reads it
  Token inner_;
  std::span<piece const> victim_;
};

} // namespace detail

/// Wraps a communicator for tests. Handles of one rank, and groups made by its split(), share the counters. It flips bits on the host:
/// `corrupt_at` is `unsupported` over another memory and over work that is done later.
template <class C>
class chaos : public detail::forwarding<chaos<C>, C> {
  static_assert(communicator<C>, "sp::chaos wraps a communicator: give it rank(), size(), exchange(traffic) and memory_type");
  using base = detail::forwarding<chaos<C>, C>;

public:
  using base::rank, base::size;
  static constexpr bool forwards_queues = !std::is_same_v<typename base::memory_type, host_memory>;

  chaos(C inner, chaos_options options) : base(std::move(inner)), state_(std::make_shared<detail::chaos_state>()) {
    constexpr bool arrives_on_host = !forwards_queues && !has_own_queue<C>;
    if (!arrives_on_host && options.corrupt_at >= 0)
      fail({errc::unsupported, "chaos flips bits on the host, which cannot touch what this communicator receives",
            "Leave corrupt_at at -1", "chaos", rank(), size()});
    state_->options = options;
    state_->rank = rank();
  }

  /// Calls so far: what fail_at counts.
  index_t calls() const noexcept { return state_->calls; }

private:
  friend base;
  template <class>
  friend class chaos;
  chaos(C inner, std::shared_ptr<detail::chaos_state> state) : base(std::move(inner)), state_(std::move(state)) {}

  template <class Call>
  auto do_exchange(traffic const& t, Call&& call) const {
    state_->call(t.primitive, size());
    std::unique_ptr<detail::chaos_parcels> changed;
    for (std::size_t i = 0; i < t.sends.size(); ++i) {
      if (t.sends[i].peer == rank() || total_bytes(t.sends[i].pieces) == 0) continue;
      index_t const n = state_->sent++;
      if (n != state_->options.truncate_at && n != state_->options.duplicate_at) continue;
      if (!changed)
        changed = std::make_unique<detail::chaos_parcels>(detail::chaos_parcels{{t.sends.begin(), t.sends.end()}, {}, {}});
      n == state_->options.truncate_at ? changed->truncate(changed->sends[i]) : changed->duplicate(changed->sends[i]);
    }
    std::span<piece const> victim;
    for (parcel const& p : t.receives)
      if (p.peer != rank() && total_bytes(p.pieces) > 0 && state_->received++ == state_->options.corrupt_at) victim = p.pieces;
    auto inner = call(traffic{t.primitive, changed ? std::span<parcel const>(changed->sends) : t.sends, t.receives});
    return detail::chaos_token(state_, std::move(changed), std::move(inner), victim);
  }

  template <class Call>
  decltype(auto) do_blocking(char const* primitive, Call&& call) const {
    state_->call(primitive, size());
    return call();
  }
  template <class Group>
  auto decorate(Group group) const {
    return chaos<Group>(std::move(group), state_);
  }

  std::shared_ptr<detail::chaos_state> state_;
};

static_assert(communicator<chaos<solo>> && has_barrier<chaos<solo>> && splittable<chaos<solo>> && peer_memory<chaos<solo>>);
static_assert(!has_broadcast<chaos<solo>> && !has_all_reduce<chaos<solo>, float> && !abortable<chaos<solo>>);

} // namespace sp
