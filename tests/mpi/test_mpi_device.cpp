// sp::mpi_device between processes: tensors lie in memory that the host cannot touch, and only MPI and the queue are told where.
// A real MPI moves the bytes; that it takes such memory is claimed by the test. Objects have the bits of the host, and exact gradients.
// with all: takes long to compile
// ranks: 3
#include "processes.hpp"

#include <functional>
#include <optional>

#include <sp/collective/reductions.hpp>

#include "conformance/check.hpp"
#include "conformance/elsewhere.hpp"
#include "support/failure.hpp"

namespace test_mpi_device {

using namespace conformance;
using support::failure_of;
using support::interleaving;
using support::says;

namespace {

/// What stands for a CUDA-aware MPI: it finds the bytes behind the library's addresses. It counts blocks that it was given.
struct aware {
  static inline int blocks = 0;
  static inline std::function<void()> before_sending = [] {};
  static bool takes_device_memory() { return true; }
  static std::byte* address(std::byte* p) {
    before_sending();
    ++blocks;
    REQUIRE(support::elsewhere_region::get().holds(p));
    return support::elsewhere_region::get().real(p);
  }
};
/// What says of itself that it is not.
struct unaware : aware {
  static bool takes_device_memory() { return false; }
};
using device_ranks = sp::mpi_device<support::late_queue, aware>;

static_assert(sp::communicator<device_ranks> && sp::has_own_queue<device_ranks> && sp::packs_messages<device_ranks> &&
              sp::has_row_lists<device_ranks> && sp::has_barrier<device_ranks> && sp::splittable<device_ranks> &&
              sp::abortable<device_ranks> && !sp::peer_memory<device_ranks>);

int turn = 0; ///< of the trials: queues differ by it and by rank

/// A rank's queue and memory.
struct own_place {
  support::late_queue queue{unsigned(turn * 16 + mpi_tests::process()), interleaving(turn % 3)};
  support::elsewhere_pool pool{queue};
};

} // namespace
} // namespace test_mpi_device

template <>
struct conformance::rank_of<test_mpi_device::device_ranks> {
  template <class Body>
  static void run(MPI_Comm part, Body const& body, sp::mpi_options const& options) {
    test_mpi_device::own_place here;
    test_mpi_device::device_ranks::run(part, here.queue, here.pool, body, options);
  }
};

namespace test_mpi_device {
namespace {

/// Forward and backward have the bits of threads on the host, and the numbers of the oracle; compared on process 0.
template <object_kind Object>
void same_as_on_the_host(int trials, int ranks) {
  in_processes<device_ranks> world;
  for (int i = 0; trials > 0; ++i) {
    turn = i;
    trial t = on_queues(std::uint64_t(i) * 7919 + 1, Object, ranks);
    if (held_back(t)) continue; // it synchronises
    --trials;
    if (t.how == sp::schedule::pull || t.how == sp::schedule::automatic)
      t.how = sp::schedule::rotate; // pull reads memory of others
    t.checks = std::min(t.checks, 1);
    inputs<double> in(t);
    outcome<double> got(t, t.ranks);
    run<Object>(t, in, sp::basic_reference<elsewhere>{}, got, as_it_is{}, world);
    std::string const wrong = world.decide([&] {
      outcome<double> want(t, t.ranks);
      run<Object>(t, in, sp::basic_reference<sp::host_memory>{}, want);
      auto const truth = expected(t, in);
      return differing(got, want, true) + (got.dsinks == want.dsinks ? "" : " dsinks") +
             judge<double>(t, measure_all(t, got, truth), {}, truth.largest_score);
    });
    INFO(t.describe());
    CHECK(wrong == "");
  }
}

/// body(rank's communicator, its place) on the first n processes.
template <class Body>
void on(int n, Body const& body) {
  if (MPI_Comm const part = mpi_tests::first(n); part != MPI_COMM_NULL) {
    own_place here;
    device_ranks::run(part, here.queue, here.pool, [&](device_ranks const& c) { body(c, here); },
                      {.deadline = std::chrono::seconds(30)});
  }
  MPI_Request all;
  MPI_Ibarrier(MPI_COMM_WORLD, &all);
  mpi_tests::settle(all);
}

/// Rows of two tensors, from every second place and back; the host looks on its own.
struct rows {
  support::pool_tensor<float, 2, support::elsewhere_pool> x, y;
  rows(own_place& here, int rank)
      : x(here.pool, {4, 3}, std::vector<float>(12, float(rank))), y(here.pool, {4, 3}, std::vector<float>(12, -1.F)) {}
  sp::piece out() const { return sp::as_piece((*x).narrow(1, 0, 2)); } // of 2 of 3 columns: packed
  sp::piece in() const { return sp::as_piece((*y).narrow(1, 1, 2)); }
};

} // namespace

TEST_CASE("mpi device: rings have the bits of the host and exact gradients") { same_as_on_the_host<object_kind::ring>(6, 3); }
TEST_CASE("mpi device: ulysses has the bits of the host and exact gradients") { same_as_on_the_host<object_kind::ulysses>(6, 3); }

TEST_CASE("mpi device: nothing is sent before the queue is done, and each peer is one block") {
  on(3, [](device_ranks const& c, own_place& here) {
    rows r(here, c.rank());
    bool written = false;
    here.queue.give([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      written = true;
    });
    aware::blocks = 0;
    aware::before_sending = [&] { CHECK(written); };
    sp::piece const out = r.out(), in = r.in();
    sp::parcel const to{(c.rank() + 1) % 3, {&out, 1}}, from{(c.rank() + 2) % 3, {&in, 1}};
    sp::exchange(c, sp::traffic{"test", {&to, 1}, {&from, 1}}, here.queue).wait();
    aware::before_sending = [] {};
    CHECK(aware::blocks == 2);
    auto const got = r.y.download();
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == (i % 3 == 0 ? -1.F : float((c.rank() + 2) % 3)));
    device_ranks const pair = c.split(c.rank() / 2, 0);
    CHECK(pair.size() == (c.rank() == 2 ? 1 : 2));
    sp::barrier(c, sp::context(here.queue, here.pool, here.pool)).wait();
    auto const sum = support::pool_tensor<float, 1, support::elsewhere_pool>(here.pool, {3}, {1, 2, float(c.rank())});
    sp::all_reduce(c, *sum, sp::context(here.queue, here.pool, here.pool)).wait();
    CHECK(sum.download() == std::vector<float>{3, 6, 3});
    CHECK(c.world_rank() == c.rank());
    CHECK(c.flight().recorded() > 0);
  });
}

