// Captures of a CUDA queue over a fake of the runtime: what a graph replays, and what is refused, in a sentence, before CUDA would.
// Memory of a device_pool: in the order of its queue, of the caller's functions, and across captures.
// needs: context cuda
#include <doctest/doctest.h>

#include <optional>
#include <thread>

#include "cuda/place.hpp"
#include "support/failure.hpp"

namespace test_capture {

using namespace cuda_tests;
using sp::errc;
using sp::piece;
using support::failure_of;
using support::says;

namespace {

/// to(i) = from(i) + 1
struct one_more {
  sp::view<int const, 1, device_memory> from;
  sp::view<int, 1, device_memory> to;
  SP_BOTH void operator()(index_t i) const { to(i) = from(i) + 1; }
};
/// Leaves a capture of which nothing came.
void give_up(cudaStream_t s) {
  cudaGraph_t none = nullptr;
  if (cudaStreamEndCapture(s, &none) == cudaSuccess) cudaGraphDestroy(none);
  static_cast<void>(cudaGetLastError());
}

} // namespace

TEST_CASE("cuda capture: work of the queue and of its lane is replayed as often as the graph is launched [asan]") {
  for (auto how : {interleaving::random, interleaving::lane_last, interleaving::lane_first}) {
    place p(3, how);
    auto a = p.block(counted_from(0, 40)), b = p.block<int>(40), c = p.block<int>(40);
    auto const lane = p.queue.lane();
    p.queue.wait(lane.record()); // known before the capture
    auto const before = p.queue.record(), of_lane = lane.record();
    p.queue.wait(of_lane);
    auto d = p.block<int>(40), e = p.block<int>(40);
    p.queue.for_each(std::array<index_t, 1>{40}, set{d.tensor, 3});
    auto const not_yet = p.queue.record(); // the lane waits for it after the capture, in which it waits for a later one
    std::vector<piece> to, from;
    for (int i = 0; i < 10; ++i) { // a kernel whose arguments hold the list
      to.push_back(sp::as_piece(c.tensor.rows(4 * i, 4)));
      from.push_back(sp::as_piece(b.tensor.rows(4 * ((i + 3) % 10), 4)));
    }
    graph const g(p.handle, [&] {
      p.queue.wait(before);  // its own: the order of the stream
      p.queue.wait(of_lane); // waited for before
      p.queue.for_each(std::array<index_t, 1>{40}, one_more{a.tensor, b.tensor});
      lane.wait(p.queue.record());
      lane.copy(to, from);
      p.queue.for_each(std::array<index_t, 1>{40}, increase{a.tensor}); // beside the lane
      p.queue.wait(lane.record());
    });
    REQUIRE(g.end() == cudaSuccess);
    to.clear(), from.clear(); // the graph has its own
    lane.wait(not_yet);
    lane.for_each(std::array<index_t, 1>{40}, one_more{d.tensor, e.tensor});
    p.queue.wait(lane.record());
    CHECK(p.read(e.tensor) == std::vector<int>(40, 4));
    for (int launches = 1; launches < 4; ++launches) {
      g.launch(p.handle);
      auto const got = p.read(c.tensor);
      for (int i = 0; i < 40; ++i) CHECK(got[std::size_t(i)] == (i + 12) % 40 + launches);
    }
    // work outside of the graph goes on as before, and the lane waits for it anew
    p.queue.for_each(std::array<index_t, 1>{40}, set{b.tensor, 8});
    lane.wait(p.queue.record());
    lane.for_each(std::array<index_t, 1>{40}, one_more{b.tensor, c.tensor});
    p.queue.wait(lane.record());
    CHECK(p.read(c.tensor) == std::vector<int>(40, 9));
  }
}

TEST_CASE("cuda capture: queues of several streams are captured by one that they wait for and that waits for them [asan]") {
  place p(1), q(2);
  auto x = p.block(counted_from(0, 10)), y = q.block<int>(10);
  q.queue.synchronize();
  graph const g(p.handle, [&] {
    q.queue.wait(p.queue.record());
    std::thread([&] { // another thread gives its work
      q.queue.for_each(std::array<index_t, 1>{10}, one_more{x.tensor, y.tensor});
    })
        .join();
    p.queue.wait(q.queue.record());
    p.queue.for_each(std::array<index_t, 1>{10}, one_more{y.tensor, x.tensor});
  });
  REQUIRE(g.end() == cudaSuccess);
  g.launch(p.handle);
  g.launch(p.handle);
  CHECK(p.read(x.tensor) == counted_from(4, 10));
}

TEST_CASE("cuda capture: threads that are captured into one graph add to it one at a time") {
  constexpr int ranks = 3, steps = 40;
  place root(1);
  std::vector<std::unique_ptr<place>> places;
  std::vector<sp::owned<int, 1, device_memory>> blocks, copies;
  for (int r = 0; r < ranks; ++r) {
    auto& p = *places.emplace_back(std::make_unique<place>(unsigned(r) + 2));
    blocks.push_back(p.block(std::vector<int>(8, 0)));
    copies.push_back(p.block<int>(8));
    p.queue.synchronize();
  }
  graph const g(root.handle, [&] {
    auto const begin = root.queue.record();
    std::vector<cuda_queue::event> ends(ranks);
    std::vector<std::thread> threads;
    for (std::size_t r = 0; r < ranks; ++r)
      threads.emplace_back([&, r] {
        std::string failed;
        try {
          auto const& q = places[r]->queue;
          auto const lane = q.lane();
          auto const& x = blocks[r].tensor;
          piece const to = sp::as_piece(copies[r].tensor), from = sp::as_piece(x);
          q.wait(begin);
          for (int i = 0; i < steps; ++i) {
            q.for_each(std::array<index_t, 1>{8}, increase{x});
            lane.wait(q.record());
            lane.copy({&to, 1}, {&from, 1});
            q.wait(lane.record());
            auto const turn = q.capture_turn(); // as for a kernel of the caller's, and a call of the queue within
            q.for_each(std::array<index_t, 1>{8}, increase{copies[r].tensor});
          }
          ends[r] = q.record();
        } catch (sp::error const& e) {
          failed = e.what();
        }
        INFO(failed);
        CHECK(failed == "");
      });
    for (std::thread& t : threads) t.join();
    for (auto const& e : ends) root.queue.wait(e);
  });
  REQUIRE(g.end() == cudaSuccess);
  g.launch(root.handle);
  root.queue.synchronize();
  for (std::size_t r = 0; r < ranks; ++r) CHECK(places[r]->read(copies[r].tensor) == std::vector<int>(8, steps + 1));
}

TEST_CASE("cuda capture: what a graph cannot replay is refused in a sentence that says what to do before it") {
  place p, other(2);
  auto x = p.block(counted_from(0, 10));
  p.queue.synchronize();
  auto const of_other = other.queue.record(), of_lane = p.queue.lane().record();
  std::vector<int> host(10);
  piece const here = sp::as_piece(sp::view(host.data(), 10)), there = sp::as_piece(x.tensor);
  auto refused = [&](auto&& call, char const* problem, char const* remedy) {
    REQUIRE(cudaStreamBeginCapture(p.handle, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    auto const e = failure_of(call);
    CHECK(says(e, errc::bad_state, problem));
    CHECK(e.remedy.find(remedy) != std::string::npos);
    give_up(p.handle);
  };
  refused([&] { p.queue.upload(there.data, std::as_bytes(std::span(host))); }, "bytes of the host are uploaded",
          "before cudaStreamBeginCapture");
  refused([&] { p.queue.synchronize(); }, "the host waits for a stream that is being captured", "sp::read");
  refused([&] { p.queue.copy({&here, 1}, {&there, 1}); }, "memory of the host is copied", "before cudaStreamBeginCapture");
  refused([&] { p.queue.wait(of_other); }, "given before the capture", "End every exchange");
  refused([&] { p.queue.wait(of_lane); }, "given before the capture", "End every exchange");
  refused([&] { p.memory.allocate(64); }, "memory is taken from a device_pool", "sp::basic_workspace<sp::device_memory>");
  refused([&] { cuda_queue(p.handle, 0); }, "a queue was made while", "before cudaStreamBeginCapture");
  // what CUDA itself says of it: the lane was not waited for; the capture is spoilt
  graph const unjoined(p.handle, [&] {
    p.queue.lane().wait(p.queue.record());
    p.queue.lane().for_each(std::array<index_t, 1>{10}, increase{x.tensor});
  });
  CHECK(unjoined.end() == cudaErrorStreamCaptureUnjoined);
  REQUIRE(cudaStreamBeginCapture(p.handle, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(cudaStreamSynchronize(p.handle) == cudaErrorStreamCaptureUnsupported);
  auto const spoilt = failure_of([&] { return p.queue.record(); });
  CHECK(says(spoilt, errc::bad_state, "cudaStreamGetCaptureInfo: cudaErrorStreamCaptureInvalidated"));
  give_up(p.handle);
  CHECK(p.read(x.tensor) == counted_from(0, 10));
}

TEST_CASE("cuda pool: a block may be taken again at once, and is not written before earlier work is through with it [asan]") {
  for (unsigned seed = 1; seed < 9; ++seed) {
    place p(seed);
    auto result = p.block<int>(100);
    void const* first = nullptr;
    bool again = false;
    for (int i = 0; i < 10; ++i) {
      sp::owned<int, 1, device_memory> const x(p.memory, {10}); // given back while its work has not run
      again = again || x.tensor.data == first;
      first = x.tensor.data;
      p.queue.for_each(std::array<index_t, 1>{10}, set{x.tensor, i});
      p.queue.for_each(std::array<index_t, 1>{10}, one_more{x.tensor, result.tensor.rows(10 * i, 10)});
    }
    auto const got = p.read(result.tensor);
    for (int i = 0; i < 100; ++i) REQUIRE(got[std::size_t(i)] == i / 10 + 1);
    CHECK(again);
  }
}

#ifndef __CUDACC__ // a device does not say what is alive

TEST_CASE("cuda pool: memory comes from the caller's functions or the caller's pool, and goes back there") {
  stream s;
  cuda_queue const queue(s.handle);
  struct arena {
    int out = 0;
    cudaStream_t seen = nullptr;
    bool empty = false;
  } mine;
  auto const before = fake_cuda::alive();
  {
    sp::device_pool pool(queue, {&mine,
                                 [](void* owner, std::size_t bytes, cudaStream_t stream) -> void* {
                                   auto& a = *static_cast<arena*>(owner);
                                   ++a.out, a.seen = stream;
                                   void* p = nullptr;
                                   return a.empty || cudaMallocAsync(&p, bytes, stream) != cudaSuccess ? nullptr : p;
                                 },
                                 [](void* owner, void* p, std::size_t, cudaStream_t stream) {
                                   --static_cast<arena*>(owner)->out;
                                   cudaFreeAsync(p, stream);
                                 }});
    {
      sp::owned<int, 1, device_memory> const x(pool, {10});
      CHECK((mine.out == 1 && mine.seen == s.handle && fake_cuda::alive().pools == before.pools));
    }
    CHECK(mine.out == 0);
    mine.empty = true;
    CHECK(says(failure_of([&] { return pool.allocate(8); }), errc::backend_error, "device_memory_functions.allocate",
               "cudaErrorMemoryAllocation"));
  }
  cudaMemPool_t callers = nullptr;
  cudaMemPoolProps properties{};
  REQUIRE(cudaMemPoolCreate(&callers, &properties) == cudaSuccess);
  {
    sp::device_pool pool(queue, callers);
    sp::owned<int, 1, device_memory> const x(pool, {10});
    CHECK(fake_cuda::alive().blocks == before.blocks + 1);
  }
  CHECK(fake_cuda::alive().pools == before.pools + 1);
  cudaMemPoolDestroy(callers);
  CHECK(fake_cuda::alive() == before);
}

TEST_CASE("cuda pool: a block that comes back during a capture is given back by the next call after it") {
  place p;
  auto const before = fake_cuda::alive();
  auto x = std::make_optional(p.block<int>(10));
  graph const g(p.handle, [&] {
    p.queue.for_each(std::array<index_t, 1>{10}, set{x->tensor, 1});
    x.reset();
  });
  CHECK(g.end() == cudaSuccess);
  CHECK(fake_cuda::alive().blocks == before.blocks + 1);
  auto const y = p.block<int>(10);
  CHECK(fake_cuda::alive().blocks == before.blocks + 1);
}

#endif

} // namespace test_capture
