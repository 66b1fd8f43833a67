// The base of decorators and groups: every ability of a communicator, forwarded to the one inside, written once.
// An ability is there exactly if the wrapped communicator has it; a decorator says only what it changes, in hooks.
#pragma once

#include <span>
#include <utility>

#include <sp/collective/concepts.hpp>

namespace sp::detail {

template <class C>
struct memory_type_of {
  using type = void; ///< C is no communicator: the sentence of the decorator says so
};
template <class C>
  requires requires { typename C::memory_type; }
struct memory_type_of<C> {
  using type = typename C::memory_type;
};

/// Derived is the decorator, C the communicator inside. Each public ability calls the hook `do_<ability>(arguments, call)` of Derived,
/// where `call` is the wrapped ability. A hook that Derived does not write is one of those below: they change nothing, and those
/// of blocking abilities go through do_blocking, so that a decorator can say one thing for all of them. Derived makes this
/// class its friend if its hooks are private. An ability that takes a queue as last argument is the same ability: its hooks see what is to
/// be done, not when; a Derived that reads bytes says forwards_queues = false, and is called when they are there.
template <class Derived, class C>
class forwarding {
  /// Whether Derived passes operations on that take these arguments besides: none, or a queue.
  template <class... Queue>
  static consteval bool forwarded() {
    return sizeof...(Queue) == 0 || Derived::forwards_queues;
  }

public:
  using memory_type = typename memory_type_of<C>::type;
  static constexpr bool row_lists = has_row_lists<C>, own_queue = has_own_queue<C>, packs = packs_messages<C>,
                        forwards_queues = true;

  /// The communicator inside, for what only its model offers.
  constexpr C const& inner() const noexcept { return inner_; }
  constexpr int rank() const { return inner_.rank(); }
  constexpr int size() const { return inner_.size(); }
  /// The queue on which the communicator inside works.
  constexpr decltype(auto) queue() const requires requires(C const& c) { c.queue(); }
  { return inner_.queue(); }
  /// Of a mesh group inside: where its ranks stand in the sequence.
  constexpr index_t stride() const requires requires(C const& c) { c.stride(); }
  { return inner_.stride(); }

  template <class... Queue>
    requires(forwarded<Queue...>() && has_exchange<C, Queue...>)
  [[nodiscard]] auto exchange(traffic const& t, Queue const&... q) const {
    return self().do_exchange(t, [&](traffic const& sent) { return inner_.exchange(sent, q...); });
  }
  template <class... Queue>
    requires(forwarded<Queue...>() && has_all_to_all_v<C, Queue...>)
  [[nodiscard]] auto all_to_all_v(traffic const& t, Queue const&... q) const {
    return self().do_exchange(t, [&](traffic const& sent) { return inner_.all_to_all_v(sent, q...); });
  }
  template <class... Queue>
    requires(forwarded<Queue...>() && has_all_gather_v<C, Queue...>)
  [[nodiscard]] auto all_gather_v(traffic const& t, Queue const&... q) const {
    return self().do_all_gather_v(t, [&](traffic const& sent) { return inner_.all_gather_v(sent, q...); });
  }
  template <class T, class... Queue>
    requires(forwarded<Queue...>() && has_all_reduce<C, T, Queue...>)
  decltype(auto) all_reduce(view<T, 1, memory_type> values, Queue const&... q) const {
    return self().do_all_reduce(values, [&]() -> decltype(auto) { return inner_.all_reduce(values, q...); });
  }
  template <class T, class... Queue>
    requires(forwarded<Queue...>() && has_reduce_scatter<C, T, Queue...>)
  decltype(auto) reduce_scatter(std::span<view<T, 1, memory_type> const> parts, view<T, 1, memory_type> mine,
                                Queue const&... q) const {
    return self().do_reduce_scatter(parts, mine, [&]() -> decltype(auto) { return inner_.reduce_scatter(parts, mine, q...); });
  }
  template <class... Queue>
    requires(forwarded<Queue...>() && has_broadcast<C, Queue...>)
  decltype(auto) broadcast(std::span<piece const> pieces, int root, Queue const&... q) const {
    return self().do_broadcast(pieces, root,
                               [&](std::span<piece const> sent) -> decltype(auto) { return inner_.broadcast(sent, root, q...); });
  }
  template <class... Queue>
    requires(forwarded<Queue...>() && has_barrier<C, Queue...>)
  decltype(auto) barrier(Queue const&... q) const {
    return self().do_blocking("barrier", [&]() -> decltype(auto) { return inner_.barrier(q...); });
  }
  /// Groups within this group, decorated alike.
  [[nodiscard]] auto split(int color, int key) const requires splittable<C> {
    return self().decorate(self().do_split([&] { return inner_.split(color, key); }));
  }
  [[nodiscard]] auto publish(char const* primitive, std::span<piece const> mine) const requires peer_memory<C> {
    return self().do_publish(primitive, mine, [&] { return inner_.publish(primitive, mine); });
  }
  decltype(auto) abort(error_info const& why) const requires abortable<C> { return inner_.abort(why); }

protected:
  /// Messages per peer: exchange and all_to_all_v.
  template <class Call>
  auto do_exchange(traffic const& t, Call&& call) const {
    return call(t);
  }
  template <class Call>
  auto do_all_gather_v(traffic const& t, Call&& call) const {
    return self().do_exchange(t, call);
  }
  template <class T, class Call>
  decltype(auto) do_all_reduce(view<T, 1, memory_type> const&, Call&& call) const {
    return self().do_blocking("all_reduce", call);
  }
  template <class T, class Call>
  decltype(auto) do_reduce_scatter(std::span<view<T, 1, memory_type> const>, view<T, 1, memory_type> const&, Call&& call) const {
    return self().do_blocking("reduce_scatter", call);
  }
  template <class Call>
  decltype(auto) do_broadcast(std::span<piece const> pieces, int, Call&& call) const {
    return self().do_blocking("broadcast", [&]() -> decltype(auto) { return call(pieces); });
  }
  template <class Call>
  auto do_publish(char const* primitive, std::span<piece const>, Call&& call) const {
    return self().do_blocking(primitive, call);
  }
  template <class Call>
  auto do_split(Call&& call) const {
    return self().do_blocking("split", call);
  }
  /// Everything that returns when it is done. A barrier has no hook but this one.
  template <class Call>
  decltype(auto) do_blocking(char const*, Call&& call) const {
    return call();
  }
  /// What split() makes of a group of the communicator inside.
  template <class Group>
  auto decorate(Group group) const {
    return group;
  }

private:
  friend Derived; // nobody but Derived can be made of it
  explicit constexpr forwarding(C inner) : inner_(std::move(inner)) {}

  constexpr Derived const& self() const { return static_cast<Derived const&>(*this); }

  C inner_;
};

} // namespace sp::detail
