// What the library itself costs in a step whose geometry is prepared: a communicator that moves nothing, a kernel that computes nothing.
// The same tokens in few and in many packed documents, zigzag, eight ranks, seen from one: nanoseconds of forward and backward together.
#include <cstdlib>
#include <vector>

#include <malloc.h> // mallinfo2

#include <benchmark/benchmark.h>

#include <sp/usp.hpp>

namespace {

using sp::index_t;

/// Rank 3 of eight, or of as many as it is given.
struct silent {
  using memory_type = sp::host_memory;
  static constexpr bool row_lists = true;
  struct token {
    void wait() {}
  };
  int rank_ = 3, size_ = 8;
  int rank() const { return rank_; }
  int size() const { return size_; }
  token exchange(sp::traffic const& t) const {
    benchmark::DoNotOptimize(t);
    return {};
  }
};

/// Neither computes nor passes over rows.
struct idle_kernel {
  using memory_type = sp::host_memory;
  struct plan {};
  using saved = sp::nothing;
  plan prepare(sp::problem const&) const { return {}; }
  template <class T>
  saved forward(plan const&, sp::allocator&, sp::call_params const&, sp::view<T const, 3>, std::span<sp::kv_views<T> const>,
                sp::attention_state<T>) const {
    return {};
  }
  template <class T>
  void backward(plan const&, sp::allocator&, sp::call_params const&, std::span<sp::query_grad<T> const>,
                std::span<sp::key_grad<T> const>, saved const&) const {}
};

/// The same as an attention object, so that Ulysses around it does nothing but its exchanges.
struct idle_attention {
  using memory_type = sp::host_memory;
  struct prepared {
    index_t rows = 0;
    sp::detail::checked_geometry checked{};
  };
  template <class T>
  struct saved {
    using element_type = T;
    sp::detail::saved_token token;
  };
  static constexpr char const* name = "idle_attention";
  sp::solo alone;
  sp::mask visible = sp::causal();
  sp::solo const& group() const { return alone; }
  sp::mask const& mask() const { return visible; }
  int checks() const { return 1; }
  sp::heads local_heads_of(sp::heads whole) const { return whole; }
  index_t q_rows(prepared const& p) const { return p.rows; }
  index_t k_rows(prepared const& p) const { return p.rows; }
  void check_call(sp::heads, bool) const {}
  void prepare_layouts(prepared& p, sp::layout const& q, sp::layout const&, int part, std::vector<sp::slice> const&,
                       sp::mask const&) const {
    p.rows = q.tokens(part);
  }
  void identify(sp::digest&) const {}
  template <class F>
  void each_group(F&&) const {}
  int sequence_rank() const { return 0; }
  void describe(sp::fingerprint&, prepared const&, index_t, sp::random_key) const {}
  template <class T>
  saved<T> run_forward(prepared const&, sp::context<> const&, sp::detail::forward_io<T> const&) const {
    return {sp::detail::saved_token(true)};
  }
  template <class T, class G>
  void run_backward(prepared const&, sp::context<> const&, saved<T> const&, sp::detail::backward_io<T, G> const&) const {}
  template <class T>
  index_t scratch_for(prepared const&, sp::heads, sp::attention_shape const&) const {
    return 0;
  }
  template <class T>
  index_t saved_for(prepared const&, sp::heads, sp::attention_shape const&) const {
    return 0;
  }
  template <class T, class F>
  void each_lse(saved<T> const&, F&&) const {}
};

constexpr index_t tokens = 64000;

sp::documents packed_documents(index_t count) {
  std::vector<index_t> cu{0};
  for (index_t d = 1; d < count; ++d) cu.push_back(sp::cut(tokens, d, count) + d * 7919 % 17);
  cu.push_back(tokens);
  return sp::packed(std::span<index_t const>(cu));
}

double bytes_in_use() { return double(mallinfo2().uordblks); }

/// Forward and backward with everything prepared. What a ring takes is its passes over rows (it zeroes and adds gradients), which is why
/// heads x dim are as small as they can be. Counter: bytes of prepared geometry.
template <class Attention, class Sharding>
void step(benchmark::State& state, Attention const& attention, Sharding how, index_t heads) {
  sp::batch const b(packed_documents(state.range(0)), how, silent{});
  double const before = bytes_in_use();
  auto const prepared = attention.prepare(b);
  state.counters["prepared_bytes"] = bytes_in_use() - before;
  std::vector<float> memory(std::size_t(b.tokens() * heads));
  sp::view<float, 3> const x(memory.data(), {b.tokens(), heads, 1});
  std::vector<float> results(memory.size());
  sp::view<float, 3> const y(results.data(), x.extents);
  std::vector<std::vector<float>> gradients(4, memory);
  auto grad = [&](std::size_t i) { return sp::view<float, 3>(gradients[i].data(), x.extents); };
  sp::pool scratch, kept;
  sp::context const ctx(scratch, kept);
  for (auto _ : state) {
    auto saved = attention.forward(prepared, ctx, x, x, x, y);
    attention.backward(prepared, ctx, std::move(saved), x, x, x, y, grad(0), grad(1), grad(2), grad(3));
  }
}

void documents(benchmark::internal::Benchmark* b) {
  b->Arg(10);
  if (!std::getenv("SP_BENCH_TINY")) b->Arg(1000);
}

void ulysses_8(benchmark::State& state) { step(state, sp::ulysses_attention{silent{}, idle_attention{}}, sp::zigzag{}, 8); }
BENCHMARK(ulysses_8)->Apply(documents);

void ring_8(benchmark::State& state) {
  step(state, sp::ring_attention{silent{}, idle_kernel{}, {.schedule = sp::schedule::rotate}}, sp::zigzag{}, 1);
}
BENCHMARK(ring_8)->Apply(documents);

void usp_ring_2_ulysses_4(benchmark::State& state) {
  sp::mesh const mesh{sp::axis::ring{2}, sp::axis::ulysses{4}};
  step(state,
       sp::ulysses_attention{sp::group(silent{3, 4}),
                             sp::ring_attention{sp::group(silent{0, 2}, 4), idle_kernel{}, {.schedule = sp::schedule::rotate}}},
       sp::nested{sp::zigzag{}, 4}, 4);
}
BENCHMARK(usp_ring_2_ulysses_4)->Apply(documents);

} // namespace