TEST_CASE("mpi device: an MPI that does not take such memory is refused in a sentence, and so is what one rank does wrong") {
  own_place here;
  CHECK(!unaware::takes_device_memory());
  if (MPI_Comm const part = mpi_tests::first(2); part != MPI_COMM_NULL) {
    auto const e = failure_of([&] { return sp::mpi_device<support::late_queue, unaware>(part, here.queue, here.pool); });
    CHECK(says(e, sp::errc::unsupported, "does not say that it takes memory of devices"));
    CHECK(e.remedy.find("sp::nccl") != std::string::npos);
    if (!sp::detail::mpi_takes_device_memory())
      CHECK(says(failure_of([&] { return sp::mpi_device(part, here.queue, here.pool); }), sp::errc::unsupported, "does not say"));
#if defined(OPEN_MPI) // the one of the machine is asked, not the test
    CHECK(sp::detail::mpi_takes_device_memory() == (MPIX_Query_cuda_support() == 1));
    CHECK(e.problem.find("Open MPI") != std::string::npos);
#endif
  }
  if (MPI_Comm const part = mpi_tests::first(2); part != MPI_COMM_NULL) {
    device_ranks const c(part, here.queue, here.pool, {.deadline = std::chrono::seconds(30)});
    rows r(here, c.rank());
    sp::piece const out = r.out();
    sp::parcel const own{c.rank(), {&out, 1}};
    if (c.rank() == 0)
      CHECK(says(failure_of([&] {
                   return sp::exchange(c, sp::traffic{"test", {&own, 1}, {}}, here.queue);
                 }),
                 sp::errc::short_message, "rank 0 sends 32 bytes, rank 0 expects 0"));
    else
      CHECK(says(failure_of([&] { return c.barrier(), 0; }), sp::errc::aborted, "rank 0 of 2 failed"));
  }
}

namespace {

/// A queue of the host that says whether its device is current.
struct placed_queue : sp::inline_queue {
  static inline int inside = 0, times = 0;
  struct current {
    current() { ++inside, ++times; }
    current(current const&) = delete;
    ~current() { --inside; }
  };
  [[nodiscard]] static current make_current() { return {}; }
  [[nodiscard]] static constexpr placed_queue lane() noexcept { return {}; }
};
struct in_place {
  static bool takes_device_memory() { return true; }
  static std::byte* address(std::byte* p) {
    CHECK(placed_queue::inside == 1);
    return p;
  }
};

} // namespace

TEST_CASE("mpi device: the device of the queue is current while MPI is called, and what was before it afterwards") {
  REQUIRE(mpi_tests::processes() >= 2);
  MPI_Comm const part = mpi_tests::first(2);
  if (part == MPI_COMM_NULL) return;
  sp::pool memory;
  sp::mpi_device<placed_queue, in_place> const c(part, {}, memory, {.deadline = std::chrono::seconds(30)});
  std::array<float, 2> x{float(c.rank()), -1};
  sp::view<float, 1> const all(x.data(), {2});
  sp::piece const out = sp::as_piece(all.narrow(0, 0, 1)), in = sp::as_piece(all.narrow(0, 1, 1));
  sp::parcel const to{1 - c.rank(), {&out, 1}}, from{1 - c.rank(), {&in, 1}};
  auto after = [](auto&& call) {
    int const before = placed_queue::times;
    call();
    CHECK(placed_queue::times > before);
    CHECK(placed_queue::inside == 0);
  };
  std::optional<sp::mpi_device<placed_queue, in_place>::token> open;
  after([&] { open.emplace(c.exchange({"test", {&to, 1}, {&from, 1}})); });
  after([&] { open->wait(); });
  CHECK(x[1] == float(1 - c.rank()));
  after([&] { c.barrier(); });
}

} // namespace test_mpi_device
