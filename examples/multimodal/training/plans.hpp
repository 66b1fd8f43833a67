// The ways the trainer spreads tower and decoder over ranks: degrees of each, how patches and rows are cut. Plain data.
// A plan with all degrees 1 is the one-rank run that every other plan is compared with; its model is not wrapped at all.
#pragma once

#include <sp/auto_wrap.hpp>
#include <sp/vision.hpp>

#include "trainer/training/plans.hpp"

namespace multimodal {

using sp::index_t;

/// Ranks of one sequence: ring x ulysses.
struct degrees {
  int ring = 1, ulysses = 1;
};

struct plan {
  std::string name{};
  int data = 1;
  degrees vision{}, text{};
  trainer::sharding how = trainer::sharding::contiguous; ///< of the decoder's rows
  sp::schedule schedule = sp::schedule::rotate;          ///< of the decoder's ring
  bool learns = false;                  ///< trains to the end and is asked questions; others take settings::short_steps
  sp::scope images = sp::scope::stream; ///< what is cut into pieces for ranks: all patches of a step, or each image

  int sequence() const { return text.ring * text.ulysses; }
  int ranks() const { return data * sequence(); }
};

/// Plans for n ranks, 4 or another even number.
inline std::vector<plan> all_plans(int n) {
  using enum trainer::sharding;
  using enum sp::schedule;
  auto of = [&](char const* what) { return what + std::to_string(n); };
  std::string const half = std::to_string(n / 2);
  return {
      {"one rank", 1, {1, 1}, {1, 1}, contiguous, rotate, true, sp::scope::stream},
      {of("ulysses "), 1, {1, n}, {1, n}, contiguous, rotate, true, sp::scope::stream},
      {of("ring ") + ", " + of("ulysses "), 1, {n, 1}, {1, n}, contiguous, rotate, false, sp::scope::document},
      {"usp " + half + " x 2", 1, {n / 2, 2}, {n / 2, 2}, zigzag, rotate, false, sp::scope::stream},
      {"data 2 x sequence " + half, 2, {n / 2, 1}, {n / 2, 1}, contiguous, cast, false, sp::scope::document},
  };
}

/// What sp::auto_wrap is told about one role.
inline sp::role_options role_of(degrees d, sp::schedule schedule) {
  sp::role_options o;
  o.strategy = d.ring == 1 ? sp::strategy::ulysses : d.ulysses == 1 ? sp::strategy::ring : sp::strategy::usp;
  o.ulysses = d.ulysses;
  o.schedule = schedule;
  return o;
}
inline sp::wrap_options wrap_options_of(plan const& p) {
  return {.vision = role_of(p.vision, sp::schedule::rotate), .text = role_of(p.text, p.schedule)};
}

/// Calls f(sharding) with that of the decoder's rows.
template <class F>
auto with_sharding(plan const& p, F&& f) {
  if (p.how == trainer::sharding::zigzag) return f(sp::nested{sp::zigzag{}, p.text.ulysses});
  return f(sp::contiguous{});
}

/// The samples of one data rank: neighbours, about equally many.
template <class Samples>
Samples share(Samples const& all, int part, int parts) {
  auto const cut = [&](int p) { return all.begin() + std::ptrdiff_t(all.size()) * p / parts; };
  return {cut(part), cut(part + 1)};
}

} // namespace multimodal
