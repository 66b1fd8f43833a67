// The token of an operation that is done, or ordered before all later work of its queue, when its call returns.
// token_of() gives one to what a model's own operation returns nothing for.
#pragma once

#include <sp/collective/concepts.hpp>

namespace sp::detail {

struct done_token {
  void wait() const noexcept {}
};

/// The token of a model's own operation, which may return nothing.
template <class Start>
auto token_of(Start&& start) {
  if constexpr (token<decltype(start())>) {
    return start();
  } else {
    start();
    return done_token();
  }
}

} // namespace sp::detail
