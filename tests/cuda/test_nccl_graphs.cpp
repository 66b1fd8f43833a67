// Captures of sp::nccl over fakes of NCCL and of the runtime: exchanges that a graph replays, and what a capture refuses in a sentence.
// Every rank captures a graph of its own; who looks at exchanges under way disturbs no capture.
// needs: context cuda nccl
// with all: takes long to compile
#include <doctest/doctest.h>

#include <barrier>
#include <optional>
#include <string>

#include "cuda/place.hpp"
#include "support/nccl_ranks.hpp"

#include <sp/collective/check/agreement.hpp>
#include <sp/collective/reductions.hpp>
#include <sp/layout/route_exchange.hpp>

#include "support/failure.hpp"

namespace test_nccl_graphs {

using cuda_tests::graph;
using sp::errc;
using sp::index_t;
using sp::nccl;
using support::failure_of;
using support::run_nccl;
using support::says;
using place = support::nccl_place;

namespace {

/// Row i of the sender lands in row 3 sender + i; rank p is sent the rows p, p + 2 of four.
sp::route every_second(int part, int parts) {
  return sp::route::of_rows(
      part, parts, 4, 2 * parts, [](int p, auto add) { add(p % 2, 2, 2); }, [](int p, auto add) { add(2 * p + 1, -1, 2); });
}
void give_up(cudaStream_t s) {
  cudaGraph_t none = nullptr;
  if (cudaStreamEndCapture(s, &none) == cudaSuccess) cudaGraphDestroy(none);
  static_cast<void>(cudaGetLastError());
}

} // namespace

TEST_CASE("nccl graphs: exchanges, sums and gathers are replayed on what the tensors hold then [asan]") {
  constexpr int ranks = 3;
  for (auto how : {support::interleaving::random, support::interleaving::lane_last, support::interleaving::lane_first})
    run_nccl(ranks,
             [&](nccl const& c, ncclComm_t comm) {
               place here(c);
               sp::route const along = every_second(c.rank(), ranks);
               auto const x = here.tensor<float>(4, 3, 0), landed = here.tensor<float>(2 * ranks, 3, -1),
                          sum = here.tensor<float>(1, 5, 0);
               sp::owned<char, 1, sp::device_memory> const room(here.pool, {1 << 14});
               sp::basic_workspace<sp::device_memory> owned_by_graph(room.tensor.data, 1 << 14);
               sp::context const ctx(here.queue, owned_by_graph, owned_by_graph);
               auto step = [&] {
                 auto first = sp::exchange(c, "test", ctx, sp::routed(along, x.tensor, landed.tensor));
                 first.wait();
                 sp::assign(here.queue, sum.tensor.narrow(1, 0, 3), x.tensor.rows(1, 1));
                 sp::all_reduce(c, sp::view<float, 1, sp::device_memory>(sum.tensor.data, {5}), ctx).wait();
               };
               step(); // every peer is met
               here.queue.synchronize();
               c.poll();
               auto const before = fake_nccl::given(comm);
               graph const captured(here.queue.stream(), step, cudaStreamCaptureModeThreadLocal);
               REQUIRE(captured.end() == cudaSuccess);
               CHECK(fake_nccl::given(comm).groups == before.groups + 2);
               for (int launch = 1; launch < 4; ++launch) {
                 std::vector<float> values(12);
                 std::iota(values.begin(), values.end(), float(1000 * launch + 100 * c.rank()));
                 here.queue.upload(reinterpret_cast<std::byte*>(x.tensor.data), std::as_bytes(std::span(values)));
                 captured.launch(here.queue.stream());
                 auto const got = here.read(landed.tensor), total = here.read(sum.tensor);
                 for (int p = 0; p < ranks; ++p)
                   for (int i = 0; i < 2; ++i)
                     for (int d = 0; d < 3; ++d)
                       CHECK(got[std::size_t((2 * p + 1 - i) * 3 + d)] ==
                             float(1000 * launch + 100 * p + (c.rank() % 2 + 2 * i) * 3 + d));
                 for (int d = 0; d < 3; ++d) CHECK(total[std::size_t(d)] == float(3 * (1000 * launch + 3 + d) + 300));
                 c.poll();
               }
               sp::exchange(c, "behind", ctx, sp::routed(along, x.tensor, landed.tensor)).wait(); // outside of the graph again
               here.queue.synchronize();
             },
             {.seed = 3, .how = how});
}

TEST_CASE("nccl graphs: what cannot be captured is refused in a sentence") {
  run_nccl(1, [&](nccl const&, ncclComm_t) {
    ncclComm_t comms[2];
    REQUIRE(ncclCommInitAll(comms, 2, std::array{0, 0}.data()) == ncclSuccess);
    support::own_stream const stream;
    auto refused = [&](auto const& call, errc code, auto... texts) {
      sp::cuda_queue const queue(stream.get(), 0);
      nccl const c(comms[0], queue);
      place here(c);
      auto const x = here.tensor<float>(4, 3, 0);
      queue.wait(queue.lane().record());
      REQUIRE(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal) == cudaSuccess);
      CHECK(says(failure_of([&] { return call(c, here, x.tensor), 0; }), code, texts...));
      give_up(stream.get());
    };
    auto send = [](nccl const& c, place& here, auto const& x) {
      sp::piece const p = sp::as_piece(x);
      sp::parcel const other{1, {&p, 1}};
      sp::exchange(c, sp::traffic{"test", {&other, 1}, {&other, 1}}, here.queue).wait();
    };
    refused(send, errc::backend_error, "a peer is met for the first time in a capture");
    refused([&](nccl const& c, place& here, auto const& x) { send(c, here, x.narrow(1, 0, 2)); }, errc::bad_state,
            "128 bytes are needed to pack messages, and a graph is being captured");
    refused([&](nccl const& c, place&, auto const&) { static_cast<void>(c.split(0, 0)); }, errc::bad_state,
            "a graph is being captured");
    refused(
        [&](nccl const& c, place& here, auto const&) {
          sp::fingerprint const f("test", ".call", c.rank());
          sp::agree(c, f, here.ctx);
        },
        errc::bad_state);
    for (ncclComm_t comm : comms) REQUIRE(ncclCommDestroy(comm) == ncclSuccess);
  });
}

