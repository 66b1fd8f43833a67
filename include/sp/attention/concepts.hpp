// The inner-attention protocol: what an attention object gives to the calls of a trainer, and to a ulysses_attention around it.
// One concept a member, so that call/required_members.hpp can tell a type that is one short which, and what to add.
#pragma once

#include <sp/attention/call/operands.hpp>
#include <sp/attention/call/options.hpp>
#include <sp/attention/call/rank_checks.hpp>
#include <sp/attention/call/saved_token.hpp>
#include <sp/layout/layout.hpp>

namespace sp {

namespace detail {

/// Stands for the functions that each_group and each_lse are given.
struct any_visitor {
  template <class X>
  void operator()(X const&) const;
};

// ---- whatever the element type ---------------------------------------------------------------------------------------------------

template <class A>
concept gives_prepared = std::movable<typename A::prepared> && std::default_initializable<typename A::prepared> &&
    requires(typename A::prepared& p) {
  { p.checked } -> std::same_as<checked_geometry&>;
};
template <class A>
concept gives_name = requires {
  { A::name } -> std::convertible_to<char const*>;
};
template <class A>
concept gives_group = requires(A const& a) {
  { a.group().rank() } -> std::convertible_to<int>;
  { a.group().size() } -> std::convertible_to<int>;
};
template <class A>
concept gives_mask = requires(A const& a) {
  { a.mask() } -> std::convertible_to<mask const&>;
};
template <class A>
concept gives_checks = requires(A const& a) {
  { a.checks() } -> std::convertible_to<int>;
};
template <class A>
concept gives_local_heads = requires(A const& a, heads whole) {
  { a.local_heads_of(whole) } -> std::same_as<heads>;
};
template <class A>
concept gives_rows = requires(A const& a, typename A::prepared const& p) {
  { a.q_rows(p) } -> std::convertible_to<index_t>;
  { a.k_rows(p) } -> std::convertible_to<index_t>;
};
template <class A>
concept gives_check_call = requires(A const& a, heads whole, bool sinks) {
  a.check_call(whole, sinks);
};
/// prepare_layouts with some more arguments behind those that all have: a context, or none.
template <class A, class... Context>
concept prepares_layouts = requires(A const& a, typename A::prepared& p, layout const& q, layout const& k, int part,
                                    std::vector<slice> const& slices, sp::mask const& mask, Context const&... c) {
  a.prepare_layouts(p, q, k, part, slices, mask, c...);
};
template <class A>
concept gives_prepare_layouts = prepares_layouts<A> || prepares_layouts<A, no_context>;
/// Calls it with the context where it takes one.
template <class A, class Context>
void prepare_layouts(A const& a, typename A::prepared& p, layout const& q, layout const& k, int part,
                     std::vector<slice> const& slices, sp::mask const& mask, [[maybe_unused]] Context const& c) {
  if constexpr (prepares_layouts<A, Context>)
    a.prepare_layouts(p, q, k, part, slices, mask, c);
  else
    a.prepare_layouts(p, q, k, part, slices, mask);
}
template <class A>
concept gives_identify = requires(A const& a, digest& d) {
  a.identify(d);
};
template <class A>
concept gives_each_group = requires(A const& a, any_visitor f) {
  a.each_group(f);
};
template <class A>
concept gives_sequence_rank = requires(A const& a) {
  { a.sequence_rank() } -> std::convertible_to<int>;
};
template <class A>
concept gives_describe = requires(A const& a, fingerprint& f, typename A::prepared const& p, index_t dim, random_key key) {
  a.describe(f, p, dim, key);
};

/// The memory that an object says it works on; the host's where it says nothing.
template <class A>
struct memory_of_object {
  using type = host_memory;
};
template <class A>
  requires requires { typename A::memory_type; }
struct memory_of_object<A> {
  using type = typename A::memory_type;
};
template <class A>
using memory_of = typename memory_of_object<A>::type;
/// A queue that its calls may be given.
template <class A>
using queue_of = std::conditional_t<std::is_same_v<memory_of<A>, host_memory>, inline_queue, some_queue<memory_of<A>>>;

// ---- for tensors of T ------------------------------------------------------------------------------------------------------------

template <class A, class T>
concept gives_saved = std::movable<typename A::template saved<T>> && std::default_initializable<typename A::template saved<T>> &&
    std::same_as<typename A::template saved<T>::element_type, T> && requires(typename A::template saved<T>& s) {
  { s.token } -> std::same_as<saved_token&>;
};
template <class A, class T>
concept gives_run_forward = requires(A const& a, typename A::prepared const& p, context<queue_of<A>> const& c,
                                     forward_io<T, memory_of<A>> const& io) {
  { a.template run_forward<T>(p, c, io) } -> std::same_as<typename A::template saved<T>>;
};
template <class A, class T>
concept gives_run_backward = requires(A const& a, typename A::prepared const& p, context<queue_of<A>> const& c,
                                      typename A::template saved<T> const& s, backward_io<T, T, memory_of<A>> const& own,
                                      backward_io<T, accumulate_t<T>, memory_of<A>> const& sums) {
  a.template run_backward<T>(p, c, s, own);
  a.template run_backward<T>(p, c, s, sums);
};
template <class A, class T>
concept gives_bytes = requires(A const& a, typename A::prepared const& p, heads on, attention_shape const& s) {
  { a.template scratch_for<T>(p, on, s) } -> std::same_as<index_t>;
  { a.template saved_for<T>(p, on, s) } -> std::same_as<index_t>;
};
/// Calls scratch_for with the queue, if there is one, where it takes one.
template <class T, class A, class... Queue>
index_t scratch_of(A const& a, typename A::prepared const& p, heads on, attention_shape const& s,
                   [[maybe_unused]] Queue const&... queue) {
  if constexpr (requires { a.template scratch_for<T>(p, on, s, queue...); })
    return a.template scratch_for<T>(p, on, s, queue...);
  else
    return a.template scratch_for<T>(p, on, s);
}
template <class A, class T>
concept gives_each_lse = requires(A const& a, typename A::template saved<T> const& s, any_visitor f) {
  a.each_lse(s, f);
};

} // namespace detail

/// What can be an attention object: it prepares the geometry of a call and answers for its mask, heads, ranks and options.
///
///     prepared                                      the geometry of one batch; its member `checked` is a checked_geometry
///     char const* name                              for errors
///     group()                                       the communicator: rank() and size()
///     mask(), checks()                              of its options
///     local_heads_of(whole)                         the heads of `whole` that this rank computes
///     q_rows(prepared), k_rows(prepared)            rows of this rank's tensors
///     check_call(whole, sinks given)                refuses numbers of a call that it cannot serve, before anything is sent
///     prepare_layouts(prepared, q, k, part, slices, mask)   makes it for the rows of that part of both layouts, whatever it held;
///                                                   where it keeps tables (core/table.hpp): in the context that is a last argument
///     identify(digest)                              adds what prepare_layouts makes its geometry of besides places in groups:
///                                                   schedule, kernel (kernel_identity)
///     each_group(f)                                 f(communicator) for each one it sends over (check level 2)
///     sequence_rank()                               its place among the ranks of all these
///     describe(fingerprint, prepared, dim, key)     adds what ranks must have in common; dim 0: not known yet
template <class A>
concept inner_attention = detail::gives_prepared<A> && detail::gives_name<A> && detail::gives_group<A> && detail::gives_mask<A> &&
    detail::gives_checks<A> && detail::gives_local_heads<A> && detail::gives_rows<A> && detail::gives_check_call<A> &&
    detail::gives_prepare_layouts<A> && detail::gives_identify<A> && detail::gives_each_group<A> &&
    detail::gives_sequence_rank<A> && detail::gives_describe<A>;

/// An inner_attention that computes on tensors of T.
///
///     saved<T>                                      movable; element_type is T, its member `token` a saved_token
///     run_forward<T>(prepared, context, io)         -> saved<T>; io: forward_io<T, M>, already checked; any context of M
///     run_backward<T>(prepared, context, saved, io) io: backward_io<T, G, M>, where G is T or the type of its sums; `saved` is const:
///                                                   a call that failed before it sent anything can be made again
///     scratch_for<T>, saved_for<T>(prepared, heads, shape)   bytes a call takes from either allocator at most
///     each_lse(saved, f)                            f(lse), (tokens, q heads), for each lse it holds (check level 3)
template <class A, class T>
concept inner_attention_of = inner_attention<A> && detail::gives_saved<A, T> && detail::gives_run_forward<A, T> &&
    detail::gives_run_backward<A, T> && detail::gives_bytes<A, T> && detail::gives_each_lse<A, T>;

} // namespace sp
