// Kernels over an emulated block: every operation gives what is said of it, and every misuse is noticed.
// What a device can be asked as well is in block_proofs.hpp.
// needs: context
#include <doctest/doctest.h>

#include <sys/wait.h>

#include <csignal>
#include <set>
#include <type_traits>

#include "cuda/block_proofs.hpp"
#include "support/emulated_block.hpp"

namespace test_emulated_block {
namespace {

using sp::index_t;

/// A kernel of N threads that calls a function of the block.
template <int N, class Function>
struct kernel_of {
  Function const* f; // by address: what it captures need not be trivially copyable
  static constexpr int threads = N;
  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    (*f)(b);
  }
};
template <int N = 64, class Function>
support::emulated_work run(index_t blocks, index_t shared_bytes, support::emulation const& how, Function const& f) {
  return support::run_grid(kernel_of<N, Function>{&f}, blocks, shared_bytes, how);
}

// ---- operations ---------------------------------------------------------------------------------------------------------------

struct count_places {
  int* times; // [block][thread]
  static constexpr int threads = 96;
  static constexpr bool independent_threads = true;
  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    bool const right = b.threads() == threads && b.blocks() == 7 && b.lane() == b.thread() % 32 && b.warp() == b.thread() / 32;
    times[b.index() * threads + b.thread()] += right ? 1 : 100;
  }
};

TEST_CASE("emulated block: every thread of every block runs once [asan]") {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    std::vector<int> together(7 * 96), alone(7 * 96), launched(7 * 96);
    support::run_grid(count_places{together.data()}, 7, 0, {.seed = seed, .resident = static_cast<int>(2 * seed - 1)});
    support::run_independent(count_places{alone.data()}, 7, {.seed = seed});
    auto const work = support::launched_work(count_places{launched.data()}, 7, 0);
    work();
    CHECK(together == std::vector<int>(7 * 96, 1));
    CHECK(alone == together);
    CHECK(launched == together);
    work(); // a graph that is replayed
    CHECK(launched == std::vector<int>(7 * 96, 2));
  }
}

TEST_CASE("emulated block: threads take turns in an order that the seed decides") {
  auto const order = [](std::uint64_t seed, auto const& runner) {
    std::vector<int> seen;
    runner(seed, seen);
    return seen;
  };
  auto const grid = [](std::uint64_t seed, std::vector<int>& seen) {
    run(2, 0, {.seed = seed}, [&seen](auto& b) {
      seen.push_back(static_cast<int>(b.index()) * 64 + b.thread());
      b.barrier();
      seen.push_back(static_cast<int>(b.index()) * 64 + b.thread());
    });
  };
  CHECK(order(5, grid) == order(5, grid));
  CHECK(order(5, grid) != order(6, grid));
  std::vector<int> const seen = order(5, grid);
  CHECK(std::set<int>(seen.begin(), seen.begin() + 65).size() > 60); // neither block by block nor the same order again
  CHECK(!std::is_sorted(seen.begin(), seen.begin() + 64));

  support::emulator::random_numbers random(3);
  for (index_t n : {0, 1, 2, 7, 64, 1000}) {
    support::emulator::shuffled_numbers const numbers(n, random);
    std::set<index_t> all;
    for (index_t i = 0; i < n; ++i) all.insert(numbers[i]);
    CHECK(index_t(all.size()) == n);
    if (n > 0) CHECK((*all.begin() == 0 && *all.rbegin() == n - 1));
  }
}

/// Runs a kernel of block_proofs with room for its counts, and says whether all that it checks is right.
template <class Kernel, class... Argument>
bool holds(std::uint64_t seed, Argument... arguments) {
  int right = 0, wrong = 0;
  Kernel const kernel{{&right, &wrong}, arguments...};
  if constexpr (sp::detail::independent_threads<Kernel>) {
    support::run_independent(kernel, Kernel::blocks, {.seed = seed});
    if (right != Kernel::checks || wrong != 0) return false;
    right = 0;
  }
  support::run_grid(kernel, Kernel::blocks, Kernel::shared_bytes, {.seed = seed, .arithmetic = seed});
  return right == Kernel::checks && wrong == 0;
}

