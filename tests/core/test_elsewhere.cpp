// The memory and the queue that stand for a device in tests: each mistake that they are made to show does show.
// What is right is right in every interleaving; values are those of the host's queue, bit by bit.
#include <doctest/doctest.h>

#include <csetjmp>
#include <csignal>
#include <numeric>

#include "support/late_queue.hpp"
#include "support/tensors.hpp"

namespace test_elsewhere {

using sp::index_t;
using support::elsewhere;
using support::elsewhere_pool;
using support::elsewhere_tensor;
using support::interleaving;
using support::late_queue;

namespace {

using ints = elsewhere_tensor<int, 1>;
using view = sp::view<int, 1, elsewhere>;

thread_local std::jmp_buf* after_fault = nullptr;

/// Whether a plain access faults on the host.
template <class Access>
bool faults(Access&& access) {
  struct sigaction action {
  }, before{};
  action.sa_handler = [](int) { std::longjmp(*after_fault, 1); };
  action.sa_flags = SA_NODEFER;
  ::sigaction(SIGSEGV, &action, &before);
  std::jmp_buf here;
  after_fault = &here;
  bool volatile faulted = true;
  if (setjmp(here) == 0) {
    access();
    faulted = false;
  }
  ::sigaction(SIGSEGV, &before, nullptr);
  return faulted;
}

struct set {
  view to;
  int value;
  void operator()(index_t i) const { to(i) = value; }
};
struct double_of {
  sp::view<int const, 1, elsewhere> from;
  view to;
  void operator()(index_t i) const { to(i) = 2 * from(i); }
};
/// For two memories: out(i) += the number of an index, so that an index left out or done twice shows.
template <class M>
struct count_index {
  sp::view<double, 3, M> out;
  void operator()(index_t i, index_t j, index_t k) const { out(i, j, k) += double(100 * i + 10 * j + k); }
};
template <class M>
struct entry {
  sp::view<float const, 2, M> from;
  float operator()(index_t i, index_t t) const { return from(i, t); }
};
template <class M>
struct put {
  sp::view<float, 1, M> to;
  void operator()(index_t i, float sum) const { to(i) = sum; }
};

std::vector<int> numbers(index_t n, int from) {
  std::vector<int> v(static_cast<std::size_t>(n));
  std::iota(v.begin(), v.end(), from);
  return v;
}

/// From `a` over the lane into `b` and, doubled, into `c`: what the ranks of an exchange do. `start`: the lane waits for the queue, `end`:
/// the queue for the lane. Returns c.
std::vector<int> across_the_lane(late_queue const& q, bool start, bool end) {
  elsewhere_pool pool(q);
  ints a(pool, {50}), b(pool, {50}), c(pool, {50});
  late_queue const lane = q.lane();
  q.for_each(a->extents, set{*a, 21});
  if (start) lane.wait(q.record());
  sp::piece const from = sp::as_piece(*a), to = sp::as_piece(*b);
  lane.copy({&to, 1}, {&from, 1});
  if (end) q.wait(lane.record());
  q.for_each(c->extents, double_of{*b, *c});
  std::vector<int> const got = c.download();
  lane.synchronize();
  return got;
}

} // namespace

TEST_CASE("elsewhere: reads and writes of the host fault, null stays null, the bytes are a constant distance away [asan]") {
  late_queue const q;
  elsewhere_pool pool(q);
  ints x(pool, {3}, {1, 2, 3});
  auto const& region = support::elsewhere_region::get();
  view const v = *x;
  CHECK(region.holds(v.data));
  CHECK(faults([&] { v(1) = 7; }));
  CHECK(faults([&] { static_cast<void>(*const_cast<int const volatile*>(v.data)); }));
  CHECK_FALSE(faults([] {
    int local = 0;
    *const_cast<int volatile*>(&local) = 1;
  }));
  CHECK(x.download() == std::vector{1, 2, 3});

  auto* const first = reinterpret_cast<std::byte*>(v.data);
  CHECK(region.real(first) - first == std::ptrdiff_t(region.half));
  CHECK(region.real(nullptr) == nullptr);
  std::byte mine{};
  CHECK(region.real(&mine) == &mine);
  set const here = support::relocated(set{v.narrow(0, 1, 2), 5}), nothing = support::relocated(set{view(nullptr, 3), 5});
  CHECK(reinterpret_cast<std::byte*>(here.to.data) == region.real(first) + sizeof(int));
  CHECK(nothing.to.data == nullptr);
  CHECK((nothing.to.extents == view::numbers{3} && nothing.value == 5));
  here(1);
  CHECK(x.download() == std::vector{1, 2, 5});
}

TEST_CASE("elsewhere: element-wise work, sums and copies have the bits of the host's queue, in every interleaving [asan]") {
  auto const base = support::random_bits<double>(2 * 3 * 5, 1);
  std::vector<float> terms(7 * 11);
  for (std::size_t i = 0; i < terms.size(); ++i) terms[i] = 1.0f / float(3 * i + 1);
  sp::inline_queue host;
  auto expected = base;
  host.for_each(std::array<index_t, 3>{2, 3, 5}, count_index<sp::host_memory>{{expected.data(), 2, 3, 5}});
  std::vector<float> expected_sums(7);
  host.sums(7, 11, entry<sp::host_memory>{{terms.data(), 7, 11}}, put<sp::host_memory>{{expected_sums.data(), 7}});

  for (unsigned seed = 1; seed <= 8; ++seed) {
    late_queue const q(seed);
    elsewhere_pool pool(q);
    elsewhere_tensor<double, 3> x(pool, {2, 3, 5}, base);
    elsewhere_tensor<float, 2> from(pool, {7, 11}, terms);
    elsewhere_tensor<float, 1> to(pool, {7});
    q.for_each(x->extents, count_index<elsewhere>{*x});
    q.sums(7, 11, entry<elsewhere>{*from}, put<elsewhere>{*to});
    CHECK(support::same_bits(x.download(), expected));
    CHECK(support::same_bits(to.download(), expected_sums));

    ints a(pool, {12}, numbers(12, 0)), b(pool, {12});
    sp::piece const every_second[]{sp::as_piece(a->rows(0, 6, 2)), sp::as_piece(a->rows(1, 6, 2))}, dense = sp::as_piece(*b);
    q.copy({&dense, 1}, every_second);
    CHECK(b.download() == std::vector{0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11});
  }
}

TEST_CASE("elsewhere: a queue that is held has done nothing, and says so to whoever waits for it") {
  late_queue const q;
  elsewhere_pool pool(q);
  ints x(pool, {4}, numbers(4, 0));
  std::vector<int> seen(4, -1);
  sp::piece const from = sp::as_piece(*x), to = sp::as_piece(sp::view<int, 1>(seen.data(), 4));
  {
    late_queue::hold const held(q);
    q.for_each(x->extents, set{*x, 9});
    q.copy({&to, 1}, {&from, 1});
    q.lane().wait(q.record());
    CHECK_THROWS_AS(q.synchronize(), std::logic_error);
    CHECK_THROWS_AS(q.lane().synchronize(), std::logic_error);
    CHECK(seen == std::vector(4, -1));
  }
  q.synchronize();
  CHECK(seen == std::vector(4, 9));
}

TEST_CASE("elsewhere: a wait that is missing on either side of the lane shows as a wrong value, and none that is there does") {
  std::vector const right(50, 42);
  for (unsigned seed = 1; seed <= 20; ++seed) CHECK(across_the_lane(late_queue(seed), true, true) == right);
  for (auto how : {interleaving::lane_last, interleaving::lane_first})
    CHECK(across_the_lane(late_queue(1, how), true, true) == right);
  CHECK(across_the_lane(late_queue(1, interleaving::lane_last), true, false) != right);
  CHECK(across_the_lane(late_queue(1, interleaving::lane_first), false, true) != right);
  for (bool start : {false, true}) { // at random it shows after a few seeds
    bool shown = false;
    for (unsigned seed = 1; seed <= 40 && !shown; ++seed) shown = across_the_lane(late_queue(seed), start, !start) != right;
    CHECK(shown);
  }
}

TEST_CASE("elsewhere: what one rank's queue waits for of another's is done, and what it does not wait for may not be") {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    late_queue const mine(seed), theirs(100 + seed);
    elsewhere_pool pool(mine), other(theirs);
    ints a(other, {8}), b(pool, {8});
    theirs.for_each(a->extents, set{*a, 4});
    mine.wait(theirs.record());
    mine.for_each(b->extents, double_of{*a, *b});
    CHECK(b.download() == std::vector(8, 8));
    theirs.wait(mine.record()); // a is given back behind its last reader
  }
  late_queue const mine(1, interleaving::lane_last), theirs(2, interleaving::lane_last);
  elsewhere_pool pool(mine), other(theirs);
  ints a(other, {8}, numbers(8, 0)), b(pool, {8});
  theirs.for_each(a->extents, set{*a, 4});
  mine.for_each(b->extents, double_of{*a, *b});
  CHECK(b.download() != std::vector(8, 8));
}

