// Draws bands of owners and maps of computed pairs.
// A map has one cell per pair of tokens; what a rank computes in a step comes from work.hpp.
#include "report/page/ownership.hpp"

#include <map>

#include "report/page/svg.hpp"
#include "report/work.hpp"

namespace trainer {
namespace {

int steps_of(plan const& p) { return p.schedule == sp::schedule::rotate ? p.ring : 1; }
int step_number(plan const& p, int step) { return p.schedule == sp::schedule::rotate ? step : all_keys; }

/// The same documents with about `tokens` tokens in all.
step_text miniature(step_text const& step, index_t tokens) {
  step_text small;
  for (index_t d = 0; d < step.documents(); ++d) {
    index_t n = step.cu_seqlens[std::size_t(d) + 1] - step.cu_seqlens[std::size_t(d)];
    small.tokens.resize(small.tokens.size() + std::size_t(std::max<index_t>(3, (n * tokens + step.size() / 2) / step.size())));
    small.cu_seqlens.push_back(small.size());
  }
  return small;
}

/// Cells of a map, one path per colour: row by row, neighbours joined.
class cell_paths {
public:
  void add(int colour_number, index_t column, index_t row, index_t columns, double cell) {
    std::string w = svg::number(double(columns) * cell), h = svg::number(cell);
    paths_[colour_number] +=
        fmt::format("M{} {}h{}v{}h-{}z", svg::number(double(column) * cell), svg::number(double(row) * cell), w, h, w);
  }
  void draw(svg& picture) const {
    for (auto const& [c, d] : paths_) picture.path(d, fmt::format("fill=\"{}\"", colour(c)));
  }

private:
  std::map<int, std::string> paths_;
};

void add_block(cell_paths& cells, int colour_number, sp::block const& b, index_t begin, double cell) {
  for (index_t i = 0; i < b.rows; ++i) {
    sp::interval seen = b.keys_seen_by(i);
    index_t row = begin + b.q_pos + b.q_stride * i, first = begin + b.k_pos + b.k_stride * seen.first;
    if (b.k_stride == 1) {
      if (seen.count) cells.add(colour_number, first, row, seen.count, cell);
    } else {
      for (index_t j = 0; j < seen.count; ++j) cells.add(colour_number, first + j * b.k_stride, row, 1, cell);
    }
  }
}

/// The squares of the documents and, light, what causal attention may see of them.
void draw_documents(svg& picture, step_text const& small, double cell) {
  for (index_t d = 0; d < small.documents(); ++d) {
    double a = double(small.cu_seqlens[std::size_t(d)]) * cell, z = double(small.cu_seqlens[std::size_t(d) + 1]) * cell;
    picture.path(fmt::format("M{0} {0}L{0} {1}L{1} {1}z", svg::number(a), svg::number(z)), "class=\"causal\"");
  }
}
void draw_document_frames(svg& picture, step_text const& small, double cell) {
  for (index_t d = 0; d < small.documents(); ++d) {
    double a = double(small.cu_seqlens[std::size_t(d)]) * cell, z = double(small.cu_seqlens[std::size_t(d) + 1]) * cell;
    picture.rect(a, a, z - a, z - a, "class=\"frame\"");
  }
}

constexpr double narrowest = 8; ///< of a stripe, in a band of band_width: what is finer is drawn that wide
constexpr double band_width = 940, band_height = 24;

/// A band of `count` positions that is being drawn.
struct band {
  svg picture;
  double scale;

  band(index_t count, std::string const& label)
      : picture(band_width, band_height, label, "class=\"band\" preserveAspectRatio=\"none\""),
        scale(band_width / double(count)) {}

  void fill(double begin, double end, int rank) {
    picture.rect(begin, 0, end - begin, band_height, fmt::format("fill=\"{}\"", colour(rank)));
  }
  /// Stripes too fine to be seen: the ranks' colours in turn.
  void fill_in_turn(double begin, double end, int first_rank, int ranks) {
    int i = 0;
    for (double at = begin; at < end; at += narrowest, ++i) fill(at, std::min(at + narrowest, end), first_rank + i % ranks);
  }
  void mark(index_t boundary) {
    double x = double(boundary) * scale;
    picture.line(x, 0, x, band_height, "class=\"boundary\"");
  }
};

void draw_run(band& b, group_layout const& group, int rank, sp::run const& run, index_t count) {
  index_t begin = group.begin + run.begin, end = std::min(group.begin + run.end(), count);
  if (begin >= count) return;
  double x = double(begin) * b.scale, x_end = double(end) * b.scale;
  if (run.stride == 1)
    b.fill(x, x_end, group.first_rank + rank);
  else if (b.scale >= narrowest)
    for (index_t at = begin; at < end; at += run.stride)
      b.fill(double(at) * b.scale, double(at + 1) * b.scale, group.first_rank + rank);
  else if (rank == 0) // for all ranks at once
    b.fill_in_turn(x, x_end, group.first_rank, group.who.parts());
}

/// Positions [0, count) of the step.
std::string draw_band(plan const& p, step_text const& step, index_t count) {
  band b(count, fmt::format("owners of {} tokens, {}", count, p.name));
  for (group_layout const& group : layouts_of(p, step))
    for (int rank = 0; rank < group.who.parts(); ++rank)
      for (sp::run const& run : group.who.runs(rank)) draw_run(b, group, rank, run, count);
  for (index_t at : step.cu_seqlens)
    if (at > 0 && at < count) b.mark(at);
  return b.picture.done();
}

} // namespace

std::string draw_owners(plan const& p, step_text const& step) {
  std::string whole = draw_band(p, step, step.size());
  if (p.how != sharding::striped) return whole;
  index_t near = std::min<index_t>(48, step.size());
  return whole +
         fmt::format("<p class=\"note\">The stripes above are drawn wider than they are, to be seen at all: each is one token. "
                     "The first {} tokens, to scale:</p>\n",
                     near) +
         draw_band(p, step, near);
}

std::string draw_ring_steps(plan const& p, step_text const& step) {
  constexpr double side = 200;
  step_text small = miniature(step, 72);
  double cell = side / double(small.size());
  std::string out = "<div class=\"maps\">";
  for (int s = 0; s < steps_of(p); ++s) {
    svg picture(side, side, fmt::format("{}, step {}", p.name, s));
    picture.rect(0, 0, side, side, "class=\"ground\"");
    draw_documents(picture, small, cell);
    cell_paths cells;
    for (group_layout const& group : layouts_of(p, small))
      for_each_step_block(p, group.who, step_number(p, s), [&](int ring_rank, sp::block const& b) {
        add_block(cells, group.first_rank + ring_rank * p.ulysses, b, group.begin, cell);
      });
    cells.draw(picture);
    draw_document_frames(picture, small, cell);
    std::string title = steps_of(p) > 1 ? fmt::format("step {}: keys of rank r − {}", s, s) : "one step over all keys";
    if (steps_of(p) > 1 && s == 0) title = "step 0: own keys";
    out += "<figure>" + picture.done() + "<figcaption>" + title + "</figcaption></figure>";
  }
  return out + "</div>";
}

std::string draw_rank_colours(plan const& p) {
  std::string out = "<p class=\"legend\">";
  for (int r = 0; r < p.ranks(); ++r) out += fmt::format("<span><i style=\"background:{}\"></i>rank {}</span>", colour(r), r);
  return out + "</p>\n";
}

} // namespace trainer
