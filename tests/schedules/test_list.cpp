// The list of ring schedules: every enumerator is in it, under its own name, and what a schedule needs is refused where it is missing.
// A new enumerator does not compile here until `name_of` knows it.
#include <doctest/doctest.h>

#include <string>

#include <sp/cpu.hpp>
#include <sp/ring.hpp>
#include <sp/ulysses.hpp>

#include "support/failure.hpp"

namespace schedules::test_list {
namespace {

using list = sp::detail::ring_schedules;

/// -Wswitch wants every enumerator here.
constexpr char const* name_of(sp::schedule how) {
  switch (how) {
  case sp::schedule::automatic:
    return "automatic";
  case sp::schedule::rotate:
    return "rotate";
  case sp::schedule::cast:
    return "cast";
  case sp::schedule::pull:
    return "pull";
  case sp::schedule::pass_q:
    return "pass_q";
  }
  return nullptr;
}

struct sent {
  void wait() {}
};
/// One rank of two that sends nothing.
struct alone {
  using memory_type = sp::host_memory;
  int rank() const { return 0; }
  int size() const { return 2; }
  sent exchange(sp::traffic const&) const { return {}; }
};
/// The same with memory that its peers read.
struct beside : alone {
  struct publication {
    std::span<sp::piece const> of(int) const { return {}; }
    void release() {}
  };
  publication publish(char const*, std::span<sp::piece const>) const { return {}; }
};
static_assert(sp::communicator<alone> && !sp::peer_memory<alone> && sp::peer_memory<beside>);

/// A kernel that hands something from forward to backward.
struct remembering {
  struct saved {};
  using memory_type = sp::host_memory;
  using plan = sp::cpu<>::plan;
  sp::cpu<> kernel;
  plan prepare(sp::problem const& p) const { return kernel.prepare(p); }
  template <class T>
  saved forward(plan const& p, sp::allocator& a, sp::call_params const& n, sp::view<T const, 3> q,
                std::span<sp::kv_views<T> const> keys, sp::attention_state<T> state) const {
    kernel.forward<T>(p, a, n, q, keys, state);
    return {};
  }
  template <class T>
  void backward(plan const& p, sp::allocator& a, sp::call_params const& n, std::span<sp::query_grad<T> const> q,
                std::span<sp::key_grad<T> const> k, saved const&) const {
    kernel.backward<T>(p, a, n, q, k, {});
  }
};

/// What prepare() says.
template <class Comm, class Kernel>
sp::error_info refused(Comm const& comm, Kernel const& kernel, sp::schedule how) {
  return support::failure_of([&] {
    sp::ring_attention const ring{comm, kernel, {.schedule = how}};
    return static_cast<void>(ring.prepare(sp::batch(sp::packed{0, 8}, sp::contiguous{}, comm))), 0;
  });
}
template <class Comm, class Kernel>
sp::schedule chosen(Comm const& comm, Kernel const& kernel) {
  sp::ring_attention const ring{comm, kernel};
  return ring.prepare(sp::batch(sp::packed{0, 8}, sp::contiguous{}, comm)).geometry.how;
}

} // namespace

TEST_CASE("schedules: every enumerator is in the list, under its name") {
  int listed = 0;
  for (int number = 1; char const* name = name_of(sp::schedule(number)); ++number) {
    CHECK(list::visit(sp::schedule(number), [&](auto s) {
      CHECK(std::string(decltype(s)::name) == name);
      CHECK(int(decltype(s)::how) == number);
    }));
    CHECK(std::string(list::names[number]) == name);
    ++listed;
  }
  CHECK(listed + 1 == int(std::size(list::names)));
  CHECK(std::string(list::names[0]) == name_of(sp::schedule::automatic));
  CHECK(!list::visit(sp::schedule::automatic, [](auto) {}));
}

TEST_CASE("schedules: what a schedule needs is refused in a sentence where it is missing, and automatic does without it") {
  auto const pull = sp::schedule::pull;
  CHECK(support::says(refused(alone{}, sp::cpu{}, pull), sp::errc::unsupported, "cannot read each other's memory"));
  CHECK(support::says(refused(beside{}, remembering{}, pull), sp::errc::unsupported, "this kernel keeps state from forward"));
  CHECK(support::says(refused(alone{}, sp::cpu{}, sp::schedule(99)), sp::errc::unsupported, "no schedule number 99"));
  for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pass_q}) {
    sp::ring_attention const ring{alone{}, remembering{}, {.schedule = how}};
    CHECK(ring.prepare(sp::batch(sp::packed{0, 8}, sp::contiguous{}, alone{})).geometry.how == how);
  }
  CHECK(chosen(beside{}, sp::cpu{}) == sp::schedule::pull);
  CHECK(chosen(alone{}, sp::cpu{}) == sp::schedule::rotate);
  CHECK(chosen(beside{}, remembering{}) == sp::schedule::rotate);
}

TEST_CASE("schedules: heads in no chunk, and a way to keep that there is not, are refused where an object is made") {
  auto ring = [](sp::index_t chunks) {
    return support::failure_of([&] { return sp::ring_attention(beside{}, sp::cpu{}, {.head_chunks = chunks}).group().rank(); });
  };
  auto ulysses = [](sp::ulysses_options const& o) {
    return support::failure_of([&] { return sp::ulysses_attention(beside{}, sp::cpu{}, {}, o).group().rank(); });
  };
  CHECK(support::says(ring(0), sp::errc::invalid_shape, "heads in 0 chunks"));
  CHECK(support::says(ring(-1), sp::errc::invalid_shape, "heads in -1 chunks"));
  CHECK(support::says(ulysses({.head_chunks = 0}), sp::errc::invalid_shape, "heads in 0 chunks"));
  CHECK(ulysses({.head_chunks = -7}).primitive == "ulysses_attention");
  CHECK(support::says(ulysses({.keep = sp::keep(2)}), sp::errc::unsupported, "no way to keep number 2"));
}

} // namespace schedules::test_list
