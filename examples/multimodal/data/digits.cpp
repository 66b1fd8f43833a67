// Draws digits from strokes, and reads them from a csv.
// Random numbers are made from integers here: the distributions of the standard library differ from one to another.
#include "multimodal/data/digits.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>

#include <sp/core/philox.hpp>

namespace multimodal {
namespace {

struct point {
  double x, y;
};
using stroke = std::vector<point>;

/// A digit as strokes through a unit square, y downwards.
std::vector<stroke> const& glyph(int label) {
  static std::vector<stroke> const glyphs[10] = {
      {{{.5, .02}, {.24, .2}, {.2, .5}, {.26, .82}, {.5, .98}, {.74, .82}, {.8, .5}, {.76, .2}, {.5, .02}}},
      {{{.3, .25}, {.55, .02}, {.55, .98}}},
      {{{.2, .25}, {.35, .04}, {.65, .04}, {.8, .25}, {.74, .45}, {.2, .96}, {.82, .96}}},
      {{{.2, .1}, {.6, .03}, {.8, .24}, {.5, .46}, {.82, .7}, {.6, .97}, {.2, .9}}},
      {{{.66, .98}, {.66, .02}, {.2, .66}, {.88, .66}}},
      {{{.8, .04}, {.25, .04}, {.22, .45}, {.6, .4}, {.8, .65}, {.6, .96}, {.2, .9}}},
      {{{.7, .03}, {.33, .35}, {.2, .7}, {.45, .97}, {.76, .8}, {.7, .55}, {.25, .62}}},
      {{{.2, .04}, {.8, .04}, {.42, .98}}, {{.36, .5}, {.72, .5}}},
      {{{.5, .46}, {.25, .25}, {.5, .02}, {.75, .25}, {.5, .46}, {.2, .72}, {.5, .98}, {.8, .72}, {.5, .46}}},
      {{{.76, .4}, {.36, .46}, {.24, .22}, {.5, .03}, {.76, .2}, {.76, .4}, {.6, .98}}},
  };
  return glyphs[label];
}

/// Numbers from a seed and a place alone.
class dice {
public:
  dice(std::uint64_t seed, std::uint64_t number) : seed_(seed), number_(number) {}
  /// Uniform in [low, high).
  double between(double low, double high) {
    auto const bits = sp::philox({std::uint32_t(number_), std::uint32_t(number_ >> 32), count_++, 17},
                                 {std::uint32_t(seed_), std::uint32_t(seed_ >> 32)});
    return low + (high - low) * double(sp::uniform(bits[0]));
  }

private:
  std::uint64_t seed_, number_;
  std::uint32_t count_ = 0;
};

double distance(point p, point a, point b) {
  double const dx = b.x - a.x, dy = b.y - a.y, length = dx * dx + dy * dy;
  double const along = length > 0 ? std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / length, 0.0, 1.0) : 0;
  return std::hypot(p.x - a.x - along * dx, p.y - a.y - along * dy);
}

/// The numbers of a line; `words` counts cells that are none.
std::vector<double> numbers_of(std::string const& line, int& words) {
  std::vector<double> numbers;
  for (std::size_t at = 0; at <= line.size();) {
    std::size_t const comma = std::min(line.find(',', at), line.size());
    std::size_t first = line.find_first_not_of(" \t\r\"", at),
                last = line.find_last_not_of(" \t\r\"", comma == 0 ? 0 : comma - 1);
    double value = 0;
    bool read = false;
    if (first < comma && last != std::string::npos && last >= first) {
      char const *begin = line.data() + first, *end = line.data() + last + 1;
      auto const result = std::from_chars(begin, end, value);
      read = result.ec == std::errc() && result.ptr == end;
    }
    if (read)
      numbers.push_back(value);
    else
      ++words;
    at = comma + 1;
  }
  return numbers;
}

digit_picture picture_of(std::vector<double> const& numbers, std::string const& where) {
  digit_picture d;
  if (numbers.size() != d.pixels.size() + 1)
    throw bad_pictures(where + " has " + std::to_string(numbers.size()) + " numbers, not 65: 64 pixels and the digit");
  for (std::size_t i = 0; i < d.pixels.size(); ++i) {
    if (!(numbers[i] >= 0 && numbers[i] <= 16))
      throw bad_pictures(where + ": pixel " + std::to_string(i) + " is " + std::to_string(numbers[i]) + ", not 0 to 16");
    d.pixels[i] = float(numbers[i]);
  }
  double const label = numbers.back();
  if (!(label >= 0 && label <= 9) || label != std::floor(label))
    throw bad_pictures(where + ": the digit is " + std::to_string(label) + ", not 0 to 9");
  d.label = int(label);
  return d;
}

} // namespace

