// A communicator that only writes down what it is asked for, so that the ranks of a schedule run one after the other in one thread.
// Every exchange is noted with its peers and bytes; nothing is sent, and nobody ever waits.
#pragma once

#include <algorithm>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <sp/collective/concepts.hpp>

namespace schedules {

using sp::index_t;

/// Bytes for, or from, another rank of the program.
struct message {
  int peer;
  index_t bytes;
  friend bool operator==(message const&, message const&) = default;
};

/// One thing a rank did, in program order. Exchanges and publications are numbered per group, from 0.
struct event {
  enum operation { post, wait, publish, release } kind = post;
  int group = 0;
  int number = 0;
  std::string_view primitive{};
  std::vector<message> sends{}, receives{}; ///< of a post; peers are ranks of the program, empty messages are left out
};

/// Ranks that form a group: a name and its members, as ranks of the program.
struct rank_group {
  int group = 0;
  std::vector<int> members{};
};

/// A rank cannot go on before another one has published; the next pass will get further.
struct not_yet {};

using bytes = std::vector<std::byte>;

inline bytes read(std::span<sp::piece const> pieces) {
  bytes out;
  out.reserve(std::size_t(sp::total_bytes(pieces)));
  for (sp::detail::segment_cursor c(pieces); !c.done(); c.advance(c.left())) out.insert(out.end(), c.data(), c.data() + c.left());
  return out;
}

/// What all ranks have done in the latest pass, and the bytes that left them. A receive is filled, in its wait(), with the bytes its
/// peer sent in the latest pass in which it ran; when a pass changes no bytes any more, all ranks together tell one consistent story.
class record {
public:
  explicit record(int ranks) : events_(std::size_t(ranks)), counters_(std::size_t(ranks)) {}

  void begin_pass() { changed_ = false, complaints_.clear(); }
  void begin_rank(int rank) {
    events_[std::size_t(rank)].clear();
    counters_[std::size_t(rank)].clear();
  }
  bool changed() const { return changed_; }
  std::vector<std::vector<event>> const& events() const { return events_; }
  std::vector<std::string> const& complaints() const { return complaints_; }
  void complain(std::string what) {
    if (complaints_.size() < 20) complaints_.push_back(std::move(what));
  }

private:
  friend class recorder;
  friend class token;
  friend class publication;
  friend struct place;
  static constexpr std::byte poison{0xff}; ///< eight of them are a NaN

  struct key {
    int group, number, from, to;
    friend auto operator<=>(key const&, key const&) = default;
  };
  struct exhibit { // what a rank has published: a copy, because its own may be gone when the others run
    std::vector<sp::piece> pieces;
    std::vector<bytes> data;
  };
  struct counts {
    int exchanges = 0, publications = 0;
  };

  counts& count(int rank, int group) { return counters_[std::size_t(rank)][group]; }
  void note(int rank, event e) { events_[std::size_t(rank)].push_back(std::move(e)); }
  void sent(key const& k, bytes data) {
    bytes& held = messages_[k];
    if (held != data) changed_ = true, held = std::move(data);
  }
  void shown(key const& k, std::span<sp::piece const> pieces) {
    auto e = std::make_unique<exhibit>();
    for (sp::piece p : pieces) {
      e->data.push_back(read({&p, 1}));
      p.data = e->data.back().data();
      index_t stride = p.element;
      for (int d = p.rank; d-- > 0; stride *= p.extents[std::size_t(d)]) p.strides[std::size_t(d)] = stride;
      e->pieces.push_back(p);
    }
    auto& held = exhibits_[k];
    if (!held || held->data != e->data) changed_ = true;
    held = std::move(e);
  }

  std::vector<std::vector<event>> events_;
  std::vector<std::map<int, counts>> counters_; ///< by rank and group
  std::map<key, bytes> messages_;
  std::map<key, std::unique_ptr<exhibit>> exhibits_; ///< to is unused
  std::vector<std::string> complaints_;
  bool changed_ = false;
};

/// Where a rank stands: in which record, in which group.
struct place {
  record* all;
  std::shared_ptr<rank_group const> group;
  int rank;

  int world(int r) const { return group->members.at(std::size_t(r)); }
  int me() const { return world(rank); }
  void note(event e) const { all->note(me(), std::move(e)); }

