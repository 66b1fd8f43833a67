// sp::local over a queue that is late and a memory that the host cannot touch: random programs give the bits of sp::threads.
// No operation waits for the work of a queue; what fails leaves no copy under way to memory that was given back.
#include <doctest/doctest.h>

#include <atomic>
#include <optional>
#include <random>
#include <thread>

#include <sp/local.hpp>
#include <sp/threads.hpp>
#include <sp/workers.hpp>

#include "collective/cases.hpp"
#include "support/failure.hpp"
#include "support/late_queue.hpp"

namespace test_local {

using namespace collective_tests;
using namespace std::chrono_literals;
using sp::index_t;
using support::elsewhere;
using support::elsewhere_pool;
using support::failure_of;
using support::interleaving;
using support::late_queue;
using support::says;

namespace {

using late_ranks = sp::local<late_queue>;

static_assert(sp::communicator<late_ranks> && sp::has_barrier<late_ranks> && sp::splittable<late_ranks> &&
              sp::peer_memory<late_ranks> && sp::abortable<late_ranks>);
static_assert(std::is_same_v<late_ranks::memory_type, elsewhere>);
static_assert(std::is_same_v<sp::threads, sp::local<sp::inline_queue>>);
// sums of the host's memory stay those of the fallback, in scratch of the caller
static_assert(sp::has_all_reduce<late_ranks, float> && sp::has_reduce_scatter<late_ranks, float>);
static_assert(!sp::has_all_reduce<late_ranks, sp::bf16> && !sp::has_reduce_scatter<late_ranks, sp::bf16>);
static_assert(!sp::has_all_reduce<sp::threads, float> && !sp::has_reduce_scatter<sp::threads, float>);
// an event costs the ranks of a queue that is finished on return nothing
static_assert(sizeof(sp::detail::message_half<sp::inline_queue::event>) == 40);
static_assert(sizeof(sp::detail::rendezvous<sp::inline_queue::event>) == 128);

constexpr sp::threads_options patient{.deadline = 30s};

/// A queue for each rank, and for each seed others.
auto late(unsigned seed, interleaving how = interleaving::random) {
  return [=](int rank) { return late_queue(seed * 16 + unsigned(rank), how); };
}

/// x(i) = a x(i) + b(i mod its extent) + c, modulo 2^32
template <class M>
struct mix {
  sp::view<int, 1, M> x;
  sp::view<int const, 1, M> b;
  int a, c;
  void operator()(index_t i) const {
    unsigned const more = b.extent(0) > 0 ? unsigned(b(i % b.extent(0))) : 0;
    x(i) = int(unsigned(a) * unsigned(x(i)) + more + unsigned(c));
  }
};

/// Integers in memory of an allocator.
template <class M>
struct block {
  support::allocator_of<M>& memory;
  sp::view<int, 1, M> all;
  block(support::allocator_of<M>& m, index_t n)
      : memory(m), all(static_cast<int*>(m.allocate(std::size_t(n) * sizeof(int))), n) {}
  block(block const&) = delete;
  ~block() { memory.deallocate(all.data, std::size_t(all.extent(0)) * sizeof(int)); }
};

/// Does nothing in place of late_queue::hold.
struct no_hold {
  template <class Queue>
  explicit no_hold(Queue const&) {}
};

/// A random program, the same on every rank but for the numbers: exchanges that stay open over others and over work, in the group and in
/// halves of it; publications that everybody reads; barriers. Every buffer goes back as soon as the calls allow it.
template <class Queue>
class program {
  using M = typename Queue::memory_type;

public:
  static constexpr index_t n = 48;

  program(sp::local<Queue> const& c, support::allocator_of<M>& memory, unsigned seed)
      : c_(c), memory_(memory), random_(seed), x_(memory, n), y_(memory, n) {}

  template <class Hold>
  std::vector<int> run() {
    {
      Hold const held(c_.queue());
      work(x_, nullptr, 0, 1000 * c_.rank() + 7);
      work(y_, nullptr, 0, c_.rank());
      auto const half = c_.split(c_.rank() % 2, -c_.rank());
      for (int round = 0; round < 10; ++round) switch (draw(5)) {
        case 0:
          pull();
          break;
        case 1:
          exchange(half);
          break;
        case 2:
          write_to_next();
          break;
        default:
          exchange(c_);
        }
    }
    std::vector<int> got(std::size_t(2 * n));
    piece const to = sp::as_piece(all(got)), from[]{sp::as_piece(x_.all), sp::as_piece(y_.all)};
    c_.queue().copy({&to, 1}, from);
    c_.queue().synchronize();
    return got;
  }

private:
  int draw(int below) { return int(random_() % unsigned(below)); }

