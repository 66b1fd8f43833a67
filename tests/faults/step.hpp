// One training step, forward and backward, of every kind of attention object, on any communicator: what the fault tests disturb.
// Inputs depend on the rank alone, so undisturbed steps give the same bits.
#pragma once

#include <string>
#include <vector>

#include <sp/reference.hpp>
#include <sp/usp.hpp>

#include "support/attention_tensors.hpp"

namespace faults {

using sp::index_t;

enum class object { rotate, cast, ulysses, usp };
inline constexpr object objects[] = {object::rotate, object::cast, object::ulysses, object::usp};

inline std::string name(object o) {
  constexpr char const* names[] = {"rotate", "cast", "ulysses", "usp"};
  return names[int(o)];
}

/// Calls f(attention) with the object over `comm`; usp needs an even number of ranks.
template <class Comm, class F>
void with(Comm const& comm, object o, int checks, F&& f) {
  auto options = [&](sp::schedule how) { return sp::attention_options{.schedule = how, .head_chunks = 2, .checks = checks}; };
  if (o == object::rotate) f(sp::ring_attention{comm, sp::reference{}, options(sp::schedule::rotate)});
  if (o == object::cast) f(sp::ring_attention{comm, sp::reference{}, options(sp::schedule::cast)});
  if (o == object::ulysses) f(sp::ulysses_attention{comm, sp::reference{}, options(sp::schedule::automatic)});
  if (o == object::usp) {
    sp::mesh const mesh{sp::axis::ring{comm.size() / 2}, sp::axis::ulysses{2}};
    f(sp::ulysses_attention{mesh.ulysses(comm),
                            sp::ring_attention{mesh.ring(comm), sp::reference{}, options(sp::schedule::rotate)}});
  }
}

/// Forward and backward; returns out, dq, dk, dv. kv_heads may be another number on a rank that is to be wrong.
template <class Comm>
std::vector<double> step(Comm const& comm, object o, int checks = 1, index_t kv_heads = 2) {
  sp::batch const b(sp::packed{0, 20, 21, 49}, sp::zigzag{}, comm);
  support::attention_tensors<double> x(b, {4, kv_heads, 4, 4});
  with(comm, o, checks, [&](auto const& attention) {
    sp::pool memory;
    x.both(attention, attention.prepare(b), {memory, memory});
  });
  return x.results();
}

} // namespace faults
