// Bitwise comparison of two outcomes of one trial, and trials whose bits depend on nothing but the problem.
// -0 and 0 are different bits; so are two NaN.
#pragma once

#include "run.hpp"

namespace conformance {

template <class T>
bool same(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Names of the tensors that differ; dk and dv only if asked for.
template <class T>
std::string differing(outcome<T> const& a, outcome<T> const& b, bool keys) {
  std::string s;
  if (!same(a.out, b.out)) s += " out";
  if (!same(a.lse, b.lse)) s += " lse";
  if (!same(a.dq, b.dq)) s += " dq";
  if (keys && !same(a.dk, b.dk)) s += " dk";
  if (keys && !same(a.dv, b.dv)) s += " dv";
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