TEST_CASE("nccl graphs: who looks at exchanges under way disturbs no capture") {
  std::barrier together(2);
  run_nccl(2, [&](nccl const& c, ncclComm_t) {
    place here(c);
    auto const x = here.tensor<float>(2, 4, 0);
    sp::piece const out = sp::as_piece(x.tensor.rows(0, 1)), in = sp::as_piece(x.tensor.rows(1, 1));
    sp::parcel const to{1 - c.rank(), {&out, 1}}, from{1 - c.rank(), {&in, 1}};
    auto step = [&] { sp::exchange(c, sp::traffic{"test", {&to, 1}, {&from, 1}}, here.queue).wait(); };
    step();
    here.queue.synchronize();
    together.arrive_and_wait(); // nobody else does what a capture of this kind forbids to all threads
    if (c.rank() == 1) {
      together.arrive_and_wait();
      step();
    } else {
      int looks = 0;
      std::string failed;
      auto attempt = [&](auto const& what) {
        try {
          what();
        } catch (std::exception const& e) {
          failed = e.what();
        }
      };
      auto look = [&] {
        for (; looks < 20; ++looks) c.poll();
      };
      std::optional<graph> captured;
      attempt([&] {
        captured.emplace(here.queue.stream(), [&] {
          step();
          std::thread([&] { attempt(look); }).join();
        });
      });
      CHECK(failed == "");
      CHECK(looks == 20);
      together.arrive_and_wait();
      if (captured && captured->end() == cudaSuccess) captured->launch(here.queue.stream());
    }
    here.queue.synchronize();
  });
}

} // namespace test_nccl_graphs
