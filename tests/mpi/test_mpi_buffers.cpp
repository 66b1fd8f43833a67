// After an error of sp::mpi the caller's memory is the caller's: nobody writes into it, nobody reads it, though peers sleep or are stopped
// in the middle of a large message, and every rank has its error within a tenth of its deadline and 50 ms more.
// ranks: 3
// also: tcp
#include "ranks.hpp"

#include <csignal>
#include <cstdlib>
#include <memory>
#include <optional>

#include <sys/mman.h>
#include <unistd.h>

namespace test_mpi_buffers {

using namespace mpi_tests;
using large = sp::mpi_options::parcels;

namespace {

/// Of one parcel; SP_TEST_PARCEL_BYTES asks for more.
std::size_t parcel_bytes() {
  char const* const given = std::getenv("SP_TEST_PARCEL_BYTES");
  return given ? std::size_t(std::atoll(given)) : std::size_t(6) << 20;
}

bool wide() { return parcel_bytes() > std::size_t(64) << 20; }

/// Memory that is unmapped when it dies: who uses it afterwards crashes.
class mapping {
public:
  explicit mapping(std::size_t bytes, int value) : bytes_(bytes) {
    data_ = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    fill(value);
  }
  mapping(mapping const&) = delete;
  ~mapping() { munmap(data_, bytes_); }
  void fill(int value) { std::memset(data_, value, bytes_); }
  int first() const { return data_[0]; }
  int last() const { return data_[bytes_ - 1]; }
  bool holds_only(int value) const { return data_[0] == char(value) && std::memcmp(data_, data_ + 1, bytes_ - 1) == 0; }
  bool holds_only(int one, int other) const {
    return std::all_of(data_, data_ + bytes_, [&](char c) { return c == char(one) || c == char(other); });
  }
  piece all() const { return sp::as_piece(sp::view<char, 1>(data_, {sp::index_t(bytes_)})); }

private:
  std::size_t bytes_;
  char* data_ = nullptr;
};

/// What became of one rank.
struct report {
  sp::errc code{};
  bool failed = false, held = false; ///< held: the error says that MPI holds the memory
  /// Nobody wrote into its memory after the error; what MPI still held got nothing but what the peer sends, in its place.
  bool good = true;
  bool begun = false, whole = false; ///< at the error, the first and the last byte of the large parcel had come
  double seconds = 0;                ///< from the beginning of its wait to the error
};

/// MPI moves what it can.
void let_mpi_work(std::chrono::milliseconds time) {
  for (auto const end = timer::now() + time; timer::now() < end; std::this_thread::sleep_for(500us)) {
    int any = 0;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, first(3), &any, MPI_STATUS_IGNORE);
  }
}

/// Ranks 0 and 1 swap a large parcel, rank 2 has a small one with each; between exchange and wait `between(c)` runs on every rank.
/// Everybody is to fail. After the error what is received is filled anew and what is sent is unmapped, unless MPI holds both, as the error
/// then says: these stay as they are, for long. `keeps_sent` unmaps nothing: what MPI holds without a word fails the test, not the process.
/// MPI goes on for a while.
template <class Between>
std::vector<report> swap_and_fail(sp::mpi_options options, std::chrono::milliseconds afterwards, Between&& between,
                                  std::chrono::milliseconds head_start_for_others = 0ms, bool keeps_sent = false) {
  static std::vector<std::unique_ptr<mapping>> held;
  if (wide()) held.clear();
  report mine;
  std::size_t const bytes = process() == 2 ? 1 : parcel_bytes(); // rank 2 has no large parcel
  auto received = std::make_unique<mapping>(bytes, 1), out = std::make_unique<mapping>(bytes, 2);
  mapping& in = *received;
  MPI_Comm fresh = MPI_COMM_NULL; // everybody is here; and what a late rank leaves half made concerns nobody else
  MPI_Comm_dup(first(3), &fresh);
  try {
    sp::mpi::run(
        fresh,
        [&](sp::mpi const& c) {
          int const r = c.rank();
          int word = r, words[2]{};
          piece const big_out = out->all(), big_in = in.all(), small_out = sp::as_piece(sp::view<int, 1>(&word, {1}));
          piece const small_in[2] = {sp::as_piece(sp::view<int, 1>(words, {1})), sp::as_piece(sp::view<int, 1>(words + 1, {1}))};
          std::vector<parcel> sends, receives;
          for (int peer = 0; peer < 3; ++peer) {
            if (peer == r) continue;
            bool const big = r < 2 && peer < 2;
            sends.push_back({peer, {big ? &big_out : &small_out, 1}});
            receives.push_back({peer, {big ? &big_in : &small_in[r == 2 ? peer : 0], 1}});
          }
          auto begin = timer::now();
          try {
            c.barrier();
            if (r == 0) std::this_thread::sleep_for(head_start_for_others);
            auto token = c.exchange({"swap", sends, receives});
            between(c);
            begin = timer::now();
            token.wait();
            while (timer::now() < begin + 10s) c.barrier(); // until the failure of others is known here
          } catch (sp::error const& e) {
            mine.code = e.code();
            mine.failed = true;
            mine.held = has(e.what(), "is still under way, and MPI holds the memory");
            mine.seconds = std::chrono::duration<double>(timer::now() - begin).count();
          }
        },
        options);
  } catch (sp::error const&) {
    mine.failed = true;
  }
  mine.begun = in.first() == 2;
  mine.whole = in.last() == 2;
  if (!mine.held) {
    in.fill(3);
    if (!keeps_sent) out.reset();
  }
  let_mpi_work(afterwards);
  mine.good = mine.held ? in.holds_only(1, 2) && out->holds_only(2) : in.holds_only(3);
  if (mine.held || keeps_sent) held.push_back(std::move(received)), held.push_back(std::move(out));
  return shared_by_all(mine);
}

void check_memory(std::vector<report> const& all, bool may_be_held = false) {
  for (std::size_t r = 0; r < all.size(); ++r) {
    CHECK_MESSAGE(all[r].failed, "rank " << r << " has no error");
    CHECK_MESSAGE((may_be_held || !all[r].held), "MPI holds memory of rank " << r);
    CHECK_MESSAGE(
        all[r].good,
        "memory of rank " << r << (all[r].held ? ", held by MPI, has bytes that nobody sent" : " was written after its error"));
  }
}

double longest(std::vector<report> const& all) {
  double most = 0;
  for (report const& r : all) most = std::max(most, r.seconds);
  return most;
}

} // namespace

