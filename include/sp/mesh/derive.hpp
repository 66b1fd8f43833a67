// Degrees from head counts: how many ulysses and ring ranks suit all layers of a model, with the reason in one sentence.
// The default needs no uneven heads and no copied kv heads; what a backend or a sharding cannot do narrows the choice.
#pragma once

#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <sp/core/index.hpp>

namespace sp {

/// What heads are for.
enum class head_use {
  softmax, ///< attention: heads are cut over the ulysses ranks, and rows stay cut over those of the ring
  linear,  ///< linear attention: over all ranks of the sequence, whatever the degrees, by heads or by state
};

/// The heads of one kind of layer in a model; a model may mix several.
struct head_shape {
  index_t q_heads = 1;  ///< of linear attention its value heads
  index_t kv_heads = 1; ///< of linear attention its key heads
  head_use use = head_use::softmax;
};
/// Those of linear attention, such as the gated delta net layers of a hybrid model.
[[nodiscard]] constexpr head_shape linear_heads(index_t key_heads, index_t value_heads) {
  return {value_heads, key_heads, head_use::linear};
}

/// What the attention kernel and the caller can live with.
struct abilities {
  bool lse = true;           ///< the kernel returns its log-sum-exp; without it partial results cannot be merged, so no ring
  bool uneven_heads = false; ///< ranks may have different numbers of q heads, and copies of kv heads they share
  bool states = true;        ///< linear layers may pass states from rank to rank: no striped runs, and a kernel that gives maps
};

/// How the ranks of one sequence are laid out, and why.
struct degrees {
  int ulysses = 1;
  int ring = 1;
  std::string reason{};
};

namespace detail {

constexpr std::vector<head_shape> shapes_for(head_use use, std::span<head_shape const> shapes) {
  std::vector<head_shape> some;
  for (head_shape const& s : shapes)
    if (s.use == use) some.push_back(s);
  return some;
}
/// 0 for no shapes, which every number divides.
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

inline std::string ranks_text(index_t n) { return std::to_string(n) + (n == 1 ? " rank" : " ranks"); }
/// "4 kv heads" or "4, 6 and 16 kv heads"
inline std::string kv_heads_text(std::span<head_shape const> shapes) {
  std::string s;
  for (std::size_t i = 0; i < shapes.size(); ++i)
    s += (i == 0 ? "" : i + 1 == shapes.size() ? " and " : ", ") + std::to_string(shapes[i].kv_heads);
  return s + " kv head" + (shapes.size() == 1 && shapes[0].kv_heads == 1 ? "" : "s");
}
/// "16 key and 32 value heads"
inline std::string linear_text(head_shape const& s) {
  return std::to_string(s.kv_heads) + " key and " + std::to_string(s.q_heads) + " value heads";
}

constexpr void check_shapes(std::span<head_shape const> shapes, int world) {
  if (world <= 0) fail({errc::invalid_shape, "a sequence over " + std::to_string(world) + " ranks", "Give at least one rank"});
  if (shapes.empty())
    fail({errc::invalid_shape, "no head shapes are given", "List the heads of every kind of attention in the model"});
  for (head_shape const& s : shapes)
    if (s.q_heads <= 0 || s.kv_heads <= 0 || s.q_heads % s.kv_heads != 0)
      fail({errc::invalid_shape,
            s.use == head_use::linear ? linear_text(s)
                                      : std::to_string(s.q_heads) + " q heads on " + std::to_string(s.kv_heads) + " kv heads",
            s.use == head_use::linear ? "Both must be positive and value heads a multiple of key heads"
                                      : "Both must be positive and q heads a multiple of kv heads"});
}

/// May `ranks` cut these heads?
constexpr bool divides(std::span<head_shape const> shapes, int ranks, abilities can) {
  if (kv_gcd(shapes) % ranks == 0) return true;
  return can.uneven_heads && ranks <= fewest_q_heads(shapes); // nobody without a head
}
/// May the layers of linear attention run on `world` ranks? They ask nothing of the degrees.
constexpr bool linear_legal(std::span<head_shape const> linear, int world, abilities can) {
  return can.states || divides(linear, world, can);
}
/// May those of softmax attention run on `ulysses` x (world / ulysses)? `ulysses` divides world.
constexpr bool softmax_legal(std::span<head_shape const> softmax, int ulysses, int world, abilities can) {
  return (can.lse || ulysses == world) && divides(softmax, ulysses, can);
}

/// What the reason adds for linear attention.
inline std::string linear_reason(std::span<head_shape const> linear, int world, abilities can) {
  std::string s;
  for (head_shape const& shape : linear) {
    bool const by_heads = divides({&shape, 1}, world, can);
    s += "; linear attention of " + linear_text(shape) + " goes over all " + ranks_text(world);
    s += !by_heads ? " by state" : can.states ? ", by heads or by state" : " by heads";
    if (by_heads) continue;
    s += can.uneven_heads ? ", because some would have no value head" : ", because its key heads do not divide evenly";
  }
  return s;
}
[[noreturn]] inline void refuse_linear(std::span<head_shape const> linear, int world, abilities can) {
  std::string which;
  for (head_shape const& s : linear)
    if (!divides({&s, 1}, world, can)) which += (which.empty() ? "" : ", ") + linear_text(s);
  index_t const even = std::gcd(kv_gcd(linear), index_t(world)), fewest = fewest_q_heads(linear);
  fail({errc::head_partition,
        "no states can be passed, so linear attention must cut its heads over all " + ranks_text(world) + ", but " + which +
            " do not divide evenly over them" +
            (world > fewest ? " and a rank would have none of " + std::to_string(fewest) + " value heads" : ""),
        (!can.uneven_heads && world <= fewest ? "Allow uneven_heads, use a sharding that is not striped, or a sequence of "
                                              : "Use a sharding that is not striped, or a sequence of ") +
            ranks_text(even)});
}

} // namespace detail

/// Every legal ulysses degree for `world` ranks of one sequence, ascending; the ring degree is world / ulysses. May be empty.
[[nodiscard]] constexpr std::vector<int> legal_degrees(std::span<head_shape const> shapes, int world, abilities can = {}) {
  detail::check_shapes(shapes, world);
  auto const softmax = detail::shapes_for(head_use::softmax, shapes), linear = detail::shapes_for(head_use::linear, shapes);
  std::vector<int> out;
  for (int u = 1; u <= world; ++u)
    if (world % u == 0 && detail::softmax_legal(softmax, u, world, can) && detail::linear_legal(linear, world, can))
      out.push_back(u);
  return out;
}

namespace detail {

/// The proposal for softmax attention, without the end of its sentence.
inline degrees derive_softmax(std::span<head_shape const> shapes, int world, abilities can) {
  int const even = int(std::gcd(kv_gcd(shapes), index_t(world)));
  std::string const heads = kv_heads_text(shapes), ranks = ranks_text(world);
  if (even == world)
    return {world, 1, heads + " divide evenly over " + ranks + ", so Ulysses takes them all and no ring is needed"};
  if (can.lse) {
    std::string reason = even == 1 ? heads + " and " + ranks + " have no common divisor, so the ring takes all ranks"
                                   : std::to_string(even) + " is the greatest common divisor of " + heads + " and " + ranks +
                                         ", so Ulysses takes " + std::to_string(even) + " and the ring the remaining factor " +
                                         std::to_string(world / even);
    if (can.uneven_heads && softmax_legal(shapes, world, world, can))
      reason += "; Ulysses over all ranks with uneven heads is legal, too";
    return {even, world / even, reason};
  }
  if (softmax_legal(shapes, world, world, can))
    return {world, 1,
            "The backend returns no lse, so there can be no ring; Ulysses takes all " + ranks + " and cuts " + heads +
                " unevenly, which is allowed"};
  index_t const fewest = fewest_q_heads(shapes);
  bool const would_help = !can.uneven_heads && world <= fewest;
  fail({errc::head_partition,
        "the backend returns no lse, so Ulysses must take all " + ranks + ", but " + heads + " do not divide evenly over them" +
            (world > fewest ? " and a rank would have none of " + std::to_string(fewest) + " q heads" : ""),
        (would_help ? "Allow uneven_heads, use a backend that returns lse, or a sequence of "
                    : "Use a backend that returns lse, or a sequence of ") +
            ranks_text(even)});
}

} // namespace detail

/// The proposed degrees: ulysses = gcd(kv heads of all softmax attention, world), ring the rest. Without lse everything must be ulysses,
/// with uneven heads where the abilities allow them. Linear attention runs on any degrees, over all ranks of the sequence; the reason
/// says by what. head_partition names the numbers where nothing is legal.
[[nodiscard]] inline degrees derive(std::span<head_shape const> shapes, int world, abilities can = {}) {
  detail::check_shapes(shapes, world);
  if (world == 1) return {1, 1, "One rank holds the whole sequence and all heads."};
  auto const softmax = detail::shapes_for(head_use::softmax, shapes), linear = detail::shapes_for(head_use::linear, shapes);
  if (!detail::linear_legal(linear, world, can)) detail::refuse_linear(linear, world, can);
  degrees d = softmax.empty() ? degrees{world, 1, "There is no softmax attention, so no ring is needed"}
                              : detail::derive_softmax(softmax, world, can);
  d.reason += detail::linear_reason(linear, world, can) + ".";
  return d;
}

} // namespace sp
