// What tests of calls, bytes, memory and faults share: tensors with any values, a usp object, and a deadline.
// Numbers do not matter much here; conformance of numbers is checked by the trials.
#pragma once

#include <sp/cpu.hpp>
#include <sp/threads.hpp>
#include <sp/usp.hpp>

#include "support/attention_tensors.hpp"
#include "support/tensors.hpp"
#include "trial.hpp"

namespace conformance {

using support::attention_tensors;
using support::operand;
using support::same_bits;

inline sp::threads_options impatient(int milliseconds = 30000) { return {.deadline = std::chrono::milliseconds(milliseconds)}; }

/// usp over four ranks or more: ring x 2.
template <class Comm, class Kernel>
auto make_usp(Comm const& comm, int ulysses, Kernel kernel, sp::attention_options options, sp::ulysses_options kept = {}) {
  sp::mesh mesh{sp::axis::ring{comm.size() / ulysses}, sp::axis::ulysses{ulysses}};
  return sp::ulysses_attention{mesh.ulysses(comm), sp::ring_attention{mesh.ring(comm), kernel, options}, kept};
}

} // namespace conformance
