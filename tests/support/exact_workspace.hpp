// A workspace of so many bytes and no more, for tests of what calls say of their memory.
// Its block begins aligned, so that all of it can be given.
#pragma once

#include <cstdint>
#include <vector>

#include <sp/core/memory.hpp>

namespace support {

struct exact_workspace {
  std::vector<std::byte> memory;
  sp::workspace space;
  explicit exact_workspace(sp::index_t bytes)
      : memory(std::size_t(bytes) + sp::allocator::alignment), space(aligned(memory.data()), std::size_t(bytes)) {}

private:
  static std::byte* aligned(std::byte* p) {
    std::size_t const over = reinterpret_cast<std::uintptr_t>(p) % sp::allocator::alignment;
    return over == 0 ? p : p + (sp::allocator::alignment - over);
  }
};

} // namespace support
