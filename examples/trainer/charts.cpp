// Charts of one value per step and curve, with axes that fit the values.
// Curves that lie on each other stay visible: earlier ones are drawn thicker, later ones on top and thinner.
#include <cmath>

#include "pictures.hpp"
#include "svg.hpp"

namespace trainer {
namespace {

constexpr double width = 940, height = 300, left = 58, right = 12, top = 12, bottom = 34;

/// The values' range, and where a value stands.
struct axis {
  double low = 0, high = 1;
  bool logarithmic = false;

  static axis fitting(std::vector<curve> const& curves, bool logarithmic) {
    axis a{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(), logarithmic};
    for (curve const& c : curves)
      for (double v : c.values)
        if (!logarithmic || v > 0) {
          a.low = std::min(a.low, a.mapped(v));
          a.high = std::max(a.high, a.mapped(v));
        }
    if (!(a.low <= a.high)) a.low = logarithmic ? -16 : 0, a.high = logarithmic ? -4 : 1; // nothing to show
    double unit = logarithmic ? 1 : a.step();
    a.low = std::floor(a.low / unit) * unit;
    a.high = std::max(std::ceil(a.high / unit) * unit, a.low + unit);
    return a;
  }
  double mapped(double v) const { return logarithmic ? std::log10(v) : v; }
  double y(double m) const { return top + (high - m) / (high - low) * (height - top - bottom); }
  /// Distance of grid lines: 1, 2 or 5 times a power of ten; about six of them.
  double step() const {
    if (logarithmic) return std::max(1.0, std::ceil((high - low) / 6));
    double rough = std::max(high - low, 1e-9) / 6, power = std::pow(10, std::floor(std::log10(rough)));
    for (double m : {1.0, 2.0, 5.0})
      if (rough <= m * power) return m * power;
    return 10 * power;
  }
};

void draw_grid(svg& picture, axis const& a, std::size_t steps) {
  for (double m = a.low; m <= a.high + 1e-9; m += a.step()) {
    picture.line(left, a.y(m), width - right, a.y(m), "class=\"grid\"");
    picture.text(left - 8, a.y(m) + 4, a.logarithmic ? fmt::format("1e{:.0f}", m) : fmt::format("{:.3g}", m),
                 "text-anchor=\"end\"");
  }
  std::size_t every = std::max<std::size_t>(1, (steps + 9) / 10);
  for (std::size_t s = 0; s < steps; s += every) {
    double x = left + double(s) / double(std::max<std::size_t>(steps - 1, 1)) * (width - left - right);
    picture.text(x, height - bottom + 18, std::to_string(s), "text-anchor=\"middle\"");
  }
  picture.text((left + width - right) / 2, height - 3, "step", "text-anchor=\"middle\"");
}

std::string path_of(curve const& c, axis const& a) {
  std::string d;
  double last = double(std::max<std::size_t>(c.values.size() - 1, 1));
  for (std::size_t s = 0; s < c.values.size(); ++s) {
    if (a.logarithmic && !(c.values[s] > 0)) continue; // equal to the last bit: nothing to draw
    double x = left + double(s) / last * (width - left - right);
    d += fmt::format("{}{} {}", d.empty() ? "M" : "L", svg::number(x), svg::number(a.y(a.mapped(c.values[s]))));
  }
  return d;
}

} // namespace

std::string draw_curves(std::vector<curve> const& curves, std::string const& label, bool logarithmic) {
  axis a = axis::fitting(curves, logarithmic);
  svg picture(width, height, label);
  draw_grid(picture, a, curves.empty() ? 0 : curves[0].values.size());
  std::string names;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    double thick = logarithmic ? 1.6 : 1.2 + 1.7 * double(curves.size() - 1 - i);
    picture.path(path_of(curves[i], a),
                 fmt::format("fill=\"none\" stroke-linejoin=\"round\" stroke=\"{}\" stroke-width=\"{:.1f}\"",
                             colour(curves[i].colour), thick));
    names += fmt::format("<span><i style=\"background:{}\"></i>{}</span>", colour(curves[i].colour), escaped(curves[i].name));
  }
  return picture.done() + "<p class=\"legend\">" + names + "</p>";
}

} // namespace trainer