  void work(block<M> const& x, sp::view<int const, 1, M> const* b, int a, int c) {
    c_.queue().for_each(x.all.extents, mix<M>{x.all, b ? *b : sp::view<int const, 1, M>(nullptr, 0), a, c});
  }

  /// Any number of integers from x of each rank to each other, oneself included, with another exchange under way.
  void exchange(sp::local<Queue> const& group) {
    bool const pulls = draw(2) && &group == &c_;
    std::minstd_rand of_group(random_());                                  // halves of unequal size draw unequally often
    std::vector<index_t> counts(std::size_t(group.size() * group.size())); // (from, to)
    for (index_t& k : counts) k = of_group() % 3 == 0 ? 0 : index_t(of_group() % unsigned(n));
    index_t total = 0;
    for (int r = 0; r < group.size(); ++r) total += counts[std::size_t(r * group.size() + group.rank())];
    std::optional<block<M>> in;
    if (total > 0) in.emplace(memory_, total);
    std::vector<piece> pieces(std::size_t(2 * group.size()));
    std::vector<parcel> sends, receives;
    index_t at = 0;
    for (int r = 0; r < group.size(); ++r) {
      index_t const out = counts[std::size_t(group.rank() * group.size() + r)];
      index_t const come = counts[std::size_t(r * group.size() + group.rank())];
      piece& from = pieces[std::size_t(2 * r)] = sp::as_piece(x_.all.rows(n - out, out));
      piece& to = pieces[std::size_t(2 * r + 1)] = sp::as_piece(in ? in->all.rows(at, come) : x_.all.rows(0, 0));
      sends.push_back({r, {&from, 1}});
      receives.push_back({r, {&to, 1}});
      at += come;
    }
    auto token = group.exchange({"program", sends, receives});
    sp::view<int const, 1, M> const x = x_.all;
    work(y_, &x, 3, 1); // while it is under way
    if (pulls) pull();
    token.wait();
    if (in) {
      sp::view<int const, 1, M> const got = in->all;
      work(x_, &got, 2, 5);
    } else {
      work(x_, nullptr, 5, 2); // what was sent may change now
    }
  }

  /// y = y + x of every other rank
  void pull() {
    piece const mine = sp::as_piece(x_.all);
    auto shown = c_.publish("program", {&mine, 1});
    for (int r = 0; r < c_.size(); ++r) {
      auto const x = sp::as_view<int, 1, M>(shown.of(r)[0]);
      sp::view<int const, 1, M> const read = x;
      work(y_, &read, 1, r);
    }
    shown.release();
  }

  /// The next rank's y is written where it lies, between two barriers.
  void write_to_next() {
    piece const mine = sp::as_piece(y_.all);
    auto shown = c_.publish("write", {&mine, 1});
    auto const next = sp::as_view<int, 1, M>(shown.of((c_.rank() + 1) % c_.size())[0]);
    c_.barrier();
    sp::view<int const, 1, M> const x = x_.all;
    c_.queue().for_each(next.extents, mix<M>{next, x, 7, c_.rank()});
    c_.barrier();
    work(y_, nullptr, 2, 1);
    shown.release();
  }

  sp::local<Queue> const& c_;
  support::allocator_of<M>& memory_;
  std::minstd_rand random_;
  block<M> x_, y_;
};

using results = std::vector<std::vector<int>>;

results on_the_host(int size, unsigned seed) {
  results all_of(static_cast<std::size_t>(size));
  sp::threads::run(
      size,
      [&](sp::threads const& c) {
        sp::pool memory;
        all_of[std::size_t(c.rank())] = program<sp::inline_queue>(c, memory, seed).template run<no_hold>();
      },
      patient);
  return all_of;
}

template <class Hold>
results elsewhere_of(int size, unsigned seed, interleaving how) {
  results all_of(static_cast<std::size_t>(size));
  late_ranks::run(
      size,
      [&](late_ranks const& c) {
        elsewhere_pool memory(c.queue());
        all_of[std::size_t(c.rank())] = program<late_queue>(c, memory, seed).template run<Hold>();
        c.barrier(); // pools outlive what others have queued on them
        c.queue().synchronize();
        CHECK(memory.blocks_out() == 0);
      },
      patient, late(seed, how));
  return all_of;
}

#ifndef SP_TEST_SANITIZED
/// As a communicator of host memory: a wait is over when the work is.
struct synchronous {
  using memory_type = sp::host_memory;
  late_ranks inner;

