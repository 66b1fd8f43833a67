// Draws digits, patches and rows.
// A patch is framed in its owner's colour and its pixels are shaded with it, so that both can be seen.
#include "multimodal/report/pictures.hpp"

#include "multimodal/training/traffic.hpp"
#include "trainer/report/page/svg.hpp"

namespace multimodal {
namespace {

using trainer::svg;

constexpr double pixel = 5;

/// Ink on paper; grey only where there is ink.
void draw_pixels(svg& to, picture const& p, double left, double top, double size) {
  for (index_t row = 0; row < digit_side; ++row)
    for (index_t column = 0; column < p.width(); ++column) {
      float const ink = p.pixel(row, column) / 16;
      if (ink < 0.06f) continue;
      to.rect(left + double(column) * size, top + double(row) * size, size, size,
              fmt::format("class=\"ink\" opacity=\"{:.2f}\"", ink));
    }
}

double width_of(std::vector<picture> const& pictures, double size) {
  double width = 0;
  for (picture const& p : pictures) width += double(p.width()) * size + 8;
  return width;
}

/// One question: its pictures, the text around them, the answer.
std::string draw_answer(answered const& a) {
  svg to(width_of(a.asked.pictures, pixel), digit_side * pixel + 4, "pictures of the question " + a.asked.question);
  double left = 2;
  for (picture const& p : a.asked.pictures) {
    to.rect(left, 2, double(p.width()) * pixel, digit_side * pixel, "class=\"paper\"");
    draw_pixels(to, p, left, 2, pixel);
    left += double(p.width()) * pixel + 8;
  }
  return fmt::format("<figure{}>{}<figcaption>{} <b>{}</b>{}</figcaption></figure>\n", a.right() ? "" : " class=\"wrong\"",
                     to.done(), trainer::escaped(a.asked.question), trainer::escaped(a.given),
                     a.right() ? std::string() : " instead of " + trainer::escaped(a.asked.answer));
}

/// A place in a sequence group.
struct place {
  int at, of;
  int rank() const { return at; }
  int size() const { return of; }
};

/// The pictures of the first texts of data rank `part`.
std::string draw_patches(plan const& p, step const& s, settings const& asked, int part, std::size_t most) {
  step_batches const of(s, p, place{0, p.sequence()});
  auto const owners = trainer::owners_of(of.patches.layout());
  auto const places = s.images.positions();
  std::vector<picture> shown;
  for (sample const& x : s.samples)
    for (picture const& image : x.pictures)
      if (shown.size() < most) shown.push_back(image);
  constexpr double size = 7;
  double const patch = size * double(asked.model.tower.pixels);
  svg to(std::max(60.0, width_of(shown, size)), digit_side * size + 4,
         fmt::format("owners of patches, {}, data rank {}", p.name, part));
  double left = 2;
  for (std::size_t i = 0; i < shown.size(); ++i) {
    sp::document const& frame = s.images.frames()[i];
    for (index_t row = frame.begin; row < frame.end(); ++row) {
      auto const [y, x] = places[std::size_t(row)];
      to.rect(left + double(x) * patch + 0.5, 2 + double(y) * patch + 0.5, patch - 1, patch - 1,
              fmt::format("fill=\"{}\" opacity=\"0.45\"", trainer::colour(part * p.sequence() + owners[std::size_t(row)])));
    }
    draw_pixels(to, shown[i], left, 2, size);
    left += double(shown[i].width()) * size + 8;
  }
  return to.done();
}

/// The decoder's rows of data rank `part`.
std::string draw_rows(plan const& p, step const& s, settings const& asked, int part) {
  auto const sources = sources_of(s, asked);
  std::vector<index_t> cu_seqlens{0};
  for (sample const& x : s.samples) cu_seqlens.push_back(cu_seqlens.back() + index_t(sources_of(step({x}, asked), asked).size()));
  auto const owners = with_sharding(
      p, [&](auto const& how) { return trainer::owners_of(sp::layout(sp::documents::packed(cu_seqlens), how, p.sequence())); });
  double const scale = 940 / double(sources.size());
  svg to(940, 24, fmt::format("owners of rows, {}, data rank {}", p.name, part), "class=\"band\" preserveAspectRatio=\"none\"");
  for (std::size_t i = 0; i < sources.size();) {
    std::size_t end = i;
    while (end < sources.size() && owners[end] == owners[i] && sources[end].from == sources[i].from) ++end;
    double const top = sources[i].from == sp::row_source::visual ? 0 : sources[i].from == sp::row_source::text ? 12 : 6;
    to.rect(double(i) * scale, top, double(end - i) * scale, 24 - top,
            fmt::format("fill=\"{}\"", trainer::colour(part * p.sequence() + owners[i])));
    i = end;
  }
  for (index_t at : cu_seqlens)
    if (at > 0 && at < cu_seqlens.back()) to.line(double(at) * scale, 0, double(at) * scale, 24, "class=\"boundary\"");
  return to.done();
}

} // namespace

std::string draw_answers(report const& r, std::size_t most) {
  auto const& answers = r.in_float().front().answers;
  std::string out = "<div class=\"answers\">\n";
  std::size_t shown = 0, wrong = 0;
  for (answered const& a : answers) // at most a quarter of those shown are wrong ones
    if (shown < most && (a.right() ? shown - wrong < most - most / 4 : wrong < most / 4)) {
      out += draw_answer(a);
      ++shown;
      wrong += !a.right();
    }
  return out + "</div>\n";
}

std::string draw_rank_colours(plan const& p) {
  std::string out = "<p class=\"legend\">";
  for (int r = 0; r < p.ranks(); ++r)
    out += fmt::format("<span><i style=\"background:{}\"></i>rank {}</span>", trainer::colour(r), r);
  return out + "</p>\n";
}

std::string draw_owners(report const& r, plan const& p) {
  std::string out;
  for (int d = 0; d < p.data; ++d) {
    step const s(share(r.first_step, d, p.data), r.asked);
    out +=
        "<div class=\"patches\">" + draw_patches(p, s, r.asked, d, p.data > 1 ? 5 : 10) + "</div>" + draw_rows(p, s, r.asked, d);
  }
  return out;
}

} // namespace multimodal
