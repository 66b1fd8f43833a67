// Memory: no allocation in steady state, scratch_bytes() is enough and is needed, saved_bytes() is what is held.
// The numbers of allocations are per thread.
#include <array>
#include <thread>

#include <doctest/doctest.h>

#include "simple.hpp"
#include "support/allocations.hpp"
#include "support/wide.hpp"

namespace conformance::test_memory {
namespace {

/// Calls f(name, make(comm)) for every object and schedule.
template <class F>
void every_object(F&& f) {
  for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q}) {
    sp::attention_options options{.schedule = how, .head_chunks = 2};
    f("ring " + std::to_string(int(how)), [=](sp::threads const& c) { return sp::ring_attention{c, sp::cpu{}, options}; });
    f("usp " + std::to_string(int(how)), [=](sp::threads const& c) { return make_usp(c, 2, sp::cpu{}, options); });
  }
  for (auto kept : {sp::keep::heads, sp::keep::output})
    for (index_t chunks : {1, 3})
      f((kept == sp::keep::heads ? "ulysses heads " : "ulysses output ") + std::to_string(chunks), [=](sp::threads const& c) {
        return sp::ulysses_attention{c, sp::cpu{}, {}, {kept, chunks}};
      });
}

/// A workspace of exactly `bytes`, with canaries behind it.
struct guarded {
  static constexpr index_t canaries = 64;
  sp::buffer memory;
  char* base;
  index_t bytes;
  sp::workspace space;
  guarded(sp::allocator& from, index_t n)
      : memory(from, n + canaries), base(memory.as<char>(std::array<index_t, 1>{n + canaries}).data), bytes(n),
        space(base, std::size_t(n)) {
    std::fill(base + bytes, base + bytes + canaries, char(0x5a));
  }
  bool intact() const {
    return std::all_of(base + bytes, base + bytes + canaries, [](char c) { return c == char(0x5a); });
  }
};

constexpr int ranks = 4;
sp::documents const docs = support::wide() ? sp::packed{0, 50, 50, 61, 170} : sp::packed{0, 25, 25, 31, 85};
sp::attention_shape const shapes[] = {{12, 6, 8, 4}, {5, 1, 16, 16}, {13, 13, 3, 5}}; // in 2 chunks with shared kv heads, 1, 3

} // namespace

TEST_CASE_TEMPLATE("a workspace of exactly scratch_bytes is enough, also for infer", T, float, sp::bf16) {
  for (auto const& shape : shapes)
    every_object([&](std::string const& name, auto make) {
      std::vector<T> with_pool[ranks], with_workspace[ranks];
      std::atomic<int> good{0};
      sp::threads::run(
          ranks,
          [&](sp::threads const& comm) {
            auto attn = make(comm);
            sp::batch b(docs, sp::zigzag{}, comm);
            auto prepared = attn.prepare(b);
            sp::pool scratch, kept;
            attention_tensors<T> x(b, shape);
            x.both(attn, prepared, sp::context(scratch, kept));
            with_pool[comm.rank()] = x.results();
            index_t need = attn.template scratch_bytes<T>(prepared, shape), keep = attn.template saved_bytes<T>(prepared, shape);
            guarded fixed(scratch, need), fixed_saved(kept, keep);
            sp::context ctx(fixed.space, fixed_saved.space);
            attention_tensors<T> y(b, shape);
            for (int again = 0; again < 2; ++again) y.both(attn, prepared, ctx);
            attn.infer(prepared, ctx, y.q, y.k, y.v, y.out);
            with_workspace[comm.rank()] = y.results();
            good += fixed.intact() && fixed_saved.intact();
          },
          impatient());
      INFO(name);
      CHECK(good == ranks);
      for (int r = 0; r < ranks; ++r)
        CHECK(std::memcmp(with_pool[r].data(), with_workspace[r].data(), with_pool[r].size() * sizeof(T)) == 0);
    });
}

TEST_CASE("the counter counts") {
  long const before = support::allocations_of_thread;
  std::vector<int> x(3);
  sp::pool fresh;
  sp::buffer b(fresh, 100);
  long const counted = support::allocations_of_thread - before;
  CHECK(counted == 3); // the vector, the pool's list and its block
  CHECK(x[0] == 0);
}