TEST_CASE("emulated block: every operation [asan]") {
  std::vector<block_proofs::sixteen> numbers(128);
  for (int i = 0; i < 512; ++i) numbers[std::size_t(i / 4)].x[i % 4] = i;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    CHECK(holds<block_proofs::meetings>(seed));
    CHECK(holds<block_proofs::copies>(seed, numbers.data()));
    CHECK(holds<block_proofs::products<sp::bf16>>(seed));
    CHECK(holds<block_proofs::products<sp::fp16>>(seed));
  }
  CHECK(holds<block_proofs::functions>(1));
  numbers[71].x[2] = 0;
  CHECK(!holds<block_proofs::copies>(1, numbers.data())); // what they count can be wrong
}

TEST_CASE("emulated block: shared memory is aligned to 16 bytes and no more, and full of NaN") {
  int wrong = 0;
  run<32>(2, 100, {}, [&wrong](auto& b) {
    auto const address = reinterpret_cast<std::uintptr_t>(b.template shared<float>(0));
    wrong += address % 16 != 0 || address % 32 == 0;
    for (int i = 0; i < 25; ++i) wrong += !std::isnan(b.template shared<float>(4 * i)[0]);
    wrong += !std::isnan(float(*b.template shared<sp::bf16>(2))) || !std::isnan(float(*b.template shared<sp::fp16>(98)));
    b.barrier();
    *b.template shared<float>(4 * (b.thread() % 25)) = 1; // the next block finds it poisoned again
  });
  CHECK(wrong == 0);
}

using block_proofs::sixteen;

TEST_CASE("emulated block: a copy arrives at any moment before it is waited for") {
  std::vector<sixteen> const from(64, sixteen{{1, 2, 3, 4}});
  int early = 0, late = 0;
  for (std::uint64_t seed = 1; seed <= 4; ++seed)
    run(2, 64 * 16, {.seed = seed}, [&](auto& b) {
      auto* const mine = b.template shared<sixteen>(16 * b.thread());
      b.copy_async(mine, &from[std::size_t(b.thread())], true);
      b.copy_async_commit();
      b.barrier();
      (mine->x[0] == -1 ? late : early) += 1;
      b.template copy_async_wait<1>();
      b.template copy_async_wait<0>();
    });
  CHECK(early > 50);
  CHECK(late > 50);
}

// ---- matrices -----------------------------------------------------------------------------------------------------------------

using block_proofs::element_of_a, block_proofs::element_of_b, block_proofs::element_of_d, block_proofs::two_of;

template <class T>
struct product {
  T a[256], b[128], c[128]; // a[row + 16 k], b[n + 8 k], c[row + 16 n]
  explicit product(std::uint64_t seed) {
    support::emulator::random_numbers random(seed);
    auto const draw = [&](T* x, int n) {
      for (int i = 0; i < n; ++i) x[i] = T(float(random.below(2001)) / 1000 - 1);
    };
    draw(a, 256), draw(b, 128), draw(c, 128);
  }
  double exact(int row, int n) const {
    double sum = double(float(c[row + 16 * n]));
    for (int k = 0; k < 16; ++k) sum += double(float(a[row + 16 * k])) * double(float(b[n + 8 * k]));
    return sum;
  }
};

TEST_CASE_TEMPLATE("emulated block: multiply_add sums in float, in an order of its own [asan]", T, sp::bf16, sp::fp16) {
  std::vector<float> bits[2];
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    product<T> const x(1);
    double most = 0;
    std::vector<float> sums(128);
    run<32>(1, 0, {.seed = seed, .arithmetic = seed / 2}, [&](auto& block) {
      int const l = block.lane();
      unsigned a[4], b[2];
      float d[4];
      for (int r = 0; r < 4; ++r) a[r] = two_of(x.a[element_of_a(l, 2 * r)], x.a[element_of_a(l, 2 * r + 1)]);
      for (int r = 0; r < 2; ++r) b[r] = two_of(x.b[element_of_b(l, 2 * r)], x.b[element_of_b(l, 2 * r + 1)]);
      for (int v = 0; v < 4; ++v) d[v] = x.c[element_of_d(l, v)];
      block.template multiply_add<T>(d, a, b);
      for (int v = 0; v < 4; ++v) {
        int const e = element_of_d(l, v);
        most = std::max(most, std::abs(double(d[v]) - x.exact(e % 16, e / 16)));
        sums[std::size_t(e)] = d[v];
      }
    });
    CHECK(most < 16 * 0x1p-23);
    CHECK(most > 0); // summed in float
    if (seed == 1) bits[0] = sums;
    if (seed == 2) bits[1] = sums;
    if (seed == 3) CHECK(sums == bits[1]); // the order of threads changes no bit,
  }
  CHECK(bits[0] != bits[1]); // that of terms does
}

