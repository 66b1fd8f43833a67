// Philox against the published answers of Random123 (kat_vectors), and what dropout needs of the keys built on it.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include <sp/core/philox.hpp>

namespace test_philox {
namespace {

using counter = std::array<std::uint32_t, 4>;

static_assert(sp::philox({0, 0, 0, 0}, {0, 0}) == counter{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
static_assert(sp::philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == counter{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
static_assert(sp::philox({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}) ==
              counter{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});

static_assert(sp::uniform(0) == 0.0f);
static_assert(sp::uniform(0x80000000u) == 0.5f);
static_assert(sp::uniform(~0u) < 1.0f);

/// Each of the four words, as one sortable number pair.
template <class F>
bool all_distinct(int n, F word) {
  std::vector<std::uint64_t> seen;
  for (int i = 0; i < n; ++i) seen.push_back(word(i));
  std::sort(seen.begin(), seen.end());
  return std::adjacent_find(seen.begin(), seen.end()) == seen.end();
}

std::uint64_t joined(std::array<std::uint32_t, 2> k) { return std::uint64_t{k[0]} << 32 | k[1]; }

TEST_CASE("philox: the known answers hold at run time too") {
  CHECK(sp::philox({0, 0, 0, 0}, {0, 0}) == counter{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  CHECK(sp::philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == counter{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
}

TEST_CASE("philox: every part of a site changes its key, in its low and in its high half") {
  sp::index_t const far = sp::index_t{1} << 40;
  auto site = [](std::uint64_t seed, std::uint64_t layer, sp::index_t doc, sp::index_t head) {
    return sp::site_key({seed, layer}, doc, head);
  };
  std::vector<sp::random_site> sites{site(0, 0, 0, 0)};
  for (std::uint64_t x : {std::uint64_t{1}, std::uint64_t{1} << 40, std::uint64_t{1} << 63}) {
    sites.push_back(site(x, 0, 0, 0));
    sites.push_back(site(0, x, 0, 0));
    sites.push_back(site(0, 0, static_cast<sp::index_t>(x), 0));
    sites.push_back(site(0, 0, 0, static_cast<sp::index_t>(x)));
  }
  for (std::size_t i = 0; i < sites.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) CHECK_FALSE(sites[i] == sites[j]);
  CHECK(site(7, 3, far, 5) == site(7, 3, far, 5));
  CHECK_FALSE(site(7, 3, far, 5) == site(7, 3, 5, far)); // document and head are not interchangeable
}

TEST_CASE("philox: a key with a step counter draws what the key with that sum draws, as the counter is when it draws") {
  std::uint64_t step = 41;
  sp::random_key const counted{1, 3, &step};
  auto site = [](sp::random_key k) { return sp::site_key(k, 5, 6); };
  CHECK(site(counted) == site({42, 3}));
  step = ~std::uint64_t{0};
  CHECK(site(counted) == site({0, 3}));
  CHECK_FALSE(site(counted) == site({1, 3}));
}

TEST_CASE("philox: the keys of a large model do not collide") {
  CHECK(all_distinct(64 * 64 * 16, [](int i) {
    return joined(sp::site_key({1234, std::uint64_t(i % 64)}, i / 64 % 64, i / 4096).key);
  }));
}

TEST_CASE("philox: positions beyond 2^32 and 2^34 are told apart") {
  auto site = sp::site_key({1, 2}, 3, 4);
  sp::index_t const p = sp::index_t{1} << 33;
  CHECK(sp::random_bits4(site, p, 0) != sp::random_bits4(site, 0, 0));
  CHECK(sp::random_bits4(site, 0, p) != sp::random_bits4(site, 0, 0));
  CHECK(sp::random_bits4(site, p, 0) != sp::random_bits4(site, 0, p));
  CHECK(sp::random_bits4(site, p + 1, p) != sp::random_bits4(site, p, p + 1));
}

TEST_CASE("philox: uniforms4 are the bits of the counter (q, k4), flat and uncorrelated") {
  auto site = sp::site_key({42, 0}, 9, 1);
  auto bits = sp::philox({5, 0, 6, 0}, site.key);
  auto u = sp::uniforms4(site, 5, 6);
  for (std::size_t i = 0; i < 4; ++i) CHECK(u[i] == sp::uniform(bits[i]));

  double sum = 0, square = 0, neighbour = 0;
  int const n = 64, rows = 256;
  int outside = 0;
  float before = 0.5f;
  for (int q = 0; q < rows; ++q)
    for (int k4 = 0; k4 < n; ++k4)
      for (float x : sp::uniforms4(site, q, k4)) {
        outside += x < 0.0f || x >= 1.0f;
        sum += x;
        square += double(x) * x;
        neighbour += (double(x) - 0.5) * (double(before) - 0.5);
        before = x;
      }
  CHECK(outside == 0);
  double total = 4.0 * n * rows; // 65536 draws: the bounds are five standard deviations
  CHECK(std::abs(sum / total - 0.5) < 5 * 0.2887 / 256);
  CHECK(std::abs(square / total - 1.0 / 3) < 5 * 0.2981 / 256);
  CHECK(std::abs(neighbour / total) < 5 * (1.0 / 12) / 256);
}

} // namespace
} // namespace test_philox
