// A small writer of inline SVG: shapes and text, with coordinates rounded so that pages stay small.
// Colours are given per rank or per curve, from one palette that people with colour-blindness can tell apart.
#pragma once

#include <algorithm>
#include <string>

#include <fmt/format.h>

namespace trainer {

inline char const* colour(int i) {
  constexpr char const* palette[] = {"#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#666666", "#e69f00"};
  return palette[i % 8];
}

inline std::string escaped(std::string const& s) {
  std::string out;
  for (char c : s) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

class svg {
public:
  svg(double width, double height, std::string const& label) : width_(width) {
    body_ = fmt::format("<svg viewBox=\"0 0 {:g} {:g}\" role=\"img\" aria-label=\"{}\" style=\"max-width:{:g}px\">", width,
                        height, escaped(label), width);
  }

  void rect(double x, double y, double w, double h, std::string const& attributes) {
    body_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" {}/>", number(x), number(y), number(w), number(h),
                         attributes);
  }
  void line(double x1, double y1, double x2, double y2, std::string const& attributes) {
    body_ += fmt::format("<path d=\"M{} {}L{} {}\" {}/>", number(x1), number(y1), number(x2), number(y2), attributes);
  }
  void path(std::string const& d, std::string const& attributes) { body_ += fmt::format("<path d=\"{}\" {}/>", d, attributes); }
  void text(double x, double y, std::string const& what, std::string const& attributes = "") {
    body_ += fmt::format("<text x=\"{}\" y=\"{}\" {}>{}</text>", number(x), number(y), attributes, escaped(what));
  }
  void raw(std::string const& s) { body_ += s; }

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
