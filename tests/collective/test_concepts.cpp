// Every communicator concept against types that miss exactly one thing.
// A type that is one member short of a model is not a model.
#include <doctest/doctest.h>

#include <memory>

#include <sp/collective/concepts.hpp>

namespace test_concepts {
namespace {

using sp::error_info;
using sp::host_memory;
using sp::piece;
using sp::traffic;
using sp::view;

struct token {
  void wait() {}
};
struct token_without_wait {};
struct token_pinned {
  token_pinned() = default;
  token_pinned(token_pinned&&) = delete;
  void wait() {}
};
static_assert(sp::token<token> && sp::token<std::unique_ptr<token>> == false);
static_assert(!sp::token<token_without_wait>);
static_assert(!sp::token<token_pinned>);

struct base {
  using memory_type = host_memory;
  int rank() const { return 0; }
  int size() const { return 1; }
  token exchange(traffic const&) const { return {}; }
};
static_assert(sp::communicator<base>);

struct no_memory {
  int rank() const { return 0; }
  int size() const { return 1; }
  token exchange(traffic const&) const { return {}; }
};
struct no_rank {
  using memory_type = host_memory;
  int size() const { return 1; }
  token exchange(traffic const&) const { return {}; }
};
struct long_rank : base {
  long rank() const { return 0; }
};
struct no_size {
  using memory_type = host_memory;
  int rank() const { return 0; }
  token exchange(traffic const&) const { return {}; }
};
struct unsigned_size : base {
  unsigned size() const { return 1; }
};
struct no_exchange {
  using memory_type = host_memory;
  int rank() const { return 0; }
  int size() const { return 1; }
};
struct exchange_without_token : base {
  void exchange(traffic const&) const {}
};
struct exchange_not_const : base {
  token exchange(traffic const&) { return {}; }
};
struct not_copyable : base {
  not_copyable() = default;
  not_copyable(not_copyable&&) = default;
  not_copyable& operator=(not_copyable&&) = default;
};
static_assert(!sp::communicator<no_memory>);
static_assert(!sp::communicator<no_rank> && !sp::communicator<long_rank>);
static_assert(!sp::communicator<no_size> && !sp::communicator<unsigned_size>);
static_assert(!sp::communicator<no_exchange> && !sp::communicator<exchange_without_token> &&
              !sp::communicator<exchange_not_const>);
static_assert(!sp::communicator<not_copyable>);

// each ability: a model, a model that is no communicator, one whose member does not do
struct abilities {
  token all_to_all_v(traffic const&) const { return {}; }
  token all_gather_v(traffic const&) const { return {}; }
  void all_reduce(view<float, 1>) const {}
  void reduce_scatter(std::span<view<float, 1> const>, view<float, 1>) const {}
  void broadcast(std::span<piece const>, int) const {}
  void barrier() const {}
  void abort(error_info const&) const {}
};
struct able : base, abilities {};
struct able_but_mute : no_exchange, abilities {};

static_assert(sp::has_all_to_all_v<able> && !sp::has_all_to_all_v<base> && !sp::has_all_to_all_v<able_but_mute>);
static_assert(sp::has_all_gather_v<able> && !sp::has_all_gather_v<base> && !sp::has_all_gather_v<able_but_mute>);
static_assert(sp::has_all_reduce<able, float> && !sp::has_all_reduce<base, float> && !sp::has_all_reduce<able_but_mute, float>);
static_assert(!sp::has_all_reduce<able, double>);
static_assert(sp::has_reduce_scatter<able, float> && !sp::has_reduce_scatter<base, float> &&
              !sp::has_reduce_scatter<able_but_mute, float> && !sp::has_reduce_scatter<able, double>);
static_assert(sp::has_broadcast<able> && !sp::has_broadcast<base> && !sp::has_broadcast<able_but_mute>);
static_assert(sp::has_barrier<able> && !sp::has_barrier<base> && !sp::has_barrier<able_but_mute>);
static_assert(sp::abortable<able> && !sp::abortable<base> && !sp::abortable<able_but_mute>);

struct all_to_all_without_token : base {
  void all_to_all_v(traffic const&) const {}
};
struct all_gather_without_token : base {
  void all_gather_v(traffic const&) const {}
};
struct broadcast_without_root : base {
  void broadcast(std::span<piece const>) const {}
};
struct barrier_not_const : base {
  void barrier() {}
};
struct abort_without_reason : base {
  void abort() const {}
};
struct reduce_scatter_without_result : base {
  void reduce_scatter(std::span<view<float, 1> const>) const {}
};
struct all_reduce_of_device_memory : base {
  void all_reduce(view<float, 1, sp::device_memory>) const {}
};
static_assert(!sp::has_all_to_all_v<all_to_all_without_token> && !sp::has_all_gather_v<all_gather_without_token>);
static_assert(!sp::has_broadcast<broadcast_without_root> && !sp::has_barrier<barrier_not_const> &&
              !sp::abortable<abort_without_reason>);
static_assert(!sp::has_reduce_scatter<reduce_scatter_without_result, float> &&
              !sp::has_all_reduce<all_reduce_of_device_memory, float>);

// on a queue: as last argument, of that type
struct queue {};
struct able_on_queue : base, abilities {
  token exchange(traffic const&) const { return {}; }
  token exchange(traffic const&, queue) const { return {}; }
  token all_to_all_v(traffic const&, queue) const { return {}; }
  token all_gather_v(traffic const&, queue) const { return {}; }
  token all_reduce(view<float, 1>, queue) const { return {}; }
  token reduce_scatter(std::span<view<float, 1> const>, view<float, 1>, queue) const { return {}; }
  token broadcast(std::span<piece const>, int, queue) const { return {}; }
  token barrier(queue) const { return {}; }
};
template <class C, class... Q>
constexpr bool every_ability =
    sp::has_exchange<C, Q...>&& sp::has_all_to_all_v<C, Q...>&& sp::has_all_gather_v<C, Q...>&& sp::has_all_reduce<
        C, float, Q...>&& sp::has_reduce_scatter<C, float, Q...>&& sp::has_broadcast<C, Q...>&& sp::has_barrier<C, Q...>;
template <class C, class... Q>
constexpr bool any_ability = sp::has_exchange<C, Q...> || sp::has_all_to_all_v<C, Q...> || sp::has_all_gather_v<C, Q...> ||
                             sp::has_all_reduce<C, float, Q...> || sp::has_reduce_scatter<C, float, Q...> ||
                             sp::has_broadcast<C, Q...> || sp::has_barrier<C, Q...>;
static_assert(every_ability<able_on_queue, queue> && !any_ability<able_on_queue, int>);
static_assert(every_ability<able> && !any_ability<able, queue> && sp::has_exchange<base> && !any_ability<base, queue>);

struct splits : base {
  base split(int, int) const { return {}; }
};
struct split_to_nothing : base {
  int split(int, int) const { return 0; }
};
struct split_without_key : base {
  base split(int) const { return {}; }
};
struct split_but_mute : no_exchange {
  base split(int, int) const { return {}; }
};
static_assert(sp::splittable<splits> && !sp::splittable<base> && !sp::splittable<split_to_nothing>);
static_assert(!sp::splittable<split_without_key> && !sp::splittable<split_but_mute>);

struct publication {
  std::span<piece const> of(int) const { return {}; }
  void release() {}
};
struct publication_without_of {
  void release() {}
};
struct publication_of_one {
  piece of(int) const { return {}; }
  void release() {}
};
struct publication_without_release {
  std::span<piece const> of(int) const { return {}; }
};
struct publication_pinned : publication {
  publication_pinned() = default;
  publication_pinned(publication_pinned&&) = delete;
};
static_assert(sp::publication<publication> && !sp::publication<publication_without_of> && !sp::publication<publication_of_one>);
static_assert(!sp::publication<publication_without_release> && !sp::publication<publication_pinned>);

struct publishes : base {
  publication publish(char const*, std::span<piece const>) const { return {}; }
};
struct publish_without_publication : base {
  void publish(char const*, std::span<piece const>) const {}
};
struct publish_without_name : base {
  publication publish(std::span<piece const>) const { return {}; }
};
struct publish_but_mute : no_exchange {
  publication publish(char const*, std::span<piece const>) const { return {}; }
};
static_assert(sp::peer_memory<publishes> && !sp::peer_memory<base> && !sp::peer_memory<publish_without_publication>);
static_assert(!sp::peer_memory<publish_without_name> && !sp::peer_memory<publish_but_mute>);

} // namespace

TEST_CASE("communicator concepts hold for models and fail for near misses") {
  CHECK(sp::communicator<base>); // the work is in the static_asserts
  CHECK_FALSE(sp::communicator<no_exchange>);
}

} // namespace test_concepts