TEST_CASE("mpi buffers: a failure elsewhere while a large parcel is under way") {
  for (auto how : {large::direct, large::owned})
    for (auto pause : wide() ? std::vector{300000us} : std::vector{0us, 1000us, 4000us}) {
      auto const all = swap_and_fail({.deadline = 30s, .large_parcels = how}, 60ms, [&](sp::mpi const& c) {
        if (c.rank() != 2) return;
        std::this_thread::sleep_for(pause);
        c.abort({sp::errc::non_finite, "enough", "-"});
      });
      check_memory(all);
      CHECK(longest(all) < 10);
      if (!wide()) continue; // a smaller parcel may come before the failure, or after it
      for (int r : {0, 1}) {
        INFO("rank " << r << (how == large::owned ? ", owned" : ", direct"));
        CHECK(all[std::size_t(r)].begun);
        if (how == large::owned) CHECK(!all[std::size_t(r)].whole); // a direct one that is under way is waited for
      }
    }
}

TEST_CASE("mpi buffers: a peer that computes past the deadline between exchange and wait") {
  auto const deadline = wide() ? 1000ms : 200ms;
  std::vector<int> sleepers{1, 0};
  if (wide()) sleepers.push_back(-1); // what takes longer than the deadline
  for (int sleeper : sleepers) {
    auto const limit = sleeper < 0 ? 250ms : deadline; // the parcel takes a second
    auto attempt = [&] {
      auto const all = swap_and_fail({.deadline = limit}, 400ms, [&](sp::mpi const& c) {
        if (c.rank() == sleeper) std::this_thread::sleep_for(limit + 150ms);
      });
      check_memory(all);
      return longest(all);
    };
    CHECK_MESSAGE(within(limit + limit / 10 + 50ms, attempt), "rank " << sleeper << " sleeps");
  }
}

TEST_CASE("mpi buffers: what MPI still holds at the deadline is told, and nobody waits longer for it") {
  auto const deadline = wide() ? 1000ms : 200ms;
  auto attempt = [&] {
    auto const all = swap_and_fail(
        {.deadline = deadline, .large_parcels = large::direct}, 400ms,
        [&](sp::mpi const& c) {
          if (c.rank() == 1) std::this_thread::sleep_for(deadline + 200ms);
        },
        50ms, true); // rank 1 has left the library, so it takes nothing of what rank 0 sends
    check_memory(all, true);
    verdict v(std::max(all[0].seconds, all[2].seconds));
    v.expect(all[0].held, "MPI holds the memory of rank 0");
    v.expect(!all[2].held, "MPI holds nothing of rank 2");
    return v;
  };
  CHECK(within(deadline + deadline / 10 + 50ms, attempt));
}

TEST_CASE("mpi buffers: a process that is stopped in the middle of a large parcel, and goes on after the error") {
  auto const deadline = wide() ? 1000ms : 250ms;
  auto const pids = shared_by_all(getpid());
  for (auto pause : wide() ? std::vector{300000us} : std::vector{1500us, 5000us}) {
    auto attempt = [&] {
      std::optional<std::thread> outside;
      auto const all = swap_and_fail({.deadline = deadline}, 500ms, [&](sp::mpi const& c) {
        if (c.rank() != 2) return;
        outside.emplace([&] {
          std::this_thread::sleep_for(pause);
          kill(pids[1], SIGSTOP);
          std::this_thread::sleep_for(deadline + 150ms);
          kill(pids[1], SIGCONT);
        });
      });
      if (outside) outside->join();
      check_memory({all[0], all[1], all[2]});
      return std::max(all[0].seconds, all[2].seconds);
    };
    CHECK(within(deadline + deadline / 10 + 50ms, attempt));
  }
}

} // namespace test_mpi_buffers
