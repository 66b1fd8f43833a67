// The threads of a few blocks, each a fiber, taking turns in random order: what an emulated_block stands on.
// They meet where an operation needs several of them; who waits for others that do not come is reported, and nothing hangs.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <source_location>
#include <stdexcept>
#include <string>

#include <sp/core/index.hpp>

#include "support/fibers.hpp"

namespace support {

/// When the bytes of copy_async arrive: not before copy_async_wait asks for them, at once, or at a random moment between.
enum class arrival { late, at_once, any, drawn };

/// How a grid is run. The same numbers give the same run.
struct emulation {
  std::uint64_t seed = 1; ///< of the order of blocks and threads, and of the moments at which copies arrive
  std::uint64_t arithmetic =
      1;            ///< of the order in which multiply_add sums: like that of a device, it does not change from call to call
  int resident = 2; ///< blocks that are under way at the same time
  /// Drawn: one of the others for all of a launch, or for each group of each thread. A kernel that forgets to wait has luck in no launch whose
  /// copies are late, however long it computes before it reads.
  arrival copies = arrival::drawn;
};

/// What a grid did.
struct emulated_work {
  std::int64_t blocks = 0;
  std::int64_t matrix_loads = 0; ///< calls of load_matrix by a warp; each takes four cycles
  std::int64_t conflicts = 0; ///< cycles that they take beyond, because rows of a matrix lie in the same banks of shared memory
};

/// A kernel did what a device leaves undefined.
struct emulation_failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace emulator {

/// SplitMix64: quick, and any seed is a good one.
class random_numbers {
public:
  explicit random_numbers(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u) {}
  std::uint64_t operator()() noexcept {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  /// 0 ... n - 1
  std::size_t below(std::size_t n) noexcept { return static_cast<std::size_t>(((*this)() >> 32) * n >> 32); }

private:
  std::uint64_t state_;
};

/// The numbers 0 ... n - 1 in an order that takes no memory: a large step around a circle.
class shuffled_numbers {
public:
  shuffled_numbers(sp::index_t n, random_numbers& random)
      : n_(static_cast<std::uint64_t>(n)), first_(n > 0 ? random() % n_ : 0), step_(n > 0 ? random() % n_ : 0) {
    while (n_ > 1 && std::gcd(step_, n_) != 1) step_ = (step_ + 1) % n_;
  }
  sp::index_t operator[](sp::index_t i) const noexcept {
    return static_cast<sp::index_t>((first_ + static_cast<std::uint64_t>(i) * step_) % n_);
  }

private:
  std::uint64_t n_, first_, step_;
};

inline std::string name_of(std::source_location const& s) { return std::string(s.file_name()) + ":" + std::to_string(s.line()); }
SP_TEST_UNCHECKED inline bool same(std::source_location const& a, std::source_location const& b) {
  if (std::memcmp(&a, &b, sizeof a) == 0) return true; // that is a pointer
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

inline std::string described(std::string const& problem, sp::index_t block, int thread, std::source_location const& site,
                             emulation const& how) {
  return problem + "; block " + std::to_string(block) + ", thread " + std::to_string(thread) + ", at " + name_of(site) +
         ", seed " + std::to_string(how.seed);
}

class grid;
struct block_state;

/// 16 bytes that copy_async has started to copy.
struct copy_under_way {
  std::byte* to;
  std::byte const* from; ///< null: zeros
  std::int64_t group;    ///< number of the group that it belongs to
  arrival when;
};

enum class thread_state { ready, meets, ended };

struct thread {
  block_state* block = nullptr;
  int number = 0;
  thread_state state = thread_state::ready;
  bool started = false;
  fiber* stack = nullptr;
  std::vector<copy_under_way> copies;
  std::int64_t groups = 0;              ///< committed
  arrival group_arrives = arrival::any; ///< where groups differ: copies of the one that is being made
  // where it waits for others
  char const* operation = "";
  std::source_location site;
  void* argument = nullptr;
};

/// Where threads gather for one operation.
struct meeting {
  int arrived = 0, first = 0; ///< first: number of the thread that came first
};

/// Shared memory between two stretches of bytes that nobody may touch.
class shared_memory {
public:
  explicit shared_memory(std::size_t size) : bytes_(size), memory_(2 * gap + size + alignment), under_way_(size / 16 + 1) {
    auto const address = reinterpret_cast<std::uintptr_t>(memory_.data());
    begin_ =
        memory_.data() + gap + (alignment - (address + gap) % alignment) % alignment + 16; // a multiple of 16 and of nothing more
    close();
  }
  shared_memory(shared_memory const&) = delete;
  ~shared_memory() { open(); }

  std::byte* begin() const noexcept { return begin_; }
  std::size_t bytes() const noexcept { return bytes_; }
  bool holds(void const* p, std::size_t n) const noexcept {
    auto const offset = reinterpret_cast<std::uintptr_t>(p) - reinterpret_cast<std::uintptr_t>(begin_);
    return offset <= bytes_ && n <= bytes_ - offset;
  }
  /// How many copies are on their way to the 16 bytes at p.
  unsigned char& under_way(void const* p) {
    return under_way_[static_cast<std::size_t>(static_cast<std::byte const*>(p) - begin_) / 16];
  }

  /// 8 rows of 16 bytes are read in one cycle if each lies in banks of its own: 128 bytes further are the same ones. How many more it takes.
  SP_TEST_UNCHECKED int waits(std::byte const* (&rows)[8]) const {
    unsigned banks = 0;
    for (std::byte const* row : rows) banks |= 1u << (row - begin_) / 16 % 8;
    if (banks == 0xff) return 0;
    int most = 0;
    for (int i = 0; i < 8; ++i) {
      int before = 0;
      for (int j = 0; j < i; ++j) {
        bool again = rows[j] == rows[i];
        for (int k = 0; k < j; ++k) again = again || rows[j] == rows[k];
        before += (rows[i] - rows[j]) % 128 == 0 && !again ? 1 : 0;
      }
      most = before > most ? before : most;
    }
    return most;
  }

  void poison() {
    std::memset(begin_, 0xff, bytes_);
    std::fill(under_way_.begin(), under_way_.end(), std::uint8_t{0});
  }
  /// Whether what lies around it is as it was.
  bool intact() {
    open();
    auto const untouched = [](std::byte b) { return b == std::byte{0xff}; };
    bool const so = std::all_of(memory_.data(), begin_, untouched) &&
                    std::all_of(begin_ + bytes_, memory_.data() + memory_.size(), untouched);
    close();
    return so;
  }

private:
  static constexpr std::size_t gap = 512, alignment = 256;

  void close() {
    std::fill(memory_.data(), begin_, std::byte{0xff});
    std::fill(begin_ + bytes_, memory_.data() + memory_.size(), std::byte{0xff});
#ifdef SP_TEST_ADDRESS_SANITIZER
    __asan_poison_memory_region(memory_.data(), static_cast<std::size_t>(begin_ - memory_.data()));
    __asan_poison_memory_region(begin_ + bytes_, static_cast<std::size_t>(memory_.data() + memory_.size() - begin_) - bytes_);
#endif
  }
  void open() {
#ifdef SP_TEST_ADDRESS_SANITIZER
    __asan_unpoison_memory_region(memory_.data(), memory_.size());
#endif
  }

  std::size_t bytes_;
  std::vector<std::byte> memory_;
  std::byte* begin_;
  std::vector<unsigned char> under_way_;
};

/// A block that is under way.
struct block_state {
  block_state(grid& g, int threads, std::size_t shared_bytes)
      : of(&g), team(static_cast<std::size_t>(threads)), warps(team.size() / 32), shared(shared_bytes) {
    for (std::size_t i = 0; i < team.size(); ++i) {
      team[i].block = this;
      team[i].number = static_cast<int>(i);
    }
  }
  grid* of;
  sp::index_t index = 0;
  std::size_t running = 0; ///< threads that have not ended
  std::vector<thread> team;
  meeting all;
  std::vector<meeting> warps;
  shared_memory shared;
};

/// What a kernel that has failed is left by, thread for thread.
struct unwound {};

/// Runs all blocks of a kernel: a few at the same time, their threads in random order.
class grid {
public:
  using body = std::function<void(thread&)>;

  grid(int team, sp::index_t count, sp::index_t shared_bytes, emulation const& options, body run_thread_of_kernel)
      : threads(team), blocks(count), how(options), random(how.seed), order_(blocks, random),
        run_(std::move(run_thread_of_kernel)) {
    constexpr sp::index_t most = 227 * 1024; // of sm_90; sm_80 has 163 KB
    if (shared_bytes < 0 || shared_bytes > most)
      throw emulation_failure("a block asks for " + std::to_string(shared_bytes) + " bytes of shared memory, " +
                              std::to_string(most) + " are there");
    std::iota(terms.begin(), terms.end(), 0);
    random_numbers arithmetic(how.arithmetic);
    for (std::size_t i = terms.size(); i > 1; --i) std::swap(terms[i - 1], terms[arithmetic.below(i)]);
    if (how.copies == arrival::drawn) {
      static constexpr arrival all[] = {arrival::late,    arrival::late, arrival::late,
                                        arrival::at_once, arrival::any,  arrival::drawn};
      copies_arrive_ = all[random.below(std::size(all))];
    }
    for (int i = 0; i < how.resident && i < blocks; ++i)
      resident_.push_back(std::make_unique<block_state>(*this, threads, static_cast<std::size_t>(shared_bytes)));
    ready_list_.resize(resident_.size() * static_cast<std::size_t>(threads));
    ready_ = ready_list_.data();
  }

  emulated_work run() {
    for (auto& b : resident_) begin(*b);
    take_turns();
    done.blocks = begun_;
    if (!failure_) return done;
    unwind();
    std::rethrow_exception(failure_);
  }

  // ---- for the handle ---------------------------------------------------------------------------------------------------------

  /// A thread comes, with its operation, site and argument, to a meeting of `count` threads from `first` on; the last one completes it and all of them are ready again.
  template <class Complete>
  SP_TEST_UNCHECKED void meet(meeting& m, thread& me, int first, int count, Complete const& complete) {
    thread* const team = &me - me.number + first;
    if (m.arrived == 0)
      m.first = me.number;
    else if (thread const& other = team[m.first - first]; !same(other.site, me.site))
      complain(me,
               "thread " + std::to_string(m.first) + " waits in " + other.operation + " at " + name_of(other.site) +
                   " for this one, which comes to " + me.operation,
               me.site);
    me.state = thread_state::meets;
    if (++m.arrived == count) {
      m.arrived = 0;
      complete(team);
      for (int i = 0; i < count; ++i) {
        team[i].state = thread_state::ready;
        if (&team[i] != &me) ready_[ready_count_++] = &team[i]; // this one is put back when it has left
      }
    }
    leave(me);
  }
  /// Lets others go first.
  SP_TEST_UNCHECKED void leave(thread& me) {
    me.stack->suspend();
    if (failure_) throw unwound{};
  }
  [[noreturn]] void complain(thread const& t, std::string const& problem, std::source_location const& site) const {
    throw emulation_failure(described(problem, t.block->index, t.number, site, how));
  }
  void copy_starts(thread& me, std::byte* to, std::byte const* from) {
    arrival const when = copies_arrive_ == arrival::drawn ? me.group_arrives : copies_arrive_;
    ++me.block->shared.under_way(to);
    me.copies.push_back({to, from, me.groups, when});
    if (when == arrival::any) ++copies_;
    std::memset(to, 0xff, 16);
    if (when == arrival::at_once) copy_arrives(me, me.copies.size() - 1);
  }
  void group_ends(thread& me) {
    ++me.groups;
    me.group_arrives = drawn_arrival();
  }
  void copy_arrives(thread& of, std::size_t i) {
    copy_under_way const c = of.copies[i];
    of.copies.erase(of.copies.begin() + static_cast<std::ptrdiff_t>(i));
    if (c.when == arrival::any) --copies_;
    --of.block->shared.under_way(c.to);
    if (c.from)
      std::memcpy(c.to, c.from, 16);
    else
      std::memset(c.to, 0, 16);
  }

  int const threads;
  sp::index_t const blocks;
  emulation const how;
  random_numbers random;
  emulated_work done;
  std::array<int, 17> terms{}; ///< the order in which multiply_add sums 16 products and what was there

private:
  void begin(block_state& b) {
    if (begun_ == blocks) return;
    b.index = order_[begun_++];
    b.shared.poison();
    b.running = b.team.size();
    for (thread& t : b.team) {
      t.state = thread_state::ready;
      t.started = false;
      t.groups = 0;
      t.group_arrives = drawn_arrival();
      ready_[ready_count_++] = &t;
    }
  }
  void end(block_state& b) {
    if (b.shared.intact())
      begin(b);
    else
      failure_ = std::make_exception_ptr(emulation_failure("something was written outside of the " +
                                                           std::to_string(b.shared.bytes()) + " bytes of shared memory; block " +
                                                           std::to_string(b.index) + ", seed " + std::to_string(how.seed)));
  }
  SP_TEST_UNCHECKED void take_turns() {
    while (ready_count_ > 0 && !failure_) {
      std::size_t const i = random.below(ready_count_);
      thread* const t = ready_[i];
      ready_[i] = ready_[--ready_count_];
      if (copies_ > 0 && random() % 2) copy_arrives(*t->block);
      go_on(*t);
      if (t->state == thread_state::ready) ready_[ready_count_++] = t;
      if (t->state == thread_state::ended && --t->block->running == 0 && !failure_) end(*t->block);
      if (ready_count_ == 0 && !failure_) complain_of_those_who_wait();
    }
  }
  SP_TEST_UNCHECKED void go_on(thread& t) {
    if (t.started) {
      t.stack->resume();
    } else {
      t.started = true;
      t.stack = pool_.take();
      t.stack->start(&run_thread, &t);
    }
    if (t.state == thread_state::ended) {
      pool_.give(t.stack);
      t.stack = nullptr;
    }
  }
  static void run_thread(void* argument) {
    auto& t = *static_cast<thread*>(argument);
    grid& g = *t.block->of;
    try {
      g.run_(t);
      if (!t.copies.empty())
        g.complain(t, "a thread ends while " + std::to_string(t.copies.size()) + " of its copies are on their way", t.site);
    } catch (unwound const&) {
    } catch (...) {
      if (!g.failure_) g.failure_ = std::current_exception();
    }
    t.state = thread_state::ended;
  }
  void copy_arrives(block_state& b) {
    thread& t = b.team[random.below(b.team.size())];
    if (t.copies.empty()) return;
    if (std::size_t const i = random.below(t.copies.size()); t.copies[i].when == arrival::any) copy_arrives(t, i);
  }
  arrival drawn_arrival() {
    static constexpr arrival one[] = {arrival::late, arrival::at_once, arrival::any};
    return one[random.below(std::size(one))];
  }
  /// Nobody can go on: somebody waits for a thread that has ended or waits elsewhere.
  void complain_of_those_who_wait() {
    for (auto const& b : resident_) {
      auto const waits = [](thread const& t) { return t.state == thread_state::meets; };
      auto const first = std::find_if(b->team.begin(), b->team.end(), waits);
      if (first == b->team.end()) continue;
      auto const beside = [&](thread const& t) { return waits(t) && !same(t.site, first->site); };
      auto const together =
          std::count_if(b->team.begin(), b->team.end(), [&](thread const& t) { return waits(t) && same(t.site, first->site); });
      auto const other = std::find_if(b->team.begin(), b->team.end(), beside);
      std::string problem = std::to_string(together) + " of " + std::to_string(threads) + " threads wait in " + first->operation +
                            " for others who do not come: ";
      problem += other == b->team.end() ? "these have ended"
                                        : "thread " + std::to_string(other->number) + " waits in " + other->operation + " at " +
                                              name_of(other->site);
      try {
        complain(*first, problem, first->site);
      } catch (...) {
        failure_ = std::current_exception();
      }
      return;
    }
  }
  /// Every thread that is in the middle of something leaves by an exception, so that its objects end.
  void unwind() {
    for (auto& b : resident_)
      for (thread& t : b->team) {
        if (t.stack && t.state != thread_state::ended) go_on(t);
        t.copies.clear();
      }
  }

  shuffled_numbers order_;
  body run_;
  sp::index_t begun_ = 0;
  std::vector<std::unique_ptr<block_state>> resident_;
  std::vector<thread*> ready_list_;
  thread** ready_ = nullptr; ///< room for all
  std::size_t ready_count_ = 0;
  fiber_pool& pool_ = fiber_pool::of_this_thread();
  std::size_t copies_ = 0; ///< under way that may arrive at any moment
  arrival copies_arrive_ = how.copies;
  std::exception_ptr failure_;
};

} // namespace emulator

} // namespace support