  struct token {
    late_ranks::token inner;
    late_queue queue;
    void wait() {
      inner.wait();
      queue.synchronize();
    }
  };
  int rank() const { return inner.rank(); }
  int size() const { return inner.size(); }
  int world_rank() const { return inner.world_rank(); }
  int world_size() const { return inner.world_size(); }
  token exchange(sp::traffic const& t) const { return {inner.exchange(t), inner.queue()}; }
  void barrier() const { inner.barrier(); }
  synchronous split(int color, int key) const { return {inner.split(color, key)}; }
};
#endif

} // namespace

TEST_CASE("local: random programs on late queues have the bits of threads, 1 to 8 ranks, in every interleaving [tsan][asan]") {
  for (int size = 1; size <= 8; ++size)
    for (unsigned seed = 1; seed <= 3; ++seed) {
      results const expected = on_the_host(size, seed);
      CHECK(elsewhere_of<no_hold>(size, seed, interleaving::random) == expected);
      CHECK(elsewhere_of<no_hold>(size, seed, interleaving::lane_last) == expected);
      CHECK(elsewhere_of<no_hold>(size, seed, interleaving::lane_first) == expected);
    }
}

#ifndef SP_TEST_SANITIZED // from here on no case is tagged
TEST_CASE("local: no operation waits for the work of a queue: whole programs are queued while nothing runs") {
  for (int size : {1, 2, 5})
    for (auto how : {interleaving::random, interleaving::lane_last, interleaving::lane_first})
      CHECK(elsewhere_of<late_queue::hold>(size, 4, how) == on_the_host(size, 4));
}

TEST_CASE("local: ranks whose passes and copies are work of several threads have the bits of one thread each") {
  static_assert(sp::has_row_lists<sp::local<sp::workers>>);
  for (int size : {1, 2, 5}) {
    sp::workers const shared{size + 2, {.ranks = size, .spin = size % 2 * 100, .smallest_share = 1}};
    results all_of(static_cast<std::size_t>(size));
    sp::local<sp::workers>::run(
        size,
        [&](sp::local<sp::workers> const& c) {
          sp::pool memory;
          all_of[std::size_t(c.rank())] = program<sp::workers>(c, memory, 6).run<no_hold>();
        },
        patient, [&](int) { return shared; });
    CHECK(all_of == on_the_host(size, 6));
  }
}

TEST_CASE("local: over a queue that every wait synchronises it passes what every communicator passes") {
  auto run = [](int size, auto&& scene) {
    late_ranks::run(
        size, [&](late_ranks const& c) { scene(synchronous{c}); }, patient, late(1));
  };
  for (int size : {1, 2, 5}) run(size, everybody_to_everybody<synchronous>);
  run(3, [](synchronous const& c) { messages_in_order(c, 10, 2); });
  run(3, [](synchronous const& c) { pieces_cut_differently(c, 2); });
  run(4, groups_in_both_orders<synchronous>);
  run(6, groups_of_groups<synchronous>);
}

namespace {

/// v(i) = a number of rank, i and lap that has no exact sum
template <class M>
struct fraction {
  sp::view<float, 1, M> v;
  int seed;
  void operator()(index_t i) const { v(i) = 1.0f / float(3 * i + seed) - 0.25f; }
};

/// Sums of n values a rank and of n + r values for rank r, all of them in one vector.
template <class Queue, class Hold>
std::vector<float> sums(sp::local<Queue> const& c, support::allocator_of<typename Queue::memory_type>& memory, index_t n) {
  using M = typename Queue::memory_type;
  index_t const size = c.size();
  index_t const all = n + size * n + size * (size - 1) / 2;
  sp::view<float, 1, M> const v(static_cast<float*>(memory.allocate(std::size_t(all) * sizeof(float))), all);
  index_t at = n;
  std::vector<sp::view<float, 1, M>> parts;
  for (index_t r = 0; r < size; ++r) parts.push_back(v.rows(at, n + r)), at += n + r;
  {
    Hold const held(c.queue());
    c.queue().for_each(v.extents, fraction<M>{v, 1 + 7 * c.rank()});
    if constexpr (std::is_same_v<M, sp::host_memory>) {
      sp::pool scratch;
      sp::all_reduce(c, v.rows(0, n), scratch);
      sp::reduce_scatter(c, {parts.data(), parts.size()}, parts[std::size_t(c.rank())], scratch);
    } else {
      c.all_reduce(v.rows(0, n));
      c.reduce_scatter({parts.data(), parts.size()}, parts[std::size_t(c.rank())]);
    }
  }
  std::vector<float> got(static_cast<std::size_t>(all));
  piece const to = sp::as_piece(collective_tests::all(got)), from = sp::as_piece(v);
  c.queue().copy({&to, 1}, {&from, 1});
  c.queue().synchronize();
  memory.deallocate(v.data, std::size_t(all) * sizeof(float));
  return got;
}

} // namespace

TEST_CASE("local: sums of memory elsewhere have the bits of the host's fallbacks, and nothing waits for them") {
  for (int size : {1, 2, 3, 8})
    for (index_t n : {1, 5, 300}) {
      std::vector<std::vector<float>> expected(static_cast<std::size_t>(size)), got(expected);
      sp::threads::run(
          size,
          [&](sp::threads const& c) {
            sp::pool memory;
            expected[std::size_t(c.rank())] = sums<sp::inline_queue, no_hold>(c, memory, n);
          },
          patient);
      late_ranks::run(
          size,
          [&](late_ranks const& c) {
            elsewhere_pool memory(c.queue());
            got[std::size_t(c.rank())] = sums<late_queue, late_queue::hold>(c, memory, n);
          },
          patient, late(unsigned(n)));
      CHECK(got == expected);
    }
}

TEST_CASE("local: sums of unequal numbers of values are refused") {
  auto const e = failure_of([] {
    late_ranks::run(
        2,
        [](late_ranks const& c) {
          elsewhere_pool memory(c.queue());
          block<elsewhere> x(memory, 8);
          c.all_reduce(x.all.rows(0, 4 + c.rank()));
        },
        patient, late(1));
  });
  CHECK(says(e, sp::errc::short_message, "4", "5"));
}

TEST_CASE("local: a token that is dropped gives its buffer back behind the copy that is under way to it") {
  std::atomic<bool> posted = false, moved = false, written = false, copied = false;
  std::vector<int> seen(1000, -1);
  auto const e = failure_of([&] {
    late_ranks::run(
        2,
        [&](late_ranks const& c) {
          late_queue const q = c.queue();
          elsewhere_pool memory(q);
          if (c.rank() == 0) { // moves the message, but the copy cannot run
            late_queue::hold hold(q);
            block<elsewhere> x(memory, 1000);
            piece const out = sp::as_piece(x.all);
            parcel const send{1, {&out, 1}};
            while (!posted) std::this_thread::yield();
            auto token = c.exchange({"drop", {&send, 1}, {}});
            moved = true;
            while (!written) std::this_thread::yield();
            hold.end();
            q.lane().synchronize();
            copied = true;
            return token.wait();
          }
          std::optional<block<elsewhere>> x;
          x.emplace(memory, 1000);
          piece const in = sp::as_piece(x->all);
          {
            parcel const receive{0, {&in, 1}};
            auto token = c.exchange({"drop", {}, {&receive, 1}});
            posted = true;
            while (!moved) std::this_thread::yield();
          }
          int const* const before = x->all.data;
          x.reset();
          block<elsewhere> y(memory, 1000);
          CHECK(y.all.data == before);
          q.for_each(y.all.extents, mix<elsewhere>{y.all, sp::view<int const, 1, elsewhere>(nullptr, 0), 0, 5});
          std::thread impatient([&] { q.synchronize(); }); // runs what may run now
          std::this_thread::sleep_for(30ms);
          written = true;
          while (!copied) std::this_thread::yield();
          impatient.join();
          piece const to = sp::as_piece(all(seen)), from = sp::as_piece(y.all);
          q.copy({&to, 1}, {&from, 1});
          q.synchronize();
        },
        patient, late(1));
  });
  CHECK(says(e, sp::errc::bad_state, "a token was destroyed without wait()"));
  CHECK(seen == std::vector(1000, 5));
}

TEST_CASE("local: a publication that is dropped gives its buffer back behind what peers have queued") {
  std::atomic<bool> queued = false, given_back = false;
  std::vector<int> seen(1000, -1);
  auto const e = failure_of([&] {
    late_ranks::run(
        2,
        [&](late_ranks const& c) {
          late_queue const q = c.queue();
          elsewhere_pool memory(q);
          std::optional<block<elsewhere>> x;
          x.emplace(memory, 1000);
          sp::view<int const, 1, elsewhere> const none(nullptr, 0);
          q.for_each(x->all.extents, mix<elsewhere>{x->all, none, 0, 9});
          piece const mine = sp::as_piece(x->all);
          auto shown = std::optional(c.publish("drop", {&mine, 1}));
          if (c.rank() == 0) {
            while (!queued) std::this_thread::yield();
            shown.reset();
            x.reset();
            std::thread impatient([&] { q.synchronize(); });
            std::this_thread::sleep_for(30ms);
            given_back = true;
            return impatient.join();
          }
          block<elsewhere> y(memory, 1000);
          {
            late_queue::hold const held(q);
            auto const theirs = sp::as_view<int, 1, elsewhere>(shown->of(0)[0]);
            q.for_each(y.all.extents, mix<elsewhere>{y.all, theirs, 0, 1});
            std::thread ready([&] {
              std::this_thread::sleep_for(50ms); // so that release() has begun
              queued = true;
            });
            CHECK(says(failure_of([&] { shown->release(); }), sp::errc::aborted, "destroyed without release()"));
            ready.join();
            while (!given_back) std::this_thread::yield();
          }
          piece const to = sp::as_piece(all(seen)), from = sp::as_piece(y.all);
          q.copy({&to, 1}, {&from, 1});
          q.synchronize();
        },
        patient, late(1));
  });
  CHECK(says(e, sp::errc::bad_state, "a publication was destroyed without release()"));
  CHECK(seen == std::vector(1000, 10));
}

TEST_CASE("local: a queue that refuses to copy ends the family, and nobody waits for a message that it took on itself") {
  for (bool by_wait : {false, true}) { // found by wait(), or by exchange() of who comes second
    std::atomic<int> aborted = 0, threw = 0;
    auto body = [&](late_ranks const& c) {
      elsewhere_pool memory(c.queue());
      block<elsewhere> x(memory, by_wait ? 100000 : 10);
      piece const half[]{sp::as_piece(x.all.rows(0, 5)), sp::as_piece(x.all.rows(5, x.all.extent(0) - 5))};
      parcel const send{1, {half, 2}}, receive{0, {half, 2}};
      std::span<parcel const> const sends(&send, c.rank() == 0), receives(&receive, c.rank() == 1);
      c.queue().refuse_copies();
      c.barrier();
      try {
        c.exchange({"refused", sends, receives}).wait();
      } catch (sp::error const& e) {
        aborted += e.code() == sp::errc::aborted;
      } catch (std::runtime_error const&) {
        ++threw;
      }
    };
    CHECK(failure_of([&] { late_ranks::run(2, body, {.deadline = 3s}, late(1)); }).code == sp::errc::bad_state);
    CHECK(aborted == 1);
    CHECK(threw == 1);
  }
}

namespace {

/// A queue of a device that is lost when a test says so: from then on one kind of call throws, again and again.
struct losing_queue {
  enum call { none, copies, records, waits };
  using memory_type = sp::device_memory;
  static constexpr bool finished_on_return = false;
  struct event {};
  std::shared_ptr<std::atomic<call>> lost = std::make_shared<std::atomic<call>>(none);
  bool is_lane = false;

