// Draws the measurements: throughput, speed-up, where the time of the largest step goes, bytes and memory, over patches and tokens.
// One file that a browser opens by itself; what it does not show stands below.
#include <cmath>

#include <fmt/format.h>

#include "multimodal/report.hpp"
#include "report/page/svg.hpp"

namespace multimodal {
namespace {

using trainer::svg;

constexpr double plot_width = 330, plot_height = 190, left = 62, gap = 60;
constexpr int plan_count = int(std::size(plans));

/// One panel: values over sizes, both logarithmic, or values alone linear from 0.
class panel {
public:
  panel(svg& to, std::vector<measured> const& all, double x, double y, std::string const& title)
      : to_(to), all_(all), x_(x), y_(y) {
    to_.text(x_, y_ - 10, title, "font-weight=\"bold\"");
    first_ = std::log2(double(all.front().tokens)), last_ = std::log2(double(all.back().tokens));
    for (measured const& m : all)
      if (m.of.ranks == 1) to_.text(at(m), y_ + plot_height + 15, std::to_string(m.tokens), "text-anchor=\"middle\"");
  }
  template <class Value>
  void logarithmic(Value value) {
    double low = INFINITY, high = 0;
    for (measured const& m : all_)
      if (double const v = value(m); v > 0) low = std::min(low, v), high = std::max(high, v);
    double const from = std::floor(std::log10(low)), to = std::max(from + 1, std::ceil(std::log10(high)));
    for (double p = from; p <= to; ++p)
      grid((p - from) / (to - from), p >= 6 ? fmt::format("{:g}M", std::pow(10, p - 6)) : fmt::format("{:g}", std::pow(10, p)));
    lines(value, [&](double v) { return v > 0 ? (std::log10(v) - from) / (to - from) : NAN; });
  }
  template <class Value>
  void linear(Value value, double high) {
    for (double v = 0; v <= high; v += 0.5) grid(v / high, fmt::format("{:g}", v));
    lines(value, [&](double v) { return v / high; });
  }

private:
  double at(measured const& m) const {
    double const along = last_ > first_ ? (std::log2(double(m.tokens)) - first_) / (last_ - first_) : 0.5;
    return x_ + 12 + along * (plot_width - 24);
  }
  void grid(double up, std::string const& label) {
    double const y = y_ + plot_height * (1 - up);
    to_.line(x_, y, x_ + plot_width, y, "stroke=\"#ddd\"");
    to_.text(x_ - 6, y + 4, label, "text-anchor=\"end\"");
  }
  template <class Value, class Place>
  void lines(Value value, Place place) {
    for (int p = 0; p < plan_count; ++p) {
      std::string line, dots;
      for (measured const& m : all_) {
        double const up = m.of.name == plans[p].name ? place(value(m)) : NAN;
        if (!std::isfinite(up)) continue;
        std::string const here = svg::number(at(m)) + " " + svg::number(y_ + plot_height * (1 - up));
        line += (line.empty() ? "M" : "L") + here;
        dots += "M" + here + "h0";
      }
      std::string const stroke = fmt::format("fill=\"none\" stroke=\"{}\" ", trainer::colour(p));
      to_.path(line, stroke + "stroke-width=\"1.4\"");
      to_.path(dots, stroke + "stroke-width=\"6\" stroke-linecap=\"round\"");
    }
  }

  svg& to_;
  std::vector<measured> const& all_;
  double x_, y_, first_ = 0, last_ = 1;
};

/// Colours of stages: one more than the palette has.
std::string fill(int s) { return fmt::format("fill=\"{}\"", s == rows_between ? "#333333" : trainer::colour(s)); }

/// A bar for each plan of the largest size, as long as its step, in pieces by stage.
void draw_stages(svg& to, std::vector<measured> const& all, double x, double y) {
  index_t const largest = all.back().tokens;
  to.text(x, y - 10, fmt::format("Seconds of a step of {} patches and tokens", largest), "font-weight=\"bold\"");
  double longest = 0;
  for (measured const& m : all)
    if (m.tokens == largest) longest = std::max(longest, m.step_seconds());
  double at_y = y + 6;
  for (measured const& m : all) {
    if (m.tokens != largest) continue;
    double at_x = x;
    for (int s = 0; s < stages; ++s) {
      double const w = m.seconds[std::size_t(s)] / longest * (plot_width - 50);
      to.rect(at_x, at_y, w, 18, fill(s));
      at_x += w;
    }
    to.text(at_x + 5, at_y + 13, fmt::format("{:.3g}", m.step_seconds()));
    to.text(x - 6, at_y + 13, m.of.name, "text-anchor=\"end\"");
    at_y += 26;
  }
  for (int s = 0; s < stages; ++s) {
    double const lx = x + (s % 3) * 112, ly = at_y + 12 + (s / 3) * 17;
    to.rect(lx, ly - 9, 9, 9, fill(s));
    to.text(lx + 13, ly, stage_names[s]);
  }
}

/// Lines of at most `most` letters.
std::vector<std::string> wrapped(std::vector<std::string> const& sentences, std::size_t most) {
  std::vector<std::string> lines;
  for (std::string rest : sentences) {
    while (rest.size() > most) {
      std::size_t const space = rest.rfind(' ', most);
      lines.push_back(rest.substr(0, space));
      rest = rest.substr(space + 1);
    }
    lines.push_back(rest);
  }
  return lines;
}

/// Of fusion and deepstack, which no bar shows.
double moving_seconds(measured const& m) {
  return m.seconds[fusion_forward] + m.seconds[deepstack_forward] + m.seconds[deepstack_backward] + m.seconds[fusion_backward];
}

} // namespace

std::string picture(std::vector<measured> const& all, machine const& on) {
  double const right = left + plot_width + gap + 24, second = 56 + plot_height + gap, third = second + plot_height + gap;
  auto const notes = wrapped(limits(on), 145);
  double const height = third + plot_height + 40 + 16 * double(notes.size());
  svg to(right + plot_width + 24, height, "attention of a vision-language model over 1, 2 and 4 ranks",
         "xmlns=\"http://www.w3.org/2000/svg\" font-family=\"sans-serif\" font-size=\"11\"");
  to.rect(0, 0, right + plot_width + 24, height, "fill=\"white\"");
  for (int p = 0; p < plan_count; ++p) {
    to.rect(left + p * 100, 10, 10, 10, fmt::format("fill=\"{}\"", trainer::colour(p)));
    to.text(left + p * 100 + 15, 19, plans[p].name);
  }
  auto bytes = [](measured const& m) {
    double n = 0;
    for (index_t b : m.bytes) n += double(b);
    return n;
  };
  panel(to, all, left, 56, "Patches and tokens in a second").logarithmic(throughput);
  panel(to, all, right, 56, "Speed-up over one rank")
      .linear([&](measured const& m) { return alone(all, m).step_seconds() / m.step_seconds(); },
              std::max(2.5, double(std::min(on.processors, 4)) + 0.5));
  panel(to, all, left, second, "Bytes sent in a step: counted, and equal to the closed form").logarithmic(bytes);
  panel(to, all, right, second, "Peak MiB of a rank: its tensors and the calls").logarithmic([](measured const& m) {
    return double(m.tensor_bytes + m.call_bytes) / (1 << 20);
  });
  draw_stages(to, all, left, third);
  panel(to, all, right, third, "Milliseconds of fusion and deepstack").logarithmic([](measured const& m) {
    return 1e3 * moving_seconds(m);
  });
  double y = third + plot_height + 26;
  for (std::string const& n : notes) to.text(left - 40, y += 16, n, "fill=\"#555\"");
  return to.done();
}

} // namespace multimodal
