// Passes over the elements of tensors, as work of a queue: fill, and assignment and addition across element types and strides.
// A pass without a queue is over host tensors, on the caller's thread. Numbers that the host asks a queue for come back by sum_now().
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include <sp/core/dtype.hpp>
#include <sp/core/memory.hpp>
#include <sp/core/queue.hpp>
#include <sp/core/view.hpp>

namespace sp {

namespace detail {

/// A tensor in the memory of a queue.
template <class Q, class T, int R>
using view_on = view<T, R, typename Q::memory_type>;

/// Dimensions of tensors of one shape that follow each other without holes in all of them become one: fewer and longer rows.
template <class T, int R, class M, class... Others>
void join_dimensions(view<T, R, M>& v, Others&... others) {
  for (int inner = R - 1, d = R - 2; d >= 0; --d) {
    auto follows = [&](auto const& x) { return x.stride(d) == x.extent(inner) * x.stride(inner); };
    if (v.extent(d) != 1 && !(follows(v) && (follows(others) && ...))) {
      inner = d;
      continue;
    }
    auto join = [&](auto& x) {
      x.extents[std::size_t(inner)] *= x.extent(d);
      x.extents[std::size_t(d)] = 1;
    };
    join(v), (join(others), ...);
  }
}

/// What a pass does with an element, and where it is given tensors.
template <class T>
struct fill_element {
  T value;
  template <class From>
  SP_BOTH constexpr void operator()(T& to, From const&) const {
    if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, fp16>)
      to.bits = value.bits; // a number, of which compilers store many at once, unlike structs
    else
      to = value;
  }
};
struct assign_element {
  template <class To, class From>
  SP_BOTH constexpr void operator()(To& to, From const& from) const {
    to = from_acc<To>(static_cast<accumulate_t<To>>(to_acc(from)));
  }
};
struct add_element {
  template <class To, class From>
  SP_BOTH constexpr void operator()(To& to, From const& from) const {
    to = from_acc<To>(to_acc(to) + static_cast<accumulate_t<To>>(to_acc(from)));
  }
};

template <class T, int R, class M>
struct fill_body {
  view<T, R, M> to;
  fill_element<T> element;
  template <class... I>
  SP_BOTH constexpr void operator()(I... i) const {
    element(to(i...), 0);
  }
};

template <class Element, class To, class From, int R, class M>
struct pair_body {
  view<To, R, M> to;
  view<From, R, M> from;
  template <class... I>
  SP_BOTH constexpr void operator()(I... i) const {
    Element()(to(i...), from(i...));
  }
};

/// Four of them, together where their address allows.
template <class T>
struct four_elements {
  static constexpr index_t count = 4;
  elements_together<T, 4> now;

  SP_BOTH explicit four_elements(T const* p) {
    if (allows(p))
      now = *reinterpret_cast<elements_together<T, 4> const*>(p);
    else
      for (int n = 0; n < 4; ++n) now.of[n] = p[n];
  }
  SP_BOTH void store(T* p) const {
    if (allows(p))
      *reinterpret_cast<elements_together<T, 4>*>(p) = now;
    else
      for (int n = 0; n < 4; ++n) p[n] = now.of[n];
  }

private:
  SP_BOTH static bool allows(T const* p) { return reinterpret_cast<std::uintptr_t>(p) % alignof(elements_together<T, 4>) == 0; }
};
/// Index i is for the elements N i ... N i + N - 1.
template <class Element, class To, class From, int N>
struct together_body {
  Element element;
  To* to;
  From const* from;
  index_t count;
  SP_BOTH void operator()(index_t i) const {
    index_t const first = i * N;
    if (count - first < N) {
      for (index_t j = first; j < count; ++j) element(to[j], from[j]);
      return;
    }
    auto& x = *reinterpret_cast<elements_together<To, N>*>(to + first);
    auto y = x;
    auto const z = *reinterpret_cast<elements_together<From, N> const*>(from + first);
    for (int j = 0; j < N; ++j) element(y.of[j], z.of[j]);
    x = y;
  }
};

/// Whether a pass over tensors of joined dimensions was given to the queue by elements together: where these follow each other from an
/// address of 16 bytes on. Not on a queue of the host, where compilers do that for loops.
template <class Q, class Element, class To, class From, int R>
bool passes_together(Q const& q, Element const& element, view_on<Q, To, R> const& to, view_on<Q, From, R> const& from) {
  if constexpr (!runs_on_host<Q>) {
    constexpr index_t n = index_t(16 / (sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From)));
    index_t const count = to.elements();
    auto dense = [&](auto const& x) {
      return x.stride(R - 1) == 1 && count == x.extent(R - 1) && reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
    };
    if (count < n || !dense(to) || !dense(from)) return false;
    using body = together_body<Element, To, std::remove_const_t<From>, int(n)>;
    q.for_each(std::array{ceil_div(count, n)}, body{element, to.data, from.data, count});
    return true;
  } else {
    return false;
  }
}
template <class Element, class Q, class To, class From, int R>
void pass_over(Q const& q, view_on<Q, To, R> to, view_on<Q, From, R> from) {
  join_dimensions(to, from);
  if (!passes_together<Q, Element, To, From, R>(q, {}, to, from))
    q.for_each(to.extents, pair_body<Element, To, From, R, typename Q::memory_type>{to, from});
}

} // namespace detail

