// Which operation of a group a rank is in: an exchange, a barrier, a publication or its release, a split, by the caller's name.
// Ranks in different operations would read each other's data too early or too late, so these are compared.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sp::detail {

struct operation_id {
  enum kind_type : std::int32_t { none, join, barrier, split, publish, release, exchange };

  kind_type kind = none;
  char const* primitive = ""; ///< as the caller named the operation
  std::int64_t number = 0;    ///< of the publication

  bool matches(operation_id const& o) const {
    return kind == o.kind && number == o.number && std::string_view(primitive) == o.primitive;
  }
  std::string text() const { return text(kind, primitive, number); }
  static std::string text(kind_type kind, std::string_view primitive, std::int64_t number) {
    std::string s(primitive);
    if (kind == publish) return s + " (publish " + std::to_string(number) + ")";
    if (kind == release) return s + " (release of publish " + std::to_string(number) + ")";
    if (kind == exchange) return s + " (exchange)";
    return s;
  }
};

} // namespace sp::detail
