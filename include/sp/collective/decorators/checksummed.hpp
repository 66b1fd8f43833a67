// A communicator that adds a 64-bit checksum to every message and otherwise is the one it wraps.
// A message that was changed on its way is backend_error naming peer, primitive and bytes, and no rank goes on with its bytes.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sp/collective/decorators/forwarding.hpp>
#include <sp/collective/done_token.hpp>
#include <sp/collective/solo.hpp>
#include <sp/core/digest.hpp>

namespace sp {

namespace detail {

/// One exchange as it is really sent: the caller's pieces with 8 bytes behind each parcel. Reused, so that a steady state
/// allocates nothing.
struct checksummed_exchange {
  struct expected {
    std::size_t parcel, trailer;
    std::uint64_t seed;
  };
  char const* primitive = "";
  std::vector<parcel> sends, receives;
  std::vector<piece> pieces;           ///< of all parcels, one behind the other
  std::vector<std::uint64_t> trailers; ///< one per parcel
  std::vector<expected> arriving;

  static std::uint64_t checksum(std::span<piece const> list, std::uint64_t seed) {
    digest d(seed);
    for (segment_cursor c(list); !c.done();) {
      index_t const n = c.left();
      d.add(c.data(), std::size_t(n));
      c.advance(n);
    }
    return d.value();
  }

  /// Room for everything that follows: spans into the lists must not move.
  void open(traffic const& t) {
    std::size_t count = 0;
    for (auto list : {t.sends, t.receives})
      for (parcel const& p : list) count += p.pieces.size() + 1;
    primitive = t.primitive;
    sends.clear(), receives.clear(), pieces.clear(), trailers.clear(), arriving.clear();
    pieces.reserve(count);
    trailers.reserve(t.sends.size() + t.receives.size());
  }
  /// The parcel as it is, or with a trailer.
  parcel with_trailer(parcel const& p, std::uint64_t value) {
    std::size_t const first = pieces.size();
    pieces.insert(pieces.end(), p.pieces.begin(), p.pieces.end());
    trailers.push_back(value);
    pieces.push_back(as_piece(view<std::uint64_t, 1>(&trailers.back(), {1})));
    return {p.peer, {pieces.data() + first, p.pieces.size() + 1}};
  }
  void send(parcel const& p, std::uint64_t seed) { sends.push_back(with_trailer(p, checksum(p.pieces, seed))); }
  void receive(parcel const& p, std::uint64_t seed) {
    receives.push_back(with_trailer(p, 0)); // what an earlier message left behind is no checksum
    arriving.push_back({receives.size() - 1, trailers.size() - 1, seed});
  }
};

/// What the handles of one rank in one group share. Each message counts between its two ends, and the number is part of the
/// checksum: an old message of the right size is found, too.
struct checksummed_state {
  std::vector<std::uint64_t> sent, received; ///< messages so far, by peer
  std::uint64_t gathers = 0, broadcasts = 0;
  std::vector<std::unique_ptr<checksummed_exchange>> idle;

  explicit checksummed_state(int size) : sent(std::size_t(size)), received(std::size_t(size)) {}
  std::unique_ptr<checksummed_exchange> take() {
    if (idle.empty()) return std::make_unique<checksummed_exchange>();
    auto f = std::move(idle.back());
    idle.pop_back();
    return f;
  }
  void give(std::unique_ptr<checksummed_exchange> f) {
    if (f) idle.push_back(std::move(f));
  }
};

template <class C>
[[noreturn]] void fail_checksum(C const& comm, char const* primitive, int peer, index_t bytes) {
  error_info info{errc::backend_error,
                  "the checksum of a message of " + std::to_string(bytes) + " bytes from rank " + std::to_string(peer) +
                      " does not fit: bytes were changed on the way, or it is another message",
                  "The transport is broken; take this link or node out of use",
                  primitive,
                  comm.rank(),
                  comm.size()};
  info.peer = peer;
  if constexpr (abortable<C>) comm.abort(info);
  fail(std::move(info));
}

template <communicator C, token Token>
class checksummed_token {
public:
  checksummed_token(C const& comm, std::shared_ptr<checksummed_state> state, std::unique_ptr<checksummed_exchange> exchange,
                    Token inner)
      : comm_(comm), state_(std::move(state)), exchange_(std::move(exchange)), inner_(std::move(inner)) {}
  checksummed_token(checksummed_token&&) noexcept = default;
  checksummed_token& operator=(checksummed_token&& o) noexcept { // the old token dies in `old`, before the exchange it reads
    checksummed_token old(std::move(o));
    std::swap(comm_, old.comm_);
    std::swap(state_, old.state_);
    std::swap(exchange_, old.exchange_);
    std::swap(inner_, old.inner_);
    return *this;
  }
  void wait() {
    inner_.wait();
    if (!exchange_) return; // waited for before: the wrapped token has said what it thinks of that
    for (auto const& e : exchange_->arriving) {
      parcel const& p = exchange_->receives[e.parcel];
      auto const body = p.pieces.first(p.pieces.size() - 1);
      if (checksummed_exchange::checksum(body, e.seed) != exchange_->trailers[e.trailer])
        fail_checksum(comm_, exchange_->primitive, p.peer, total_bytes(body));
    }
    state_->give(std::move(exchange_));
  }

private:
  C comm_;
  std::shared_ptr<checksummed_state> state_;
  std::unique_ptr<checksummed_exchange> exchange_; // dies after the token that reads it
  Token inner_;
};

} // namespace detail

/// Wraps a communicator of host memory on all ranks. Messages grow by 8 bytes each and are read once more on either side. Not
/// covered: memory that is published (nothing is sent), and sums that the wrapped communicator computes itself; parcels to
/// oneself are copies. Around chaos it finds what chaos corrupts: sp::checksummed{sp::chaos{comm, options}}.
template <class C>
class checksummed : public detail::forwarding<checksummed<C>, C> {
  static_assert(communicator<C>,
                "sp::checksummed wraps a communicator: give it rank(), size(), exchange(traffic) and memory_type");
  using base = detail::forwarding<checksummed<C>, C>;
  static_assert(std::is_same_v<typename base::memory_type, host_memory>,
                "sp::checksummed reads messages on the CPU: host memory only");
  static_assert(!has_own_queue<C>, "sp::checksummed reads messages on the CPU when an operation has returned: it cannot wrap a "
                                   "communicator whose operations are work of a queue of its own");

public:
  using base::inner, base::rank, base::size;
  static constexpr bool forwards_queues = false;

