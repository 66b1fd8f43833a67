// A small writer of inline SVG and of the numbers beside it; coordinates are rounded so that pages stay small.
// Colours are given per rank or per strategy, from one palette that people with colour-blindness can tell apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include <fmt/format.h>

namespace trainer {

inline constexpr int grey = 6; ///< of what the others are measured by
inline char const* colour(int i) {
  constexpr char const* palette[] = {"#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#808080", "#e69f00"};
  return palette[i % 8];
}

inline std::string escaped(std::string const& s) {
  std::string out;
  for (char c : s) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

/// A difference: zero is said in words, because it is another thing than a small number.
inline std::string scientific(double v) { return v == 0 ? "exactly 0" : fmt::format("{:.1e}", v); }
/// "1e-4" for 0.0001.
inline std::string power_of_ten(double v) { return fmt::format("1e{:.0f}", std::log10(v)); }

/// "1 step", "4 steps".
inline std::string counted(std::size_t n, std::string const& what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); }

/// One picture. The page decides how wide it is shown; text and lines scale with it.
class svg {
public:
  svg(double width, double height, std::string const& label, std::string const& attributes = "") : width_(width) {
    body_ = fmt::format("<svg viewBox=\"0 0 {:g} {:g}\" role=\"img\" aria-label=\"{}\" {}>", width, height, escaped(label),
                        attributes);
  }

  void rect(double x, double y, double w, double h, std::string const& attributes) {
    body_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" {}/>", number(x), number(y), number(w), number(h),
                         attributes);
  }
  void line(double x1, double y1, double x2, double y2, std::string const& attributes) {
    body_ += fmt::format("<path d=\"M{} {}L{} {}\" {}/>", number(x1), number(y1), number(x2), number(y2), attributes);
  }
  void path(std::string const& d, std::string const& attributes) {
    if (!d.empty()) body_ += fmt::format("<path d=\"{}\" {}/>", d, attributes);
  }
  void text(double x, double y, std::string const& what, std::string const& attributes = "") {
    body_ += fmt::format("<text x=\"{}\" y=\"{}\" {}>{}</text>", number(x), number(y), attributes, escaped(what));
  }

  double width() const { return width_; }
  std::string done() const { return body_ + "</svg>\n"; }

  static std::string number(double v) {
    std::string s = fmt::format("{:.1f}", v);
    return s.ends_with(".0") ? s.substr(0, s.size() - 2) : s;
  }

private:
  double width_;
  std::string body_;
};

} // namespace trainer
