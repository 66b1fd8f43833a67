// Trials for kernels that do not take everything: rings, Ulysses and both nested, 1 to 8 ranks, within the limits of each kernel.
// Judged against the float64 oracle, and for 16-bit types against the same kernel on one rank of the same world.
#pragma once

#include "check.hpp"
#include "elsewhere.hpp"

namespace conformance {

/// On so many ranks, of which the seed draws how many are a ring; steps keep the queue's form (elsewhere.hpp).
inline trial on_mesh(std::uint64_t seed, int ranks, bool featured) {
  trial t = draw(seed, object_kind::usp, featured, true);
  std::uint64_t const degrees = mixed(seed, 1);
  t.ranks = ranks, t.ring = 1;
  for (int d = 1; d <= ranks; ++d)
    if (ranks % d == 0 && (degrees >> d) % 2) t.ring = d;
  t.ulysses = ranks / t.ring;
  if (t.sharding.inner > 1) t.sharding.inner = t.ulysses, t.sharding.stride = t.ring_is_fast ? t.ring : 1;
  if (t.key_sharding.inner > 1) t.key_sharding.inner = t.ulysses, t.key_sharding.stride = t.ring_is_fast ? t.ring : 1;
  static constexpr sp::schedule schedules[] = {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull,
                                               sp::schedule::pass_q};
  t.how = schedules[mixed(seed, 2) % 4];
  t.short_form = t.twice = false;
  return t;
}

/// What sp::cudnn takes.
inline trial for_cudnn(std::uint64_t seed, int ranks) {
  trial t = on_mesh(seed, ranks, false);
  t.dim = 8 + 8 * index_t(mixed(seed, 3) % 2), t.value_dim = 8 + 8 * index_t(mixed(seed, 4) % 2);
  t.scale = t.scale > 0 ? t.scale : 0;
  if (t.mask_kind != 1 && t.mask_kind != 4) t.mask_kind = 0, t.mask = sp::causal(t.mask.at);
  if (t.mask_kind != 1) t.key_sharding = t.sharding, t.key_padded = t.padded; // steps of equal sizes
  t.plain = true;
  return t;
}

/// What sp::cuda_flash takes: every mask and feature; head dims that it has kernels for, and smaller ones.
inline trial for_flash(std::uint64_t seed, int ranks, std::span<index_t const> dims) {
  trial t = on_mesh(seed, ranks, true);
  t.dim = dims[mixed(seed, 3) % dims.size()];
  t.value_dim = mixed(seed, 4) % 3 ? t.dim : 8 + 8 * index_t(mixed(seed, 4) / 3 % std::uint64_t(t.dim / 8));
  if (t.scale != 0) t.scale = t.scale / std::sqrt(double(t.dim)); // scores of the size that the trial draws them for
  t.plain = true;
  return t;
}

/// What is wrong with a 16-bit trial whose steps are run(trial, inputs, outcome); empty if nothing is.
template <class T, class Run>
std::string wrong_of(trial const& t, Run const& run_on) {
  inputs<T> in(t);
  outcome<T> got(t, t.ranks), alone(t, 1);
  trial one = t;
  one.ranks = one.ring = one.ulysses = 1;
  one.padded = one.key_padded = false, one.sharding = one.key_sharding = {};
  std::string wrong;
  try {
    run_on(t, in, got);
    run_on(one, in, alone);
    auto const truth = expected(t, in);
    auto of_one = measure_all(t, alone, truth);
    of_one[5].norm = std::fmax(of_one[5].norm, 0x1p-8 * of_one[5].truth_norm); // a few sums, which rounding meets by luck
    for (std::size_t gradient : {2, 3, 4}) of_one[gradient].norm *= 2; // calls round theirs before they are added, and may cancel
    wrong = judge<T>(t, measure_all(t, got, truth), of_one, truth.largest_score);
  } catch (std::exception const& e) {
    wrong = e.what();
  }
  for (auto const& c : got.complaints) wrong += c;
  return wrong;
}

} // namespace conformance
