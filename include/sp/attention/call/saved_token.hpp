// The token inside of `saved`: a forward call makes it, one backward call consumes it.
// A token that was used, moved away, never made, or that another call made is bad_state, on its rank before it computes or sends.
#pragma once

#include <utility>

#include <sp/attention/call/identity.hpp>
#include <sp/core/guarded.hpp>

namespace sp::detail {

/// Guards `saved`: a token made by one forward call is consumed by one backward call.
class saved_token {
public:
  saved_token() = default;
  explicit saved_token(bool live) : live_(live) {}
  saved_token(saved_token&& o) noexcept
      : from(o.from), call(o.call), memory(std::move(o.memory)), live_(std::exchange(o.live_, false)) {}
  saved_token& operator=(saved_token&& o) noexcept {
    from = o.from;
    call = o.call;
    memory = std::move(o.memory);
    live_ = std::exchange(o.live_, false);
    return *this;
  }
  void require() const {
    if (!live_)
      fail({errc::bad_state, "this saved token was used already, moved away, or never made",
            "Pass to backward what forward of the same step returned"});
  }

  saved_origin from{};      ///< the forward call
  std::uint64_t call = 0;   ///< check level 2: the number of the forward call
  guarded::handle memory{}; ///< check level 3: where the saved memory comes from

private:
  bool live_ = false;
};

} // namespace sp::detail
