// One training step, forward and backward, of every kind of attention object, on any communicator: what the fault tests disturb.
// Inputs depend on the rank alone, so undisturbed steps give the same bits.
#pragma once

#include <string>
#include <vector>

#include <sp/reference.hpp>
#include <sp/usp.hpp>

namespace faults {

using sp::index_t;

enum class object { rotate, gather, ulysses, usp };
inline constexpr object objects[] = {object::rotate, object::gather, object::ulysses, object::usp};

inline std::string name(object o) {
  constexpr char const* names[] = {"rotate", "gather", "ulysses", "usp"};
  return names[int(o)];
}

/// q, k, v, out, dout, dq, dk, dv of one rank; kv_heads may be another number on a rank that is to be wrong.
struct tensors {
  std::vector<double> memory[8];
  sp::view<double, 3> q, k, v, out, dout, dq, dk, dv;

  tensors(sp::batch const& b, index_t kv_heads = 2) {
    int at = 0;
    auto make = [&](index_t heads) {
      auto& m = memory[at];
      for (index_t i = 0; i < b.tokens() * heads * 4; ++i) m.push_back(double((i * 31 + at * 17 + b.part() * 7) % 101 - 50) / 50);
      ++at;
      return sp::view<double, 3>(m.data(), {b.tokens(), heads, 4});
    };
    q = make(4), k = make(kv_heads), v = make(kv_heads), out = make(4), dout = make(4), dq = make(4), dk = make(kv_heads),
    dv = make(kv_heads);
  }
  tensors(tensors const&) = delete;
  std::vector<double> results() const {
    std::vector<double> r;
    for (int i : {3, 5, 6, 7}) r.insert(r.end(), memory[i].begin(), memory[i].end());
    return r;
  }
};

/// Calls f(attention) with the object over `comm`; usp needs an even number of ranks.
template <class Comm, class F>
void with(Comm const& comm, object o, int checks, F&& f) {
  auto options = [&](sp::schedule how) { return sp::attention_options{.schedule = how, .head_chunks = 2, .checks = checks}; };
  if (o == object::rotate) f(sp::ring_attention{comm, sp::reference{}, options(sp::schedule::rotate)});
  if (o == object::gather) f(sp::ring_attention{comm, sp::reference{}, options(sp::schedule::gather)});
  if (o == object::ulysses) f(sp::ulysses_attention{comm, sp::reference{}, options(sp::schedule::automatic)});
  if (o == object::usp) {
    sp::mesh const mesh{sp::axis::ring{comm.size() / 2}, sp::axis::ulysses{2}};
    f(sp::ulysses_attention{mesh.ulysses(comm),
                            sp::ring_attention{mesh.ring(comm), sp::reference{}, options(sp::schedule::rotate)}});
  }
}

/// Forward and backward; returns out, dq, dk, dv.
template <class Comm>
std::vector<double> step(Comm const& comm, object o, int checks = 1, index_t kv_heads = 2) {
  sp::batch const b(sp::packed{0, 20, 21, 49}, sp::zigzag{}, comm);
  tensors x(b, kv_heads);
  with(comm, o, checks, [&](auto const& attention) {
    sp::pool memory;
    sp::context const ctx(memory, memory);
    auto const prepared = attention.prepare(b);
    auto saved = attention.forward(prepared, ctx, x.q, x.k, x.v, x.out);
    attention.backward(prepared, ctx, std::move(saved), x.q, x.k, x.v, x.out, x.dout, x.dq, x.dk, x.dv);
  });
  return x.results();
}

} // namespace faults
