// The inner-attention protocol against types that miss exactly one member, and an object that has nothing but the protocol.
// What Ulysses runs inside may be anybody's: it computes, and its gradients come back to the rows they belong to.
#include <doctest/doctest.h>

#include <sp/cpu.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

#include "near_misses.hpp"
#include "support/attention_tensors.hpp"

namespace test_concepts {

using namespace near_miss;

static_assert(sp::inner_attention<complete> && sp::inner_attention_of<complete, float> &&
              sp::inner_attention_of<complete, sp::bf16>);
static_assert(sp::inner_attention_of<sp::ulysses_attention<sp::threads, complete>, double>);
static_assert(sp::inner_attention_of<sp::ring_attention<sp::threads, sp::cpu<>>, double>);

// Every attention object models the protocol whatever runs inside; the kernels here are the least that there can be, declared only.
struct least_backend {
  using memory_type = sp::host_memory;
  using saved = sp::nothing;
  struct plan {};
  plan prepare(sp::problem const&) const;
  template <class T>
  saved forward(plan const&, sp::allocator&, sp::call_params const&, sp::view<T const, 3>, std::span<sp::kv_views<T> const>,
                sp::attention_state<T>) const;
  template <class T>
  void backward(plan const&, sp::allocator&, sp::call_params const&, std::span<sp::query_grad<T> const>,
                std::span<sp::key_grad<T> const>, saved const&) const;
  template <class T>
  index_t scratch_bytes(plan const&, heads const&, index_t dim, index_t value_dim) const;
};
/// The same with tables, and types that lack something of that.
struct least_tables : least_backend {
  template <class Queue>
  plan prepare(sp::problem const&, sp::context<Queue> const&) const;
  template <class Queue>
  void refresh(plan&, sp::problem const&, sp::context<Queue> const&) const;
};
struct tables_made_once : least_backend {
  template <class Queue>
  plan prepare(sp::problem const&, sp::context<Queue> const&) const;
};
struct tables_without_context : least_tables {
  void refresh(plan&, sp::problem const&) const;
};
struct tables_of_another_plan : least_tables {
  template <class Queue>
  int prepare(sp::problem const&, sp::context<Queue> const&) const;
};
using host_queue = sp::inline_queue;
static_assert(sp::attention_backend<least_tables, float> && sp::keeps_tables<least_tables, host_queue>);
static_assert(!sp::keeps_tables<least_backend, host_queue> && !sp::keeps_tables<least_tables, int>);
static_assert(!sp::attention_backend<tables_made_once, float> && !sp::attention_backend<tables_without_context, float> &&
              !sp::attention_backend<tables_of_another_plan, float>);
static_assert(sp::inner_attention_of<sp::ring_attention<sp::solo, least_tables>, float>);

struct least_whole_kernel {
  using memory_type = sp::host_memory;
  void forward(sp::whole_call<float> const&) const;
};
static_assert(sp::inner_attention_of<sp::ring_attention<sp::solo, least_backend>, float>);
static_assert(sp::inner_attention_of<sp::ulysses_attention<sp::solo, sp::ring_attention<sp::solo, least_backend>>, float>);
static_assert(sp::inner_attention_of<sp::whole_attention<least_whole_kernel>, float>);

static_assert(!sp::inner_attention<unchecked_prepared> && !sp::inner_attention<prepared_without_default>);
static_assert(!sp::inner_attention<no_name>);
static_assert(!sp::inner_attention<no_group>);
static_assert(!sp::inner_attention<no_mask>);
static_assert(!sp::inner_attention<no_checks>);
static_assert(!sp::inner_attention<no_local_heads>);
static_assert(!sp::inner_attention<no_q_rows>);
static_assert(!sp::inner_attention<no_k_rows>);
static_assert(!sp::inner_attention<no_check_call>);
static_assert(!sp::inner_attention<no_prepare_layouts>);
static_assert(!sp::inner_attention<no_identify>);
static_assert(!sp::inner_attention<no_each_group>);
static_assert(!sp::inner_attention<no_sequence_rank>);
static_assert(!sp::inner_attention<no_describe>);

/// Complete but for what depends on the element type.
template <class A>
concept lacks_computation = sp::inner_attention<A> && !sp::inner_attention_of<A, sp::bf16>;
static_assert(lacks_computation<saved_without_token>);
static_assert(lacks_computation<saved_of_no_type>);
static_assert(lacks_computation<no_run_forward>);
static_assert(lacks_computation<no_run_backward>);
static_assert(lacks_computation<no_backward_of_sums>);
static_assert(lacks_computation<no_scratch>);
static_assert(lacks_computation<no_saved_bytes>);
static_assert(lacks_computation<no_each_lse>);

/// Sealed: nothing but Derived can be made of attention_object<Derived>.
struct impostor : sp::detail::attention_object<complete> {};
static_assert(!std::is_default_constructible_v<impostor>);
static_assert(!std::is_default_constructible_v<sp::detail::attention_object<complete>>);

TEST_CASE("an object of nothing but the protocol runs inside Ulysses over three ranks, forward and backward") {
  std::atomic<int> good{0};
  sp::threads::run(3, [&](sp::threads const& comm) {
    sp::batch b(sp::packed{0, 20, 21, 49}, sp::zigzag{}, comm);
    sp::ulysses_attention attn{comm, complete{}};
    support::attention_tensors<float> x(b, {3, 3, 2, 2});
    auto saved = attn.forward(b, {.q = x.q, .k = x.k, .v = x.k, .out = x.out});
    attn.backward(b, std::move(saved),
                  {.q = x.q, .k = x.k, .v = x.k, .out = x.out, .dout = x.dout, .dq = x.dq, .dk = x.dk, .dv = x.dv});
    using support::operand;
    good += x[operand::out] == x[operand::q] && x[operand::dq] == x[operand::dout];
    good += x[operand::dk] == std::vector<float>(x[operand::dk].size()) && x[operand::dv] == x[operand::dk];
  });
  CHECK(good == 6);
}

} // namespace test_concepts
