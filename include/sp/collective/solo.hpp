// The communicator of a single rank: every collective works, nothing is sent anywhere.
// Parcels to oneself are copied at once; a peer other than 0 is refused.
#pragma once

#include <sp/collective/own_parcels.hpp>

namespace sp {

/// Rank 0 of 1, on host memory.
class solo {
public:
  using memory_type = host_memory;
  static constexpr bool row_lists = true;

  struct token {
    void wait() noexcept {}
  };
  struct publication {
    std::span<piece const> mine;
    [[nodiscard]] std::span<piece const> of(int) const noexcept { return mine; }
    void release() noexcept {}
  };

  static constexpr int rank() noexcept { return 0; }
  static constexpr int size() noexcept { return 1; }

  /// short_message when the parcels to oneself differ in bytes; bad_state when a parcel names another peer or one twice.
  [[nodiscard]] token exchange(traffic const& t) const {
    check_peers(t.primitive, t.sends);
    check_peers(t.primitive, t.receives);
    detail::copy_own(0, t, [&](std::string problem, char const* remedy) {
      fail({errc::short_message, std::move(problem), remedy, t.primitive, 0, 1, -1, 0});
    });
    return {};
  }
  void barrier() const {}
  [[nodiscard]] solo split(int, int) const { return {}; }
  [[nodiscard]] publication publish(char const*, std::span<piece const> mine) const { return {mine}; }

private:
  static void check_peers(char const* primitive, std::span<parcel const> list) {
    if (list.size() > 1 || (list.size() == 1 && list[0].peer != 0))
      fail({errc::bad_state, "a parcel names peer " + std::to_string(list.back().peer), "The only peer is 0, named once",
            primitive, 0, 1});
  }
};

static_assert(communicator<solo> && has_row_lists<solo> && has_barrier<solo> && splittable<solo> && peer_memory<solo> &&
              !abortable<solo>);

namespace detail {

/// A rank of any memory that is alone: parcels to itself are copied by the queue of the call.
template <class M>
struct alone {
  using memory_type = M;
  struct token {
    void wait() noexcept {}
  };
  static constexpr int rank() noexcept { return 0; }
  static constexpr int size() noexcept { return 1; }
  template <class... Queue>
  void barrier(Queue const&...) const noexcept {}
  template <class Queue>
  [[nodiscard]] token exchange(traffic const& t, Queue const& q) const {
    auto const [out, in] = own_parcels_of_equal_bytes(0, t, [&](std::string problem, char const* remedy) {
      fail({errc::short_message, std::move(problem), remedy, t.primitive, 0, 1, -1, 0});
    });
    if (!out.empty()) q.copy(in, out);
    return {};
  }
  [[nodiscard]] token exchange(traffic const& t) const {
    index_t bytes = 0;
    for (auto const& list : {t.sends, t.receives})
      for (parcel const& p : list) bytes += total_bytes(p.pieces);
    if (bytes == 0) return {};
    fail({errc::unsupported, "a rank that is alone was asked to send without a queue", "Use a communicator of this memory",
          t.primitive, 0, 1});
  }
};
template <class M>
using rank_alone = std::conditional_t<std::is_same_v<M, host_memory>, solo, alone<M>>;

} // namespace detail
} // namespace sp
