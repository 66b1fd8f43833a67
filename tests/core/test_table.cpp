// Uploads and tables: bytes of the host reach memory of any kind in the order of its queue, whatever becomes of them afterwards.
// A table over host memory is the host's own list; elsewhere its address stays, and more than it has room for is refused.
#include <doctest/doctest.h>

#include <cstring>
#include <numeric>

#include <sp/core/table.hpp>
#include <sp/core/workers/workers.hpp>
#include <sp/core/workers/workers_ref.hpp>

#include "support/counting_queue.hpp"
#include "support/failure.hpp"
#include "support/late_queue.hpp"

namespace test_table {
namespace {

using sp::index_t;
using sp::table;
using support::apart;
using support::counted_work;
using support::counting_queue;
using support::elsewhere;
using support::elsewhere_pool;
using support::elsewhere_tensor;
using support::late_queue;

std::vector<index_t> numbers(index_t n, index_t first) {
  std::vector<index_t> v(std::size_t(n), 0);
  std::iota(v.begin(), v.end(), first);
  return v;
}

struct pair_pool { ///< threads of somebody else, of which one comes
  static int threads() { return 2; }
  template <class Call>
  void parallel(index_t n, Call const& call) {
    for (index_t i = 0; i < n; ++i) call(i);
  }
};

/// What a pass does that holds the address of a table, as one in a captured graph does: it is made once and runs again and again.
struct read_table {
  sp::view<index_t const, 1, elsewhere> from;
  sp::view<index_t, 1, elsewhere> to;
  void operator()(index_t i) const { to(i) = from(i); }
};

} // namespace

TEST_CASE("table: every queue of the host uploads at once, no bytes are fine [asan]") {
  auto check = [](auto const& q) {
    std::vector<index_t> from = numbers(5, 7), to(5);
    q.upload(reinterpret_cast<std::byte*>(to.data()), std::as_bytes(std::span(from)));
    from.assign(5, 0);
    q.upload(reinterpret_cast<std::byte*>(to.data()), {});
    q.upload(nullptr, {});
    CHECK(to == numbers(5, 7));
  };
  pair_pool pool;
  counted_work work;
  check(sp::inline_queue{});
  check(sp::workers{2});
  check(sp::workers_ref{pool});
  check(counting_queue<apart>(work));
  CHECK((work.uploads == 3 && work.uploaded == 5 * 8));
}

TEST_CASE("table: a queue that works late has the bytes of the call, in its order [asan]") {
  for (unsigned seed = 0; seed < 4; ++seed) {
    late_queue const q(seed);
    elsewhere_pool pool(q);
    elsewhere_tensor<index_t, 1> x(pool, {64}), y(pool, {64}), z(pool, {64});
    auto const pass = [&](auto const& to) { q.for_each(to->extents, read_table{*x, *to}); };
    {
      std::vector<index_t> bytes = numbers(64, 1);
      auto* const at = reinterpret_cast<std::byte*>(x->data);
      q.upload(at, std::as_bytes(std::span(bytes)));
      bytes = numbers(64, -900);
      pass(y);
      q.upload(at, std::as_bytes(std::span(bytes)));
      bytes = numbers(64, 5); // and gone
      pass(z);
    }
    CHECK(y.download() == numbers(64, 1));
    CHECK(z.download() == numbers(64, -900));
  }
}

TEST_CASE("table: over host memory it is the list that it was given, and grows [asan]") {
  counted_work work;
  sp::pool memory;
  sp::context const ctx(counting_queue<sp::host_memory>(work), memory, memory);
  table<index_t, sp::host_memory> t;
  CHECK((!t.made() && t.size() == 0));
  for (index_t n : {3, 100, 0, 5}) {
    std::vector<index_t> list = numbers(n, n);
    index_t const* const data = list.data();
    t.assign(ctx, std::move(list));
    CHECK((t.made() && t.size() == n && t.capacity() >= n && t.values().data == data && t.values().extent(0) == n));
  }
  CHECK(work == counted_work{});
  CHECK(memory.peak_bytes() == 0);
}

TEST_CASE("table: elsewhere it takes one block with the room that was asked for, one upload a batch, and refuses more [asan]") {
  counted_work work;
  support::plain_memory<apart> scratch, kept;
  sp::context ctx(counting_queue<apart>(work), scratch, kept);
  ctx.room = {.times = 1.5, .least = 4};
  {
    table<index_t, apart> t, small;
    t.assign(ctx, numbers(10, 0));
    small.assign(ctx, {});
    auto const at = t.values().data;
    CHECK((kept.blocks == 2 && scratch.blocks == 0 && t.capacity() == 15 && small.capacity() == 4 && small.size() == 0));
    ctx.room = {}; // read when the block is taken, and never again
    for (index_t n : {15, 1, 0, 8}) {
      t.assign(ctx, numbers(n, n));
      CHECK((t.values().data == at && t.size() == n && t.capacity() == 15));
      CHECK((n == 0 || std::memcmp(at, numbers(n, n).data(), std::size_t(n) * sizeof(index_t)) == 0));
    }
    auto const e = support::failure_of([&] { return t.assign(ctx, numbers(16, 0)), 0; });
    CHECK(support::says(e, sp::errc::workspace_too_small, "a table of 16 entries, there is room for 15"));
    CHECK((t.size() == 8 && t.values().data == at && t.values()(7) == 15)); // as it was
    CHECK((work.uploads == 6 && work.uploaded == (10 + 15 + 1 + 8) * 8));

    auto const moved = std::move(t);
    CHECK((moved.values().data == at && moved.size() == 8 && kept.blocks == 2));
  }
  CHECK((kept.blocks == 0 && work.waits == 0 && work.copies == 0));
  CHECK((sp::table_room{}.capacity(7) == 7 && sp::table_room{.times = 0.5}.capacity(7) == 7));
}

TEST_CASE("table: a pass that captured its address reads the batch that was written last, also into a smaller part [asan]") {
  for (unsigned seed = 0; seed < 4; ++seed) {
    late_queue const q(seed);
    elsewhere_pool pool(q);
    sp::context const ctx(q, pool, pool);
    elsewhere_tensor<index_t, 1> first(pool, {20}), second(pool, {20});
    table<index_t, elsewhere> t;
    t.assign(ctx, numbers(20, 100));
    read_table captured{t.values(), *first};
    {
      late_queue::hold const held(q); // nothing of it waits
      q.for_each(first->extents, captured);
      t.assign(ctx, numbers(9, 500));
      captured.to = *second;
      q.for_each(second->extents, captured);
    }
    std::vector<index_t> want = numbers(20, 100);
    CHECK(first.download() == want);
    for (index_t i = 0; i < 9; ++i) want[std::size_t(i)] = 500 + i;
    CHECK(second.download() == want);
  }
}

} // namespace test_table