  void deliver(int number, sp::parcel const& to, sp::traffic const& t) const {
    if (to.peer == rank) {
      for (sp::parcel const& p : t.sends)
        if (p.peer == rank) sp::copy(to.pieces, p.pieces);
      return;
    }
    auto it = all->messages_.find({group->group, number, world(to.peer), me()});
    if (it == all->messages_.end() || index_t(it->second.size()) != sp::total_bytes(to.pieces)) return; // stays poisoned
    sp::piece p;
    p.data = it->second.data();
    p.rank = 1;
    p.extents[0] = index_t(it->second.size());
    p.strides[0] = 1;
    sp::copy(to.pieces, {&p, 1});
  }
};

/// Checks what the contract of exchange() asks of its caller: sent bytes and the lists themselves stay as they are until wait(), and
/// nobody writes into a receive buffer.
class token {
public:
  token(place at, sp::traffic const& t, int number) : open_(std::make_unique<state>(state{std::move(at), t, number, {}})) {
    for (sp::parcel const& p : t.sends) open_->before.push_back(read(p.pieces));
  }
  token(token&&) noexcept = default;
  token& operator=(token&& o) noexcept {
    std::swap(open_, o.open_);
    return *this;
  }
  ~token() {
    if (open_ && std::uncaught_exceptions() == 0) open_->complain("is never waited for");
  }
  void wait() {
    std::unique_ptr<state> s = std::move(open_);
    if (!s) throw std::logic_error("a token is waited for twice");
    for (std::size_t i = 0; i < s->t.sends.size(); ++i)
      if (read(s->t.sends[i].pieces) != s->before[i]) s->complain("sends from a buffer that changes");
    for (sp::parcel const& p : s->t.receives) {
      bytes const held = read(p.pieces);
      if (std::any_of(held.begin(), held.end(), [](std::byte b) { return b != record::poison; }))
        s->complain("receives into a buffer that is in use");
      s->at.deliver(s->number, p, s->t);
    }
    s->at.note({event::wait, s->at.group->group, s->number, s->t.primitive});
  }

private:
  struct state {
    place at;
    sp::traffic t;
    int number;
    std::vector<bytes> before; ///< what each parcel held when it was posted
    void complain(char const* problem) const {
      at.all->complain(std::string(t.primitive) + ", exchange " + std::to_string(number) + " of rank " + std::to_string(at.me()) +
                       ", " + problem);
    }
  };
  std::unique_ptr<state> open_;
};

/// Buffers published; of(r) is a copy, which is only read.
class publication {
public:
  publication(place at, char const* primitive, std::span<sp::piece const> mine, int number)
      : at_(std::move(at)), primitive_(primitive), mine_(mine), number_(number), before_(read(mine)) {}
  publication(publication&&) noexcept = default;
  publication& operator=(publication&&) noexcept = default;
  std::span<sp::piece const> of(int r) const {
    auto const& all = at_.all->exhibits_;
    auto it = all.find({at_.group->group, number_, at_.world(r), 0});
    if (it == all.end()) throw not_yet();
    return it->second->pieces;
  }
  void release() {
    if (read(mine_) != before_) at_.all->complain(std::string(primitive_) + ": a published buffer changes");
    at_.note({event::release, at_.group->group, number_, primitive_});
  }

private:
  place at_;
  char const* primitive_;
  std::span<sp::piece const> mine_;
  int number_;
  bytes before_;
};

/// Rank `rank` of a group.
class recorder {
public:
  using memory_type = sp::host_memory;

  recorder(record& all, rank_group group, int rank) : at_{&all, std::make_shared<rank_group const>(std::move(group)), rank} {}

  int rank() const { return at_.rank; }
  int size() const { return int(at_.group->members.size()); }

  [[nodiscard]] token exchange(sp::traffic const& t) const {
    int const group = at_.group->group;
    event e{event::post, group, at_.all->count(at_.me(), group).exchanges++, t.primitive};
    int const number = e.number;
    for (sp::parcel const& p : t.sends)
      if (index_t n = sp::total_bytes(p.pieces); n > 0 && p.peer != rank()) {
        e.sends.push_back({at_.world(p.peer), n});
        at_.all->sent({group, number, at_.me(), at_.world(p.peer)}, read(p.pieces));
      }
    token result(at_, t, number);
    for (sp::parcel const& p : t.receives) {
      if (index_t n = sp::total_bytes(p.pieces); n > 0 && p.peer != rank()) e.receives.push_back({at_.world(p.peer), n});
      for (sp::detail::segment_cursor c(p.pieces); !c.done(); c.advance(c.left()))
        std::memset(c.data(), int(record::poison), std::size_t(c.left()));
    }
    at_.note(std::move(e));
    return result;
  }
  [[nodiscard]] publication publish(char const* primitive, std::span<sp::piece const> mine) const {
    int const group = at_.group->group, number = at_.all->count(at_.me(), group).publications++;
    at_.note({event::publish, group, number, primitive});
    at_.all->shown({group, number, at_.me(), 0}, mine);
    return {at_, primitive, mine, number};
  }

private:
  place at_;
};
static_assert(sp::communicator<recorder> && sp::peer_memory<recorder>);

} // namespace schedules