TEST_CASE("emulated block: conflicts of banks are counted") {
  auto const conflicts = [](auto const& place) { // of row i of matrix m, in units of 16 bytes
    support::emulated_work const done = run<32>(1, 32 * 128, {}, [&](auto& b) {
      unsigned r[4];
      b.load_matrix(r, b.template shared<char>(16 * place(b.lane() % 8, b.lane() / 8)));
    });
    CHECK(done.matrix_loads == 1);
    return done.conflicts;
  };
  CHECK(conflicts([](int i, int m) { return 8 * m + i; }) == 0);
  CHECK(conflicts([](int i, int m) { return 8 * i + m; }) == 4 * 7);      // rows of 128 bytes
  CHECK(conflicts([](int i, int m) { return 8 * i + (m ^ i); }) == 0);    // the same, swizzled
  CHECK(conflicts([](int i, int m) { return 9 * i + m; }) == 0);          // the same, padded
  CHECK(conflicts([](int i, int m) { return 4 * i + m; }) == 4 * 3);      // rows of 64 bytes
  CHECK(conflicts([](int i, int m) { return m == 0 ? 8 * i : 5; }) == 7); // one row again and again is read once
}

TEST_CASE("emulated block: exp2 and log2 are off, as those of a device") {
  double most = 0;
  for (int i = 1; i <= 1000; ++i) {
    double const exact = std::exp2(double(i) / 16 - 30);
    most = std::max(most, std::abs(double(support::emulated_block::exp2(float(i) / 16 - 30)) / exact - 1));
  }
  CHECK(most > 0x1p-23);
}

TEST_CASE("emulated block: add_to, of threads and blocks that take turns") {
  using block_proofs::totals;
  int tickets = 0;
  std::vector<int> drawn(totals::all);
  float sum = 0;
  double wide = 0;
  sp::detail::two_floats two{};
  support::run_grid(totals{{}, &tickets, drawn.data(), &sum, &wide, &two}, totals::blocks, 0);
  CHECK(tickets == totals::all);
  CHECK(drawn == std::vector<int>(totals::all, 1));
  CHECK(sum == totals::all / 2);
  CHECK(wide == totals::all / 4);
  CHECK((two.of[0] == totals::all && two.of[1] == 3 * totals::all));

  std::set<float> sums;
  int turns = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    sum = 0;
    index_t before = -1;
    run(6, 0, {.seed = seed}, [&](auto& b) {
      turns += b.index() != before;
      before = b.index();
      b.add_to(&sum, b.thread() == 0 ? 0x1p24F : 0.75F); // which is lost in what is larger
    });
    sums.insert(sum);
  }
  CHECK(turns > 100);     // blocks are under way at the same time
  CHECK(sums.size() > 1); // sums of floats depend on the order, as on a device
}

} // namespace

// ---- misuse -------------------------------------------------------------------------------------------------------------------

namespace {

/// What a run says that fails; empty: it did not.
template <int N = 64, class Function>
std::string failure_of(index_t shared_bytes, Function const& f, std::uint64_t seed = 1) {
  try {
    run<N>(2, shared_bytes, {.seed = seed, .copies = support::arrival::late}, f);
  } catch (support::emulation_failure const& e) {
    return e.what();
  }
  return "";
}
bool says(std::string const& what, std::string const& part) {
  bool const so = what.find(part) != std::string::npos;
  if (!so) MESSAGE(what << " does not say " << part);
  return so;
}

/// In how many of ten orders a kernel gives a wrong number.
template <class Function>
int wrong_orders(Function const& f, support::arrival copies = support::arrival::late) {
  int orders = 0;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    int wrong = 0;
    run(1, 4096, {.seed = seed, .copies = copies}, [&](auto& b) { wrong += f(b) ? 0 : 1; });
    orders += wrong > 0;
  }
  return orders;
}

