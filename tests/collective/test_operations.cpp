// Every collective against values and bits: through its fallback, and through a communicator that has the ability itself.
// Steady state allocates nothing; the scratch sizes that are promised suffice.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <deque>
#include <string>

#include <sp/collective/reductions.hpp>
#include <sp/collective/solo.hpp>
#include <sp/threads.hpp>

#include "collective/pieces.hpp"
#include "support/failure.hpp"
#ifndef SP_TEST_SANITIZED
#include "support/allocations.hpp"
#endif

namespace test_operations {
using namespace collective_tests;
using namespace std::chrono_literals;
using support::failure_of;
using support::says;

namespace {

constexpr sp::threads_options patient{.deadline = 30s};

/// Has nothing but the base: every operation takes its fallback.
class bare {
public:
  using memory_type = sp::host_memory;
  explicit bare(sp::threads const& c) : inner_(c) {}
  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  auto exchange(sp::traffic const& t) const { return inner_.exchange(t); }

private:
  sp::threads inner_;
};
static_assert(sp::communicator<bare> && !sp::has_barrier<bare> && !sp::splittable<bare> && !sp::peer_memory<bare>);

/// Has every ability, done through the fallbacks of the communicator below, and writes down which was called.
class native {
public:
  using memory_type = sp::host_memory;
  native(bare c, std::string& log, sp::allocator& scratch) : inner_(c), log_(&log), scratch_(&scratch) {}
  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  auto exchange(sp::traffic const& t) const { return *log_ += "exchange ", inner_.exchange(t); }
  auto all_to_all_v(sp::traffic const& t) const { return *log_ += "all_to_all_v ", inner_.exchange(t); }
  auto all_gather_v(sp::traffic const& t) const {
    *log_ += "all_gather_v ";
    if (t.sends.size() != 1) *log_ += "with the wrong number of parcels ";
    return sp::all_gather_v(inner_, t.primitive, t.sends[0].pieces, t.receives, *scratch_);
  }
  void all_reduce(sp::view<double, 1> v) const { *log_ += "all_reduce ", sp::all_reduce(inner_, v, *scratch_); }
  void reduce_scatter(std::span<sp::view<double, 1> const> parts, sp::view<double, 1> mine) const {
    *log_ += "reduce_scatter ", sp::reduce_scatter(inner_, parts, mine, *scratch_);
  }
  void broadcast(std::span<piece const> pieces, int root) const { *log_ += "broadcast ", sp::broadcast(inner_, pieces, root); }
  void barrier() const { *log_ += "barrier ", sp::barrier(inner_); }

private:
  bare inner_;
  std::string* log_;
  sp::allocator* scratch_;
};
static_assert(sp::has_all_to_all_v<native> && sp::has_all_gather_v<native> && sp::has_all_reduce<native, double> &&
              sp::has_reduce_scatter<native, double> && sp::has_broadcast<native> && sp::has_barrier<native>);

/// A value whose sums depend on their order.
double rough(int rank, sp::index_t i) {
  return (rank % 2 ? -1.0 : 1.0) * (1.0 + double(i) * 0.37) * (rank == 1 ? 1e3 : 1.0) /
         (3.0 + rank); // 1e8 would swallow the others in any order
}

template <class T>
T rank_order_sum(int size, sp::index_t i) {
  T sum = static_cast<T>(rough(0, i));
  for (int r = 1; r < size; ++r) sum = static_cast<T>(sum + static_cast<T>(rough(r, i)));
  return sum;
}

template <class T, class C>
void check_all_reduce(C const& c, sp::index_t n, sp::allocator& scratch) {
  std::vector<T> storage(std::size_t(2 * n + 1), T(-7));
  sp::view<T, 1> const v(storage.data(), {n}, {2}); // (n), every second place
  for (sp::index_t i = 0; i < n; ++i) v(i) = static_cast<T>(rough(c.rank(), i));
  sp::all_reduce(c, v, scratch);
  bool good = true;
  for (sp::index_t i = 0; i < n; ++i)
    good = good && v(i) == rank_order_sum<T>(c.size(), i) && storage[std::size_t(2 * i + 1)] == T(-7);
  CHECK_MESSAGE(good, "all_reduce of " << n << " values on " << c.size() << " ranks");
}

template <class T, class C>
void check_reduce_scatter(C const& c, sp::allocator& scratch, bool in_place) {
  std::vector<std::vector<T>> values;
  std::vector<sp::view<T, 1>> parts;
  for (int r = 0; r < c.size(); ++r) {
    values.emplace_back(std::size_t(5 + 3 * r)); // ragged
    for (std::size_t i = 0; i < values.back().size(); ++i)
      values.back()[i] = static_cast<T>(rough(c.rank(), sp::index_t(i) + 11 * r));
  }
  for (auto& v : values) parts.push_back(all(v));
  std::vector<T> result(values[std::size_t(c.rank())].size());
  auto mine = in_place ? parts[std::size_t(c.rank())] : all(result);
  sp::reduce_scatter(c, parts, mine, scratch);
  bool good = true;
  for (sp::index_t i = 0; i < mine.extent(0); ++i) good = good && mine(i) == rank_order_sum<T>(c.size(), i + 11 * c.rank());
  CHECK(good);
}

template <class C>
void check_all_gather(C const& c, sp::allocator& scratch, bool own_in_place) {
  auto count = [](int r) { return r == 1 ? 0 : 4 + r; };
  std::vector<int> mine(std::size_t(count(c.rank())));
  for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = token_value(c.rank(), 0, 0, sp::index_t(i));
  std::vector<std::vector<int>> got;
  std::vector<piece> pieces;
  std::vector<parcel> receives;
  for (int r = 0; r < c.size(); ++r) got.emplace_back(std::size_t(count(r)), -1);
  if (own_in_place) got[std::size_t(c.rank())] = mine;
  for (auto& g : got) pieces.push_back(sp::as_piece(all(g)));
  for (int r = 0; r < c.size(); ++r)
    receives.push_back(
        {r, r == c.rank() && own_in_place ? std::span<piece const>() : std::span<piece const>(&pieces[std::size_t(r)], 1)});
  piece const out = sp::as_piece(all(mine));
  auto t = sp::all_gather_v(c, "gather", {&out, 1}, receives, scratch);
  auto moved = std::move(t); // tokens move
  moved.wait();
  bool good = true;
  for (int r = 0; r < c.size(); ++r)
    for (std::size_t i = 0; i < got[std::size_t(r)].size(); ++i)
      good = good && got[std::size_t(r)][i] == token_value(r, 0, 0, sp::index_t(i));
  CHECK(good);
}

template <class C>
void check_broadcast(C const& c) {
  for (int root = 0; root < c.size(); ++root) {
    std::vector<int> a(7, c.rank() == root ? 40 + root : -1);
    std::vector<float> b(2, c.rank() == root ? 0.5f : -1.f);
    piece const list[2]{sp::as_piece(all(a)), sp::as_piece(all(b))};
    sp::broadcast(c, list, root);
    CHECK((a == std::vector<int>(7, 40 + root) && b == std::vector<float>(2, 0.5f)));
  }
}

template <class C>
void check_everything(C const& c, sp::allocator& scratch) {
  for (sp::index_t n : {0, 1, 17, 256, 257, 1000, 4001}) check_all_reduce<double>(c, n, scratch);
  for (bool flag : {false, true}) {
    check_reduce_scatter<double>(c, scratch, flag);
    check_all_gather(c, scratch, flag);
  }
  check_broadcast(c);
  sp::barrier(c);
  everybody e(c.rank(), c.size(), 3, [](int from, int to) { return from + 2 * to; });
  sp::all_to_all_v(c, e.traffic("a2a")).wait();
  CHECK(e.arrived());
  everybody f(c.rank(), c.size(), 4, [](int from, int to) { return 2 * from + to; });
  sp::exchange(c, f.traffic("exchange")).wait();
  CHECK(f.arrived());
}

} // namespace

TEST_CASE("operations: all fallbacks give the values, 1 to 8 ranks [tsan][asan]") {
  for (int size = 1; size <= 8; ++size)
    sp::threads::run(
        size,
        [](sp::threads const& c) {
          sp::pool scratch;
          check_everything(bare(c), scratch);
          check_everything(c, scratch);
          for (sp::index_t n : {3, 700}) {
            check_all_reduce<float>(c, n, scratch);
            check_all_reduce<int>(c, n, scratch);
          }
          check_reduce_scatter<float>(c, scratch, true);
          CHECK(scratch.bytes_in_use() == 0);
        },
        patient);
}

TEST_CASE("operations: a single rank without threads") {
  sp::pool scratch;
  check_everything(sp::solo{}, scratch);
}

TEST_CASE("operations: a communicator's own abilities are used, and give the same values") {
  sp::threads::run(
      3,
      [](sp::threads const& c) {
        sp::pool scratch;
        std::string log;
        native const n(bare(c), log, scratch);
        auto calls = [&](auto&& body) {
          log.clear();
          body();
          return log;
        };
        CHECK(calls([&] { check_all_reduce<double>(n, 9, scratch); }) == "all_reduce ");
        CHECK(calls([&] { check_reduce_scatter<double>(n, scratch, false); }) == "reduce_scatter ");
        CHECK(calls([&] { check_all_gather(n, scratch, false); }) == "all_gather_v ");
        CHECK(calls([&] { check_broadcast(n); }) == "broadcast broadcast broadcast ");
        CHECK(calls([&] { sp::barrier(n); }) == "barrier ");
        CHECK(calls([&] { sp::all_to_all_v(n, {}).wait(); }) == "all_to_all_v ");
        CHECK(calls([&] { sp::exchange(n, {}).wait(); }) == "exchange ");
        // what it cannot do for a type falls back, through the abilities it has
        CHECK(calls([&] { check_all_reduce<float>(n, 9, scratch); }) == "all_gather_v ");
        CHECK(calls([&] { check_all_reduce<float>(n, 900, scratch); }) == "exchange all_gather_v ");
        check_everything(n, scratch);
      },
      patient);
}

TEST_CASE("operations: sums have the same bits on every rank and in every run, and depend on the order of ranks alone") {
  int told_apart = 0; // these values do tell one order from another
  for (sp::index_t i = 0; i < 100; ++i) {
    float own_first = float(rough(4, i));
    for (int r = 0; r < 4; ++r) own_first += float(rough(r, i));
    told_apart += own_first != rank_order_sum<float>(5, i);
  }
  CHECK(told_apart > 20);
  for (sp::index_t n : {100, 1000}) {
    std::vector<std::vector<float>> results(5, std::vector<float>(std::size_t(n)));
    for (int run = 0; run < 3; ++run) {
      sp::threads::run(
          5,
          [&](sp::threads const& c) {
            sp::pool scratch;
            std::vector<float>& v = results[std::size_t(c.rank())];
            for (sp::index_t i = 0; i < n; ++i) v[std::size_t(i)] = float(rough(c.rank(), i));
            sp::all_reduce(c, all(v), scratch);
          },
          patient);
      for (auto const& r : results) CHECK(std::memcmp(r.data(), results[0].data(), std::size_t(n) * sizeof(float)) == 0);
      sp::index_t differ = 0;
      for (sp::index_t i = 0; i < n; ++i) differ += results[0][std::size_t(i)] != rank_order_sum<float>(5, i);
      CHECK(differ == 0);
    }
  }
}

TEST_CASE("operations: the promised scratch suffices, to the byte and to the last value, and less is refused with the number") {
  for (int size : {2, 3, 8, 17})
    sp::threads::run(
        size,
        [&](sp::threads const& c) {
          alignas(sp::allocator::alignment) static thread_local std::array<std::byte, 40000> memory;
          std::vector<double> const ramp = [] {
            std::vector<double> x(1001);
            for (std::size_t i = 0; i < x.size(); ++i) x[i] = double(i);
            return x;
          }();
          auto is_sum = [&](std::vector<double> const& v) { // of (rank + 1) times the ramp, exactly
            sp::index_t wrong = 0;
            for (std::size_t i = 0; i < v.size(); ++i) wrong += v[i] != double(i) * size * (size + 1) / 2;
            return wrong == 0;
          };
          for (std::size_t n : {1, 16, 255, 256, 257, 1001}) {
            auto const bytes = std::size_t(sp::all_reduce_scratch<double>(sp::index_t(n), size));
            REQUIRE(bytes <= memory.size());
            sp::workspace scratch(memory.data(), bytes);
            std::vector<double> v(n);
            for (std::size_t i = 0; i < n; ++i) v[i] = (c.rank() + 1) * ramp[i];
            sp::all_reduce(c, all(v), scratch);
            CHECK_MESSAGE(is_sum(v), n << " values on " << size << " ranks");
            // part r has 30 + r values, all of them wanted by rank r
            std::vector<std::vector<double>> store;
            std::vector<sp::view<double, 1>> parts;
            for (int r = 0; r < size; ++r) store.emplace_back(std::size_t(30 + r));
            for (auto& s : store) {
              for (std::size_t i = 0; i < s.size(); ++i) s[i] = (c.rank() + 1) * ramp[i];
              parts.push_back(all(s));
            }
            sp::workspace tight(memory.data(), std::size_t(sp::reduce_scatter_scratch<double>(30 + c.rank(), size)));
            sp::reduce_scatter(c, parts, parts[std::size_t(c.rank())], tight);
            CHECK(is_sum(store[std::size_t(c.rank())]));
          }
        },
        patient);
  sp::threads::run(
      3,
      [](sp::threads const& c) {
        std::vector<double> a(4, 1.0), b(5, 1.0), d(6, 1.0);
        std::vector<sp::view<double, 1>> parts{all(a), all(b), all(d)};
        std::vector<std::byte> memory(std::size_t(sp::reduce_scatter_scratch<double>(6, 3) + 64));
        sp::workspace scratch(memory.data(), memory.size());
        sp::workspace small(memory.data(), 64);
        CHECK(says(failure_of([&] { sp::all_reduce(c, all(a), small); }), sp::errc::workspace_too_small, "bytes are needed"));
        CHECK(says(failure_of([&] {
                     sp::reduce_scatter(c, {parts.data(), 2}, parts[0], scratch);
                   }),
                   sp::errc::invalid_shape, "2 parts"));
        CHECK(says(failure_of([&] { sp::broadcast(c, {}, 3); }), sp::errc::bad_state, "rank 3"));
        CHECK(sp::all_gather_scratch(3) >= sp::index_t(3 * sizeof(parcel)));
      },
      patient);
}

TEST_CASE("operations: nobody leaves the fallback of a barrier before everybody has come, 1 to 9 ranks [tsan]") {
  for (int size = 1; size <= 9; ++size) {
    std::atomic<int> inside = 0, early = 0;
    sp::threads::run(
        size,
        [&](sp::threads const& inner) {
          bare const c(inner);
          for (int round = 1; round <= 40; ++round) {
            if (c.rank() == round % size) std::this_thread::yield(); // another one comes late each time
            ++inside;
            sp::barrier(c);
            early += inside < size * round;
            inner.barrier();
          }
        },
        patient);
    CHECK(early == 0);
    CHECK(inside == 40 * size);
  }
}

#ifndef SP_TEST_SANITIZED
TEST_CASE("operations: steady state allocates nothing") {
  sp::threads::run(
      3,
      [](sp::threads const& c) {
        sp::pool scratch;
        bare const b(c);
        std::vector<double> values(3000, 1.0), small(5, 1.0);
        everybody e(c.rank(), 3, 0, [](int, int) { return 5000; });
        auto step = [&] {
          c.exchange(e.traffic("steady")).wait();
          sp::all_reduce(c, all(values), scratch);
          sp::all_reduce(b, all(small), scratch);
          piece const p = sp::as_piece(all(small));
          sp::broadcast(c, {&p, 1}, 1);
          sp::barrier(c);
          sp::barrier(b);
          auto shown = c.publish("steady", {&p, 1});
          shown.release();
        };
        for (int i = 0; i < 3; ++i) step();
        c.barrier();
        long const before = support::allocations_of_program;
        c.barrier();
        for (int i = 0; i < 20; ++i) step();
        c.barrier();
        long const after = support::allocations_of_program;
        c.barrier();
        CHECK(after == before);
      },
      patient);
}
#endif

#ifndef SP_TEST_SANITIZED
TEST_CASE("threads: what a family of a thousand ranks takes, before and after every rank has talked to two others") {
  constexpr int ranks = 1000;
  constexpr long mib = 1 << 20;
  std::vector<int> members(ranks);
  for (int r = 0; r < ranks; ++r) members[std::size_t(r)] = r;
  long const before = support::bytes_of_thread;
  auto family = std::make_shared<sp::detail::thread_family>(ranks, sp::threads_options{});
  long const of_family = support::bytes_of_thread - before;
  sp::detail::thread_group<sp::inline_queue> group(family, std::move(members));
  for (int r = 0; r < ranks; ++r) group.join(r, {});
  long const of_group = support::bytes_of_thread - before - of_family;
  std::deque<ring_step> steps; // of all ranks, which one thread plays: whoever comes second copies
  for (int r = 0; r < ranks; ++r) group.exchange(r, steps.emplace_back(r, ranks, r).traffic());
  bool good = true;
  for (int r = 0; r < ranks; ++r) {
    group.wait(r, 0);
    good = good && steps[std::size_t(r)].in == (r + ranks - 1) % ranks;
  }
  CHECK(good);
  long const of_ring = support::bytes_of_thread - before - of_family - of_group;
  MESSAGE("bytes at " << ranks << " ranks: family " << of_family << ", group " << of_group << ", ring exchange " << of_ring);
  CHECK(of_family < 32 * mib);
  CHECK(of_group < 48 * mib); // 2 GiB when every pair had its mailbox from the start
  CHECK(of_ring < 4 * mib);
}
#endif

} // namespace test_operations
