// A small fixed scene for tests of calls, bytes, memory and faults: dense local tensors of one rank with seeded values.
// Numbers do not matter much here; conformance of numbers is checked by the trials.
#pragma once

#include <sp/cpu.hpp>
#include <sp/threads.hpp>
#include <sp/usp.hpp>

#include "trial.hpp"

namespace conformance {

inline sp::threads_options impatient(int milliseconds = 30000) { return {.deadline = std::chrono::milliseconds(milliseconds)}; }

/// q, k, v, out, dout, dq, dk, dv of one rank.
template <class T>
struct local_scene {
  sp::attention_shape shape;
  std::vector<T> memory[8];
  sp::view<T, 3> q, k, v, out, dout, dq, dk, dv;

  local_scene(index_t q_rows, index_t k_rows, sp::attention_shape s, unsigned seed = 1) : shape(s) {
    std::mt19937 g(seed);
    int at = 0;
    auto make = [&](index_t rows, index_t heads, index_t width) {
      auto& m = memory[at++];
      for (index_t i = 0; i < rows * heads * width; ++i) m.push_back(T(float(int(g() % 2001) - 1000) / 1000));
      return sp::view<T, 3>(m.data(), {rows, heads, width});
    };
    q = make(q_rows, s.q_heads, s.dim), k = make(k_rows, s.kv_heads, s.dim), v = make(k_rows, s.kv_heads, s.value_dim);
    out = make(q_rows, s.q_heads, s.value_dim), dout = make(q_rows, s.q_heads, s.value_dim);
    dq = make(q_rows, s.q_heads, s.dim), dk = make(k_rows, s.kv_heads, s.dim), dv = make(k_rows, s.kv_heads, s.value_dim);
  }
  local_scene(sp::batch const& b, sp::attention_shape s, unsigned seed = 1)
      : local_scene(b.tokens(), b.tokens(), s, seed + 100u * unsigned(b.part())) {}
  local_scene(local_scene const&) = delete;

  template <class Object, class Prepared>
  auto forward(Object const& o, Prepared const& p, sp::context const& ctx) {
    return o.forward(p, ctx, q, k, v, out);
  }
  template <class Object, class Prepared, class Saved>
  void backward(Object const& o, Prepared const& p, sp::context const& ctx, Saved&& s) {
    o.backward(p, ctx, std::move(s), q, k, v, out, dout, dq, dk, dv);
  }
  template <class Object, class Prepared>
  void both(Object const& o, Prepared const& p, sp::context const& ctx) {
    backward(o, p, ctx, forward(o, p, ctx));
  }
  /// out, dq, dk, dv one behind the other.
  std::vector<T> results() const {
    std::vector<T> r;
    for (int i : {3, 5, 6, 7}) r.insert(r.end(), memory[i].begin(), memory[i].end());
    return r;
  }
};

/// usp over four ranks or more: ring x 2.
template <class Comm, class Kernel>
auto make_usp(Comm const& comm, int ulysses, Kernel kernel, sp::attention_options options, sp::ulysses_options kept = {}) {
  sp::mesh mesh{sp::axis::ring{comm.size() / ulysses}, sp::axis::ulysses{ulysses}};
  return sp::ulysses_attention{mesh.ulysses(comm), sp::ring_attention{mesh.ring(comm), kernel, options}, kept};
}

} // namespace conformance