TEST_CASE("emulated block: what lacks a barrier or a wait gives wrong numbers") {
  std::vector<sixteen> const from(64, sixteen{{1, 2, 3, 4}});
  CHECK(wrong_orders([](auto& b) { // no barrier before shared memory is read
          b.template shared<int>(0)[b.thread()] = 1;
          return b.template shared<int>(0)[(b.thread() + 1) % 64] == 1;
        }) == 10);
  CHECK(wrong_orders([](auto& b) { // no barrier before it is written again
          int* const s = b.template shared<int>(0);
          s[b.thread()] = 1;
          b.barrier();
          bool const right = s[(b.thread() + 1) % 64] == 1;
          s[b.thread()] = 2;
          return right;
        }) == 10);
  CHECK(wrong_orders([](auto& b) { // the same within a warp
          b.template shared<int>(0)[b.thread()] = 1;
          return b.template shared<int>(0)[b.thread() ^ 1] == 1;
        }) == 10);
  CHECK(wrong_orders([](auto& b) { return b.template shared<int>(0)[b.thread()] == 0; }) == 10); // never written
  auto const copied = [&](auto& b, auto const& meanwhile) {
    sixteen* const s = b.template shared<sixteen>(0);
    b.copy_async(s + b.thread(), &from[0], true);
    meanwhile(b);
    bool const right = s[b.thread()].x[0] == 1;
    b.copy_async_commit();
    b.template copy_async_wait<0>();
    return right;
  };
  CHECK(wrong_orders([&](auto& b) { // no wait
          return copied(b, [](auto& c) {
            c.copy_async_commit();
            c.barrier();
          });
        }) == 10);
  CHECK(wrong_orders([&](auto& b) { // no commit
          return copied(b, [](auto& c) {
            c.template copy_async_wait<0>();
            c.barrier();
          });
        }) == 10);
  CHECK(wrong_orders([&](auto& b) { // one group too few
          return copied(b, [](auto& c) {
            c.copy_async_commit();
            c.template copy_async_wait<1>();
            c.barrier();
          });
        }) == 10);
  CHECK(wrong_orders([&](auto& b) { // the source changes before the copy has arrived
          static sixteen mine[64];
          mine[b.thread()] = {{1, 1, 1, 1}};
          sixteen* const s = b.template shared<sixteen>(0);
          b.copy_async(s + b.thread(), mine + b.thread(), true);
          b.copy_async_commit();
          mine[b.thread()].x[0] = 2;
          b.template copy_async_wait<0>();
          return s[b.thread()].x[0] == 1;
        }) == 10);
  CHECK(wrong_orders([&](auto& b) { // others see a copy only behind a barrier
          sixteen* const s = b.template shared<sixteen>(0);
          b.copy_async(s + b.thread(), &from[0], true);
          b.copy_async_commit();
          b.template copy_async_wait<0>();
          return s[(b.thread() + 1) % 64].x[0] == 1;
        }) == 10);
}

TEST_CASE("emulated block: copies that nobody waits for may not arrive for as long as a kernel computes") {
  std::vector<sixteen> const from(64, sixteen{{1, 2, 3, 4}});
  auto const long_after = [&](auto& b) {
    sixteen* const s = b.template shared<sixteen>(0);
    b.copy_async(s + b.thread(), &from[0], true);
    b.copy_async_commit();
    for (int i = 0; i < 20; ++i) b.barrier();
    bool const right = s[b.thread()].x[0] == 1;
    b.template copy_async_wait<0>();
    return right;
  };
  CHECK(wrong_orders(long_after, support::arrival::late) == 10);
  CHECK(wrong_orders(long_after, support::arrival::at_once) == 0);
  CHECK(wrong_orders(long_after, support::arrival::any) == 0); // which is luck
  CHECK(wrong_orders(long_after, support::arrival::drawn) >= 5);
}

