// The concept of a kernel of linear attention: what models it, and what a kernel that lacks one thing is refused for.
// A kernel of somebody else needs no more than this file's, and may have a decay for each row of the state before a delta rule.
#include <doctest/doctest.h>

#include <sp/linear/kernels.hpp>

namespace test_concepts {
namespace {

using sp::context, sp::index_t, sp::linear_kernel, sp::linear_shape, sp::map_form, sp::view;

/// Decays for each row and beta (KDA): the map is dense.
struct other {
  using memory_type = sp::device_memory;
  static constexpr map_form form = map_form::dense;
  static constexpr int gates = 2;
  static index_t gate_width(int gate, index_t key_dim) { return gate == 0 ? key_dim : 1; }
  template <class T>
  struct saved {};

  template <class T, class Q>
  void reduce(sp::linear_call<T, 2, memory_type> const&, sp::linear_map<T, memory_type> const&, context<Q> const&) const {}
  template <class T, class Q>
  saved<T> forward(sp::linear_call<T, 2, memory_type> const&, view<sp::accumulate_t<T> const, 3, memory_type>,
                   view<T, 3, memory_type>, view<sp::accumulate_t<T>, 3, memory_type>, context<Q> const&) const {
    return {};
  }
  template <class T, class Q>
  void backward(sp::linear_call<T, 2, memory_type> const&, view<sp::accumulate_t<T> const, 3, memory_type>, saved<T> const&,
                sp::linear_grad<T, 2, memory_type> const&, context<Q> const&) const {}
  template <class T, class Q>
  void backward_reduce(sp::linear_call<T, 2, memory_type> const&, view<T const, 3, memory_type>,
                       view<sp::accumulate_t<T>, 3, memory_type>, context<Q> const&) const {}
  template <class T>
  index_t saved_bytes(linear_shape const&) const {
    return 0;
  }
  template <class T, class Q>
  index_t scratch_bytes(linear_shape const&, Q const&) const {
    return 0;
  }
};
static_assert(linear_kernel<other, float> && linear_kernel<other, sp::bf16>);

// near misses
struct no_form : other {
  static constexpr void* form = nullptr;
};
struct no_memory : other {
  using memory_type = sp::host_memory; // its calls take another one
};
struct another_number_of_gates : other {
  static constexpr int gates = 1;
};
struct gates_of_any_width : other {
  static void gate_width(int, index_t) {}
};
struct keeps_something_else : other {
  template <class T>
  struct saved {};
};
struct no_transpose : other {
  void backward_reduce() const {}
};
struct no_map : other {
  void reduce() const {}
};
struct tells_no_bytes : other {
  void saved_bytes() const {}
};
/// Keeps a Kept of each segment.
template <class Kept>
struct keeping : other {
  template <class T>
  using saved = Kept;
  template <class T, class Q>
  Kept forward(sp::linear_call<T, 2, memory_type> const&, view<sp::accumulate_t<T> const, 3, memory_type>,
               view<T, 3, memory_type>, view<sp::accumulate_t<T>, 3, memory_type>, context<Q> const&) const;
  template <class T, class Q>
  void backward(sp::linear_call<T, 2, memory_type> const&, view<sp::accumulate_t<T> const, 3, memory_type>, Kept const&,
                sp::linear_grad<T, 2, memory_type> const&, context<Q> const&) const {}
};
/// Computes outputs alone, too.
struct inferring : other {
  template <class T, class Q>
  void infer(sp::linear_call<T, 2, memory_type> const&, view<sp::accumulate_t<T> const, 3, memory_type>, view<T, 3, memory_type>,
             view<sp::accumulate_t<T>, 3, memory_type>, context<Q> const&) const {}
};
struct infers_no_state : other {
  template <class T, class Q>
  void infer(sp::linear_call<T, 2, memory_type> const&, view<sp::accumulate_t<T> const, 3, memory_type>, view<T, 3, memory_type>,
             context<Q> const&) const {}
};
struct infers_otherwise_nothing : inferring {
  void reduce() const {}
};
static_assert(sp::has_infer<inferring, float> && sp::has_infer<inferring, sp::fp16> && !sp::has_infer<other, float>);
static_assert(!sp::has_infer<infers_no_state, float> && !sp::has_infer<infers_otherwise_nothing, float>);
struct kept_only_full {
  explicit kept_only_full(int) {}
};
struct kept_in_its_place {
  kept_in_its_place() = default;
  kept_in_its_place(kept_in_its_place&&) = delete;
};
static_assert(linear_kernel<keeping<int>, float>);
static_assert(!linear_kernel<keeping<kept_only_full>, float> && !linear_kernel<keeping<kept_in_its_place>, float>);
static_assert(!linear_kernel<no_form, float> && !linear_kernel<no_memory, float> &&
              !linear_kernel<another_number_of_gates, float>);
static_assert(!linear_kernel<gates_of_any_width, float> && !linear_kernel<keeps_something_else, float>);
static_assert(!linear_kernel<no_transpose, float> && !linear_kernel<no_map, float> && !linear_kernel<tells_no_bytes, float>);

static_assert(linear_kernel<sp::gated_delta, sp::fp16> && linear_kernel<sp::gated_linear, sp::bf16>);
static_assert(linear_kernel<sp::scalar_decay, double> && linear_kernel<sp::plain_linear, float>);

TEST_CASE("linear concepts: how many numbers a map has, and a gate") {
  CHECK(sp::map_width(map_form::identity, 128) == 0);
  CHECK(sp::map_width(map_form::scalar, 128) == 1);
  CHECK(sp::map_width(map_form::diagonal, 128) == 128);
  CHECK(sp::map_width(map_form::dense, 128) == 128 * 128);
  CHECK(sp::gated_delta::gate_width(0, 128) == 1);
  CHECK(sp::gated_linear::gate_width(0, 128) == 128);
  CHECK(sp::plain_linear::gates == 0);
  CHECK(sp::scalar_decay::gates == 1);
}

} // namespace
} // namespace test_concepts
