// Bitwise comparison of two outcomes of one trial, and trials whose bits depend on nothing but the problem.
// -0 and 0 are different bits; so are two NaN.
#pragma once

#include "draw.hpp"
#include "run.hpp"
#include "support/tensors.hpp"

namespace conformance {

using support::same_bits;

/// Names of the tensors that differ; dk and dv only if asked for.
template <class T>
std::string differing(outcome<T> const& a, outcome<T> const& b, bool keys) {
  std::string s;
  if (!same_bits(a.out, b.out)) s += " out";
  if (!same_bits(a.lse, b.lse)) s += " lse";
  if (!same_bits(a.dq, b.dq)) s += " dq";
  if (keys && !same_bits(a.dk, b.dk)) s += " dk";
  if (keys && !same_bits(a.dv, b.dv)) s += " dv";
  for (auto const& c : a.complaints) s += " " + c;
  return s;
}

/// Without what makes bits depend on the caller's side: gradients that start from values, padding.
inline trial plain(std::uint64_t seed, object_kind object, bool pulls = true) {
  trial t = draw(seed, object, true, pulls);
  t.accumulate = false;
  t.short_form = false;
  return t;
}

} // namespace conformance