// Not run under the address sanitizer, which would end the program where the wrong value is read.
TEST_CASE("elsewhere: a buffer given back before the queue waits for its lane shows as a wrong value") {
  auto result = [](bool waits_first) {
    late_queue const q(1, interleaving::lane_last);
    elsewhere_pool pool(q);
    ints b(pool, {50});
    {
      ints a(pool, {50}, std::vector(50, 21));
      sp::piece const from = sp::as_piece(*a), to = sp::as_piece(*b);
      q.lane().wait(q.record());
      q.lane().copy({&to, 1}, {&from, 1});
      if (waits_first) q.wait(q.lane().record());
    }
    CHECK(pool.blocks_out() == 1);
    q.give([] {}); // the queue does not stand still meanwhile
    q.synchronize();
    if (!waits_first) q.wait(q.lane().record());
    return b.download();
  };
  CHECK(result(true) == std::vector(50, 21));
  CHECK(result(false) == std::vector(50, int(0xFEFEFEFE)));
}

TEST_CASE("elsewhere: memory is unwritten when it is handed out, also a second time, and blocks are used again [asan]") {
  late_queue const q;
  elsewhere_pool pool(q);
  int* first = nullptr;
  for (int round = 0; round < 3; ++round) {
    ints x(pool, {5});
    CHECK((round == 0 || x->data == first));
    first = x->data;
    CHECK(x.download() == std::vector(5, -1));
    x.upload(numbers(5, round));
    CHECK(x.download() == numbers(5, round));
#ifdef SP_TEST_POISONS
    auto* const bytes = support::elsewhere_region::get().real(reinterpret_cast<std::byte*>(first));
    CHECK(!__asan_address_is_poisoned(bytes + 19));
    CHECK(__asan_address_is_poisoned(bytes + 64));
#endif
  }
#ifdef SP_TEST_POISONS
  q.synchronize();
  CHECK(__asan_address_is_poisoned(support::elsewhere_region::get().real(reinterpret_cast<std::byte*>(first))));
#endif
}

} // namespace test_elsewhere
