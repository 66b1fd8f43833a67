// Shardings as a value: a test draws one, and a batch is instantiated once for all of them.
// It does not call itself a partition, so every layout that is made of it is checked token by token.
#pragma once

#include <vector>

#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/nested.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>

namespace support {

/// contiguous, zigzag or striped, over documents or the stream; with inner > 1 each shard is cut again for a group of `inner` ranks.
struct any_sharding {
  enum : int { contiguous, zigzag, striped };
  int kind = contiguous;
  sp::scope over = sp::scope::document;
  sp::index_t inner = 1, stride = 1; ///< as in sp::nested

  /// f(the sharding that is meant).
  template <class F>
  auto with(F&& f) const {
    auto go = [&](auto s) { return inner > 1 ? f(sp::nested{s, inner, stride}) : f(s); };
    return kind == contiguous ? go(sp::contiguous{over}) : kind == zigzag ? go(sp::zigzag{over}) : go(sp::striped{over});
  }

  std::vector<sp::run> runs(sp::index_t n, sp::index_t part, sp::index_t parts) const {
    return with([&](auto s) { return s.runs(n, part, parts); });
  }
  sp::index_t multiple(sp::index_t parts) const {
    return with([&](auto s) { return s.multiple(parts); });
  }
};

} // namespace support
