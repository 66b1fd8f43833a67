// The tensors of one call of a causal convolution: operands read, checked against the plan and brought into the form of its bodies.
// Whatever does not fit is refused before anything is computed or sent.
#pragma once

#include <sp/linear/conv1d_bodies.hpp>
#include <sp/linear/conv1d_operands.hpp>
#include <sp/linear/conv1d_plan.hpp>

namespace sp::detail {

/// Of a forward call.
template <class T, class M>
struct conv1d_call {
  index_t channels = 0;
  view<T const, 3, M> x;      // (rows, heads, dim)
  view<T, 3, M> out;          // (rows, heads, dim)
  view<T, 3, M> final;        // (states, heads, dim) or null
  conv1d_tensors<T, M> all{}; ///< what bodies read, see with_rows()

  /// Those of any call.
  template <class Operands>
  conv1d_shape read_inputs(conv1d_plan<M> const& p, Operands const& o, bool silu) {
    x = o.x.get("x");
    channels = x.extent(1) * x.extent(2);
    conv1d_shape const wanted{p.rows.rows, p.rows.documents, p.rows.width, channels};
    wanted.require_rows(x.extent(0));
    wanted.require_weights("weights", o.weights);
    wanted.require_given("x", x), wanted.require_given("weights", o.weights);
    wanted.require_bias("bias", o.bias);
    wanted.require_state("initial_state", o.initial_state);
    all.weights = o.weights, all.bias = o.bias;
    all.sources = p.sources.values(), all.users = p.users.values();
    all.width = p.rows.width, all.silu = silu;
    return wanted;
  }
  void read(conv1d_plan<M> const& p, conv1d_operands<T, M> const& o, bool silu) {
    conv1d_shape const wanted = read_inputs(p, o, silu);
    out = o.out.get("out");
    wanted.require_tensor("out", out, x), wanted.require_given("out", out);
    wanted.require_state("final_state", o.final_state);
    refuse_aliasing({{"out", out}, {"final_state", o.final_state}},
                    {{"x", x}, {"weights", o.weights}, {"bias", o.bias}, {"initial_state", o.initial_state}});
    join_heads(x, out);
    put_rows(o);
    final = state_rows(o.final_state, x);
  }
  /// The halo, once there is room for it: (halo rows, heads, dim).
  view<T, 3, M> put_halo(view<T, 2, M> const& rows) {
    view<T, 3, M> const halo(rows.data, {rows.extent(0), x.extent(1), x.extent(2)});
    all.halo = halo;
    return halo;
  }

protected:
  /// The heads of x are final.
  template <class Operands>
  void put_rows(Operands const& o) {
    all.x = x;
    all.states = state_rows(o.initial_state, x);
  }
};

/// Of a backward call.
template <class T, class M>
struct conv1d_gradient_call : conv1d_call<T, M> {
  using A = accumulate_t<T>;
  view<T const, 3, M> dout; // (rows, heads, dim)
  view<T, 3, M> dx;         // (rows, heads, dim)
  view<A, 3, M> dinitial;   // (states, heads, dim) or null
  view<A const, 3, M> dfinal;

  void read(conv1d_plan<M> const& p, conv1d_saved<T, M> const& s, conv1d_gradients<T, M> const& o, bool silu,
            std::uint64_t object) {
    conv1d_shape const wanted = this->read_inputs(p, o, silu);
    s.require({p.serial, object, this->channels, o.initial_state.data != nullptr, o.bias.data != nullptr,
               o.dfinal_state.data != nullptr});
    auto& in = this->x;
    dout = o.dout.get("dout"), dx = o.dx.get("dx");
    wanted.require_tensor("dout", dout, in), wanted.require_tensor("dx", dx, in);
    wanted.require_given("dout", dout), wanted.require_given("dx", dx);
    if (o.dweights.data) wanted.require_weights("dweights", o.dweights);
    wanted.require_bias("dbias", o.dbias);
    wanted.require_state("dinitial_state", o.dinitial_state), wanted.require_state("dfinal_state", o.dfinal_state);
    if (o.dinitial_state.data && !o.initial_state.data)
      fail({errc::bad_state, "dinitial_state of a call without an initial state", "Give both, or none of them"});
    refuse_aliasing({{"dx", dx}, {"dweights", o.dweights}, {"dbias", o.dbias}, {"dinitial_state", o.dinitial_state}},
                    {{"x", in},
                     {"dout", dout},
                     {"weights", o.weights},
                     {"bias", o.bias},
                     {"initial_state", o.initial_state},
                     {"dfinal_state", o.dfinal_state}});
    join_heads(in, dout, dx);
    this->put_rows(o);
    dinitial = state_rows(o.dinitial_state, in), dfinal = state_rows(o.dfinal_state, in);
  }
};

} // namespace sp::detail