TEST_CASE("emulated block: addresses that a device refuses [asan]") {
  alignas(16) static char const global[64]{};
  CHECK(says(failure_of(256, [](auto& b) { b.copy_async(b.template shared<char>(8), global, true); }),
             "copy_async: byte 8 of shared memory is not 16-byte aligned"));
  CHECK(says(failure_of(256, [](auto& b) { b.copy_async(b.template shared<char>(0), global + 4, true); }),
             "copy_async: the address in global memory is not 16-byte aligned"));
  CHECK(says(failure_of(256, [](auto& b) { b.copy_async(b.template shared<char>(240) + 16, global, true); }),
             "copy_async: byte 256 of shared memory, which has 256 bytes"));
  CHECK(says(failure_of(256, [](auto& b) { b.copy_async(b.template shared<char>(0) - 16, global, true); }), "byte -16"));
  CHECK(says(failure_of<32>(2048,
                            [](auto& b) {
                              b.copy_async(b.template shared<char>(16 * b.lane()), global, true);
                              b.copy_async(b.template shared<char>(16 * b.lane()), global, true);
                            }),
             " of shared memory: a copy is on its way there"));
  CHECK(says(failure_of(2048, [](auto& b) { b.copy_async(b.template shared<char>(16 * b.thread()), global, true); }),
             "a thread ends while 1 of its copies are on their way"));
  unsigned r[4];
  CHECK(says(failure_of(256, [&r](auto& b) { b.load_matrix(r, b.template shared<char>(4)); }),
             "load_matrix: byte 4 of shared memory is not 16-byte aligned"));
  CHECK(says(failure_of(250, [&r](auto& b) { b.load_matrix_transposed(r, b.template shared<char>(240)); }),
             "load_matrix_transposed: byte 240 of shared memory, which has 250 bytes"));
  CHECK(says(failure_of(256, [&r](auto& b) { b.load_matrix(r, global); }), "load_matrix: byte"));
  std::string const what = failure_of<32>(512, [&r](auto& b) {
    b.copy_async(b.template shared<char>(16 * b.lane()), global, true);
    b.copy_async_commit();
    b.load_matrix(r, b.template shared<char>(16 * b.lane()));
    b.template copy_async_wait<0>();
  });
  CHECK(says(what, "load_matrix: byte "));
  CHECK(says(what, "a copy is on its way there"));
  CHECK(says(failure_of(256, [](auto& b) { b.template shared<float>(300); }), "offset 300 in 256 bytes of shared memory"));
  CHECK(says(failure_of(256, [](auto& b) { b.template shared<float>(-4); }), "offset -4 in 256 bytes of shared memory"));
  CHECK(says(failure_of(256, [](auto& b) { b.template shared<double>(12); }),
             "offset 12 of shared memory for a type that is aligned to 8"));
  CHECK(says(failure_of(256 * 1024, [](auto&) {}), "262144 bytes of shared memory, 232448 are there"));
  alignas(8) float three[3] = {};
  CHECK(says(failure_of(0,
                        [&](auto& b) {
                          b.add_to(reinterpret_cast<sp::detail::two_floats*>(three + 1), {1, 1});
                        }),
             "add_to: two floats at an address that is not 8-byte aligned"));
#ifndef SP_TEST_ADDRESS_SANITIZER // which ends the program at once
  CHECK(says(failure_of(256, [](auto& b) { b.template shared<char>(0)[256 + 100] = 1; }),
             "something was written outside of the 256 bytes of shared memory"));
  CHECK(says(failure_of(256, [](auto& b) { b.template shared<char>(0)[-20] = 1; }), "written outside"));
#endif
}

