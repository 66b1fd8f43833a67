// Where memory comes from: a pool that reuses, a workspace that is a stack, a counter that hands out nothing, buffers that own.
// Alignment, reuse in steady state, and what is said when a workspace is too small.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sp/core/idle_pools.hpp>

#include "support/failure.hpp"

namespace test_memory {
namespace {

using sp::errc;
using sp::index_t;
using support::failure_of;
using support::says;

bool aligned(void* p) { return reinterpret_cast<std::uintptr_t>(p) % sp::allocator::alignment == 0; }

TEST_CASE("pool: blocks are aligned, given back blocks serve again, peaks are counted [asan]") {
  sp::pool pool;
  void *a = pool.allocate(100), *b = pool.allocate(1);
  CHECK(aligned(a));
  CHECK(aligned(b));
  CHECK(pool.bytes_in_use() == 128 + 64);
  pool.deallocate(a, 100);
  CHECK(pool.bytes_in_use() == 64);
  CHECK(pool.allocate(120) == a); // the same size class
  void* c = pool.allocate(100);
  CHECK(c != a);
  CHECK(pool.peak_bytes() == 128 + 64 + 128);
  pool.deallocate(c, 100);
  pool.deallocate(a, 120);
  pool.deallocate(b, 1);
  CHECK(pool.bytes_in_use() == 0);

  // a steady state asks the system for nothing: the same blocks come back in any order
  std::vector<void*> first, second;
  for (int round = 0; round < 2; ++round) {
    auto& list = round == 0 ? first : second;
    for (std::size_t n : {64, 500, 64, 5000}) list.push_back(pool.allocate(n));
    std::size_t sizes[] = {64, 500, 64, 5000};
    for (std::size_t i : {2, 0, 3, 1}) pool.deallocate(list[i], sizes[i]);
  }
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  CHECK(first == second);
}

TEST_CASE("idle pools: the next owner takes one whole, after its last block has come back [asan]") {
  using idle = sp::detail::idle_pools;
  sp::release_idle_memory();
  sp::pool* const first = idle::take();
  void* const block = first->allocate(1000);
  void* const early = first->allocate(64);
  first->deallocate(early, 64);
  idle::give_back(first); // a block is out: nobody gets the pool yet
  sp::pool* const second = idle::take();
  REQUIRE(second != first);
  static_cast<unsigned char*>(block)[999] = 1; // and it can be written
  first->deallocate(block, 1000);
  idle::give_back(second);
  sp::pool *const a = idle::take(), *const b = idle::take();
  CHECK(a == second);
  CHECK(b == first);
  CHECK(b->peak_bytes() == 0); // of the owner before
  CHECK(b->allocate(1000) == block);
  CHECK(b->bytes_in_use() == 1024);
  b->deallocate(block, 1000);
  idle::give_back(a);
  idle::give_back(b);
  CHECK(sp::release_idle_memory() == 1024 + 64);
  CHECK(sp::release_idle_memory() == 0);
}

TEST_CASE("idle pools: a thread gets its own back, another takes what there is; a block nobody uses goes to the system [asan]") {
  using idle = sp::detail::idle_pools;
  sp::release_idle_memory();
  sp::pool* const mine = idle::take();
  idle::give_back(mine);
  sp::pool* theirs = nullptr;
  std::thread([&] {
    sp::pool* const taken = idle::take(); // there is only this one
    CHECK(taken == mine);
    theirs = idle::take();
    idle::give_back(taken); // now of this thread
    idle::give_back(theirs);
    sp::pool* const again = idle::take();
    CHECK(again == theirs); // the last one given back, of its own
    idle::give_back(again);
  }).join();
  sp::pool* used = idle::take();
  for (int owner = 0; owner < 3 * int(idle::unused_owners_kept); ++owner) {
    if (owner == 0) used->deallocate(used->allocate(5000), 5000);
    used->deallocate(used->allocate(100), 100);
    sp::pool* const before = used;
    idle::give_back(used);
    used = idle::take();
    CHECK(used == before);
  }
  idle::give_back(used);
  CHECK(sp::release_idle_memory() == 128);
}

TEST_CASE("idle pools: what many batches at once needed goes when few follow, and there is a bound [asan]") {
  using idle = sp::detail::idle_pools;
  auto burst = [](std::size_t n) {
    std::vector<sp::pool*> all;
    for (std::size_t i = 0; i < n; ++i) all.push_back(idle::take());
    for (sp::pool* p : all) p->deallocate(p->allocate(1024), 1024);
    for (sp::pool* p : all) idle::give_back(p);
  };
  auto follow = [](std::size_t n) {
    for (; n > 0; --n) idle::give_back(idle::take());
  };
  sp::release_idle_memory();
  burst(20);
  burst(20); // as in a pipeline: all are still there
  follow(8 * 20 - 20);
  CHECK(sp::release_idle_memory() == 19 * 1024); // the twentieth came and went, and its block was not used
  burst(20);
  follow(8 * 20 + 20);
  CHECK(sp::release_idle_memory() == 0); // the others were taken by nobody
  burst(idle::most_idle + 10);
  CHECK(sp::release_idle_memory() == idle::most_idle * 1024);
}

TEST_CASE("idle pools: a block that outlives its batch is destroyed by another thread while a third takes the pool [tsan]") {
  using idle = sp::detail::idle_pools;
  for (int step = 0; step < 20; ++step) {
    sp::release_idle_memory();
    sp::pool* const mine = idle::take();
    void* const kept = mine->allocate(256);
    idle::give_back(mine); // the batch ends, its saved does not
    std::thread third([&] {
      std::vector<sp::pool*> others;
      sp::pool* taken = nullptr;
      for (taken = idle::take(); taken != mine; taken = idle::take()) {
        others.push_back(taken);
        std::this_thread::yield();
      }
      CHECK(taken->bytes_in_use() == 0);
      CHECK(taken->allocate(256) == kept);
      taken->deallocate(kept, 256);
      idle::give_back(taken);
      for (sp::pool* p : others) idle::give_back(p);
    });
    std::thread([&] { mine->deallocate(kept, 256); }).join();
    third.join();
  }
  CHECK(sp::release_idle_memory() > 0);
}

TEST_CASE("idle pools: of many threads each has a pool to itself [tsan]") {
  using idle = sp::detail::idle_pools;
  sp::release_idle_memory();
  std::vector<int> disturbed(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t me = 0; me < disturbed.size(); ++me)
    threads.emplace_back([&disturbed, me] {
      for (int step = 0; step < 500; ++step) {
        sp::pool* const mine = idle::take();
        auto* const block = static_cast<std::size_t*>(mine->allocate(256));
        *block = me;
        if (step % 8 == 0) std::this_thread::yield();
        disturbed[me] += *block != me || mine->bytes_in_use() != 256;
        if (step % 2 == 0) idle::give_back(mine); // before its last block, or after it
        mine->deallocate(block, 256);
        if (step % 2 != 0) idle::give_back(mine);
        if (step % 100 == 0) sp::release_idle_memory();
      }
    });
  for (std::thread& t : threads) t.join();
  for (int n : disturbed) CHECK(n == 0);
  CHECK(sp::release_idle_memory() <= disturbed.size() * 256);
}

TEST_CASE("workspace: a stack in the caller's block, at any alignment of it [asan]") {
  alignas(64) std::byte memory[512];
  for (std::size_t shift : {0, 1, 8, 63}) {
    sp::workspace w(memory + shift, sizeof memory - 64);
    void *a = w.allocate(10), *b = w.allocate(64);
    CHECK(aligned(a));
    CHECK(aligned(b));
    CHECK(static_cast<std::byte*>(b) - static_cast<std::byte*>(a) == 64);
    w.deallocate(b, 64);
    CHECK(w.allocate(64) == b); // the last one is free again at once
    w.deallocate(a, 10);        // out of order: comes back with the rest
    void* c = w.allocate(64);   // until then nobody gets it, nor the block above it
    CHECK(static_cast<std::byte*>(c) - static_cast<std::byte*>(b) == 64);
    w.deallocate(c, 64);
    w.deallocate(b, 64);
    CHECK(w.allocate(10) == a);
    // the last ones are free again at once, whatever their sizes, while others stay
    std::size_t const sizes[] = {1, 63, 65, 30};
    void* blocks[std::size(sizes)];
    for (int again = 0; again < 2; ++again) {
      for (std::size_t i = 0; i < std::size(sizes); ++i) {
        void* p = w.allocate(sizes[i]);
        CHECK((again == 0 || p == blocks[i]));
        blocks[i] = p;
      }
      for (std::size_t i = std::size(sizes); i-- > 0;) w.deallocate(blocks[i], sizes[i]);
    }
    w.deallocate(a, 10);
  }
}

TEST_CASE("workspace: blocks below the top come back with it, in whatever order, while others stay [asan]") {
  alignas(64) std::byte memory[20 * 64];
  sp::workspace w(memory, sizeof memory);
  void* const stays = w.allocate(1);
  std::vector<int> order{0, 1, 2, 3};
  do {
    void* blocks[4];
    for (void*& p : blocks) p = w.allocate(100);
    for (int i : order) w.deallocate(blocks[i], 100);
    void* const again = w.allocate(100);
    CHECK(again == blocks[0]);
    w.deallocate(again, 100);
  } while (std::next_permutation(order.begin(), order.end()));
  // two in turn, as exchanges that overlap take them: what lies below the top is not given out, and all of it comes back
  void* last = w.allocate(64);
  for (int i = 0; i < 8; ++i) {
    void* const next = w.allocate(64);
    CHECK(static_cast<std::byte*>(next) == static_cast<std::byte*>(last) + 64);
    w.deallocate(std::exchange(last, next), 64);
  }
  w.deallocate(last, 64);
  CHECK(static_cast<std::byte*>(w.allocate(1)) == static_cast<std::byte*>(stays) + 64);
}

TEST_CASE("workspace: however many blocks come back between others, all of its room does while one stays [asan]") {
  alignas(64) static std::byte memory[64 * 64];
  sp::workspace w(memory, sizeof memory);
  void* const stays = w.allocate(64);
  std::size_t const room = w.room();
  std::vector<void*> blocks;
  for (int i = 0; i < 40; ++i) blocks.push_back(w.allocate(64));
  for (int odd : {1, 0})
    for (int i = odd; i < 40; i += 2) w.deallocate(blocks[std::size_t(i)], 64);
  CHECK(w.room() == room);
  w.deallocate(stays, 64);
  CHECK(w.room() == room + 64);
}

TEST_CASE("workspace: too small says how much is needed and given, and stays usable") {
  alignas(64) std::byte memory[256];
  sp::workspace w(memory, sizeof memory);
  void* a = w.allocate(100);
  auto e = failure_of([&] { return w.allocate(200); });
  CHECK(says(e, errc::workspace_too_small, "328 bytes", "256"));
  CHECK(e.remedy.find("scratch_bytes()") != std::string::npos);
  CHECK(w.allocate(128) != nullptr); // exactly what is left
  w.deallocate(a, 100);
  CHECK(failure_of([] { return sp::workspace(nullptr, 0).allocate(1); }).code == errc::workspace_too_small);
}

TEST_CASE("byte_counter: what a run of allocations would take") {
  sp::byte_counter counter;
  {
    sp::owned<double, 2> a(counter, {3, 5}); // 120 bytes
    sp::owned<float, 1> b(counter, {16}), none(counter, {0});
    CHECK(a.tensor.data == nullptr);
    CHECK(a.tensor.extents == std::array<index_t, 2>{3, 5});
  }
  CHECK(counter.bytes() == 128 + 64);
}

TEST_CASE("buffer: owns its block, moves it, gives it back once [asan]") {
  sp::pool pool;
  {
    sp::buffer a(pool, 100);
    auto t = a.as<float>(std::array<index_t, 2>{5, 5});
    t(4, 4) = 3;
    sp::buffer b = std::move(a);
    CHECK(a.bytes() == 0);
    CHECK(b.as<float>(std::array<index_t, 2>{5, 5})(4, 4) == 3);
    sp::buffer c(pool, 50);
    c = std::move(b);
    CHECK(c.bytes() == 100);
    sp::buffer empty(pool, 0);
    CHECK(empty.as<float>(std::array<index_t, 1>{0}).data == nullptr);
  }
  CHECK(pool.bytes_in_use() == 0);
  {
    sp::owned<std::int64_t, 3> x(pool, {2, 3, 4}), y;
    CHECK(x.tensor.dense());
    y = std::move(x);
    CHECK(y.tensor.elements() == 24);
    y = {}; // released before its time
    CHECK(pool.bytes_in_use() <= 192);
  }
  CHECK(pool.bytes_in_use() == 0);
  CHECK(failure_of([&] {
          return sp::owned<double, 2>(pool, {index_t{1} << 31, index_t{1} << 30}).tensor.elements();
        }).code == errc::size_overflow);
}

} // namespace
} // namespace test_memory
