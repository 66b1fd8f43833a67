// The communicator of a single rank: every collective works, nothing is sent anywhere.
// Parcels to oneself are copied at once; a peer other than 0 is refused.
#pragma once

#include <sp/collective/concepts.hpp>

namespace sp {

/// Rank 0 of 1, on host memory.
class solo {
public:
  using memory_type = host_memory;

  struct token {
    void wait() noexcept {}
  };
  struct exposure {
    std::span<piece const> mine;
    [[nodiscard]] std::span<piece const> of(int) const noexcept { return mine; }
    void release() noexcept {}
  };

  static constexpr int rank() noexcept { return 0; }
  static constexpr int size() noexcept { return 1; }

  /// short_message when the parcels to oneself differ in bytes; bad_state when a parcel names another peer or one twice.
  [[nodiscard]] token exchange(traffic const& t) const {
    std::span<piece const> const out = own(t.primitive, t.sends), in = own(t.primitive, t.receives);
    index_t const sent = total_bytes(out), expected = total_bytes(in);
    if (sent != expected)
      fail({errc::short_message, "rank 0 sends " + std::to_string(sent) + " bytes, rank 0 expects " + std::to_string(expected),
            "Both parcels to oneself must hold the same bytes", t.primitive, 0, 1, -1, 0});
    copy(in, out);
    return {};
  }
  void barrier() const {}
  [[nodiscard]] solo split(int, int) const { return {}; }
  [[nodiscard]] exposure publish(char const*, std::span<piece const> mine) const { return {mine}; }

private:
  static std::span<piece const> own(char const* primitive, std::span<parcel const> list) {
    if (list.size() > 1 || (list.size() == 1 && list[0].peer != 0))
      fail({errc::bad_state, "a parcel names peer " + std::to_string(list.back().peer), "The only peer is 0, named once",
            primitive, 0, 1});
    return list.empty() ? std::span<piece const>() : list[0].pieces;
  }
};

static_assert(communicator<solo> && has_barrier<solo> && splittable<solo> && peer_memory<solo> && !abortable<solo>);

} // namespace sp
