// sp::cpu: the tiled CPU backend. Blocked online softmax in registers, any mask, heads, strides, element type, number of threads.
// out, lse and dq are bitwise independent of who owns which row; dk, dv too where all queries of a document are given.
#pragma once

#include <sp/backend/cpu/backward.hpp>
#include <sp/backend/cpu/forward.hpp>

namespace sp {
inline namespace SP_CPU_TARGET {

/// An attention_backend: sp::cpu{}, sp::cpu{sp::softcap{30}, sp::alibi{slopes}}. Sums run in float, for double in double.
/// Rows and keys that no slice covers are never read. A NaN or infinity in v, k or dout of a token may reach other rows of its tile,
/// also those that do not see the token: zero times NaN is NaN. The only memory a call takes is scratch, all of it at once.
/// Given a task_queue as last argument, a call hands its tiles to the threads of the queue: the same bits, and some more scratch.
template <class... Features>
class cpu : public detail::with_features<Features...> {
public:
  using memory_type = host_memory;
  using plan = detail::tile_plan;
  using saved = nothing;
  static constexpr index_t key_tile = detail::k_tile; ///< keys this far apart in a document may share a sum

  constexpr explicit(sizeof...(Features) == 1) cpu(Features... features) : detail::with_features<Features...>(features...) {}

  [[nodiscard]] plan prepare(problem const& p) const { return detail::make_tiles(p); }

  /// Folds all keys into `state`. q (rows, q heads, dim); keys (rows, kv heads, dim), (rows, kv heads, value dim).
  template <class T, task_queue Queue = inline_queue>
  saved forward(plan const& p, allocator& scratch, call_params const& n, view<T const, 3> q, std::span<kv_views<T> const> keys,
                attention_state<T> state, Queue const& queue = {}) const {
    using pass = detail::cpu_forward<T, detail::feature_set<Features...>>;
    if (!p.q.tiles.empty() && !p.k.tiles.empty() && n.heads.q_count > 0)
      pass(p, this->features_, scratch, n, q, keys, state, queue.threads()).run(queue);
    return {};
  }

  /// Adds dq, dk, dv where they are wanted. dq needs all keys and dk, dv all queries of a document to be the whole gradient.
  template <class T, task_queue Queue = inline_queue>
  void backward(plan const& p, allocator& scratch, call_params const& n, std::span<query_grad<T> const> queries,
                std::span<key_grad<T> const> keys, saved const&, Queue const& queue = {}) const {
    using pass = detail::cpu_backward<T, detail::feature_set<Features...>>;
    if (!p.q.tiles.empty() && !p.k.tiles.empty() && n.heads.q_count > 0)
      pass(p, this->features_, scratch, n, queries, keys, queue.threads()).run(queue);
  }

  /// Bytes that the larger of the two calls takes from the allocator.
  template <class T, task_queue Queue = inline_queue>
  index_t scratch_bytes(plan const& p, heads const&, index_t dim, index_t value_dim, Queue const& queue = {}) const {
    byte_counter forward, backward;
    detail::forward_scratch<accumulate_t<T>>(forward, p, dim, value_dim, queue.threads());
    detail::backward_scratch<accumulate_t<T>>(backward, p, dim, value_dim, queue.threads());
    return max(forward.bytes(), backward.bytes());
  }
};

static_assert(attention_backend<cpu<>, float> && attention_backend<cpu<>, double> && attention_backend<cpu<>, bf16>);
static_assert(attention_backend<cpu<softcap, alibi, dropout>, fp16>);
static_assert(takes_queue<cpu<>, float, inline_queue>);

} // namespace SP_CPU_TARGET

template <class... Features>
inline constexpr bool equal_by_features<cpu<Features...>> = true;

} // namespace sp
