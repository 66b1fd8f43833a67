// The operands of linear attention by name, their shapes, and the calls that take them: one overload for each element type.
// What a call is given is read and checked once, whatever strategy computes it; shapes that do not fit are refused with both numbers.
#pragma once

#include <sp/attention/call/tensors.hpp>
#include <sp/core/footprint.hpp>
#include <sp/layout/batch.hpp>
#include <sp/linear/concepts.hpp>

namespace sp {

/// A gate of a call: (tokens, value heads, width of the gate), or (tokens, value heads) where the width is 1. A view of either, or what
/// attention objects take.
template <class E, class M = host_memory>
class gate_operand {
public:
  constexpr gate_operand() = default;
  template <class F>
    requires std::is_convertible_v<view<F, 2, M>, view<E, 2, M>>
  constexpr gate_operand(view<F, 2, M> const& v)
      : tensor_(view<E, 3, M>(v.data, {v.extent(0), v.extent(1), 1}, {v.stride(0), v.stride(1), 0})) {}
  template <class Tensor>
    requires detail::reads_as<Tensor, E, M>
  constexpr gate_operand(Tensor const& t) : tensor_(t) {}

  /// (tokens, value heads, width); bad_pointer if it was not given.
  [[nodiscard]] view<E, 3, M> get(std::string const& name) const { return tensor_.get(name.c_str()); }

private:
  operand<E, M> tensor_{};
};

/// Of linear_attention::forward and infer. Tensors hold the rows of this rank; value heads are a multiple of key heads. The state of a
/// document is what stands before its first token, or behind its last one; every rank gives the same initial states.
template <class T, int Gates, class M = host_memory>
struct linear_operands {
  using A = accumulate_t<T>;
  operand<T const, M> q{};                                          ///< (tokens, key heads, key dim)
  operand<T const, M> k{};                                          ///< (tokens, key heads, key dim)
  operand<T const, M> v{};                                          ///< (tokens, value heads, value dim)
  std::array<gate_operand<A const, M>, std::size_t(Gates)> gates{}; ///< (tokens, value heads[, width]), in the kernel's order
  operand<T, M> out{};                 ///< (tokens, value heads, value dim), overwritten; 0 in rows of slack
  view<A const, 4, M> initial_state{}; ///< optional, (documents, value heads, key dim, value dim); zeros without
  view<A, 4, M> final_state{};         ///< optional on all ranks alike, the same shape: all of it on every rank
};

/// Of linear_attention::backward: operands of the forward call, and gradients.
template <class T, int Gates, class M = host_memory>
struct linear_gradients {
  using A = accumulate_t<T>;
  operand<T const, M> q{};                                          ///< (tokens, key heads, key dim)
  operand<T const, M> k{};                                          ///< (tokens, key heads, key dim)
  operand<T const, M> v{};                                          ///< (tokens, value heads, value dim)
  std::array<gate_operand<A const, M>, std::size_t(Gates)> gates{}; ///< (tokens, value heads[, width])
  operand<T const, M> dout{};                                       ///< (tokens, value heads, value dim)
  operand<T, M> dq{};                                               ///< as q, overwritten; 0 in rows of slack, as all that follow
  operand<T, M> dk{};                                               ///< as k, overwritten
  operand<T, M> dv{};                                               ///< as v, overwritten
  std::array<gate_operand<A, M>, std::size_t(Gates)> dgates{};      ///< as gates, overwritten
  view<A const, 4, M> initial_state{};                              ///< optional, (documents, value heads, key dim, value dim)
  view<A, 4, M> dinitial_state{};     ///< optional, the same shape: this rank's share; its sum over ranks is the gradient
  view<A const, 4, M> dfinal_state{}; ///< optional on all ranks alike, the same shape: the sum over ranks counts
};

namespace detail {

/// What a call is checked against.
struct linear_needs {
  index_t rows = 0, documents = 0;

