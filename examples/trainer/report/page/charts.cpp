// Draws charts small enough that their text can be read on a phone without zooming.
// Every value has its mark: a dot on the axis, or one in the row "exactly 0"; what is not a number is counted in the legend.
#include "report/page/charts.hpp"

#include <cmath>
#include <limits>

#include "report/page/svg.hpp"
#include "training/compare.hpp"

namespace trainer {
namespace {

constexpr double width = 360, left = 54, right = 10, top = 14, plot_height = 176, zero_row = 8;

/// Steps to the right, values upwards.
struct frame {
  std::size_t steps;
  double low, high;

  double x(std::size_t step) const {
    double along = steps > 1 ? double(step) / double(steps - 1) : 0.5;
    return left + 8 + along * (width - left - right - 16);
  }
  double y(double value) const { return top + (high - value) / (high - low) * plot_height; }

  void draw_value(svg& picture, double value, std::string const& label) const {
    picture.line(left, y(value), width - right, y(value), "class=\"grid\"");
    picture.text(left - 6, y(value) + 4, label, "text-anchor=\"end\"");
  }
  void draw_steps(svg& picture, double under) const {
    std::size_t every = std::max<std::size_t>(1, (steps + 5) / 6);
    for (std::size_t s = 0; s < steps; s += every)
      picture.text(x(s), under + 16, std::to_string(s + 1), "text-anchor=\"middle\"");
    picture.text((left + width - right) / 2, under + 33, "step", "text-anchor=\"middle\"");
  }
};

/// Distance of grid lines: 1, 2 or 5 times a power of ten; about six of them.
double grid_distance(double range) {
  double rough = std::max(range, 1e-9) / 6, power = std::pow(10, std::floor(std::log10(rough)));
  for (double m : {1.0, 2.0, 5.0})
    if (rough <= m * power) return m * power;
  return 10 * power;
}

/// A polyline with a dot at each point; a gap where there is no value.
class marked_line {
public:
  void add(double x, double y) {
    std::string at = svg::number(x) + " " + svg::number(y);
    line_ += (pen_down_ ? "L" : "M") + at;
    dots_ += "M" + at + "h0";
    pen_down_ = true;
  }
  void gap() { pen_down_ = false; }
  void draw(svg& picture, int number, double dot) const {
    std::string stroke = fmt::format("fill=\"none\" stroke=\"{}\" ", colour(number));
    picture.path(line_, stroke + "stroke-width=\"1.2\" stroke-linejoin=\"round\" opacity=\"0.6\"");
    draw_dots(picture, dots_, "dots", number, dot);
  }
  static void draw_dots(svg& picture, std::string const& dots, char const* name, int number, double size) {
    picture.path(dots, fmt::format("class=\"{}\" fill=\"none\" stroke=\"{}\" stroke-linecap=\"round\" stroke-width=\"{:g}\"",
                                   name, colour(number), size));
  }

private:
  std::string line_, dots_;
  bool pen_down_ = false;
};

/// Marks that do not melt into each other: small where there are many.
double dot_size(std::size_t steps) { return steps <= 40 ? 5 : 2.5; }

/// Powers of ten around all values above zero and the bound.
frame around(std::vector<series> const& runs, double allowed) {
  double bound = std::log10(allowed);
  frame f{runs.front().values.size(), bound - 3, bound};
  for (series const& run : runs)
    for (double v : run.values)
      if (v > 0 && std::isfinite(v)) {
        f.low = std::min(f.low, std::floor(std::log10(v)));
        f.high = std::max(f.high, std::ceil(std::log10(v)));
      }
  f.high += 0.4; // room for the bound's name
  return f;
}

void draw_powers_of_ten(svg& picture, frame const& f) {
  double every = std::ceil((f.high - f.low) / 7);
  for (double power = f.low; power <= f.high; power += every) f.draw_value(picture, power, fmt::format("1e{:.0f}", power));
}

void draw_bound(svg& picture, frame const& f, double allowed) {
  double y = f.y(std::log10(allowed));
  picture.line(left, y, width - right, y, "class=\"bound\"");
  picture.text(width - right, y - 5, "allowed: " + power_of_ten(allowed), "text-anchor=\"end\" class=\"bound-name\"");
}

/// A row for each run, so that no mark hides another one. Returns where the rows end.
double draw_zero_rows(svg& picture, frame const& f, std::vector<series> const& runs) {
  double begin = top + plot_height + 10, height = zero_row * double(runs.size()) + 4;
  picture.rect(left, begin, width - left - right, height, "class=\"ground\"");
  picture.text(left - 6, begin + height / 2 - 3, "exactly", "text-anchor=\"end\"");
  picture.text(left - 6, begin + height / 2 + 10, "0", "text-anchor=\"end\"");
  for (std::size_t i = 0; i < runs.size(); ++i) {
    std::string dots;
    for (std::size_t s = 0; s < f.steps; ++s)
      if (runs[i].values[s] == 0)
        dots += fmt::format("M{} {}h0", svg::number(f.x(s)), svg::number(begin + 2 + zero_row * (double(i) + 0.5)));
    marked_line::draw_dots(picture, dots, "zeros", runs[i].colour, dot_size(f.steps));
  }
  return begin + height;
}

void draw_run(svg& picture, frame const& f, series const& run) {
  marked_line line;
  for (std::size_t s = 0; s < f.steps; ++s) {
    double v = run.values[s];
    if (v > 0 && std::isfinite(v))
      line.add(f.x(s), f.y(std::log10(v)));
    else
      line.gap();
  }
  line.draw(picture, run.colour, dot_size(f.steps));
}

/// "largest 2.1e-07; exactly 0 in 3 of 32 steps"
std::string summary_of(series const& run) {
  double worst = 0;
  std::size_t zeros = 0, no_numbers = 0;
  for (double v : run.values) {
    worst = larger(worst, v);
    zeros += v == 0;
    no_numbers += !std::isfinite(v);
  }
  if (zeros == run.values.size()) return "exactly 0 in all steps";
  std::string out = "largest " + scientific(worst);
  out += zeros ? fmt::format("; exactly 0 in {} of {} steps", zeros, run.values.size()) : "; never exactly 0";
  return no_numbers ? out + fmt::format("; no number in {}", no_numbers) : out;
}

} // namespace

std::string draw_loss(series const& loss, std::string const& label) {
  frame f{loss.values.size(), 0, 1};
  auto [low, high] = std::minmax_element(loss.values.begin(), loss.values.end());
  double distance = grid_distance(std::max(*high - *low, 0.02 * *high));
  f.low = std::floor(*low / distance) * distance;
  f.high = std::max(std::ceil(*high / distance) * distance, f.low + distance);

  svg picture(width, top + plot_height + 40, label);
  for (double value = f.low; value <= f.high + distance / 2; value += distance)
    f.draw_value(picture, value, fmt::format("{:.3g}", value));
  f.draw_steps(picture, top + plot_height);
  marked_line line;
  for (std::size_t s = 0; s < f.steps; ++s) line.add(f.x(s), f.y(loss.values[s]));
  line.draw(picture, loss.colour, dot_size(f.steps));
  return picture.done();
}

std::string draw_differences(std::vector<series> const& runs, double allowed, std::string const& type) {
  if (runs.empty()) return "";
  frame f = around(runs, allowed);
  svg picture(width, top + plot_height + 54 + zero_row * double(runs.size()), "largest difference from one rank, " + type,
              "class=\"difference\" data-type=\"" + type + "\"");
  draw_powers_of_ten(picture, f);
  f.draw_steps(picture, draw_zero_rows(picture, f, runs));
  for (series const& run : runs) draw_run(picture, f, run);
  draw_bound(picture, f, allowed);
  std::string legend;
  for (series const& run : runs)
    legend += fmt::format("<li><i style=\"background:{}\"></i><b>{}</b>: {}</li>\n", colour(run.colour), escaped(run.name),
                          summary_of(run));
  return picture.done() + "<ul class=\"legend\">\n" + legend + "</ul>\n";
}

} // namespace trainer