digit_picture draw_digit(int label, std::uint64_t seed, std::uint64_t number) {
  dice random(seed, number);
  digit_picture d;
  d.label = label;
  double const width = random.between(5, 6.4), height = random.between(6.2, 7.4), slant = random.between(-0.16, 0.2);
  double const left = (8 - width) / 2 + random.between(-0.7, 0.7), top = (8 - height) / 2 + random.between(-0.4, 0.4);
  double const thickness = random.between(0.35, 0.7), ink = random.between(13, 16);
  auto place = [&](point p) { return point{left + width * (p.x + slant * (0.5 - p.y)), top + height * p.y}; };
  for (index_t i = 0; i < digit_side * digit_side; ++i) {
    point const centre{double(i % digit_side) + 0.5, double(i / digit_side) + 0.5};
    double nearest = 100;
    for (stroke const& s : glyph(label))
      for (std::size_t k = 1; k < s.size(); ++k) nearest = std::min(nearest, distance(centre, place(s[k - 1]), place(s[k])));
    double const covered = std::clamp(1.25 - (nearest - thickness) / 0.8, 0.0, 1.0);
    d.pixels[std::size_t(i)] = float(std::clamp(ink * covered + random.between(-1.2, 1.2), 0.0, 16.0));
  }
  return d;
}

digit_sets drawn_digits(std::uint64_t seed, int each) {
  digit_sets sets;
  sets.source = "drawn here";
  for (int label = 0; label < 10; ++label)
    for (int i = 0; i < each + each / 5; ++i)
      (i < each ? sets.train : sets.held_back).push_back(draw_digit(label, seed, std::uint64_t(i) * 10 + std::uint64_t(label)));
  return sets;
}

digit_sets read_digits(std::filesystem::path const& csv) {
  std::ifstream in(csv);
  if (!in || std::filesystem::is_directory(csv)) throw bad_pictures("cannot read '" + csv.string() + "'");
  if (in.peek() == 0x1f) // gzip begins so, and scikit-learn's package has the file in this form
    throw bad_pictures("'" + csv.string() + "' is compressed: unpack it with gunzip first");
  digit_sets sets;
  sets.source = csv.filename().string();
  std::array<int, 10> met{};
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    int words = 0;
    std::vector<double> const numbers = numbers_of(line, words);
    if (number == 1 && words > 0 && numbers.size() < 3) continue; // a heading; scikit-learn's begins with two numbers
    std::string const where = csv.string() + ":" + std::to_string(number);
    if (words) throw bad_pictures(where + ": " + std::to_string(words) + " of its cells are not numbers");
    if (numbers.size() == 2 && number == 1) continue;
    digit_picture const d = picture_of(numbers, where);
    (met[std::size_t(d.label)]++ % 5 == 4 ? sets.held_back : sets.train).push_back(d);
  }
  for (std::size_t label = 0; label < 10; ++label)
    if (met[label] < 5)
      throw bad_pictures(csv.string() + " has " + std::to_string(met[label]) + " pictures of the digit " + std::to_string(label) +
                         "; at least 5 are needed");
  return sets;
}

} // namespace multimodal
