// Element-wise work of queues: the bits of plain loops for any strides, all of it given to the queue, in memory of any kind.
// Numbers that the host asks for come back from any memory, and a queue that the host runs needs none for them.
#include <doctest/doctest.h>

#include <random>
#include <vector>

#include <sp/core/context.hpp>
#include <sp/core/elementwise.hpp>

#include "support/counting_queue.hpp"
#include "support/failure.hpp"

namespace test_elementwise {
namespace {

using sp::index_t;
using support::apart;
using support::counted_work;
using support::counting_queue;
using support::in_memory;
using support::plain_memory;

static_assert(sp::task_queue<sp::inline_queue> && sp::queue<sp::inline_queue> && sp::queue<counting_queue<apart>> &&
              sp::queue<counting_queue<sp::host_memory>>);

/// Lacks one member each.
struct no_sums : sp::inline_queue {
  void sums() const = delete;
};
struct no_lane : sp::inline_queue {
  void lane() const = delete;
};
struct no_upload : sp::inline_queue {
  void upload() const = delete;
};
struct no_synchronize : sp::inline_queue {
  void synchronize() const = delete;
};
/// Of host memory, and works later: the library would read and give back what it works on.
struct late_on_the_host : sp::inline_queue {
  static constexpr bool finished_on_return = false;
};
struct late_elsewhere : late_on_the_host {
  using memory_type = apart;
};
static_assert(!sp::queue<late_on_the_host> && sp::queue<late_elsewhere>);
static_assert(!sp::queue<no_sums> && !sp::queue<no_upload> && !sp::queue<no_lane> && !sp::queue<no_synchronize> &&
              !sp::queue<int>);

/// A tensor of rank 3 in a wider block: heads of a packed tensor, every other row, channels or rows backwards.
template <class T>
struct strided {
  std::vector<T> block;
  sp::view<T, 3> v;