  template <class T, class X, class M>
  static void require_like(char const* name, view<T, 3, M> const& v, char const* of, view<X, 3, M> const& x) {
    if (v.extents != x.extents)
      fail({errc::invalid_shape, std::string(name) + " " + shape(v) + " beside " + of + " " + shape(x),
            "Give tensors of equal extents"});
    require_given(name, v);
  }
  template <class T, int R, class M>
  static void require_given(std::string const& name, view<T, R, M> const& v) {
    if (!v.data && !v.empty())
      fail({errc::bad_pointer, name + " " + shape(v) + " is null", "Pass memory for every tensor that is not empty"});
  }
  /// `s.rows` does not count.
  static void require_heads(linear_shape const& s) {
    if (s.k_heads <= 0 || s.v_heads <= 0 || s.v_heads % s.k_heads != 0 || s.key_dim <= 0 || s.value_dim <= 0)
      fail({errc::invalid_shape,
            std::to_string(s.v_heads) + " value heads of " + std::to_string(s.value_dim) + " and " + std::to_string(s.k_heads) +
                " key heads of " + std::to_string(s.key_dim),
            "Value heads must be a positive multiple of key heads, and dims positive"});
  }
  template <class T, class M>
  void require_state(char const* name, view<T, 4, M> const& v, linear_shape const& s) const {
    std::array const wanted{documents, s.v_heads, s.key_dim, s.value_dim};
    if (v.data && v.extents != wanted)
      fail({errc::invalid_shape,
            std::string(name) + " " + shape(v) + ", " + shape(view<T, 4, M>(nullptr, wanted)) + " is expected",
            "Give (documents of the batch, value heads, key dim, value dim)"});
  }
  template <class T, int Gates, class M>
  void require_call(linear_call<T, Gates, M> const& c) const {
    linear_shape const s = c.shape();
    if (s.rows != rows)
      fail({errc::invalid_shape, "q has " + std::to_string(s.rows) + " rows, this rank owns " + std::to_string(rows),
            "Pass (batch.tokens(), heads, dim) tensors of the batch that was prepared"});
    if (c.k.extents != c.q.extents || c.v.extent(0) != rows)
      fail({errc::invalid_shape, "q " + shape(c.q) + ", k " + shape(c.k) + " and v " + shape(c.v) + " do not fit",
            "Give q and k (tokens, key heads, key dim) and v (tokens, value heads, value dim)"});
    require_heads(s);
    require_given("q", c.q), require_given("k", c.k), require_given("v", c.v);
  }
  template <class Kernel, class G, std::size_t N>
  static void require_gates(char const* name, std::array<G, N> const& gates, linear_shape const& s) {
    for (std::size_t i = 0; i < N; ++i) {
      std::array const wanted{s.rows, s.v_heads, index_t(Kernel::gate_width(int(i), s.key_dim))};
      std::string const which = name + ("[" + std::to_string(i)) + "]";
      if (gates[i].extents != wanted)
        fail({errc::invalid_shape, which + " is " + shape(gates[i]) + ", " + shape(G(nullptr, wanted)) + " is expected",
              "Give (tokens, value heads, width of the gate); the width may be left out where it is 1"});
      require_given(which, gates[i]);
    }
  }
};

/// The tensors of a forward call.
template <class T, int Gates, class M>
struct linear_io {
  using A = accumulate_t<T>;
  linear_call<T, Gates, M> in{};
  view<T, 3, M> out{};           // (rows, value heads, value dim)
  view<A const, 4, M> initial{}; // (documents, value heads, key dim, value dim) or null
  view<A, 4, M> final{};         // the same, or null
};
/// The tensors of a backward call.
template <class T, int Gates, class M>
struct linear_gradient_io {
  using A = accumulate_t<T>;
  linear_call<T, Gates, M> in{};
  view<T const, 3, M> dout{};                             // (rows, value heads, value dim)
  view<T, 3, M> dq{}, dk{}, dv{};                         // as q, k, v
  typename linear_grad<T, Gates, M>::gate_views dgates{}; // as gates
  view<A const, 4, M> initial{}, dfinal{};                // (documents, value heads, key dim, value dim) or null
  view<A, 4, M> dinitial{};                               // the same, or null
};

template <class Operands, class T, int Gates, class M>
void read_linear_call(Operands const& o, linear_call<T, Gates, M>& c) {
  c = {o.q.get("q"), o.k.get("k"), o.v.get("v"), {}};
  for (std::size_t i = 0; i < c.gates.size(); ++i) c.gates[i] = o.gates[i].get("gates[" + std::to_string(i) + "]");
}

template <class Kernel, class T, int Gates, class M>
linear_io<T, Gates, M> read_linear(linear_operands<T, Gates, M> const& o, linear_needs const& needs) {
  linear_io<T, Gates, M> io;
  read_linear_call(o, io.in);
  needs.require_call(io.in);
  linear_shape const s = io.in.shape();
  needs.require_gates<Kernel>("gates", io.in.gates, s);
  io.out = o.out.get("out"), io.initial = o.initial_state, io.final = o.final_state;
  needs.require_like("out", io.out, "v", io.in.v);
  needs.require_state("initial_state", io.initial, s), needs.require_state("final_state", io.final, s);
  refuse_aliasing({{"out", io.out}, {"final_state", io.final}},
                  {{"q", io.in.q}, {"k", io.in.k}, {"v", io.in.v}, {"initial_state", io.initial}});
  for (auto const& g : io.in.gates) refuse_aliasing({{"out", io.out}, {"final_state", io.final}}, {{"a gate", g}});
  return io;
}

template <class Kernel, class T, int Gates, class M>
linear_gradient_io<T, Gates, M> read_linear(linear_gradients<T, Gates, M> const& o, linear_needs const& needs) {
  linear_gradient_io<T, Gates, M> io;
  read_linear_call(o, io.in);
  needs.require_call(io.in);
  linear_shape const s = io.in.shape();
  needs.require_gates<Kernel>("gates", io.in.gates, s);
  for (std::size_t i = 0; i < io.dgates.size(); ++i) io.dgates[i] = o.dgates[i].get("dgates[" + std::to_string(i) + "]");
  needs.require_gates<Kernel>("dgates", io.dgates, s);
  io.dout = o.dout.get("dout"), io.dq = o.dq.get("dq"), io.dk = o.dk.get("dk"), io.dv = o.dv.get("dv");
  needs.require_like("dout", io.dout, "v", io.in.v), needs.require_like("dq", io.dq, "q", io.in.q);
  needs.require_like("dk", io.dk, "k", io.in.k), needs.require_like("dv", io.dv, "v", io.in.v);
  io.initial = o.initial_state, io.dinitial = o.dinitial_state, io.dfinal = o.dfinal_state;
  needs.require_state("initial_state", io.initial, s), needs.require_state("dinitial_state", io.dinitial, s);
  needs.require_state("dfinal_state", io.dfinal, s);
  refuse_linear_aliasing(io);
  return io;
}

/// Nothing that a backward call writes may be part of anything else.
template <class T, int Gates, class M>
void refuse_linear_aliasing(linear_gradient_io<T, Gates, M> const& io) {
  auto const& c = io.in;
  refuse_aliasing(
      {{"dq", io.dq}, {"dk", io.dk}, {"dv", io.dv}, {"dinitial_state", io.dinitial}},
      {{"q", c.q}, {"k", c.k}, {"v", c.v}, {"dout", io.dout}, {"initial_state", io.initial}, {"dfinal_state", io.dfinal}});
  for (std::size_t i = 0; i < io.dgates.size(); ++i) {
    refuse_aliasing({{"a gradient of gates", io.dgates[i]}}, {{"q", c.q},
                                                              {"k", c.k},
                                                              {"v", c.v},
                                                              {"dout", io.dout},
                                                              {"dq", io.dq},
                                                              {"dk", io.dk},
                                                              {"dv", io.dv},
                                                              {"initial_state", io.initial},
                                                              {"dinitial_state", io.dinitial},
                                                              {"dfinal_state", io.dfinal}});
    for (std::size_t j = 0; j < c.gates.size(); ++j) {
      refuse_aliasing({{"a gradient of gates", io.dgates[i]}}, {{"a gate", c.gates[j]}});
      if (j > i) refuse_aliasing({{"a gradient of gates", io.dgates[i]}}, {{"another one", io.dgates[j]}});
    }
  }
  for (auto const& g : c.gates)
    refuse_aliasing({{"dq", io.dq}, {"dk", io.dk}, {"dv", io.dv}, {"dinitial_state", io.dinitial}}, {{"a gate", g}});
}

/// The calls that take operands by name, for tensors of T: braces carry no type, so there is one of these for each element type.
template <class Object, class T, int Gates>
class linear_calls {
public:
  /// Outputs and states, and what backward needs, in memory of context.kept. Ordered before all later work of the context's queue when
  /// the call returns.
  template <class Prepared, class Queue = inline_queue>
    requires(!std::is_same_v<Prepared, batch>)
  [[nodiscard]] auto forward(Prepared const& p, context<Queue> const& ctx,
                             linear_operands<T, Gates, typename Queue::memory_type> const& o) const {
    return object().template run_forward<T>(p, ctx, o, true);
  }
  /// The short form: the batch keeps the plan and gives the memory.
  [[nodiscard]] auto forward(batch const& b, linear_operands<T, Gates> const& o) const {
    return object().template run_forward<T>(*object().prepared_for(b), context(b.memory(), b.memory()), o, true);
  }
  /// Forward that keeps nothing: all its memory is of context.scratch, as much as scratch_bytes says.
  template <class Prepared, class Queue = inline_queue>
    requires(!std::is_same_v<Prepared, batch>)
  void infer(Prepared const& p, context<Queue> const& ctx,
             linear_operands<T, Gates, typename Queue::memory_type> const& o) const {
    static_cast<void>(object().template run_forward<T>(p, ctx.with(*ctx.scratch, *ctx.scratch), o, false));
  }
  void infer(batch const& b, linear_operands<T, Gates> const& o) const {
    static_cast<void>(object().template run_forward<T>(*object().prepared_for(b), context(b.memory(), b.memory()), o, false));
  }

private:
  linear_calls() = default;
  friend Object;
  Object const& object() const { return static_cast<Object const&>(*this); }
};

} // namespace detail
} // namespace sp
