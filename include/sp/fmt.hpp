// Formatters of sp's types for {fmt}: runs, documents, slices, blocks, heads, loss results, error codes, shapes of views.
// Only this header needs fmt; everything prints as one line that names its numbers.
#pragma once

#include <fmt/format.h>

#include <sp/geometry/block.hpp>
#include <sp/geometry/heads.hpp>
#include <sp/loss/gather_loss.hpp>

namespace sp::detail {

/// A type that prints through a string made by `text`.
struct as_text {
  constexpr auto parse(fmt::format_parse_context& c) { return c.begin(); }
  static auto write(fmt::format_context& c, std::string const& s) { return fmt::format_to(c.out(), "{}", s); }
};

} // namespace sp::detail

template <>
struct fmt::formatter<sp::run> : sp::detail::as_text {
  auto format(sp::run const& r, fmt::format_context& c) const {
    return write(c, fmt::format("run {{begin {}, count {}, stride {}}}", r.begin, r.count, r.stride));
  }
};
template <>
struct fmt::formatter<sp::document> : sp::detail::as_text {
  auto format(sp::document const& d, fmt::format_context& c) const {
    return write(c, fmt::format("document {{begin {}, count {}, room {}, id {}}}", d.begin, d.count, d.room, d.id));
  }
};
template <>
struct fmt::formatter<sp::slice> : sp::detail::as_text {
  auto format(sp::slice const& s, fmt::format_context& c) const { return write(c, "slice " + sp::detail::describe(s)); }
};
template <>
struct fmt::formatter<sp::block> : sp::detail::as_text {
  auto format(sp::block const& b, fmt::format_context& c) const { return write(c, sp::detail::describe(b)); }
};
template <>
struct fmt::formatter<sp::heads> : sp::detail::as_text {
  auto format(sp::heads const& h, fmt::format_context& c) const {
    return write(c, fmt::format("heads {{q [{}, {}), kv [{}, {}), q per kv {}}}", h.q_begin, h.q_end(), h.kv_begin, h.kv_end(),
                                h.q_per_kv));
  }
};
template <>
struct fmt::formatter<sp::loss_result> : sp::detail::as_text {
  auto format(sp::loss_result const& r, fmt::format_context& c) const {
    return write(c, fmt::format("loss {} over {} tokens", r.loss, r.num_tokens));
  }
};
template <>
struct fmt::formatter<sp::errc> : sp::detail::as_text {
  auto format(sp::errc e, fmt::format_context& c) const { return write(c, sp::name(e)); }
};
/// The shape of a tensor, not its values.
template <class T, int Rank, class M>
struct fmt::formatter<sp::view<T, Rank, M>> : sp::detail::as_text {
  auto format(sp::view<T, Rank, M> const& v, fmt::format_context& c) const { return write(c, sp::shape(v)); }
};