  void refuse(call now) const {
    if (*lost == now) throw std::runtime_error("the device is lost");
  }
  template <std::size_t Rank, class Body>
  void for_each(std::array<index_t, Rank> const&, Body const&) const {}
  template <class Term, class Store>
  void sums(index_t, index_t, Term const&, Store const&) const {}
  void copy(std::span<piece const>, std::span<piece const>) const { refuse(copies); }
  void upload(std::byte*, std::span<std::byte const>) const {}
  event record() const { return is_lane ? void() : refuse(records), event(); }
  void wait(event) const { is_lane ? void() : refuse(waits); }
  losing_queue lane() const { return {lost, true}; }
  void synchronize() const {}
  friend bool operator==(losing_queue const&, losing_queue const&) = default;
};
using losing_ranks = sp::local<losing_queue>;
using losing_call = losing_queue::call;

/// Rank 0 of two loses its device, calls `act` and catches what that throws. Returns the failure of run(), and checks that the other rank
/// has met it and that nobody has waited for the deadline.
template <class Act>
sp::error_info rank_0_loses(losing_call what, bool throws, Act const& act) {
  auto const begin = std::chrono::steady_clock::now();
  std::atomic<int> threw{0}, aborted{0};
  auto const body = [&](losing_ranks const& c) {
    sp::view<float, 1, sp::device_memory> const v(reinterpret_cast<float*>(0x1000), {4});
    piece const p = sp::as_piece(v);
    auto lose = [&] {
      if (c.rank() == 0) *c.queue().lost = what;
    };
    try {
      act(c, p, lose);
      if (c.rank() == 1) c.barrier();
    } catch (std::runtime_error const& e) {
      threw += std::string(e.what()) == "the device is lost";
      aborted += dynamic_cast<sp::error const*>(&e) && dynamic_cast<sp::error const&>(e).code() == sp::errc::aborted;
    }
  };
  auto const e = failure_of([&] { losing_ranks::run(2, body, {.deadline = 3s}); });
  CHECK(threw == throws);
  CHECK(aborted == 1);
  CHECK(std::chrono::steady_clock::now() - begin < 2s);
  return e;
}

} // namespace

TEST_CASE("local: a queue that throws in the middle of a call ends the family, in destructors too, and the process lives") {
  auto exchange = [](losing_ranks const& c, piece const& p, auto const& lose) {
    parcel const both[]{{0, {&p, 1}}, {1, {&p, 1}}};
    lose();
    c.exchange({"lost", both, both}).wait();
  };
  auto barrier = [](losing_ranks const& c, piece const&, auto const& lose) { lose(), c.barrier(); };
  auto release = [](losing_ranks const& c, piece const& p, auto const& lose) {
    auto shown = c.publish("show", {&p, 1});
    lose();
    shown.release();
  };
  auto middle = [](sp::error_info const& e) { return says(e, sp::errc::bad_state, "an exception came in the middle"); };
  for (auto what : {losing_queue::copies, losing_queue::records, losing_queue::waits}) {
    CAPTURE(what);
    CHECK(middle(rank_0_loses(what, true, exchange)));
    if (what == losing_queue::copies) continue;
    CHECK(middle(rank_0_loses(what, true, barrier)));
    CHECK(middle(rank_0_loses(what, true, release)));
    auto const token = rank_0_loses(what, false, [](losing_ranks const& c, piece const& p, auto const& lose) {
      parcel const both[]{{0, {&p, 1}}, {1, {&p, 1}}};
      auto moving = c.exchange({"lost", both, both});
      lose();
      if (c.rank() == 1) moving.wait();
    });
    CHECK(says(token, sp::errc::bad_state, "destroyed without wait()"));
    auto const shown = rank_0_loses(what, false, [](losing_ranks const& c, piece const& p, auto const& lose) {
      auto publication = c.publish("show", {&p, 1});
      lose();
      if (c.rank() == 1) publication.release();
    });
    CHECK(says(shown, sp::errc::bad_state, "destroyed without release()"));
  }
}

TEST_CASE("local: failures are those of threads: a peer that does not come, a body that throws, counts that differ") {
  auto fails = [](int size, auto&& body, sp::threads_options options = patient) {
    return failure_of([&] { late_ranks::run(size, body, options, late(1)); });
  };
  auto const late_peer = fails(2,
                               [](late_ranks const& c) {
                                 if (c.rank() == 1) std::this_thread::sleep_for(250ms);
                                 c.barrier();
                               },
                               {.deadline = 100ms});
  CHECK(says(late_peer, sp::errc::timeout, "no answer within 100 ms"));
  auto const thrown = fails(3, [](late_ranks const& c) {
    if (c.rank() == 2) sp::fail({sp::errc::backend_error, "out of ideas", "Think"});
    CHECK(failure_of([&] { c.barrier(); }).code == sp::errc::aborted);
  });
  CHECK(says(thrown, sp::errc::backend_error, "out of ideas"));
  auto const short_one = fails(2, [](late_ranks const& c) {
    elsewhere_pool memory(c.queue());
    block<elsewhere> x(memory, 10);
    piece const part = sp::as_piece(x.all.rows(0, 3 + c.rank()));
    parcel const other{1 - c.rank(), {&part, 1}};
    c.exchange({"short", {&other, 1}, {&other, 1}}).wait();
  });
  CHECK(says(short_one, sp::errc::short_message, "12", "16"));
}
#endif

} // namespace test_local
