// What a sharding is: a rule that cuts n consecutive tokens over parts, as runs. It is used once, when a layout is made.
// The runs of all parts must form a partition of [0, n); a layout checks that.
#pragma once

#include <concepts>
#include <span>
#include <vector>

#include <sp/geometry/run.hpp>

namespace sp {

/// What a sharding cuts: each document by itself, or the stream of all documents one behind the other.
enum class scope { document, stream };

/// s.runs(n, part, parts) lists the runs of [0, n) that `part` owns, in the order of its local rows; `over` says what n is. One that cuts
/// the stream only where documents of certain lengths meet has s.check_document(n), which refuses others.
template <class S>
concept sharding = std::copyable<S> && requires(S const s, index_t n, index_t part, index_t parts) {
  { s.runs(n, part, parts) } -> std::convertible_to<std::vector<run>>;
  { s.over } -> std::convertible_to<scope>;
};

} // namespace sp