  explicit checksummed(C comm) : base(std::move(comm)), state_(std::make_shared<detail::checksummed_state>(size())) {}

private:
  friend base;

  static bool has_bytes(parcel const& p) { return total_bytes(p.pieces) > 0; }

  template <class Call>
  auto do_exchange(traffic const& t, Call&& call) const {
    auto f = state_->take();
    f->open(t);
    // A parcel to a peer that does not exist goes as it is: the wrapped communicator refuses it. What it refuses was not sent,
    // and does not count.
    auto counts = [&](parcel const& p) { return has_bytes(p) && p.peer != rank() && p.peer >= 0 && p.peer < size(); };
    for (parcel const& p : t.sends) counts(p) ? f->send(p, state_->sent[std::size_t(p.peer)] + 1) : f->sends.push_back(p);
    for (parcel const& p : t.receives)
      counts(p) ? f->receive(p, state_->received[std::size_t(p.peer)] + 1) : f->receives.push_back(p);
    auto sent = call(traffic{f->primitive, f->sends, f->receives});
    for (parcel const& p : t.sends)
      if (counts(p)) ++state_->sent[std::size_t(p.peer)];
    for (parcel const& p : t.receives)
      if (counts(p)) ++state_->received[std::size_t(p.peer)];
    return make_token(std::move(f), std::move(sent));
  }
  template <class Call>
  auto do_all_gather_v(traffic const& t, Call&& call) const {
    auto f = state_->take();
    f->open(t);
    std::uint64_t const seed = state_->gathers + 1;
    for (parcel const& p : t.sends) has_bytes(p) ? f->send(p, seed) : f->sends.push_back(p);
    for (parcel const& p : t.receives) has_bytes(p) ? f->receive(p, seed) : f->receives.push_back(p);
    auto sent = call(traffic{f->primitive, f->sends, f->receives});
    ++state_->gathers;
    return make_token(std::move(f), std::move(sent));
  }
  template <class Call>
  void do_broadcast(std::span<piece const> pieces, int root, Call&& call) const {
    auto f = state_->take();
    parcel const all{root, pieces};
    std::uint64_t const seed = state_->broadcasts + 1;
    f->open({"broadcast", {&all, 1}, {}});
    parcel const with_checksum =
        f->with_trailer(all, rank() == root ? detail::checksummed_exchange::checksum(pieces, seed) : std::uint64_t{0});
    detail::token_of([&]() -> decltype(auto) { return call(with_checksum.pieces); }).wait();
    ++state_->broadcasts;
    if (detail::checksummed_exchange::checksum(pieces, seed) != f->trailers[0])
      detail::fail_checksum(inner(), "broadcast", root, total_bytes(pieces));
    state_->give(std::move(f));
  }
  template <class Group>
  auto decorate(Group group) const {
    return checksummed<Group>(std::move(group));
  }
  template <class Token>
  auto make_token(std::unique_ptr<detail::checksummed_exchange> f, Token sent) const {
    return detail::checksummed_token<C, Token>(inner(), state_, std::move(f), std::move(sent));
  }

  std::shared_ptr<detail::checksummed_state> state_;
};

static_assert(communicator<checksummed<solo>> && has_barrier<checksummed<solo>> && splittable<checksummed<solo>> &&
              peer_memory<checksummed<solo>>);
static_assert(!has_broadcast<checksummed<solo>> && !has_all_reduce<checksummed<solo>, float> && !abortable<checksummed<solo>>);

} // namespace sp
