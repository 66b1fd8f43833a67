// Texts of diagnosis: what users and libraries put into errors may hold any bytes, and what is written must stay readable.
// A text is never cut within a character of UTF-8; bytes that are no UTF-8 are written as codes.
#pragma once

#include <array>
#include <cstdio>
#include <string>
#include <string_view>

namespace sp::detail {

/// Bytes of the character of UTF-8 that a text begins with; 0 if it begins with none.
inline std::size_t character_bytes(std::string_view text) noexcept {
  auto byte = [&](std::size_t i) { return i < text.size() ? unsigned(static_cast<unsigned char>(text[i])) : 0u; };
  unsigned const first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  // neither longer than need be, nor a surrogate, nor past the last character
  unsigned const least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  unsigned const most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (second < least || second > most) return 0;
  std::size_t const n = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  for (std::size_t i = 2; i < n; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  return n;
}

/// A text that was cut somewhere, without the part of a character that it may end with.
inline std::string_view whole_characters(std::string_view text) noexcept {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    unsigned const byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0) == 0x80) continue; // not the first of its character
    std::size_t const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return needed > back ? text.substr(0, text.size() - back) : text;
  }
  return text;
}

/// A text as JSON writes it. A byte that is no UTF-8 becomes \xff in the text itself.
inline std::string json_text(std::string_view text) {
  std::string out = "\"";
  auto code = [&](char const* format, char c) {
    std::array<char, 8> digits{};
    std::snprintf(digits.data(), digits.size(), format, unsigned(static_cast<unsigned char>(c)));
    out += digits.data();
  };
  while (!text.empty()) {
    std::size_t const n = character_bytes(text);
    char const c = text.front();
    if (n == 0)
      code("\\\\x%02x", c);
    else if (c == '"' || c == '\\')
      (out += '\\') += c;
    else if (static_cast<unsigned char>(c) < 0x20)
      code("\\u%04x", c);
    else
      out += text.substr(0, n);
    text.remove_prefix(n ? n : 1);
  }
  return out += '"';
}

} // namespace sp::detail
