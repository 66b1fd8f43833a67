// Shrinks a failing recipe by greedy delta debugging: fewer ranks, documents, tokens, heads; every field back to its default.
// A smaller recipe is kept when it still fails; the number of attempts is bounded, and what comes out is a valid recipe.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "recipe.hpp"

namespace fuzz {
namespace detail {

/// Copies of r that are simpler in one respect, the boldest first.
class simpler {
public:
  explicit simpler(recipe const& r) : r_(r) {
    for (number s : r.run) change([&](recipe& x) { x.run = {s}; });
    ranks();
    documents();
    defaults();
    lengths();
    numbers();
  }
  std::vector<recipe> const& list() const { return list_; }

private:
  template <class F>
  void change(F&& f) {
    recipe x = r_;
    f(x);
    if (x != r_ && objection(x).empty()) list_.push_back(std::move(x));
  }
  /// n becomes smaller, down to `least`.
  template <class F>
  void descend(number n, number least, F&& set) {
    for (number m : {least, least + 1, n / 2, n - 1})
      if (least <= m && m < n) change([&](recipe& x) { set(x, m); });
  }

  void ranks() {
    descend(r_.ranks, 1, [](recipe& x, number m) {
      x.ranks = m;
      x.degree = std::min(x.degree, m);
      while (m % x.degree != 0) --x.degree;
    });
    change([](recipe& x) { x.ranks /= 2, x.degree = std::max<number>(1, x.degree / 2); });
    descend(r_.degree, 1, [](recipe& x, number m) { x.degree = m; });
  }

  /// Without documents [first, last): both lists lose them.
  static void drop(std::vector<number>& list, number first, number last) {
    number d = 0;
    std::erase_if(list, [&](number n) {
      if (n < 0) return false;
      number const mine = d++;
      return first <= mine && mine < last;
    });
  }
  /// Documents d and d + 1 as one.
  static void merge(std::vector<number>& list, number d) {
    for (std::size_t i = 0, last = 0; i < list.size(); ++i) {
      if (list[i] < 0) continue;
      if (d-- == 0) last = i;
      if (d == -2) {
        list[last] += list[i];
        list.erase(list.begin() + std::ptrdiff_t(i));
        return;
      }
    }
  }
  void documents() {
    number const n = documents_in(r_.docs);
    for (number size = n; size >= 1; size /= 2)
      for (number at = 0; at < n; at += size)
        change([&](recipe& x) {
          drop(x.docs, at, at + size);
          drop(x.keys, at, at + size);
        });
    for (number d = 0; d + 1 < n; ++d)
      change([&](recipe& x) {
        merge(x.docs, d);
        merge(x.keys, d);
      });
    change([](recipe& x) { x.keys.clear(), x.end = false; });
    change([](recipe& x) {
      std::erase_if(x.docs, [](number m) { return m < 0; });
      std::erase_if(x.keys, [](number m) { return m < 0; });
    });
  }
  void lengths() {
    for (auto list : {&recipe::docs, &recipe::keys})
      for (std::size_t i = 0; i < (r_.*list).size(); ++i)
        if (number const n = (r_.*list)[i]; n > 0)
          descend(n, 0, [&](recipe& x, number m) { (x.*list)[i] = m; });
        else if (n < 0)
          change([&](recipe& x) { (x.*list).erase((x.*list).begin() + std::ptrdiff_t(i)); });
  }

  void defaults() {
    recipe usual;
    std::vector<std::string> values;
    for_each_field(usual, [&](char const*, auto&& field) { values.push_back(text(field)); });
    for (std::size_t i = 0; i < values.size(); ++i)
      change([&](recipe& x) {
        std::size_t at = 0;
        for_each_field(x, [&](char const* name, auto&& field) {
          std::string_view const kept = name; // these have their own ways
          if (at++ == i && kept != "docs" && kept != "keys" && kept != "P" && kept != "run") read(values[i], field);
        });
      });
    change([](recipe& x) { x.q_heads = x.kv_heads = 1; });
    change([](recipe& x) { x.dim = x.value_dim = 1; });
    for (number m = masks_causal; m < r_.mask && m <= masks_window; ++m) change([&](recipe& x) { x.mask = m; });
    if (r_.type > 0) change([](recipe& x) { x.type = 0; });
  }
  void numbers() {
    number const group = r_.q_heads / r_.kv_heads;
    change([&](recipe& x) { x.q_heads = x.kv_heads; });
    descend(r_.kv_heads, 1, [&](recipe& x, number m) { x.kv_heads = m, x.q_heads = m * group; });
    descend(group, 1, [](recipe& x, number m) { x.q_heads = x.kv_heads * m; });
    for (auto field : {&recipe::dim, &recipe::value_dim, &recipe::groups, &recipe::width})
      descend(r_.*field, 1, [&](recipe& x, number m) { x.*field = m; });
    for (auto field : {&recipe::a, &recipe::b, &recipe::c, &recipe::order})
      descend(r_.*field, 0, [&](recipe& x, number m) { x.*field = m; });
  }

  recipe const r_;
  std::vector<recipe> list_;
};

} // namespace detail

/// What shrinking came to.
struct shrunken {
  recipe smallest;
  int attempts = 0;
};

/// `fails` says whether a recipe still shows the failure.
inline shrunken shrink(recipe r, std::function<bool(recipe const&)> const& fails, int most_attempts = 1000) {
  int attempts = 0;
  auto candidates = detail::simpler(r).list();
  for (std::size_t at = 0, idle = 0; idle < candidates.size() && attempts < most_attempts; ++at, ++idle) {
    recipe const& x = candidates[at % candidates.size()];
    ++attempts;
    if (!fails(x)) continue;
    r = x;
    candidates = detail::simpler(r).list(); // and go on where it was: what helped once helps again
    idle = std::size_t(-1);
    --at;
  }
  return {std::move(r), attempts};
}

/// Adds a failing line to the file that SP_FUZZ_CORPUS names, with what was wrong as a comment.
inline void remember(recipe const& r, std::string what) {
  char const* file = std::getenv("SP_FUZZ_CORPUS");
  if (!file) return;
  std::replace(what.begin(), what.end(), '\n', ' ');
  std::ofstream(file, std::ios::app) << "# " << what << '\n' << line_of(r) << '\n';
}

} // namespace fuzz
