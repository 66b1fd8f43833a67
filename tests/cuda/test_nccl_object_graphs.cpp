// Attention objects over sp::nccl in captured graphs, over fakes of NCCL and of the runtime: every rank captures forward and backward on its
// own stream, and each launch computes on what the tensors hold then: the bits of the same calls outside of a graph.
// needs: context cuda nccl
// with all: takes long to compile
#include <sp/collective/reductions.hpp>
#include <sp/mesh/mesh.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/ulysses.hpp>

#include "cuda/replayed.hpp"
#include "support/nccl_ranks.hpp"

namespace test_nccl_object_graphs {

using cuda_tests::attention_program;
using cuda_tests::counted_pool;
using sp::device_memory;
using sp::index_t;
using sp::nccl;

namespace {

using drops = sp::basic_reference<device_memory, sp::dropout>;

/// make(communicator) -> object.
template <class Make>
void same_when_replayed(int ranks, support::interleaving how, Make const& make) {
  auto body = [&](nccl const& c, ncclComm_t) {
    sp::cuda_queue const queue = c.queue();
    counted_pool memory(queue);
    using object = decltype(make(c));
    attention_program<double, object> program(c, memory, make(c), {4, 2, 3},
                                              sp::batch(sp::packed{0, 9, 9, 14, 25}, sp::contiguous{sp::scope::stream}, c));
    sp::context const eager(queue, memory, memory);
    index_t const bytes = program.scratch();
    support::pool_tensor<char, 1, counted_pool> const scratch_block(memory, {bytes}), kept_block(memory, {1 << 16});
    sp::basic_workspace<device_memory> scratch(scratch_block->data, std::size_t(bytes)), kept(kept_block->data, 1 << 16);
    std::vector<std::vector<std::vector<double>>> expected;
    auto fill = [&](unsigned seed) { program.fill(10 * seed + unsigned(c.rank())); };
    for (unsigned seed = 0; seed < 3; ++seed) { // the first call meets every peer
      fill(seed);
      program.step(eager);
      expected.push_back(program.results());
    }
    c.poll();
    program.captured = true;
    cuda_tests::graph const captured(
        queue.stream(), [&] { program.step(sp::context(queue, scratch, kept)); }, cudaStreamCaptureModeThreadLocal);
    REQUIRE(captured.end() == cudaSuccess);
    for (unsigned seed : {1u, 2u, 1u}) {
      fill(seed);
      captured.launch(queue.stream());
      CHECK(program.results() == expected[seed]);
      c.poll();
    }
  };
  support::run_nccl(std::min(ranks, support::most_nccl_ranks()), body, {.seed = 7, .how = how});
}

} // namespace

TEST_CASE("nccl graphs: rings replay forward and backward, with the step counter of their key as it is then") {
  for (auto schedule : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pass_q})
    same_when_replayed(3, support::interleaving(int(schedule) % 3), [&](auto const& c) {
      return sp::ring_attention{c, drops{sp::dropout{0.5}}, {.mask = sp::causal(), .schedule = schedule}};
    });
}

TEST_CASE("nccl graphs: ulysses replays forward and backward") {
  same_when_replayed(3, support::interleaving::lane_last, [&](auto const& c) {
    return sp::ulysses_attention{c, drops{sp::dropout{0.5}}, {.mask = sp::causal()}, {sp::keep::heads, 2}};
  });
}

TEST_CASE("nccl graphs: sums over the ranks of a group, in one call of NCCL, are replayed") {
  int const ranks = support::most_nccl_ranks() < 4 ? 1 : 4, of_group = (ranks + 1) / 2;
  support::run_nccl(ranks, [&](nccl const& c, ncclComm_t) {
    support::nccl_place here(c);
    sp::mesh const mesh{sp::axis::ring{ranks / of_group}, sp::axis::ulysses{of_group}};
    sp::native_sums const everybody{c};
    sp::native_sums const group{mesh.ulysses(c)};
    auto const x = here.tensor<float>(1, 300, 0);
    auto const y = here.tensor<sp::bf16>(1, 4, sp::bf16(0));
    auto step = [&] {
      sp::all_reduce(group, sp::view<float, 1, device_memory>(x.tensor.data, {300}), here.ctx).wait();
      sp::all_reduce(everybody, sp::view<sp::bf16, 1, device_memory>(y.tensor.data, {4}), here.ctx).wait();
    };
    auto fill = [&](auto const& to, int value) {
      using T = std::remove_pointer_t<decltype(to.tensor.data)>;
      std::vector<T> const now(std::size_t(to.tensor.elements()), T(value + c.rank()));
      here.queue.upload(reinterpret_cast<std::byte*>(to.tensor.data), std::as_bytes(std::span(now)));
    };
    auto right = [&](int value) { // what ranks add up is exact in bf16, too
      int const first = c.rank() / of_group * of_group;
      auto sum = [&](int from, int n) { return float(n * value + n * (2 * from + n - 1) / 2); };
      CHECK(here.read(x.tensor) == std::vector<float>(300, sum(first, of_group)));
      for (sp::bf16 const got : here.read(y.tensor)) CHECK(float(got) == sum(0, ranks));
    };
    fill(x, 7), fill(y, 7);
    step(); // meets every peer
    right(7);
    c.poll();
    cuda_tests::graph const captured(here.queue.stream(), step, cudaStreamCaptureModeThreadLocal);
    REQUIRE(captured.end() == cudaSuccess);
    for (int launch = 1; launch < 3; ++launch) {
      fill(x, 10 * launch), fill(y, 10 * launch);
      captured.launch(here.queue.stream());
      right(10 * launch);
    }
  });
}

} // namespace test_nccl_object_graphs
