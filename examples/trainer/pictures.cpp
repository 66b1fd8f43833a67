// Draws owners and blocks from layouts, and curves from numbers.
// Positions on a map are those of the whole step, also where data ranks hold parts of it.
#include "pictures.hpp"

#include <map>

#include "svg.hpp"

namespace trainer {
namespace {

/// One sequence group of a plan: its layout and where its share of the step begins.
struct share_layout {
  sp::layout who;
  int first_rank = 0;
  index_t begin = 0;
};

std::vector<share_layout> layouts_of(plan const& p, step_text const& step) {
  std::vector<share_layout> out;
  for (int d = 0; d < p.data; ++d) {
    step_text mine = share(step, d, p.data);
    out.push_back({make_batch(p, documents_of(mine), 0).layout(), d * p.sequence(), mine.first});
  }
  return out;
}

/// Calls f(ring rank, block) for the blocks of one ring step; step -1: all keys at once, as gather and pull see them.
template <class F>
void for_each_step_block(plan const& p, sp::layout const& who, int step, F&& f) {
  sp::layout rings = who.grouped(p.ulysses, 1); // what a ring rank holds while its Ulysses group has exchanged heads for tokens
  auto mask = sp::slices(sp::causal(), who.docs(), who.docs());
  for (int r = 0; r < p.ring; ++r) {
    auto keys = step < 0 ? sp::table_of(rings) : sp::place(rings.runs((r - step + p.ring) % p.ring));
    sp::for_each_block(sp::place(rings.runs(r)), keys, mask, [&](sp::block const& b) { f(r, b); });
  }
}

int steps_of(plan const& p) { return p.schedule == sp::schedule::rotate ? p.ring : 1; }
int step_number(plan const& p, int step) { return p.schedule == sp::schedule::rotate ? step : -1; }

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

void draw_stripes(svg& picture, plan const& p, double x, double y, double w, double h) { // colours alternate, wider than to scale
  constexpr double stripe = 4;
  int i = 0;
  for (double at = 0; at < w; at += stripe, ++i)
    picture.rect(x + at, y, std::min(stripe, w - at), h, fmt::format("fill=\"{}\"", colour(i % p.sequence())));
}

/// Positions [0, count) of the step over `width` pixels.
void draw_band(svg& picture, plan const& p, std::vector<share_layout> const& shares, index_t count, double y, double h) {
  double scale = picture.width() / double(count);
  for (share_layout const& s : shares)
    for (int r = 0; r < s.who.parts(); ++r)
      for (sp::run const& run : s.who.runs(r)) {
        index_t begin = s.begin + run.begin, end = std::min(s.begin + run.end(), count);
        if (begin >= count) continue;
        if (run.stride == 1)
          picture.rect(double(begin) * scale, y, double(end - begin) * scale, h,
                       fmt::format("fill=\"{}\"", colour(s.first_rank + r)));
        else if (double(run.stride) * scale < 4) {
          if (r == 0) draw_stripes(picture, p, double(begin) * scale, y, double(end - begin) * scale, h);
        } else {
          for (index_t i = 0; i < run.count && s.begin + run.at(i) < count; ++i)
            picture.rect(double(s.begin + run.at(i)) * scale, y, scale, h, fmt::format("fill=\"{}\"", colour(s.first_rank + r)));
        }
      }
}

void draw_boundaries(svg& picture, step_text const& step, index_t count, double y, double h) {
  for (index_t at : step.cu_seqlens)
    if (at > 0 && at < count) {
      double x = double(at) * picture.width() / double(count);
      picture.line(x, y - 3, x, y + h + 3, "class=\"boundary\"");
    }
}

} // namespace

std::string draw_owners(plan const& p, step_text const& step) {
  constexpr index_t near = 48; // stripes are only visible from nearby
  bool striped = p.how == sharding::striped;
  auto shares = layouts_of(p, step);
  svg picture(940, striped ? 64 : 28, "owners of the tokens, " + p.name);
  draw_band(picture, p, shares, step.size(), 3, 22);
  draw_boundaries(picture, step, step.size(), 3, 22);
  if (striped) {
    draw_band(picture, p, shares, near, 46, 14);
    picture.text(0, 41, fmt::format("the first {} tokens, magnified:", near), "class=\"small\"");
  }
  return picture.done();
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
    for (share_layout const& share : layouts_of(p, small))
      for_each_step_block(p, share.who, step_number(p, s), [&](int ring_rank, sp::block const& b) {
        add_block(cells, share.first_rank + ring_rank * p.ulysses, b, share.begin, cell);
      });
    cells.draw(picture);
    draw_document_frames(picture, small, cell);
    std::string title = steps_of(p) > 1 ? fmt::format("step {}: keys of rank r − {}", s, s) : "one step over all keys";
    if (steps_of(p) > 1 && s == 0) title = "step 0: own keys";
    out += "<figure>" + picture.done() + "<figcaption>" + title + "</figcaption></figure>";
  }
  return out + "</div>";
}

double imbalance(plan const& p, step_text const& step) {
  double busiest = 0, all = 0;
  for (share_layout const& share : layouts_of(p, step)) {
    std::vector<double> pairs(std::size_t(p.ring), 0.0);
    for_each_step_block(p, share.who, -1, [&](int r, sp::block const& b) { pairs[std::size_t(r)] += double(sp::pair_count(b)); });
    for (double n : pairs) {
      busiest = std::max(busiest, n);
      all += n;
    }
  }
  return busiest * p.ring * p.data / all;
}

std::string draw_legend(plan const& p) {
  std::string out = "<p class=\"legend\">";
  for (int r = 0; r < p.ranks(); ++r) out += fmt::format("<span><i style=\"background:{}\"></i>rank {}</span>", colour(r), r);
  return out + "</p>";
}

} // namespace trainer
