// The table of conditions, row by row: each produces its code and one sentence with its numbers, its place and a remedy.
// And the mode for programs that cannot throw: a handler is told, and never outlived.
#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <sp/batch.hpp>
#include <sp/gather_loss.hpp>
#include <sp/mesh.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

#include "support/failure.hpp"
#include "support/tensors.hpp"

namespace test_errors {
namespace {

using sp::errc;
using sp::index_t;
using support::tensor;
using texts = std::vector<std::string>;

/// One condition: what provokes it, and what must be said.
struct condition {
  std::string what;
  errc code;
  texts said;            ///< in the problem: the numbers
  std::string remedy;    ///< part of what to do
  std::string primitive; ///< "" where no public call is concerned, "*" where either side may be first
  int rank;              ///< -1 where none is concerned, `either` where any of two may be first
  std::function<void()> provoke;
  int peer = -1; ///< -1 where there is none, `either` where it is the one that is not `rank`
  int step = -1; ///< which exchange of the communicator it was; -1 where there is none
};
constexpr int either = -2;

/// The failure of a condition, and whether everything about it is in place.
void examine(condition const& c) {
  CAPTURE(c.what);
  try {
    c.provoke();
  } catch (sp::error const& e) {
    std::string const line = e.what();
    CAPTURE(line);
    auto const& i = e.info();
    CHECK(sp::name(e.code()) == std::string(sp::name(c.code)));
    for (std::string const& t : c.said) CHECK_MESSAGE(i.problem.find(t) != std::string::npos, "not said: " << t);
    CHECK_MESSAGE(i.remedy.find(c.remedy) != std::string::npos, "no remedy: " << c.remedy);
    CHECK(!i.remedy.empty());
    if (c.primitive != "*") CHECK(i.primitive == c.primitive);
    if (c.rank == either)
      CHECK((i.rank == 0 || i.rank == 1));
    else
      CHECK(i.rank == c.rank);
    CHECK(i.peer == (c.peer == either ? 1 - i.rank : c.peer));
    CHECK(i.step == c.step);
    CHECK((i.size > i.rank || i.rank < 0));
    // one line with everything in it
    CHECK(line.find('\n') == std::string::npos);
    std::string const rank = i.rank < 0
                                 ? ""
                                 : " on rank " + std::to_string(i.rank) + (i.size < 0 ? "" : " of " + std::to_string(i.size)),
                      step = i.step < 0 ? "" : ", step " + std::to_string(i.step),
                      peer = i.peer < 0 ? "" : ", peer " + std::to_string(i.peer);
    for (std::string const& part : {std::string("sp: ") + sp::name(c.code), i.primitive, rank, step, peer, i.problem, i.remedy})
      CHECK(line.find(part) != std::string::npos);
    CHECK((line.find(" on rank ") != std::string::npos) == (i.rank >= 0));
    CHECK((line.find(", step ") != std::string::npos) == (i.step >= 0));
    CHECK((line.find(", peer ") != std::string::npos) == (i.peer >= 0));
    return;
  }
  FAIL_CHECK(c.what << ": no error");
}

template <class F>
std::function<void()> doing(F f) {
  return [f] { static_cast<void>(f()); };
}

/// One rank's attention call with tensors that can be spoilt.
struct call {
  std::vector<float> memory = std::vector<float>(4096);
  sp::view<float, 3> q{at(0), {10, 4, 8}}, k{at(400), {10, 2, 8}}, v{at(600), {10, 2, 4}}, out{at(800), {10, 4, 4}};
  sp::batch b{sp::packed{0, 4, 10}, sp::zigzag{}, 0, 1};
  float* at(index_t i) { return memory.data() + i; }
  void operator()(int checks = 1) {
    sp::ring_attention attention(sp::solo{}, sp::reference{}, {.checks = checks});
    static_cast<void>(attention.forward(b, q, k, v, out));
  }
};
template <class Spoil>
std::function<void()> call_with(Spoil spoil) {
  return [spoil] {
    call c;
    spoil(c);
    c();
  };
}

constexpr sp::threads_options patient{.deadline = std::chrono::seconds(30)}, hurried{.deadline = std::chrono::milliseconds(150)};

/// What run() rethrows: the first failure of any rank.
template <class Body>
std::function<void()> on_ranks(int ranks, Body body, sp::threads_options options = patient) {
  return [=] { sp::threads::run(ranks, body, options); };
}
void exchange_bytes(sp::threads const& c, char const* primitive, index_t sent, index_t expected) {
  std::vector<char> out(static_cast<std::size_t>(sent)), in(static_cast<std::size_t>(expected));
  sp::piece const a = sp::as_piece(tensor<1>(out, {sent})), b = sp::as_piece(tensor<1>(in, {expected}));
  sp::parcel const to{1 - c.rank(), {&a, 1}}, from{1 - c.rank(), {&b, 1}};
  c.exchange({primitive, {&to, 1}, {&from, 1}}).wait();
}

/// A kernel without lse that takes whole documents.
struct plain_sdpa {
  using memory_type = sp::host_memory;
  void forward(sp::whole_call<float> const&) const {}
  void backward(sp::whole_grad<float> const&) const {}
};
/// The base communicator and nothing else: no peer memory.
struct messages_only {
  using memory_type = sp::host_memory;
  sp::threads inner;
  int rank() const { return inner.rank(); }
  int size() const { return inner.size(); }
  auto exchange(sp::traffic const& t) const { return inner.exchange(t); }
};
static_assert(sp::communicator<messages_only> && !sp::peer_memory<messages_only>);

sp::documents cu(std::vector<index_t> offsets, index_t length = -1) { return sp::documents::packed(offsets, length); }

std::vector<condition> local_conditions() {
  sp::documents const two = sp::packed{0, 4, 9};
  auto slices = [=](sp::mask m) { return doing([=] { return sp::slices(m, two, two); }); };
  return {
      // invalid_shape
      {"dims disagree",
       errc::invalid_shape,
       {"k is (10, 2, 4)", "expected (10, 2, 8)"},
       "agree",
       "ring_attention.forward",
       0,
       call_with([](call& c) { c.k.extents[2] = 4; })},
      {"dim 0", errc::invalid_shape, {"(10, 4, 0)"}, "positive", "ring_attention.forward", 0, call_with([](call& c) {
         c.q.extents[2] = c.k.extents[2] = 0;
       })},
      {"q heads no multiple of kv heads",
       errc::invalid_shape,
       {"3 query heads", "2 kv heads"},
       "multiple",
       "ring_attention.forward",
       0,
       call_with([](call& c) { c.q.extents[1] = c.out.extents[1] = 3; })},
      {"no kv heads",
       errc::invalid_shape,
       {"4 query heads", "0 kv heads"},
       "positive",
       "ring_attention.forward",
       0,
       call_with([](call& c) { c.k.extents[1] = c.v.extents[1] = 0; })},
      {"a batch over other ranks",
       errc::invalid_shape,
       {"cut for 2", "1 ranks"},
       "same group",
       "ring_attention.prepare",
       0,
       doing([] {
         return sp::ring_attention(sp::solo{}, sp::reference{})
             .prepare(sp::batch(sp::packed{0, 4}, sp::zigzag{}, 0, 2))
             .geometry.rank;
       })},
      // the cut
      {"equal shapes, uneven cut", errc::uneven_partition, {"own 2 and 1 tokens"}, "shapes::padded", "batch", 2, doing([] {
         return sp::batch(sp::packed{0, 5}, sp::striped{}, 2, 4, {sp::shapes::equal});
       })},
      {"nesting that does not divide", errc::uneven_partition, {"6 ranks", "groups of 4"}, "multiple", "batch", 0, doing([] {
         return sp::batch(sp::packed{0, 5}, sp::nested{sp::zigzag{}, 4}, 0, 6);
       })},
      {"heads that no degree fits", errc::head_partition, {"3 ranks", "8 kv heads"}, "uneven_heads", "", -1, doing([] {
         sp::head_shape const model{8, 8};
         return sp::derive({&model, 1}, 3, {.lse = false});
       })},
      // masks
      {"overlapping slices",
       errc::bad_mask,
       {"{q [0, 4), k [0, 2)", "{q [0, 4), k [1, 3)", "twice"},
       "disjoint",
       "",
       -1,
       slices(sp::user_slices({{0, 4, 0, 2}, {0, 4, 1, 3}}))},
      {"reversed slice", errc::bad_mask, {"3 <= k - q <= 1"}, "lo <= hi", "", -1, slices(sp::user_slices({{0, 4, 0, 4, 3, 1}}))},
      {"a slice across documents",
       errc::bad_mask,
       {"{q [2, 6), k [2, 6)"},
       "documents",
       "",
       -1,
       slices(sp::user_slices({{2, 6, 2, 6}}))},
      {"a prefix longer than its document",
       errc::bad_mask,
       {"prefix 7", "document 1 with 5 keys"},
       "inside",
       "",
       -1,
       slices(sp::prefix_lm({0, 7}))},
      {"decode under a mask that does not say where its query stands",
       errc::bad_mask,
       {"document 0 has 1 queries and 5 keys"},
       "sp::align::end",
       "",
       -1,
       doing([] {
         return sp::slices(sp::causal(), sp::packed{0, 1}, sp::packed{0, 5});
       })},
      {"user slices alone beside a prefix",
       errc::bad_mask,
       {"only_user", "2 prefix lengths"},
       "clear only_user",
       "",
       -1,
       slices({.prefix = {1, 1}, .user = {{0, 4, 0, 2}}, .only_user = true})},
      {"a reversed rule, seen by attention", errc::bad_mask, {"lo 3 > hi 1"}, "lo <= hi", "ring_attention.prepare", 0, doing([] {
         return sp::ring_attention(sp::solo{}, sp::reference{}, {.mask = sp::window(-3, 1)})
             .prepare(sp::batch(sp::packed{0, 4}, sp::zigzag{}, 0, 1))
             .geometry.rank;
       })},
      {"a kernel without lse, two slices per query",
       errc::unsupported_mask,
       {"several calls"},
       "one slice",
       "ulysses_attention.prepare",
       0,
       doing([] {
         sp::ulysses_attention a(sp::solo{}, plain_sdpa{}, {.mask = sp::prefix_lm({2})});
         return a.prepare(sp::batch(sp::packed{0, 9}, sp::zigzag{}, 0, 1)).queries.mine();
       })},
      {"sinks for a kernel without lse, whatever the mask",
       errc::unsupported,
       {"sinks need the lse"},
       "returns its lse",
       "ulysses_attention.forward",
       0,
       doing([] {
         std::vector<float> memory(16, 0.5F), sinks(1), result(16);
         sp::view<float, 3> x(memory.data(), {4, 1, 4}), out(result.data(), {4, 1, 4});
         sp::batch const b(sp::packed{0, 4}, sp::zigzag{}, 0, 1);
         sp::ulysses_attention(sp::solo{}, plain_sdpa{}).infer(b, x, x, x, out, {.sinks = {sinks.data(), {1}}});
         return 0;
       })},
      // documents
      {"tokens and documents disagree",
       errc::bad_documents,
       {"q is (8, 4, 8)", "(10, 4, 8)"},
       "batch.tokens()",
       "ring_attention.forward",
       0,
       call_with([](call& c) { c.q = c.q.rows(0, 8); })},
      {"offsets: first not 0", errc::bad_documents, {"cu_seqlens[0] is 3"}, "starts with 0", "", -1, doing([] {
         return cu({3, 4});
       })},
      {"offsets: decreasing", errc::bad_documents, {"cu_seqlens[2] is 5 after 8"}, "decrease", "", -1, doing([] {
         return cu({0, 8, 5});
       })},
      {"offsets: negative", errc::bad_documents, {"cu_seqlens[1] is -4 after 0"}, "decrease", "", -1, doing([] {
         return cu({0, -4});
       })},
      {"offsets: past the end", errc::bad_documents, {"end at 12", "10 positions"}, "agree", "", -1, doing([] {
         return cu({0, 12}, 10);
       })},
      {"offsets: none", errc::bad_documents, {"empty"}, "starts with 0", "", -1, doing([] { return cu({}); })},
      {"position ids that jump", errc::bad_documents, {"position id 3 at token 2"}, "-1 in padding", "", -1, doing([] {
         std::vector<int> const ids{0, 1, 3};
         return sp::documents::from_position_ids(std::span<int const>(ids));
       })},
      {"documents: counts differ", errc::bad_documents, {"2 query documents, 1 key"}, "same number", "", -1, doing([=] {
         return sp::slices(sp::full(), two, cu({0, 9}));
       })},
      {"documents: a global tensor of another length",
       errc::bad_documents,
       {"7 rows", "10"},
       "agree",
       "split",
       0,
       call_with([](call& c) { sp::split(c.b, c.q.rows(0, 7), c.q); })},
      // memory
      {"a size over int64", errc::size_overflow, {"4611686018427387904"}, "", "", -1, doing([] {
         return sp::checked_mul(index_t{1} << 62, 4);
       })},
      {"null", errc::bad_pointer, {"v (10, 2, 4) is null"}, "memory", "ring_attention.forward", 0, call_with([](call& c) {
         c.v.data = nullptr;
       })},
      {"misaligned",
       errc::bad_pointer,
       {"q is not aligned to 4"},
       "element type",
       "ring_attention.forward",
       0,
       call_with([](call& c) { c.q.data = reinterpret_cast<float*>(reinterpret_cast<char*>(c.q.data) + 1); })},
      {"overlap", errc::aliasing, {"out overlaps v"}, "memory of their own", "ring_attention.forward", 0, call_with([](call& c) {
         c.out.data = c.v.data + 7;
       })},
      {"a workspace too small",
       errc::workspace_too_small,
       {"256 were given"},
       "scratch_bytes",
       "ring_attention.forward",
       0,
       doing([] {
         call c;
         alignas(64) std::byte memory[256];
         sp::workspace scratch(memory, sizeof memory);
         sp::pool kept;
         sp::ring_attention attention(sp::solo{}, sp::reference{});
         auto p = attention.prepare(c.b);
         sp::context ctx(scratch, scratch);
         attention.infer(p, ctx, c.q, c.k, c.v, c.out);
         return 0;
       })},
      // state
      {"a saved token twice", errc::bad_state, {"used already"}, "same step", "ring_attention.backward", 0, doing([] {
         call c;
         sp::ring_attention attention(sp::solo{}, sp::reference{});
         std::vector<float> g(2000);
         sp::view<float, 3> dq(g.data(), {10, 4, 8}), dk(g.data() + 400, {10, 2, 8}), dv(g.data() + 600, {10, 2, 4});
         auto saved = attention.forward(c.b, c.q, c.k, c.v, c.out);
         for (int twice = 0; twice < 2; ++twice)
           attention.backward(c.b, std::move(saved), c.q, c.k, c.v, c.out, c.out, dq, dk, dv);
         return 0;
       })},
      {"solo: another peer", errc::bad_state, {"peer 1"}, "0", "x", 0, doing([] {
         sp::parcel const to{1, {}};
         sp::solo{}.exchange({"x", {&to, 1}, {}}).wait();
         return 0;
       })},
      {"a peer's tensor of another type", errc::rank_mismatch, {"element size"}, "same types", "", -1, doing([] {
         std::vector<float> x(4);
         return sp::as_view<double, 1>(sp::as_piece(tensor<1>(x, {4})));
       })},
  };
}

std::vector<condition> rank_conditions() {
  return {
      {"bytes differ",
       errc::short_message,
       {"rank 0 sends 8 bytes", "rank 1 expects 12"},
       "counts that agree",
       "x",
       either,
       on_ranks(2,
                [](sp::threads const& c) {
                  exchange_bytes(c, "before", 8, 8);
                  exchange_bytes(c, "x", c.rank() == 0 ? 8 : 4, c.rank() == 0 ? 4 : 12);
                }),
       either,
       1},
      {"primitives differ",
       errc::rank_mismatch,
       {"in forward", "in backward", "rank 0", "rank 1"}, // either rank may be the one that notices
       "same operations in the same order",
       "*",
       either,
       on_ranks(2, [](sp::threads const& c) { exchange_bytes(c, c.rank() == 0 ? "forward" : "backward", 8, 8); }),
       either,
       0},
      {"a rank that never comes",
       errc::timeout,
       {"150 ms"},
       "",
       "x",
       0,
       on_ranks(
           2,
           [](sp::threads const& c) {
             static std::atomic<bool> over;
             if (c.rank() == 1) // alive, but never in the exchange
               while (!over) std::this_thread::sleep_for(std::chrono::milliseconds(1));
             struct end {
               ~end() { over = true; }
             } told;
             if (c.rank() == 0) exchange_bytes(c, "x", 8, 8);
           },
           hurried),
       1,
       0},
      {"a rank that has returned",
       errc::peer_failed,
       {"rank 1 has returned"},
       "",
       "x",
       0,
       on_ranks(2,
                [](sp::threads const& c) {
                  if (c.rank() == 0) exchange_bytes(c, "x", 8, 8);
                }),
       1,
       0},
      {"a token waited for twice",
       errc::bad_state,
       {"already"},
       "once",
       "",
       -1,
       on_ranks(1,
                [](sp::threads const& c) {
                  auto t = c.exchange({"x", {}, {}});
                  t.wait();
                  t.wait();
                })},
      {"pull without peer memory",
       errc::unsupported,
       {"cannot read each other's memory"},
       "schedule::rotate",
       "ring_attention.prepare",
       either,
       on_ranks(2,
                [](sp::threads const& c) {
                  sp::ring_attention a(messages_only{c}, sp::reference{}, {.schedule = sp::schedule::pull});
                  static_cast<void>(a.prepare(sp::batch(sp::packed{0, 8}, sp::zigzag{}, c)));
                })},
      {"no ranks", errc::bad_state, {"0 ranks"}, "at least one", "", -1, on_ranks(0, [](sp::threads const&) {})},
  };
}

TEST_CASE("errors: every local condition has its code, its numbers, its place and a remedy [asan]") {
  for (condition const& c : local_conditions()) examine(c);
}

TEST_CASE("errors: every condition between ranks has its code, its numbers, its place and a remedy [asan]") {
  for (condition const& c : rank_conditions()) examine(c);
}

TEST_CASE("errors: every code has a condition here, but those that need a failure of another rank, a NaN or a broken library") {
  std::vector<int> conditions(std::size_t(sp::detail::errc_count), 0);
  for (auto const& list : {local_conditions(), rank_conditions()})
    for (condition const& c : list) ++conditions[std::size_t(c.code)];
  for (int code = 0; code < sp::detail::errc_count; ++code) {
    CAPTURE(std::string(sp::name(errc(code))));
    // below; checks.non_finite and checks.searched; checks.checksummed, checks.guarded and collective.native
    bool const elsewhere = errc(code) == errc::aborted || errc(code) == errc::non_finite || errc(code) == errc::backend_error;
    CHECK((conditions[std::size_t(code)] > 0) != elsewhere);
  }
}

TEST_CASE("errors: who did not fail is told by whom and why") {
  for (int culprit : {0, 2}) {
    std::atomic<int> told = 0;
    auto const e = support::failure_of([&] {
      sp::threads::run(3, [&](sp::threads const& c) {
        if (c.rank() == culprit)
          sp::fail({errc::bad_documents, "the loader gave 7 tokens for 9", "Look at the loader", "loader", culprit, 3});
        try {
          c.barrier();
        } catch (sp::error const& consequence) {
          auto const& i = consequence.info();
          told += i.code == errc::aborted && i.peer == culprit && i.rank == c.rank() && i.size == 3 &&
                  std::string(consequence.what()).find("the loader gave 7 tokens for 9") != std::string::npos;
          throw;
        }
      });
      return 0;
    });
    CHECK(e.code == errc::bad_documents); // the cause, not a consequence
    CHECK(e.rank == culprit);
    CHECK(told == 2);
  }
}

/// The reference, which counts how often it is asked about the numbers of a call.
struct asked_kernel : sp::reference<> {
  int* asked;
  explicit asked_kernel(int* n) : asked(n) {}
  void check(sp::heads) const { ++*asked; }
};

TEST_CASE("errors: level 0 checks nothing, neither tensors nor numbers, in forward, infer and backward") {
  std::vector<float> g(2000);
  sp::view<float, 3> const dq(g.data(), {10, 4, 8}), dk(g.data() + 400, {10, 2, 8}), dv(g.data() + 600, {10, 2, 4});
  for (int level : {0, 1}) {
    call c;
    int asked = 0;
    sp::ring_attention const attention(sp::solo{}, asked_kernel(&asked), {.checks = level});
    auto aliased = [&](auto&& body) { // level 1 refuses it, level 0 goes on
      if (level == 0) CHECK_NOTHROW(body());
      if (level == 1) CHECK(support::failure_of([&] { return body(), 0; }).code == errc::aliasing);
    };
    auto over_v = c.out;
    over_v.data = c.v.data + 8;
    aliased([&] { static_cast<void>(attention.forward(c.b, c.q, c.k, c.v, over_v)); });
    aliased([&] { attention.infer(c.b, c.q, c.k, c.v, over_v); });
    CHECK(asked == 0); // tensors come first
    auto saved = attention.forward(c.b, c.q, c.k, c.v, c.out);
    aliased([&] { attention.backward(c.b, std::move(saved), c.q, c.k, c.v, c.out, c.out, dq, dk, dk.narrow(2, 0, 4)); });
    auto again = attention.forward(c.b, c.q, c.k, c.v, c.out);
    attention.infer(c.b, c.q, c.k, c.v, c.out);
    attention.backward(c.b, std::move(again), c.q, c.k, c.v, c.out, c.out, dq, dk, dv);
    CHECK(asked == 4 * level);
  }
}

TEST_CASE("errors: codes have the names of the sources, descriptions leave out what is unknown and nothing else") {
#define CODE(name) {errc::name, #name}
  std::pair<errc, char const*> const codes[] = {
      CODE(invalid_shape),       CODE(uneven_partition), CODE(head_partition), CODE(bad_mask),      CODE(unsupported_mask),
      CODE(unsupported),         CODE(bad_documents),    CODE(size_overflow),  CODE(bad_pointer),   CODE(aliasing),
      CODE(workspace_too_small), CODE(bad_state),        CODE(rank_mismatch),  CODE(short_message), CODE(timeout),
      CODE(peer_failed),         CODE(aborted),          CODE(non_finite),     CODE(backend_error)};
#undef CODE
  CHECK(std::size(codes) == std::size_t(sp::detail::errc_count));
  for (auto const& [code, name] : codes) CHECK(std::string(sp::name(code)) == name);
  CHECK(std::string(sp::error({errc::timeout}).what()) == "sp: timeout");
  CHECK(std::string(sp::error({errc::timeout, "too late", "Wait", "ring.forward", 3, 8, 2, 5}).what()) ==
        "sp: timeout in ring.forward on rank 3 of 8, step 2, peer 5: too late. Wait");
  // rank, step and peer 0 are as known as any other
  CHECK(std::string(sp::error({errc::timeout, "too late", "Wait", "ring.forward", 0, 1, 0, 0}).what()) ==
        "sp: timeout in ring.forward on rank 0 of 1, step 0, peer 0: too late. Wait");
  CHECK(std::string(sp::error({errc::timeout, "too late", "Wait", "ring.forward", 0, -1, -1, 0}).what()) ==
        "sp: timeout in ring.forward on rank 0, peer 0: too late. Wait");
}

// ---- the handler mode, in a child process -----------------------------------------------------------------

int told_to = -1; // where the handler of the child writes

void tell(sp::error_info const& e) {
  std::string const line = std::string(sp::name(e.code)) + ": " + e.problem;
  if (write(told_to, line.data(), line.size()) < 0) _exit(1);
  _exit(42);
}
void come_back(sp::error_info const&) {}

struct ending {
  int status = 0;
  std::string said{};
};

/// Runs `body` in a child with the handler installed.
template <class F>
ending in_child(sp::error_handler h, F&& body) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  pid_t const child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGABRT, SIG_DFL); // doctest's own handlers are not wanted here
    close(ends[0]);
    told_to = ends[1];
    sp::set_error_handler(h);
    try {
      body();
    } catch (...) {
      _exit(7); // a handler replaces throwing
    }
    _exit(0);
  }
  close(ends[1]);
  ending e;
  char buffer[512];
  for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;) e.said.append(buffer, std::size_t(n));
  close(ends[0]);
  waitpid(child, &e.status, 0);
  return e;
}

TEST_CASE("errors: a handler is called instead of throwing, with all that is known") {
  auto const e = in_child(tell, [] { cu({0, 8, 5}); });
  CHECK(WIFEXITED(e.status));
  CHECK(WEXITSTATUS(e.status) == 42);
  CHECK(e.said == "bad_documents: cu_seqlens[2] is 5 after 8");
}

TEST_CASE("errors: a handler that returns does not let wrong numbers through: the process aborts") {
  auto const e = in_child(come_back, [] { cu({0, 8, 5}); });
  CHECK(WIFSIGNALED(e.status));
  CHECK(WTERMSIG(e.status) == SIGABRT);
}

TEST_CASE("errors: set_error_handler gives back the one before, nullptr throws again") {
  CHECK((sp::set_error_handler(come_back) == nullptr));
  CHECK((sp::set_error_handler(nullptr) == come_back));
  CHECK_THROWS_AS(cu({1}), sp::error);
}

} // namespace
} // namespace test_errors
