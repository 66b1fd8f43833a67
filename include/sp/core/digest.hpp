// A 64-bit digest of integers and bytes: equal inputs give equal digests on every rank.
// For comparing what ranks were given; it finds accidents, not attackers.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <sp/core/view.hpp>

namespace sp {

/// FNV-1a over 64-bit words with a fold of the high half after each, finished by the mixer of splitmix64. Each step is a
/// bijection of the state, so two inputs of one length that differ in a single word never share a digest; others do with chance
/// 2^-64.
class digest {
public:
  constexpr digest() = default;
  constexpr explicit digest(std::uint64_t seed) { word(seed); }

  template <class T>
    requires(std::is_integral_v<T> || std::is_enum_v<T>)
  constexpr digest& add(T x) { return word(static_cast<std::uint64_t>(x)); }
  constexpr digest& add(double x) { return word(std::bit_cast<std::uint64_t>(x)); }
  /// Bytes, however they are cut into calls.
  digest& add(void const* data, std::size_t n) {
    auto const* p = static_cast<unsigned char const*>(data);
    count_ += n;
    while (n > 0 && pending_ > 0) take(*p++), --n;
    for (; n >= 8; n -= 8, p += 8) {
      std::uint64_t w;
      std::memcpy(&w, p, 8);
      word(w);
    }
    while (n > 0) take(*p++), --n;
    return *this;
  }

  constexpr std::uint64_t value() const {
    std::uint64_t x = step(step(state_, partial_), count_);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

private:
  static constexpr std::uint64_t step(std::uint64_t state, std::uint64_t x) {
    state = (state ^ x) * 0x100000001b3u;
    return state ^ (state >> 32);
  }
  constexpr digest& word(std::uint64_t x) {
    state_ = step(state_, x);
    return *this;
  }
  void take(unsigned char byte) { // bytes that do not fill a word yet, in the order a load would find them
    std::memcpy(reinterpret_cast<unsigned char*>(&partial_) + pending_, &byte, 1);
    if (++pending_ < 8) return;
    word(partial_);
    partial_ = 0;
    pending_ = 0;
  }

  std::uint64_t state_ = 0xcbf29ce484222325u, partial_ = 0, count_ = 0;
  std::size_t pending_ = 0;
};

/// The digest of a list of integers, such as the token ids of a stream.
template <class T>
  requires std::is_integral_v<std::remove_const_t<T>>
constexpr std::uint64_t digest_of(view<T, 1> const& values) {
  digest d;
  d.add(values.extent(0));
  for (index_t i = 0; i < values.extent(0); ++i) d.add(values(i));
  return d.value();
}

} // namespace sp
