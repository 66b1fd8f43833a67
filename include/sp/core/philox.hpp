// Philox4x32-10, a counter-based random generator (Salmon et al., SC11), and the keys dropout draws from.
// Stateless and constexpr: the same (seed, layer, document, head, query, key) gives the same bits in every sharding.
#pragma once

#include <array>
#include <cstdint>

#include <sp/core/index.hpp>

namespace sp {

/// Ten rounds of Philox4x32: 128 bits of counter under 64 bits of key, as 128 random bits.
SP_BOTH constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    auto const& of = SP_ENTRIES(c);
    auto const& key = SP_ENTRIES(k);
    std::uint64_t a = std::uint64_t{0xD2511F53u} * of[0], b = std::uint64_t{0xCD9E8D57u} * of[2];
    c = {static_cast<std::uint32_t>(b >> 32) ^ of[1] ^ key[0], static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ of[3] ^ key[1], static_cast<std::uint32_t>(a)};
    k = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return c;
}

/// 32 random bits as a float in [0, 1): a multiple of 2^-24.
SP_BOTH constexpr float uniform(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

/// What a model says about randomness; everything else comes from positions.
struct random_key {
  std::uint64_t seed = 0;
  std::uint64_t layer = 0;
  /// A counter in memory of the queue, or none. A key with it draws what {seed + *step, layer} draws (modulo 2^64): it is read when the
  /// work runs, so that launches of one captured graph draw anew once the counter has moved on. It stays as it is from forward to backward.
  std::uint64_t const* step = nullptr;
  friend constexpr bool operator==(random_key const&, random_key const&) = default;
};

/// The key of one document and head. Make it once per block, it costs two generator calls.
struct random_site {
  std::array<std::uint32_t, 2> key{};
  friend constexpr bool operator==(random_site const&, random_site const&) = default;
};

namespace detail {
SP_BOTH constexpr std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
SP_BOTH constexpr std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }
} // namespace detail

namespace detail {
/// The key as a value, where its counter may be read.
SP_BOTH constexpr random_key with_step(random_key key) {
  return {key.step ? key.seed + *key.step : key.seed, key.layer, nullptr};
}
} // namespace detail

/// `document` is the caller's id of the document, `head` the global number of the query head. Reads the key's counter.
SP_BOTH constexpr random_site site_key(random_key key, index_t document, index_t head) {
  using namespace detail;
  key = with_step(key);
  auto d = static_cast<std::uint64_t>(document), h = static_cast<std::uint64_t>(head);
  std::array<std::uint32_t, 2> const seed{low(key.seed), high(key.seed)};
  auto const of_document = philox({low(key.layer), high(key.layer), low(d), high(d)}, seed);
  auto const& r = SP_ENTRIES(of_document);
  auto const of_head = philox({r[0] ^ low(h), r[1] ^ high(h), r[2], r[3]}, seed);
  auto const& site = SP_ENTRIES(of_head);
  return {{site[0], site[1]}};
}

/// 128 random bits for query position q and key positions 4 k4 .. 4 k4 + 3, all counted from the document's begin.
SP_BOTH constexpr std::array<std::uint32_t, 4> random_bits4(random_site site, index_t q, index_t k4) {
  using namespace detail;
  auto a = static_cast<std::uint64_t>(q), b = static_cast<std::uint64_t>(k4);
  return philox({low(a), high(a), low(b), high(b)}, site.key);
}

/// The four numbers in [0, 1) of query position q and key positions 4 k4 .. 4 k4 + 3.
SP_BOTH constexpr std::array<float, 4> uniforms4(random_site site, index_t q, index_t k4) {
  auto const bits = random_bits4(site, q, k4);
  auto const& r = SP_ENTRIES(bits);
  return {uniform(r[0]), uniform(r[1]), uniform(r[2]), uniform(r[3])};
}

} // namespace sp
