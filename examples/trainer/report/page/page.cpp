// report.html: one self-contained page with the verdict, the charts, the tables and the pictures.
// No scripts, no fonts, nothing fetched: it can be mailed, and read on a phone.
#include <fstream>

#include "report/page/charts.hpp"
#include "report/page/notes.hpp"
#include "report/page/ownership.hpp"
#include "report/page/style.hpp"
#include "report/page/svg.hpp"
#include "report/page/tables.hpp"
#include "report/report.hpp"
#include "training/compare.hpp"

namespace trainer {
namespace {

constexpr char const* page_head = R"(<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>sp: training report</title><style>{}</style></head><body>
)";

constexpr char const* introduction = R"(<h1>One model, on one rank and on several</h1>
<p class="lead">A byte-level decoder with {} parameters ({}), trained on {}
documents ({} KB of text) in steps of {} packed tokens. Every strategy starts from the same seed and reads the same text; each must
give the numbers of one rank{}. Ranks are {}. All runs took {:.0f} s.</p>
)";

constexpr char const* about_loss = R"(<p class="note">One curve: those of the other strategies would lie on it{}. How far they are
from it is drawn in the charts of differences.</p>
)";

constexpr char const* about_agreement = R"(<p class="note">Final loss: mean of the last three steps. Differences are relative to
one rank: of loss and gradient norm the largest {}, of the first step's gradients the worst matrix by norm.</p>
)";

constexpr char const* about_pictures = R"(<h2>Who owns which tokens, who computes what</h2>
<p class="note">The bands show the first step: {} tokens in {} documents, which dark lines separate. The maps below them show which
(query, key) pairs each ring step computes: queries downwards, keys to the right, the same documents scaled down so that every
pair is one cell.</p>
)";

std::string opening(report const& r) {
  return fmt::format(introduction, r.parameters, layers_of(r.asked.model), r.text->documents.size(), r.text->bytes / 1024,
                     r.asked.stream, in_compared_steps(r.asked), r.ranks_are, r.seconds);
}

std::string verdict(report const& r) {
  auto wrong = complaints(r);
  if (wrong.empty()) return "<p class=\"verdict\">All strategies agree with one rank" + in_compared_steps(r.asked) + ".</p>\n";
  std::string out;
  for (std::string const& w : wrong) out += "<p class=\"verdict off\">" + escaped(w) + ".</p>\n";
  return out;
}

/// The runs of one number type: one rank first.
std::vector<outcome const*> runs_in(report const& r, std::string const& type) {
  std::vector<outcome const*> out;
  for (outcome const& o : r.outcomes)
    if (o.type == type) out.push_back(&o);
  return out;
}

std::string loss_section(report const& r) {
  outcome const& one = r.outcomes.front();
  return fmt::format("<section><h3>Loss of one rank, {}</h3>\n", one.type) + fmt::format(about_loss, in_compared_steps(r.asked)) +
         draw_loss({one.strategy, one.losses, grey}, "loss of one rank, " + one.type) + "</section>\n";
}

std::string difference_section(report const& r, std::string const& type) {
  auto runs = runs_in(r, type);
  std::vector<series> shown;
  for (outcome const* run : runs)
    shown.push_back({run->strategy, difference_by_step(*run, *runs[0], r.asked.compared_steps),
                     run->ranks == 1 ? grey : int(shown.size()) - 1});
  return fmt::format("<section><h3>Difference from one rank, {}, {}{}</h3>\n", type,
                     shown[0].values.size() < runs[0]->losses.size() ? "first " : "", counted(shown[0].values.size(), "step")) +
         draw_differences(shown, bound_of(type), type) + "</section>\n";
}

std::string charts(report const& r) {
  return "<h2>Loss, and how far the others are from it</h2>\n<div class=\"charts\">\n" + loss_section(r) +
         difference_section(r, r.outcomes.front().type) + difference_section(r, "double") +
         "<section><h3>How to read the differences</h3>\n" + note_on_differences() + "</section>\n</div>\n";
}

std::string tables(report const& r) {
  return "<h2>The same numbers</h2>\n" + table_of_differences(r) + fmt::format(about_agreement, over_compared_steps(r.asked)) +
         note_on_slopes(r) + "<h2>What it costs</h2>\n" + table_of_costs(r) + notes_on_costs(r);
}

std::string plan_section(report const& r, plan const& p, double imbalance) {
  return fmt::format("<h3>{}</h3>\n<p class=\"note\">{} Imbalance {:.2f}.</p>\n{}{}{}", escaped(p.name), note_on_plan(r, p),
                     imbalance, draw_rank_colours(p), draw_owners(p, r.first_step), draw_ring_steps(p, r.first_step));
}

std::string ownership(report const& r) {
  std::string out = fmt::format(about_pictures, r.first_step.size(), r.first_step.documents());
  for (std::size_t i = 0; i < r.plans.size(); ++i) // outcomes begin with one per plan
    if (r.plans[i].ranks() > 1) out += plan_section(r, r.plans[i], r.outcomes[i].imbalance);
  return out;
}

} // namespace

void write_html(report const& r, std::filesystem::path const& file) {
  std::ofstream out(file);
  out << fmt::format(page_head, page_style) << opening(r) << verdict(r) << charts(r) << tables(r) << ownership(r)
      << "</body></html>\n"
      << std::flush;
  if (!out) throw std::runtime_error("cannot write " + file.string());
}

} // namespace trainer