TEST_CASE("emulated block: threads that do not meet [asan]") {
  auto const here = std::source_location::current().line();
  std::string what = failure_of(0, [](auto& b) { // two places of one warp
    if (b.lane() < 16)
      b.shuffle(1, 0);
    else
      b.shuffle(2, 0);
  });
  auto const line = [&](std::uint_least32_t n) { return "test_emulated_block.cpp:" + std::to_string(here + n); };
  CHECK(says(what, "waits in shuffle at "));
  CHECK(says(what, line(3)));
  CHECK(says(what, line(5)));
  CHECK(says(what, "for this one, which comes to shuffle; block "));
  CHECK(says(what, ", thread "));
  CHECK(says(what, ", seed 1"));

  what = failure_of(0, [](auto& b) { // half of a warp
    if (b.lane() < 16) b.any(true);
  });
  CHECK(says(what, "32 of 64 threads wait in any for others who do not come: these have ended; block "));
  what = failure_of(0, [](auto& b) { // half of the block
    if (b.warp() == 0) b.barrier();
  });
  CHECK(says(what, "32 of 64 threads wait in barrier for others who do not come: these have ended"));
  what = failure_of(0, [](auto& b) { // two barriers
    if (b.warp() == 0)
      b.barrier();
    else
      b.barrier();
  });
  CHECK(says(what, "waits in barrier at "));
  what = failure_of(0, [](auto& b) { // a barrier and an operation of a warp
    if (b.thread() == 40)
      b.barrier();
    else
      b.warp_barrier();
  });
  CHECK((what.find("31 of 64 threads wait in warp_barrier for others who do not come: thread 40 waits in barrier at ") == 0 ||
         what.find("1 of 64 threads wait in barrier for others who do not come: thread ") == 0));
  CHECK(says(failure_of(0, [](auto& b) { b.shuffle(1, 32); }), "lane, mask or distance 32 is not in 0 ... 31"));
  CHECK(says(failure_of(0, [](auto& b) { b.shuffle_xor(1, -1); }), "lane, mask or distance -1"));
  CHECK(says(failure_of(0, [](auto& b) { b.shuffle_down(1, 40); }), "lane, mask or distance 40"));
}

struct meets_alone {
  int which;
  static constexpr int threads = 32;
  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    if (which == 0) b.barrier();
    if (which == 1) b.shuffle(1, 0);
    if (which == 2) b.template shared<int>(0);
    if (which == 3) b.copy_async_commit();
  }
};

TEST_CASE("emulated block: independent threads meet nobody [asan]") {
  for (int which = 0; which < 4; ++which) {
    std::string what;
    try {
      support::run_independent(meets_alone{which}, 1);
    } catch (support::emulation_failure const& e) {
      what = e.what();
    }
    CHECK(says(what, " in a kernel of independent threads; block 0, thread "));
  }
}

TEST_CASE("emulated block: a failure leaves every thread, and the next run is none the worse [asan]") {
  struct counted {
    explicit counted(int& n) : n_(n) { ++n_; }
    counted(counted const&) = delete;
    ~counted() { --n_; }
    int& n_;
  };
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    int alive = 0, begun = 0;
    auto const fails = [&](auto& b) {
      counted const c(alive);
      std::vector<int> const memory(100); // the sanitizer finds what is not given back
      ++begun;
      b.barrier();
      if (b.thread() == 17) throw std::runtime_error("of the kernel");
      b.barrier();
    };
    CHECK_THROWS_WITH_AS(run(3, 0, {.seed = seed}, fails), "of the kernel", std::runtime_error);
    CHECK(begun >= 64);
    CHECK(alive == 0);
    int right = 0;
    run(2, 0, {.seed = seed}, [&](auto& b) {
      b.barrier();
      ++right;
    });
    CHECK(right == 128);
  }
}

#ifndef SP_TEST_ADDRESS_SANITIZER // whose report would go to the terminal
TEST_CASE("emulated block: a stack that is too small ends the program") {
  pid_t const child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL); // not the test framework's
    run<32>(1, 0, {}, [](auto&) {
      char volatile frame[400 * 1024];
      frame[0] = 1;
      (void)frame[0];
    });
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGSEGV);
}
#endif

TEST_CASE("launch: a number of blocks that no grid has") {
  auto const code = [](index_t blocks) {
    try {
      sp::detail::launch(nullptr, count_places{nullptr}, blocks, 0);
    } catch (sp::error const& e) {
      return e.code();
    }
    return sp::errc::aborted;
  };
  CHECK(code(-1) == sp::errc::size_overflow);
  CHECK(code(index_t{1} << 31) == sp::errc::size_overflow);
  CHECK(code(0) == sp::errc::aborted); // nothing is done: the kernel would touch null
}

} // namespace
} // namespace test_emulated_block
