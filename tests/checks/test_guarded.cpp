// Canaries: the guarding allocator finds writes beside its blocks, and check level 3 tells which rank's kernel or communicator
// did it. Fresh memory is NaN, so that a result read from memory nobody wrote is found as well.
#include <doctest/doctest.h>

#include <cmath>

#include <sp/core/guarded.hpp>
#include <sp/cpu.hpp>

#include "checks/step_arguments.hpp"
#include "support/failure.hpp"

namespace checks::test_guarded {
namespace {

using support::failure_of;
using support::says;
constexpr sp::threads_options patient{.deadline = std::chrono::seconds(60)};

/// Where a bad kernel or communicator writes; one rank only.
enum class sin { none, scratch_behind, scratch_before, saved_behind, scratch_backward, received_behind, unwritten };

/// sp::cpu, and one byte too many.
class careless {
public:
  using memory_type = sp::host_memory;
  using plan = sp::cpu<>::plan;
  using saved = sp::cpu<>::saved;
  explicit careless(sin what) : what_(what) {}
  plan prepare(sp::problem const& p) const { return kernel_.prepare(p); }
  template <class T>
  saved forward(plan const& p, sp::allocator& a, sp::call_params const& n, sp::view<T const, 3> q,
                std::span<sp::kv_views<T> const> k, sp::attention_state<T> s) const {
    sp::owned<double, 1> mine(a, {10});
    auto* bytes = reinterpret_cast<unsigned char*>(mine.tensor.data);
    if (what_ == sin::scratch_behind) bytes[80] = 0;
    if (what_ == sin::scratch_before) bytes[-3] = 0;
    if (what_ == sin::saved_behind) s.lse.data[s.lse.elements()] = 0;
    kernel_.forward<T>(p, a, n, q, k, s);
    if (what_ == sin::unwritten) s.out(0, 0, 0) = mine.tensor(5);
    return {};
  }
  template <class T>
  void backward(plan const& p, sp::allocator& a, sp::call_params const& n, std::span<sp::query_grad<T> const> q,
                std::span<sp::key_grad<T> const> k, saved const& x) const {
    if (what_ == sin::scratch_backward) const_cast<double*>(q[0].delta.data)[q[0].delta.elements()] = 1;
    kernel_.backward<T>(p, a, n, q, k, x);
  }
  template <class T>
  sp::index_t scratch_bytes(plan const& p, sp::heads const& h, sp::index_t dim, sp::index_t value_dim) const {
    return kernel_.scratch_bytes<T>(p, h, dim, value_dim) + 128;
  }

private:
  sp::cpu<> kernel_;
  sin what_;
};

/// A communicator that writes eight bytes behind the last piece it received.
class sloppy {
public:
  using memory_type = sp::host_memory;
  struct token {
    sp::threads::token inner;
    unsigned char* behind;
    void wait() {
      inner.wait();
      if (behind) std::memset(behind, 0, 8);
    }
  };
  sloppy(sp::threads inner, bool bad) : inner_(std::move(inner)), bad_(bad) {}
  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  token exchange(sp::traffic const& t) const {
    unsigned char* behind = nullptr;
    if (bad_ && std::string(t.primitive) == "ring.forward.keys") {
      auto const& last = t.receives.back().pieces.back();
      behind = reinterpret_cast<unsigned char*>(last.data) + last.bytes();
    }
    return {inner_.exchange(t), behind};
  }

private:
  sp::threads inner_;
  bool bad_;
};
static_assert(sp::communicator<sloppy>);

} // namespace

TEST_CASE("guarded: blocks are NaN, writes on either side are found when the block is returned or verified [asan]") {
  sp::pool pool;
  {
    sp::guarded g(pool);
    for (index_t n : {1, 63, 64, 65, 1000}) {
      sp::buffer fine(g, n);
      auto const bytes = fine.as<unsigned char>(std::array<index_t, 1>{n});
      CHECK(reinterpret_cast<std::uintptr_t>(bytes.data) % sp::allocator::alignment == 0);
      for (index_t i = 0; i < n; ++i) REQUIRE(bytes(i) == 0xff);
      std::memset(bytes.data, 0, std::size_t(n));
      g.verify();
      for (index_t at : {index_t(-64), index_t(-1), n, n + 63}) { // live
        auto const before = bytes.data[at];
        bytes.data[at] = 1;
        CHECK(says(failure_of([&] { g.verify(); }), errc::backend_error, "block of " + std::to_string(n) + " bytes",
                   at < 0 ? std::to_string(-at) + " before its begin" : std::to_string(at - n) + " behind its end"));
        CHECK(bytes.data[at] == before); // told once
        g.verify();
      }
    }
    {
      sp::buffer bad(g, 40);
      *(bad.as<unsigned char>(std::array<index_t, 1>{40}).data + 41) = 0;
    } // given back
    CHECK(says(failure_of([&] { g.verify(); }), errc::backend_error, "40 bytes", "byte 1 behind"));
    g.verify();
  }
  CHECK(pool.bytes_in_use() == 0);
  CHECK(std::isnan(float(sp::bf16::from_bits(0xffff))));
  CHECK(std::isnan(float(sp::fp16::from_bits(0xffff))));
}

TEST_CASE("guarded: on the heap it lives as long as a handle or a block, whichever is longer [asan]") {
  sp::pool pool;
  sp::buffer survivor;
  {
    sp::guarded::handle a(pool);
    sp::guarded::handle b = a, c = std::move(a);
    CHECK(!a);
    survivor = sp::buffer(*b, 100);
    b = {};
    c->verify();
  }
  CHECK(pool.bytes_in_use() > 0);
  survivor = {};
  CHECK(pool.bytes_in_use() == 0);
}

#ifndef SP_TEST_SANITIZED
TEST_CASE("level 3: a kernel or a communicator that writes beside its block is told on its rank, with the block") {
  struct {
    sin what;
    char const* text;
    errc code = errc::backend_error;
  } const sins[] = {
      {sin::scratch_behind, "a block of 80 bytes, allocated in ring_attention.forward, was written outside: byte 0 behind"},
      {sin::scratch_before, "a block of 80 bytes, allocated in ring_attention.forward, was written outside: byte 3 before"},
      {sin::saved_behind, "bytes, allocated in ring_attention.forward, was written outside: byte "},
      {sin::received_behind, "bytes, allocated in ring_attention.forward, was written outside: byte 0 behind"},
      {sin::scratch_backward, "bytes, allocated in ring_attention.backward, was written outside: byte "},
      {sin::unwritten, "out holds NaN at row 0, head 0, channel 0", errc::non_finite}};
  for (auto const& s : sins)
    for (int victim = 0; victim < 3; ++victim) {
      std::atomic<int> own = 0, others = 0, fine = 0;
      sp::threads::run(
          3,
          [&](sp::threads const& base) {
            bool const mine = base.rank() == victim, backward = s.what == sin::scratch_backward;
            sloppy const comm(base, mine && s.what == sin::received_behind);
            arguments a;
            sp::batch b(sp::documents::packed(a.cu), sp::zigzag{}, base);
            tensors<double> x(b, a);
            sp::pool memory;
            sp::context const c(memory, memory);
            sp::ring_attention bad{comm, careless(mine ? s.what : sin::none), {.checks = 3}};
            auto const p = bad.prepare(b);
            outcome const o = outcome_of([&] {
              auto saved = x.forward(bad, p, c);
              if (backward) x.backward(bad, p, c, std::move(saved));
            });
            std::string const call = backward ? "ring_attention.backward" : "ring_attention.forward";
            if (mine)
              own += o.is(s.code) && o.says(s.text) && o.failure->rank == victim && o.failure->primitive == call;
            else
              others += o.is(errc::rank_mismatch) &&
                        o.says("rank " + std::to_string(victim) + " refused " + call + ".results with " + sp::name(s.code));
            // nothing is left behind: a careful kernel goes on with the same communicator
            sp::ring_attention good{base, careless(sin::none), {.checks = 3}};
            auto const q = good.prepare(b);
            x.backward(good, q, c, x.forward(good, q, c));
            fine += memory.bytes_in_use() == 0;
          },
          patient);
      CAPTURE(int(s.what));
      CHECK(own == 1);
      CHECK(others == 2);
      CHECK(fine == 3);
    }
}
#endif

} // namespace checks::test_guarded
