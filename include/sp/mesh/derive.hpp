// Degrees from head counts: how many ulysses and ring ranks suit a model, with the reason in one sentence.
// The default needs no uneven heads and no copied kv heads; what a backend cannot do narrows the choice.
#pragma once

#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <sp/core/index.hpp>

namespace sp {

/// The heads of one kind of attention in a model; a model may mix several.
struct head_shape {
  index_t q_heads = 1;
  index_t kv_heads = 1;
};

/// What the attention kernel and the caller can live with.
struct abilities {
  bool lse = true;           ///< the kernel returns its log-sum-exp; without it partial results cannot be merged, so no ring
  bool uneven_heads = false; ///< ranks may have different numbers of q heads, and copies of kv heads they share
};

/// How the ranks of one sequence are laid out, and why.
struct degrees {
  int ulysses = 1;
  int ring = 1;
  std::string reason{};
};

namespace detail {

constexpr index_t kv_gcd(std::span<head_shape const> shapes) {
  index_t g = 0;
  for (head_shape const& s : shapes) g = std::gcd(g, s.kv_heads);
  return g;
}
constexpr index_t fewest_q_heads(std::span<head_shape const> shapes) {
  index_t n = unbounded;
  for (head_shape const& s : shapes) n = min(n, s.q_heads);
  return n;
}

/// "4 kv heads" or "4, 6 and 16 kv heads"
inline std::string kv_heads_text(std::span<head_shape const> shapes) {
  std::string s;
  for (std::size_t i = 0; i < shapes.size(); ++i)
    s += (i == 0 ? "" : i + 1 == shapes.size() ? " and " : ", ") + std::to_string(shapes[i].kv_heads);
  return s + " kv head" + (shapes.size() == 1 && shapes[0].kv_heads == 1 ? "" : "s");
}

constexpr void check_shapes(std::span<head_shape const> shapes, int world) {
  if (world <= 0) fail({errc::invalid_shape, "a sequence over " + std::to_string(world) + " ranks", "Give at least one rank"});
  if (shapes.empty())
    fail({errc::invalid_shape, "no head shapes are given", "List the heads of every kind of attention in the model"});
  for (head_shape const& s : shapes)
    if (s.q_heads <= 0 || s.kv_heads <= 0 || s.q_heads % s.kv_heads != 0)
      fail({errc::invalid_shape, std::to_string(s.q_heads) + " q heads on " + std::to_string(s.kv_heads) + " kv heads",
            "Both must be positive and q heads a multiple of kv heads"});
}

/// May `ulysses` x (world / ulysses) run? `ulysses` divides world.
constexpr bool legal(std::span<head_shape const> shapes, int ulysses, int world, abilities can) {
  if (!can.lse && ulysses != world) return false;
  if (kv_gcd(shapes) % ulysses == 0) return true;
  return can.uneven_heads && ulysses <= fewest_q_heads(shapes); // nobody without a head
}

} // namespace detail

/// Every legal ulysses degree for `world` ranks of one sequence, ascending; the ring degree is world / ulysses. May be empty.
[[nodiscard]] constexpr std::vector<int> legal_degrees(std::span<head_shape const> shapes, int world, abilities can = {}) {
  detail::check_shapes(shapes, world);
  std::vector<int> out;
  for (int u = 1; u <= world; ++u)
    if (world % u == 0 && detail::legal(shapes, u, world, can)) out.push_back(u);
  return out;
}

/// The proposed degrees: ulysses = gcd(kv heads of all shapes, world), ring the rest. Without lse everything must be ulysses,
/// with uneven heads where the abilities allow them; head_partition names the numbers where nothing is legal.
[[nodiscard]] inline degrees derive(std::span<head_shape const> shapes, int world, abilities can = {}) {
  detail::check_shapes(shapes, world);
  int even = int(std::gcd(detail::kv_gcd(shapes), index_t(world)));
  std::string const heads = detail::kv_heads_text(shapes), ranks = std::to_string(world) + (world == 1 ? " rank" : " ranks");
  if (world == 1) return {1, 1, "One rank holds the whole sequence and all heads."};
  if (even == world)
    return {world, 1, heads + " divide evenly over " + ranks + ", so Ulysses takes them all and no ring is needed."};
  if (can.lse) {
    std::string reason = even == 1 ? heads + " and " + ranks + " have no common divisor, so the ring takes all ranks"
                                   : std::to_string(even) + " is the greatest common divisor of " + heads + " and " + ranks +
                                         ", so Ulysses takes " + std::to_string(even) + " and the ring the remaining factor " +
                                         std::to_string(world / even);
    if (can.uneven_heads && detail::legal(shapes, world, world, can))
      reason += "; Ulysses over all ranks with uneven heads is legal, too";
    return {even, world / even, reason + "."};
  }
  if (detail::legal(shapes, world, world, can))
    return {world, 1,
            "The backend returns no lse, so there can be no ring; Ulysses takes all " + ranks + " and cuts " + heads +
                " unevenly, which is allowed."};
  index_t fewest = detail::fewest_q_heads(shapes);
  bool would_help = !can.uneven_heads && world <= fewest;
  fail({errc::head_partition,
        "the backend returns no lse, so Ulysses must take all " + ranks + ", but " + heads + " do not divide evenly over them" +
            (world > fewest ? " and a rank would have none of " + std::to_string(fewest) + " q heads" : ""),
        would_help
            ? "Allow uneven_heads, use a backend that returns lse, or a sequence of " + std::to_string(even) + " ranks"
            : "Use a backend that returns lse, or a sequence of " + std::to_string(even) + (even == 1 ? " rank" : " ranks")});
}

} // namespace sp