  explicit strided(std::minstd_rand& random) : block(600) {
    for (T& x : block) x = T(double(random() % 1000) / 8 - 60);
    sp::view<T, 3> const all(block.data(), {6, 5, 20});
    index_t const step = 1 + index_t(random() % 2), heads = 1 + index_t(random() % 5);
    index_t const dim = random() % 2 ? 20 : 1 + index_t(random() % 20);
    v = all.rows(0, 6 / step, step).narrow(1, 5 - heads, heads).narrow(2, 0, dim);
    if (random() % 3 == 0) v = {&v(v.extent(0) - 1, 0, 0), v.extents, {-v.stride(0), v.stride(1), v.stride(2)}};
    if (random() % 3 == 0) v = {&v(0, 0, dim - 1), v.extents, {v.stride(0), v.stride(1), -v.stride(2)}};
    if (random() % 8 == 0) v = v.narrow(int(random() % 3), 0, 0);
  }
};

template <class F>
void each_index(std::array<index_t, 3> const& e, F&& f) {
  for (index_t i = 0; i < e[0]; ++i)
    for (index_t j = 0; j < e[1]; ++j)
      for (index_t k = 0; k < e[2]; ++k) f(i, j, k);
}

/// A pass over two tensors against a plain loop, by no queue, the host's, and a queue of other memory; everything around the
/// tensor stays as it is. Pass: pass(queue..., to, from); Plain: plain(to's element, from's element).
template <class To, class From, class Pass, class Plain>
void check_pass(std::minstd_rand& random, Pass&& pass, Plain&& plain) {
  strided<To> to(random);
  strided<From> from(random);
  while (from.v.extents != to.v.extents) from = strided<From>(random);
  std::vector<To> const before = to.block;
  each_index(to.v.extents, [&](index_t i, index_t j, index_t k) { to.v(i, j, k) = plain(to.v(i, j, k), from.v(i, j, k)); });
  auto same = [&](auto&& call) {
    std::vector<To> now = before;
    sp::view<To, 3> const v(now.data() + (to.v.data - to.block.data()), to.v.extents, to.v.strides);
    call(v);
    return now == to.block;
  };
  counted_work work;
  CHECK(same([&](auto const& v) { pass(v, from.v); }));
  CHECK(same([&](auto const& v) { pass(sp::inline_queue{}, v, from.v); }));
  CHECK(same([&](auto const& v) { pass(counting_queue<apart>(work), in_memory<apart>(v), in_memory<apart>(from.v)); }));
  CHECK((work.passes == 1 && work.indices <= to.v.elements()));
}

struct fill_first {
  template <class V>
  void operator()(V const& to, V const&) const {
    sp::fill(to, 3.5F);
  }
  template <class Q, class V>
  void operator()(Q const& q, V const& to, V const&) const {
    sp::fill(q, to, 3.5F);
  }
};
struct add_two {
  index_t operator()(index_t i, index_t t) const { return 10 * i + t; }
};

} // namespace

TEST_CASE("elementwise: fill, assign and add give the bits of plain loops for any strides, and all of it to the queue [asan]") {
  std::minstd_rand random(7);
  for (int trial = 0; trial < 40; ++trial) {
    check_pass<float, float>(random, fill_first{}, [](float, float) { return 3.5F; });
    check_pass<sp::bf16, float>(
        random, [](auto const&... x) { sp::assign(x...); }, [](sp::bf16, float y) { return sp::bf16(y); });
    check_pass<float, sp::fp16>(
        random, [](auto const&... x) { sp::detail::add(x...); }, [](float x, sp::fp16 y) { return x + float(y); });
    check_pass<sp::fp16, sp::fp16>(
        random, [](auto const&... x) { sp::detail::add(x...); },
        [](sp::fp16 x, sp::fp16 y) { return sp::fp16(float(x) + float(y)); });
  }
  sp::bf16 low[3]{};
  sp::fill(sp::view(low, 3), sp::bf16(2));
  CHECK(float(low[0]) + float(low[2]) == 4);
}

/// One pass over n elements that begin `skip` elements behind an aligned address: against the same on the host; how many indices it took.
template <class To, class From>
index_t taken(index_t n, index_t skip) {
  alignas(16) std::array<To, 96> to, expected;
  alignas(16) std::array<From, 96> from;
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = From(float(i) / 7), to[i] = expected[i] = To(float(i));
  auto part = [&](auto& x) { return sp::view(x.data() + skip, 2, n / 2); };
  counted_work work;
  counting_queue<apart> const queue(work);
  sp::assign(queue, in_memory<apart>(part(to)), in_memory<apart>(part(from)));
  sp::detail::add(queue, in_memory<apart>(part(to)), in_memory<apart>(part(from)));
  sp::fill(queue, in_memory<apart>(sp::view(to.data() + 64 + skip, n / 4)), To(3.0F));
  sp::assign(part(expected), part(from));
  sp::detail::add(part(expected), part(from));
  sp::fill(sp::view(expected.data() + 64 + skip, n / 4), To(3.0F));
  for (std::size_t i = 0; i < to.size(); ++i) CHECK(double(float(to[i])) == double(float(expected[i])));
  CHECK(work.passes == 3);
  return work.indices;
}

TEST_CASE("elementwise: on a device elements that follow each other are taken 16 bytes at once, with the same bits [asan]") {
  CHECK(taken<float, float>(48, 0) == 12 + 12 + 3);
  CHECK(taken<float, float>(50, 0) == 13 + 13 + 3); // the last ones are not as many
  CHECK(taken<float, float>(48, 1) == 48 + 48 + 12);
  CHECK(taken<sp::bf16, float>(48, 0) == 6 + 6 + 2);
  CHECK(taken<double, sp::fp16>(38, 0) == 5 + 5 + 5);
  CHECK(taken<double, sp::fp16>(38, 2) == 38 + 38 + 5);
}

TEST_CASE("elementwise: rows that follow each other are one row") {
  auto extents = [](auto v, auto... others) {
    sp::detail::join_dimensions(v, others...);
    return v.extents;
  };
  float x[1]{};
  using list = std::array<index_t, 3>;
  sp::view<float, 3> const dense(x, {4, 3, 2}), cut(x, {4, 2, 2}, {6, 2, 1}), spread(x, {4, 3, 2}, {12, 4, 2}),
      gaps(x, {4, 3, 2}, {12, 4, 1});
  CHECK(extents(dense) == list{1, 1, 24});
  CHECK(extents(cut) == list{4, 1, 4});
  CHECK(extents(spread) == list{1, 1, 24});
  CHECK(extents(gaps) == list{1, 12, 2});
  CHECK(extents(dense, spread) == list{1, 1, 24});
  CHECK(extents(dense, gaps) == list{1, 12, 2}); // as both allow
  CHECK(extents(sp::view<float, 3>(x, {1, 3, 1}, {5, 9, 7})) == list{1, 3, 1});
}

TEST_CASE("elementwise: sums and elements come back to the host, from another memory by one wait and without a block left out") {
  counted_work here, there;
  counting_queue<sp::host_memory> const host(here);
  counting_queue<apart> const other(there);
  plain_memory<apart> memory;
  sp::workspace none(nullptr, 0);
  CHECK(sp::detail::sum_now(host, none, 5, add_two{}) == 10);
  CHECK(sp::detail::sum_now(other, memory, 5, add_two{}) == 10);
  CHECK(here == counted_work{0, 0, 1, 5, 0, 0});
  CHECK(there == counted_work{0, 0, 1, 5, 1, 1});
  CHECK(memory.blocks == 0);

  double values[] = {1, 2, 3}, got[3]{};
  sp::detail::read_now(other, sp::view(got, 3), in_memory<apart>(sp::view(values, 3)));
  CHECK(got[2] == 3);
  CHECK(sp::detail::element_now(other, values + 1) == 2);
  CHECK(sp::detail::element_now(host, values + 2) == 3);
  CHECK((there.waits == 3 && here.waits == 0));
  sp::view<double, 2, apart> const ends(values, {2, 1}, {2, 1});
  CHECK(sp::read(other, ends) == std::vector<double>{1, 3});
  CHECK(sp::read(host, sp::view<double const, 1>(values, 3)) == std::vector<double>{1, 2, 3});
  CHECK((there.waits == 4 && here.waits == 0));
}

TEST_CASE("elementwise: memory of another kind has blocks, tensors, counters and workspaces of its own") {
  plain_memory<apart> memory;
  {
    sp::owned<float, 2, apart> const x(memory, {3, 4});
    static_assert(std::is_same_v<decltype(x.tensor), sp::view<float, 2, apart>>);
    CHECK(memory.blocks == 1);
  }
  CHECK(memory.blocks == 0);
  sp::basic_byte_counter<apart> counter;
  sp::owned<double, 1, apart> const counted(counter, {9});
  CHECK(counter.bytes() == 128);
  alignas(64) std::byte block[128];
  sp::basic_workspace<apart> space(block, sizeof block);
  sp::owned<char, 1, apart> const first(space, {1});
  CHECK(space.room() == 64);
  CHECK(support::failure_of([&] { return sp::owned<char, 1, apart>(space, {65}).memory.bytes(); }).code ==
        sp::errc::workspace_too_small);
  static_assert(!std::is_constructible_v<sp::owned<float, 1>, sp::basic_allocator<apart>&, std::array<index_t, 1>>);
}

TEST_CASE("context: deduced from two allocators for the caller's thread, from a queue and two for any queue") {
  struct arena : sp::allocator { // as users write it
    void* allocate(std::size_t) override { return nullptr; }
    void deallocate(void*, std::size_t) noexcept override {}
  } scratch, kept;
  counted_work work;
  plain_memory<apart> there;
  sp::context const host(scratch, kept), keyed{scratch, kept, sp::random_key{3, 4}};
  sp::context const other(counting_queue<apart>(work), there, there, {5, 6});
  static_assert(std::is_same_v<decltype(host), sp::context<> const>);
  static_assert(std::is_same_v<decltype(other), sp::context<counting_queue<apart>> const>);
  static_assert(sizeof(host) ==
                sizeof(void*) * 3 + sizeof(sp::random_key) + sizeof(sp::table_room)); // the caller's thread takes no room
  CHECK((host.scratch == &scratch && host.kept == &kept && keyed.random == sp::random_key{3, 4}));
  CHECK((other.scratch == &there && other.random == sp::random_key{5, 6}));
  sp::context roomy = keyed;
  roomy.room = {.times = 3, .least = 77};
  auto const moved = roomy.with(kept, scratch);
  CHECK((moved.scratch == &kept && moved.kept == &scratch && moved.random == keyed.random));
  CHECK((moved.room.times == 3 && moved.room.least == 77));
  CHECK(moved.lists == &kept); // lists follow scratch, unless they are elsewhere
  arena lists;
  roomy.lists = &lists;
  CHECK(roomy.with(kept, scratch).lists == &lists);
  sp::context lists_apart = other;
  lists_apart.lists = &lists;
  lists_apart.room.least = 5;
  auto const away = lists_apart.with(there, there);
  CHECK((away.lists == &lists && away.room.least == 5 && other.with(there, there).lists == other.lists));
}

} // namespace test_elementwise
