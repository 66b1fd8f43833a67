// Kernels of linear attention on the CPU: gated_delta, gated_linear, scalar_decay and plain_linear, by matrix products over chunks.
// One walk computes all four. Results are the same bits on any number of threads; a row's outputs depend on no later row.
#pragma once

#include <optional>

#include <sp/core/digest.hpp>
#include <sp/linear/cpu/passes.hpp>
#include <sp/linear/linear_checks.hpp>

namespace sp {

/// What a kernel of linear attention may be told.
struct linear_options {
  std::optional<double> scale{}; ///< of the outputs; unless given, 1 / sqrt(key dim)
  bool normalise = false;        ///< q and k of each token and head are divided by sqrt(sum x^2 + 1e-6)
  index_t chunk = 0;             ///< tokens of a chunk; 0: 64, with a decay for each row of the state 16
  index_t keep_every = 128;      ///< tokens between states that the backward pass goes back to, rounded up to chunks
  bool recompute = false;        ///< keep none of these states: the backward pass walks forwards once more to find them
};

inline namespace SP_CPU_TARGET {

/// A linear_kernel over host memory. With the state S (key dim, value dim) of a value head, q and k of its key head, and a = e^g:
///
///     gated_delta    S_t = a_t (I - b_t k_t k_t^T) S_t-1 + b_t k_t v_t^T     gates g (rows, value heads, 1), b (rows, value heads, 1)
///     gated_linear   S_t = diag(a_t) S_t-1 + k_t v_t^T                       gate g (rows, value heads, key dim)
///     scalar_decay   S_t = a_t S_t-1 + k_t v_t^T                             gate g (rows, value heads, 1)
///     plain_linear   S_t = S_t-1 + k_t v_t^T                                 no gate
///     o_t = scale S_t^T q_t
///
/// (Yang et al., arXiv 2412.06464 and 2312.06635; Dao and Gu, arXiv 2405.21060; Katharopoulos et al., arXiv 2006.16236.)
/// g <= 0, -infinity included: it forgets everything, exactly. Sums run in float, for double in double; states are of that type. Rows of
/// tensors may lie anywhere. A queue that hands out tasks gets one for each value head, backwards for each key head. The only memory
/// is scratch, and what is kept for the backward pass: the state before every `keep_every` tokens but the first.
template <map_form Form>
class linear_cpu {
public:
  using memory_type = host_memory;
  static constexpr map_form form = Form;
  static constexpr int gates = detail::gates_of(Form);
  template <class T>
  using call = linear_call<T, gates>;
  template <class T>
  using grad = linear_grad<T, gates>;
  /// States (value heads, blocks - 1, key dim, value dim).
  template <class T>
  using saved = owned<accumulate_t<T>, 4>;

  constexpr explicit linear_cpu(linear_options options = {}) : options_(options) {
    if (options.chunk < 0)
      refuse("chunks of " + std::to_string(options.chunk) + " tokens", "Give .chunk = 1 or more, or 0 for the usual number");
    if (options.keep_every < 1)
      refuse("a state kept for every " + std::to_string(options.keep_every) + " tokens",
             "Give .keep_every = 1 or more; .recompute = true keeps none");
  }

  /// A digest of what it was told that its numbers depend on: from check level 2 on ranks compare it. What is kept is each rank's own.
  [[nodiscard]] std::uint64_t features() const {
    digest told;
    told.add(options_.scale.has_value()).add(options_.scale.value_or(0)).add(options_.normalise).add(chunk());
    return told.value();
  }

  /// The last extent of a gate.
  static constexpr index_t gate_width(int, index_t key_dim) { return Form == map_form::diagonal ? key_dim : 1; }

  /// M and B of the segment, where they are wanted.
  template <class T, class Q>
  void reduce(call<T> const& c, linear_map<T> const& map, context<Q> const& where) const {
    checks<T>::reduce(c, map);
    using A = accumulate_t<T>;
    auto const heads = heads_of<T>(c);
    detail::on_tiles<A>(where.queue, *where.scratch, heads.shape().v_heads,
                        heads.state_room(Form == map_form::dense && map.m.data),
                        [&](index_t head, A* memory) { heads.reduce(head, memory, map.m, map.b); });
  }

  /// out (rows, value heads, value dim), written; entering and leaving (value heads, key dim, value dim) may be null: zeros, not wanted.
  /// They may be one: a state is replaced then.
  template <class T, class Q>
  saved<T> forward(call<T> const& c, view<accumulate_t<T> const, 3> entering, view<T, 3> out, view<accumulate_t<T>, 3> leaving,
                   context<Q> const& where) const {
    checks<T>::forward(c, entering, out, leaving);
    auto const heads = heads_of<T>(c);
    auto kept = options_.recompute ? saved<T>{} : saved<T>(*where.kept, kept_extents(c.shape()));
    walk_forward<T>(heads, entering, detail::row_writer<accumulate_t<T>>(out), leaving, kept.tensor, where);
    return kept;
  }

  /// The same outputs and state; nothing is kept.
  template <class T, class Q>
  void infer(call<T> const& c, view<accumulate_t<T> const, 3> entering, view<T, 3> out, view<accumulate_t<T>, 3> leaving,
             context<Q> const& where) const {
    checks<T>::forward(c, entering, out, leaving);
    walk_forward<T>(heads_of<T>(c), entering, detail::row_writer<accumulate_t<T>>(out), leaving, {}, where);
  }

  /// Adds the gradients of rows where they are wanted, and writes that of the state before them. `entering` is that of forward.
  template <class T, class Q>
  void backward(call<T> const& c, view<accumulate_t<T> const, 3> entering, saved<T> const& kept, grad<T> const& g,
                context<Q> const& where) const {
    checks<T>::backward(c, entering, g);
    if (!options_.recompute) require_kept(kept.tensor, c.shape());
    using A = accumulate_t<T>;
    auto const heads = heads_of<T>(c);
    auto const found = options_.recompute ? saved<T>(*where.scratch, kept_extents(c.shape())) : saved<T>{};
    if (options_.recompute) walk_forward<T>(heads, entering, {}, {}, found.tensor, where);
    view<A const, 4> const states = options_.recompute ? found.tensor : kept.tensor;
    detail::linear_row_grads<A> const grads(g);
    detail::on_tiles<A>(where.queue, *where.scratch, c.shape().k_heads, heads.back_room(),
                        [&](index_t head, A* memory) { heads.backward(head, memory, entering, states, grads); });
  }

  /// The gradient e (value heads, key dim, value dim) of the state before the segment, from dout (rows, value heads, value dim) alone.
  template <class T, class Q>
  void backward_reduce(call<T> const& c, view<T const, 3> dout, view<accumulate_t<T>, 3> e, context<Q> const& where) const {
    checks<T>::backward_reduce(c, dout, e);
    using A = accumulate_t<T>;
    auto const heads = heads_of<T>(c);
    detail::row_reader<A> const rows(dout);
    detail::on_tiles<A>(where.queue, *where.scratch, c.shape().v_heads, heads.back_room(),
                        [&](index_t head, A* memory) { heads.backward_reduce(head, memory, rows, e); });
  }

  /// Bytes of context.kept that forward's result holds.
  template <class T>
  [[nodiscard]] index_t saved_bytes(linear_shape const& s) const {
    byte_counter bytes;
    if (!options_.recompute) saved<T>(bytes, kept_extents(s));
    return bytes.bytes();
  }
  /// The most bytes that a call takes from context.scratch.
  template <class T, class Q>
  [[nodiscard]] index_t scratch_bytes(linear_shape const& s, Q const& queue) const {
    using A = accumulate_t<T>;
    byte_counter found;
    if (options_.recompute) saved<T>(found, kept_extents(s));
    detail::linear_head_calls<A> const heads{detail::linear_inputs<A>(Form, s), settings(s)};
    index_t const room = max(heads.state_room(Form == map_form::dense), heads.back_room());
    return found.bytes() + detail::tile_bytes<A>(queue, room);
  }

private:
  template <class T>
  using checks = detail::linear_checks<linear_cpu, T>;

  linear_options options_;

  [[noreturn]] static void refuse(std::string problem, std::string remedy) {
    fail({errc::invalid_shape, "linear attention: " + std::move(problem), std::move(remedy)});
  }
  index_t chunk() const { return options_.chunk > 0 ? options_.chunk : Form == map_form::diagonal ? 16 : 64; }
  /// Chunks between kept states, of a segment of so many rows.
  index_t block(index_t rows) const { return max(1, min(ceil_div(options_.keep_every, chunk()), ceil_div(rows, chunk()))); }
  std::array<index_t, 4> kept_extents(linear_shape const& s) const {
    return {s.v_heads, max(ceil_div(s.rows, block(s.rows) * chunk()), 1) - 1, s.key_dim, s.value_dim};
  }

  template <class A>
  void require_kept(view<A, 4> const& kept, linear_shape const& s) const {
    if (kept.extents == kept_extents(s)) return;
    view<A, 4> expected;
    expected.extents = kept_extents(s);
    fail({errc::bad_state, "linear attention: forward kept states " + shape(kept) + ", this segment has " + shape(expected),
          "Give backward what forward returned for the same segment, with the same options"});
  }

  detail::linear_settings settings(linear_shape const& s) const {
    double const scale = options_.scale ? *options_.scale : 1 / std::sqrt(double(max(s.key_dim, 1)));
    return {scale, options_.normalise, chunk(), block(s.rows)};
  }
  template <class T>
  detail::linear_head_calls<accumulate_t<T>> heads_of(call<T> const& c) const {
    return {detail::linear_inputs<accumulate_t<T>>(Form, c), settings(c.shape())};
  }
  /// out, leaving and kept may be null.
  template <class T, class Q, class A = accumulate_t<T>>
  static void walk_forward(detail::linear_head_calls<A> const& heads, view<A const, 3> const& entering,
                           detail::row_writer<A> const& out, view<A, 3> const& leaving, view<A, 4> const& kept,
                           context<Q> const& where) {
    detail::on_tiles<A>(where.queue, *where.scratch, heads.shape().v_heads, heads.state_room(false),
                        [&](index_t head, A* memory) { heads.forward(head, memory, entering, out, leaving, kept); });
  }
};

/// The gated delta rule.
using gated_delta = linear_cpu<map_form::dense>;
/// Decays for each row of the state.
using gated_linear = linear_cpu<map_form::diagonal>;
/// One decay for each head.
using scalar_decay = linear_cpu<map_form::scalar>;
/// No decay.
using plain_linear = linear_cpu<map_form::identity>;

static_assert(has_infer<gated_delta, float> && has_infer<gated_linear, double>);
static_assert(has_infer<scalar_decay, bf16> && has_infer<plain_linear, fp16>);

} // namespace SP_CPU_TARGET
} // namespace sp
