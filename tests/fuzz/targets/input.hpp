// Bytes of a libFuzzer input as numbers, small ones and the edges of int64; and how a target judges what the library does with them.
// The verdict is always one of two: an sp::error with a sentence, or a result that satisfies what the target requires.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

#include <sp/core/index.hpp>

namespace fuzz_target {

using sp::index_t;

class input {
public:
  input(std::uint8_t const* data, std::size_t size) : at_(data), end_(data + size) {}

  bool empty() const { return at_ == end_; }
  std::uint8_t byte() { return empty() ? 0 : *at_++; }
  index_t below(index_t n) { return byte() % n; }
  /// A small number, one near an edge of 32 or 64 bits or of the library's own bounds, or any eight bytes.
  index_t number() {
    static constexpr index_t edges[] = {
        INT64_MIN,      INT64_MIN + 1,    INT64_MAX,        INT64_MAX - 1,          INT32_MIN, INT32_MAX, sp::unbounded,
        -sp::unbounded, index_t{1} << 31, index_t{1} << 32, (index_t{1} << 62) + 1, -1};
    std::uint8_t const kind = byte();
    if (kind < 200) return index_t(kind) - 8;
    if (kind < 212) return edges[kind - 200];
    if (kind < 224) return index_t(std::uint64_t(edges[kind - 212]) + std::uint64_t(std::int64_t(std::int8_t(byte()))));
    std::int64_t x = 0;
    for (int i = 0; i < 8; ++i) x = std::int64_t(std::uint64_t(x) << 8 | byte());
    return x;
  }
  std::vector<index_t> numbers(index_t most) {
    std::vector<index_t> list(std::size_t(below(most + 1)));
    for (index_t& x : list) x = number();
    return list;
  }

private:
  std::uint8_t const *at_, *end_;
};

inline void require(bool holds, char const* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz target: %s\n", what);
  std::abort();
}

/// True if the call returned; false after an sp::error, which must say what is wrong. Anything else that is thrown is a failure.
template <class F>
bool accepted(F&& call) {
  try {
    call();
    return true;
  } catch (sp::error const& e) {
    require(!e.info().problem.empty() && !e.info().remedy.empty(), "an error without a sentence or a remedy");
  } catch (std::exception const& e) {
    std::fprintf(stderr, "fuzz target: %s\n", e.what());
    require(false, "something else than sp::error was thrown");
  }
  return false;
}

} // namespace fuzz_target