TEST_CASE_TEMPLATE("a step in steady state allocates nothing", T, float, sp::bf16) {
  every_object([&](std::string const& name, auto make) {
    long allocations[ranks] = {};
    sp::threads::run(
        ranks,
        [&](sp::threads const& comm) {
          auto attn = make(comm);
          sp::batch b(docs, sp::zigzag{}, comm);
          attention_tensors<T> x(b, shapes[0]);
          sp::pool scratch, kept;
          sp::context ctx(scratch, kept);
          auto prepared = attn.prepare(b);
          auto step = [&] {
            x.both(attn, prepared, ctx);
            attn.backward(b, attn.forward(b, x.q, x.k, x.v, x.out), x.q, x.k, x.v, x.out, x.dout, x.dq, x.dk,
                          x.dv); // the short form
            attn.infer(prepared, ctx, x.q, x.k, x.v, x.out);
          };
          step();
          step();
          long const before = support::allocations_of_thread;
          step();
          allocations[comm.rank()] = support::allocations_of_thread - before;
        },
        impatient());
    INFO(name);
    for (long n : allocations) CHECK(n == 0);
  });
}

TEST_CASE("what the host keeps for tensors elsewhere allocates nothing in steady state, whoever gives it back") {
  struct far_memory {};
  struct unused final : sp::basic_allocator<far_memory> {
    void* allocate(std::size_t) override { throw std::bad_alloc(); }
    void deallocate(void*, std::size_t) noexcept override {}
  } kept;
  auto two = [&] {
    return std::array{sp::buffer(sp::detail::kept_on_host(kept), 1000), sp::buffer(sp::detail::kept_on_host(kept), 1000)};
  };
  std::thread([blocks = two()] {}).join();
  long const before = support::allocations_of_thread;
  { auto const blocks = two(); }
  CHECK(support::allocations_of_thread == before);
}

TEST_CASE("objects are measured with heads in one chunk and in several") {
  std::vector<index_t> chunks;
  for (auto const& s : shapes)
    chunks.push_back(sp::detail::ulysses_heads(sp::all_heads(s.q_heads, s.kv_heads), 0, ranks, 3).chunks());
  CHECK(chunks == std::vector<index_t>{2, 1, 3});
}

TEST_CASE_TEMPLATE("scratch_bytes is an upper bound, saved_bytes is exact", T, float, sp::bf16) {
  for (auto const& shape : shapes)
    every_object([&](std::string const& name, auto make) {
      struct {
        index_t peak, bound, held, saved;
      } seen[ranks];
      sp::threads::run(
          ranks,
          [&](sp::threads const& comm) {
            auto attn = make(comm);
            sp::batch b(docs, sp::striped{}, comm);
            attention_tensors<T> x(b, shape);
            sp::pool scratch, kept;
            sp::context ctx(scratch, kept);
            auto prepared = attn.prepare(b);
            auto saved = x.forward(attn, prepared, ctx);
            auto held = kept.bytes_in_use();
            x.backward(attn, prepared, ctx, std::move(saved));
            seen[comm.rank()] = {index_t(scratch.peak_bytes()), attn.template scratch_bytes<T>(prepared, shape), index_t(held),
                                 attn.template saved_bytes<T>(prepared, shape)};
          },
          impatient());
      INFO(name);
      for (auto const& s : seen) {
        CHECK(s.peak <= s.bound);
        CHECK(s.bound <= 2 * s.peak + 4096); // an upper bound, not a guess
        CHECK(s.held == s.saved);
      }
    });
}

TEST_CASE("a workspace that is too small says how much is needed") {
  every_object([&](std::string const& name, auto make) {
    std::string said;
    auto code = sp::errc::bad_state;
    try {
      sp::threads::run(
          ranks,
          [&](sp::threads const& comm) {
            auto attn = make(comm);
            sp::batch b(docs, sp::zigzag{}, comm);
            auto prepared = attn.prepare(b);
            sp::pool kept;
            attention_tensors<float> x(b, shapes[0]);
            alignas(64) char memory[256];
            sp::workspace small(memory, sizeof memory);
            x.both(attn, prepared, sp::context(small, kept));
          },
          impatient());
    } catch (sp::error const& e) {
      said = e.what();
      code = e.code();
    }
    INFO(name);
    INFO(said);
    CHECK(code == sp::errc::workspace_too_small);
    CHECK(said.find("256 were given") != std::string::npos);
    CHECK(said.find("_attention.") != std::string::npos); // which call it was
  });
}

} // namespace conformance::test_memory
