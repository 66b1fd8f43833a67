// What a kernel of linear attention refuses: operands of a segment that do not fit each other, that are missing, or that share memory.
// Local, before anything is computed, in less than a microsecond; a kernel of your own may ask the same of its callers.
#pragma once

#include <utility>

#include <sp/core/footprint.hpp>
#include <sp/linear/concepts.hpp>

namespace sp::detail {

/// Checks of the four calls of kernel K with elements T.
template <class K, class T>
struct linear_checks {
  using A = accumulate_t<T>;
  using M = typename K::memory_type;
  using call_type = linear_call_t<K, T>;
  using grad_type = linear_grad_t<K, T>;
  using gate_numbers = std::make_index_sequence<std::size_t(K::gates)>;
  static constexpr std::array gate_names{"gate 0", "gate 1", "gate 2"}, dgate_names{"dgate 0", "dgate 1", "dgate 2"};
  static_assert(std::size_t(K::gates) <= gate_names.size());

  static void reduce(call_type const& c, linear_map<T, M> const& map) {
    linear_shape const s = shape_of(c, {.q = false});
    optional("m", map.m, std::array{s.v_heads, map_width(K::form, s.key_dim)}, "(value heads, map_width)");
    state("b", map.b, s);
    written(c, gate_numbers{}, {{"m", map.m}, {"b", map.b}});
  }
  static void forward(call_type const& c, view<A const, 3, M> const& entering, view<T, 3, M> const& out,
                      view<A, 3, M> const& leaving) {
    linear_shape const s = shape_of(c);
    optional("out", out, values_of(s), of_values);
    state("the entering state", entering, s), state("the leaving state", leaving, s);
    written(c, gate_numbers{}, {{"out", out}, {"the leaving state", leaving}});
    refuse_aliasing({{"out", out}}, {{"the entering state", entering}});
    in_place_or_apart("the leaving state", leaving, "the entering state", entering);
  }
  static void backward(call_type const& c, view<A const, 3, M> const& entering, grad_type const& g) {
    linear_shape const s = shape_of(c);
    given("dout", g.dout, values_of(s), of_values);
    state("the entering state", entering, s);
    state("dleaving", g.dleaving, s), state("dentering", g.dentering, s);
    optional("dq", g.dq, keys_of(s), of_keys), optional("dk", g.dk, keys_of(s), of_keys);
    optional("dv", g.dv, values_of(s), of_values);
    for (std::size_t i = 0; i < g.dgates.size(); ++i) optional(dgate_names[i], g.dgates[i], gate_of(s, i), of_gates);
    gradients(c, entering, g, gate_numbers{});
  }
  static void backward_reduce(call_type const& c, view<T const, 3, M> const& dout, view<A, 3, M> const& e) {
    linear_shape const s = shape_of(c, {.v = false});
    given("dout", dout, values_of(s), of_values);
    state("e", e, s);
    written(c, gate_numbers{}, {{"e", e}});
    refuse_aliasing({{"e", e}}, {{"dout", dout}});
  }

private:
  static constexpr char const *of_keys = "(rows, key heads, key dim)", *of_values = "(rows, value heads, value dim)",
                              *of_gates = "(rows, value heads, gate_width(i, key dim))";
  static std::array<index_t, 3> keys_of(linear_shape const& s) { return {s.rows, s.k_heads, s.key_dim}; }
  static std::array<index_t, 3> values_of(linear_shape const& s) { return {s.rows, s.v_heads, s.value_dim}; }
  static std::array<index_t, 3> gate_of(linear_shape const& s, std::size_t i) {
    return {s.rows, s.v_heads, K::gate_width(int(i), s.key_dim)};
  }