/// Sets every element of a tensor in the queue's memory.
template <class Q, class T, int R>
void fill(Q const& q, detail::view_on<Q, T, R> v, std::type_identity_t<T> value) {
  detail::join_dimensions(v);
  detail::fill_element<T> const element{value};
  if (!detail::passes_together<Q, detail::fill_element<T>, T, T, R>(q, element, v, v))
    q.for_each(v.extents, detail::fill_body<T, R, typename Q::memory_type>{v, element});
}
/// Sets every element of a host tensor.
template <class T, int R>
void fill(view<T, R> v, std::type_identity_t<T> value) {
  sp::fill(inline_queue{}, v, value);
}

/// Element by element into a tensor of another element type or other strides, both of one shape.
template <class Q, class To, class From, int R>
void assign(Q const& q, detail::view_on<Q, To, R> to, detail::view_on<Q, From, R> from) {
  detail::pass_over<detail::assign_element, Q, To, From, R>(q, to, from);
}
template <class To, class From, int R>
void assign(view<To, R> to, view<From, R> from) {
  sp::assign(inline_queue{}, to, from);
}

namespace detail {

/// to += from, in the type of to's sums.
template <class Q, class To, class From, int R>
void add(Q const& q, view_on<Q, To, R> to, view_on<Q, From, R> from) {
  pass_over<add_element, Q, To, From, R>(q, to, from);
}
template <class To, class From, int R>
void add(view<To, R> to, view<From, R> from) {
  detail::add(inline_queue{}, to, from);
}

/// Puts a sum in its place.
template <class Sum, class M>
struct store_sum {
  view<Sum, 1, M> to;
  SP_BOTH constexpr void operator()(index_t i, Sum const& sum) const { to(i) = sum; }
};

template <class To, class From, int R>
struct copy_body {
  view<To, R> to;
  view<From, R> from;
  template <class... I>
  constexpr void operator()(I... i) const {
    to(i...) = from(i...);
  }
};
/// The elements of a tensor of the queue into a host tensor: it waits for the queue.
template <class Q, class To, class From, int R>
void read_now(Q const& q, view<To, R> to, view_on<Q, From, R> from) {
  if constexpr (runs_on_host<Q>) {
    for_each_index(to.extents, copy_body<To, From, R>{to, from});
  } else {
    piece const here = as_piece(to), there = as_piece(from);
    q.copy({&here, 1}, {&there, 1});
    q.synchronize();
  }
}
template <class Q, class T>
std::remove_const_t<T> element_now(Q const& q, T* place) {
  std::remove_const_t<T> here;
  read_now(q, view(&here, 1), view_on<Q, T, 1>(place, 1));
  return here;
}

} // namespace detail

/// The elements of a tensor of the queue's memory, for the host, in the order of their indices. It waits for the queue.
template <queue Q, class T, int R>
[[nodiscard]] std::vector<std::remove_const_t<T>> read(Q const& q, detail::view_on<Q, T, R> from) {
  std::vector<std::remove_const_t<T>> values(static_cast<std::size_t>(from.elements()));
  detail::read_now(q, view<std::remove_const_t<T>, R>(values.data(), from.extents), from);
  return values;
}

namespace detail {

/// A value of trivially copyable type Sum that a queue computes and the host reads. It takes memory where the queue's is not the host's.
template <class Q, class Sum>
class read_back {
public:
  using memory_type = typename Q::memory_type;
  explicit read_back(basic_allocator<memory_type>& scratch) {
    if constexpr (!runs_on_host<Q>) there_ = owned<Sum, 1, memory_type>(scratch, {1});
  }
  /// Where the queue's work writes it.
  view<Sum, 1, memory_type> place() {
    if constexpr (runs_on_host<Q>)
      return {&here_, {1}};
    else
      return there_.tensor;
  }
  /// Waits until it is there.
  Sum get([[maybe_unused]] Q const& q) const {
    if constexpr (runs_on_host<Q>)
      return here_;
    else
      return element_now(q, there_.tensor.data);
  }

private:
  struct nobody {};
  Sum here_{};
  [[no_unique_address]] std::conditional_t<runs_on_host<Q>, nobody, owned<Sum, 1, memory_type>> there_{};
};

/// The lower one of two places in a tensor; the sum of no places is nowhere.
struct first_place {
  static constexpr index_t nowhere = std::numeric_limits<index_t>::max();
  index_t at = nowhere;
  SP_BOTH friend constexpr first_place operator+(first_place a, first_place b) { return {min(a.at, b.at)}; }
};

/// The sum of term(0, t) over t < terms, for the host: it waits for the queue.
template <class Q, class Term>
auto sum_now(Q const& q, basic_allocator<typename Q::memory_type>& scratch, index_t terms, Term const& term) {
  using sum = decltype(term(index_t{}, index_t{}));
  read_back<Q, sum> result(scratch);
  q.sums(1, terms, term, store_sum<sum, typename Q::memory_type>{result.place()});
  return result.get(q);
}

} // namespace detail

} // namespace sp
