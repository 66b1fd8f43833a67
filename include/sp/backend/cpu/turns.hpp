// Turns: key tiles that several threads work on add to the rows of dq in the order of one thread, whoever is done first.
// Who is too early keeps what he has and goes on; he waits only when his buffers are full, and for nobody who is not at work.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>

#include <sp/core/memory.hpp>
#include <sp/core/pause.hpp>

namespace sp::detail {

/// Of each key tile: up to which query tile it has added what it has to add. None where one thread does everything.
class turns {
public:
  static constexpr std::size_t everything = std::numeric_limits<std::uint32_t>::max();

  turns(allocator& a, std::size_t key_tiles) : memory_(a, index_t(key_tiles * sizeof(counter))), tiles_(key_tiles) {}

  /// Before the first of the key tiles begins.
  void begin() const {
    for (std::size_t t = 0; t < tiles_; ++t) new (at() + t) counter(0);
  }
  /// Key tile t adds nothing more to query tiles before `end`.
  void through(std::size_t t, std::size_t end) const {
    if (tiles_ == 0) return;
    at()[t].store(std::uint32_t(end), std::memory_order_release);
    at()[t].notify_all();
  }
  /// Whether key tiles [first, t) have added to query tile i. `first` moves on past those that are through with everything.
  bool is_next(std::size_t& first, std::size_t t, std::size_t i) const {
    return each_before(
        first, t, [&](counter const& c) { return c.load(std::memory_order_acquire); }, i);
  }
  /// Returns when they have.
  void wait(std::size_t& first, std::size_t t, std::size_t i) const {
    auto later = [&](counter const& c) {
      std::uint32_t end = c.load(std::memory_order_acquire);
      for (int polls = 1000; end <= i; end = c.load(std::memory_order_acquire))
        if (polls-- > 0)
          pause_briefly();
        else
          c.wait(end, std::memory_order_acquire);
      return end;
    };
    each_before(first, t, later, i);
  }

private:
  using counter = std::atomic<std::uint32_t>;

  template <class Look>
  bool each_before(std::size_t& first, std::size_t t, Look const& look, std::size_t i) const {
    if (tiles_ == 0) return true;
    for (std::size_t x = first; x < t; ++x) {
      std::uint32_t const end = look(at()[x]);
      if (end <= i) return false;
      if (end == everything && x == first) ++first;
    }
    return true;
  }
  counter* at() const { return memory_.as<counter, 1>({index_t(tiles_)}).data; }

  buffer memory_;
  std::size_t tiles_;
};

/// Buffers of a thread that are worth having: enough to get over another one that the system has put aside.
inline constexpr int kept_sums = 8;

/// One thread's part: the key tiles that it has, in ascending order, and what it has computed for dq and may not add yet.
/// add(query tile, buffer) adds.
template <class Add>
class in_turn {
public:
  in_turn(turns const& order, int buffers, Add add) : order_(order), buffers_(buffers), add_(std::move(add)) {}
  in_turn(in_turn const&) = delete;
  in_turn& operator=(in_turn const&) = delete;
  /// However it ends, nobody waits for it any more.
  ~in_turn() {
    if (tile_ == none) return;
    for (int e = 0; e < kept_; ++e) order_.through(entry_at(e).tile, turns::everything);
    order_.through(tile_, turns::everything);
  }

  /// From now on key tile `tile`; those from `first` on add before it does.
  void begin(std::size_t first, std::size_t tile) {
    first_ = first;
    tile_ = tile;
    kept_of_tile_ = 0;
    reached(0);
  }
  /// Whatever this tile has for query tiles before i has been given.
  void reached(std::size_t i) {
    at_ = i;
    if (kept_of_tile_ == 0) order_.through(tile_, i);
  }
  /// The tile is done.
  void end() { reached(turns::everything); }

  /// Where to compute the next product.
  int buffer() {
    if (kept_ == buffers_) add_first(true);
    if (kept_ == 0) oldest_ = 0; // the one that is in the cache
    return (oldest_ + kept_) % buffers_;
  }
  /// It has been computed, for query tile i: calls now(), which adds it, or keeps it until its turn comes.
  template <class Now>
  void give(std::size_t i, Now&& now) {
    while (kept_ > 0 && add_first(false)) {
    }
    if (kept_ == 0 && order_.is_next(first_, tile_, i)) return now();
    entry_at(kept_++) = {first_, tile_, i};
    ++kept_of_tile_;
  }
  /// Adds everything that is left.
  void finish() {
    while (kept_ > 0) add_first(true);
  }

private:
  static constexpr std::size_t none = std::size_t(-1);
  struct entry {
    std::size_t first, tile, query_tile;
  };
  entry& entry_at(int n) { return entries_[std::size_t((oldest_ + n) % buffers_)]; }

  bool add_first(bool may_wait) {
    entry e = entry_at(0);
    if (may_wait)
      order_.wait(e.first, e.tile, e.query_tile);
    else if (!order_.is_next(e.first, e.tile, e.query_tile))
      return false;
    add_(e.query_tile, oldest_);
    oldest_ = (oldest_ + 1) % buffers_;
    --kept_;
    bool const of_tile = e.tile == tile_;
    kept_of_tile_ -= of_tile;
    if (kept_ > 0 && entry_at(0).tile == e.tile)
      order_.through(e.tile, entry_at(0).query_tile);
    else
      order_.through(e.tile, of_tile ? at_ : turns::everything);
    return true;
  }

  turns const& order_;
  int buffers_;
  Add add_;
  std::size_t first_ = 0, tile_ = none, at_ = 0;
  int oldest_ = 0, kept_ = 0, kept_of_tile_ = 0;
  std::array<entry, kept_sums> entries_{};
};

} // namespace sp::detail