  [[noreturn]] static void refuse(errc code, std::string problem, std::string remedy) {
    fail({code, "linear attention: " + std::move(problem), std::move(remedy)});
  }
  /// Null data: not given.
  template <class E, int R, std::size_t N>
  static void optional(char const* name, view<E, R, M> const& v, std::array<index_t, N> const& want, char const* shape_text) {
    static_assert(std::size_t(R) == N);
    if (!v.data || v.extents == want) return;
    view<E, R, M> expected;
    expected.extents = want;
    refuse(errc::invalid_shape, std::string(name) + " is " + shape(v) + ", expected " + shape(expected),
           std::string("Give ") + shape_text);
  }
  template <class E>
  static void given(char const* name, view<E, 3, M> const& v, std::array<index_t, 3> const& want, char const* shape_text) {
    optional(name, v, want, shape_text);
    if (!v.data && want[0] * want[1] * want[2] != 0)
      refuse(errc::bad_pointer, std::string(name) + " is null", std::string("Give ") + shape_text);
  }
  template <class E>
  static void state(char const* name, view<E, 3, M> const& v, linear_shape const& s) {
    optional(name, v, std::array{s.v_heads, s.key_dim, s.value_dim}, "(value heads, key dim, value dim), or a null view");
  }

  struct needs {
    bool q = true, v = true;
  };
  /// What a call reads besides states must be there; extents are those of all tensors, also of those that are not read.
  static linear_shape shape_of(call_type const& c, needs const& read = {}) {
    linear_shape const s = c.shape();
    if (s.k_heads == 0 ? s.v_heads != 0 : s.v_heads % s.k_heads != 0)
      refuse(errc::invalid_shape,
             std::to_string(s.v_heads) + " value heads are no multiple of " + std::to_string(s.k_heads) + " key heads",
             "Give each key head the same number of value heads");
    if (c.k.extents != c.q.extents || c.v.extent(0) != s.rows)
      refuse(errc::invalid_shape, "q " + shape(c.q) + ", k " + shape(c.k) + " and v " + shape(c.v) + " do not fit",
             std::string("Give q and k ") + of_keys + " and v " + of_values);
    if (read.q) given("q", c.q, keys_of(s), of_keys);
    if (read.v) given("v", c.v, values_of(s), of_values);
    given("k", c.k, keys_of(s), of_keys);
    for (std::size_t i = 0; i < c.gates.size(); ++i) {
      if (c.gates[i].extents != gate_of(s, i))
        refuse(errc::invalid_shape, std::string(gate_names[i]) + " is " + shape(c.gates[i]),
               std::string("Give gates ") + of_gates);
      given(gate_names[i], c.gates[i], gate_of(s, i), of_gates);
    }
    return s;
  }

  template <std::size_t... I>
  static void written(call_type const& c, std::index_sequence<I...>, std::initializer_list<footprint> to) {
    refuse_aliasing(to, {{"q", c.q}, {"k", c.k}, {"v", c.v}, {gate_names[I], c.gates[I]}...});
  }
  template <std::size_t... I>
  static void gradients(call_type const& c, view<A const, 3, M> const& entering, grad_type const& g,
                        std::index_sequence<I...> all) {
    written(c, all, {{"dq", g.dq}, {"dk", g.dk}, {"dv", g.dv}, {"dentering", g.dentering}, {dgate_names[I], g.dgates[I]}...});
    refuse_aliasing({{"dq", g.dq}, {"dk", g.dk}, {"dv", g.dv}, {dgate_names[I], g.dgates[I]}...},
                    {{"dout", g.dout}, {"dleaving", g.dleaving}, {"the entering state", entering}});
    refuse_aliasing({{"dentering", g.dentering}}, {{"dout", g.dout}, {"the entering state", entering}});
    in_place_or_apart("dentering", g.dentering, "dleaving", g.dleaving);
  }
  /// A state may be replaced by the one behind it: each head is read as a whole before it is written.
  static void in_place_or_apart(char const* to_name, view<A, 3, M> const& to, char const* from_name,
                                view<A const, 3, M> const& from) {
    if (to.data != from.data || to.strides != from.strides) refuse_aliasing({{to_name, to}}, {{from_name, from}});
  }
};

} // namespace sp::detail
