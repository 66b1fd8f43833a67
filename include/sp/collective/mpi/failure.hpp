// Why a family of processes ended, and how that travels to the other ranks: a fixed head and four texts, cut to what a note holds.
// Reading checks every length, so that a damaged note cannot do more than lose text.
#pragma once

#include <sp/collective/mpi/link.hpp>

namespace sp::detail {

struct mpi_failure {
  static constexpr int any_context = -2;

  error_info info{};        ///< as the rank that found it reports it
  int world = -1;           ///< the rank of the root that failed
  std::string why{};        ///< for the others' messages; empty means describe(info)
  int context = -1;         ///< the group where `one` and `other` see info.code themselves; all the others see `aborted`
  int one = -1, other = -1; ///< ranks of the root
  bool provisional = false; ///< a token died in an unwinding stack: the exception behind it is not known yet

  static constexpr std::size_t capacity = mpi_link::smallest_capacity - sizeof(mpi_note);

  std::size_t bytes() const { return capacity; }

  void write(std::byte* to) const {
    head const h{std::int32_t(info.code), info.rank, info.size, info.step, info.peer, world, context, one, other, provisional};
    std::memcpy(to, &h, sizeof h);
    std::size_t at = sizeof h;
    for (std::string const* text : {&info.primitive, &why, &info.problem, &info.remedy}) {
      std::size_t const room = capacity - at - sizeof(std::uint32_t) * 4, limit = text == &info.primitive ? 60 : room / 2;
      auto const n = std::uint32_t(text->size() < limit ? text->size() : limit);
      std::memcpy(to + at, &n, sizeof n);
      std::memcpy(to + at + sizeof n, text->data(), n);
      at += sizeof n + n;
    }
  }
  static mpi_failure read(std::byte const* from, std::size_t size) {
    mpi_failure f;
    head h;
    if (size < sizeof h) return f;
    std::memcpy(&h, from, sizeof h);
    bool const known = h.code >= 0 && h.code <= std::int32_t(errc::backend_error);
    f.info.code = known ? errc(h.code) : errc::backend_error;
    f.info.rank = h.rank;
    f.info.size = h.size;
    f.info.step = h.step;
    f.info.peer = h.peer;
    f.world = h.world;
    f.context = h.context;
    f.one = h.one;
    f.other = h.other;
    f.provisional = h.provisional != 0;
    std::size_t at = sizeof h;
    for (std::string* text : {&f.info.primitive, &f.why, &f.info.problem, &f.info.remedy}) {
      std::uint32_t n = 0;
      if (at + sizeof n > size) break;
      std::memcpy(&n, from + at, sizeof n);
      at += sizeof n;
      if (n > size - at) break;
      text->assign(reinterpret_cast<char const*>(from + at), n);
      at += n;
    }
    return f;
  }

private:
  struct head {
    std::int32_t code, rank, size, step, peer, world, context, one, other, provisional;
  };
};

} // namespace sp::detail
