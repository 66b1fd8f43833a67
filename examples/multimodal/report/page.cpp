// report.html: one self-contained page with the verdict, the answers, the charts, the tables and who owns what.
// No scripts, no fonts, nothing fetched: it can be mailed, and read on a phone.
#include <fstream>

#include "multimodal/report/pictures.hpp"
#include "multimodal/training/compare.hpp"
#include "trainer/report/page/charts.hpp"
#include "trainer/report/page/style.hpp"
#include "trainer/report/page/svg.hpp"

namespace multimodal {
namespace {

using trainer::counted;
using trainer::escaped;
using trainer::power_of_ten;
using trainer::scientific;

constexpr char const* page_head = R"(<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>sp: report on pictures and text</title><style>{}
.ink{{fill:var(--ink)}}.paper{{fill:var(--panel)}}.answers{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(44%,150px),1fr));gap:.8rem}}
.answers figure{{margin:.3rem 0}}.answers svg{{height:52px;width:100%}}.wrong b{{color:var(--bound)}}.patches svg{{max-height:76px}}pre{{white-space:pre-wrap}}
</style></head><body>
)";

constexpr char const* introduction = R"(<h1>Pictures and text, on one rank and on several</h1>
<p class="lead">A vision tower, a projection with merges of {} x {} and a decoder with deepstack, {} parameters in all, learn to add and to
sort handwritten digits that they are shown ({}, {} to learn from, {} held back), by the splice of {}. Every strategy starts from the
same seed and reads the same texts, several pictures in some and none in others; each must give the numbers of one rank. The model was
written for one rank; <code>sp::auto_wrap</code> puts the attention that it finds there over the others. Ranks are {}. All runs took
{:.0f} s.</p>
<details><summary>What it finds</summary><pre>{}</pre></details>
)";

constexpr char const* about_answers = R"(<h2>Questions on pictures that were held back</h2>
<p class="note"># is a picture: "#+#=" asks for a sum, "s##=" for all digits in order. {:.0f} % of {} answers of one rank are right, all
characters of them. Each character is the likeliest one behind the right ones before it, so an answer is right exactly where the model
writes it without help. Here are some, wrong ones in red.</p>
)";

constexpr char const* about_owners = R"(<h2>Who owns which patches and rows</h2>
<p class="note">First pictures of the first step, each patch in the colour of the rank that computes it in the tower; below them all rows of
the decoder in that step, in the colour of their owners: high ones come from pictures, low ones from text. Squares of patches that a merge makes one
row never part. Visual rows go from their owner in the tower to that in the decoder in one exchange, and their gradients back.</p>
)";

std::string verdict(report const& r) {
  auto const wrong = complaints(r);
  if (wrong.empty()) return "<p class=\"verdict\">All strategies agree with one rank.</p>\n";
  std::string out;
  for (std::string const& w : wrong) out += "<p class=\"verdict off\">" + escaped(w) + ".</p>\n";
  return out;
}

std::string difference_section(report const& r, std::span<outcome const> runs) {
  std::vector<trainer::series> shown;
  for (outcome const& run : runs)
    shown.push_back({run.strategy, trainer::difference_by_step(run, runs[0], r.asked.compared_steps),
                     run.ranks == 1 ? trainer::grey : int(shown.size()) - 1});
  return fmt::format("<section><h3>Difference from one rank, {}, first {}</h3>\n", runs[0].type,
                     counted(shown[0].values.size(), "step")) +
         trainer::draw_differences(shown, trainer::bound_of(runs[0].type), runs[0].type) + "</section>\n";
}

std::string charts(report const& r) {
  outcome const& one = r.in_float().front();
  return "<h2>Loss, and how far the others are from it</h2>\n<div class=\"charts\">\n<section><h3>Loss of one rank, "
         "float</h3>\n" +
         trainer::draw_loss({one.strategy, one.losses, trainer::grey}, "loss of one rank, float") + "</section>\n" +
         difference_section(r, r.in_float()) + difference_section(r, r.in_double()) + "</div>\n";
}

using cells = std::vector<std::string>;

std::string row(cells const& values, char const* first, char const* others) {
  std::string out = fmt::format("<th scope=\"{}\">{}</th>", first, values[0]);
  for (std::size_t i = 1; i < values.size(); ++i) out += fmt::format("<{0}>{1}</{0}>", others, values[i]);
  return out + "</tr>\n";
}

template <class Values>
std::string table(report const& r, char const* id, cells const& head, Values const& values_of) {
  std::string out = fmt::format("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{0}\"><table id=\"{0}\">\n"
                                "<tr class=\"head\">{1}",
                                id, row(head, "col", "th"));
  for (outcome const& o : r.outcomes) {
    if (o.ranks == 1)
      out += fmt::format("<tr class=\"type\"><th colspan=\"{}\" scope=\"rowgroup\"><span><b>{}</b></span></th></tr>\n",
                         head.size(), o.type);
    out += (o.ranks == 1 ? "<tr class=\"one\">" : "<tr>") + row(values_of(o), "row", "td");
  }
  return out + "</table></div>\n";
}

std::string tables(report const& r) {
  std::string const differences =
      table(r, "differences",
            {"strategy", "steps", "final loss", "right<br>answers", "loss<br>difference", "norm<br>difference",
             "first gradients<br>difference", "allowed"},
            [](outcome const& o) {
              auto difference = [&](double d) { return o.ranks == 1 ? std::string("–") : scientific(d); };
              return cells{escaped(o.strategy),
                           std::to_string(o.losses.size()),
                           fmt::format("{:.6f}", trainer::final_loss(o)),
                           o.answers.empty() ? "–" : fmt::format("{:.3f}", o.accuracy()),
                           difference(o.loss_difference),
                           difference(o.norm_difference),
                           difference(o.gradient_difference),
                           power_of_ten(trainer::bound_of(o.type)) + ", gradients " + power_of_ten(bound_of_gradients(o.type))};
            });
  std::string const costs =
      table(r, "costs",
            {"strategy", "threads<br>on cores", "rows/s", "patches/s", "bytes sent<br>per row", "closed<br>form",
             "sent over<br>closed form", "peak, MiB<br>per rank"},
            [&](outcome const& o) {
              return cells{escaped(o.strategy),
                           fmt::format("{} on {}", o.ranks, r.cores),
                           fmt::format("{:.0f}", o.tokens_per_second()),
                           fmt::format("{:.0f}", o.patches_per_second()),
                           fmt::format("{:.1f}", o.sent_per_token()),
                           fmt::format("{:.1f}", o.expected_per_token()),
                           o.bytes_expected > 0 ? fmt::format("{:.4f}", o.bytes_counted / o.bytes_expected) : "–",
                           fmt::format("{:.2f}", double(o.workspace) / (1 << 20))};
            });
  return "<h2>The same numbers</h2>\n" + differences +
         fmt::format(
             "<p class=\"note\">Where a strategy has two names the first is the tower's, the second the decoder's. Differences "
             "are "
             "relative to one rank, over the first {} steps: training amplifies from step to step what rounding did. Gradients: "
             "those of the first step, of every parameter of tower, projection and decoder, the worst matrix by norm. One rank's "
             "own gradients in double differ from differences of the loss by {:.1e} at most.</p>\n",
             r.asked.compared_steps, r.slopes) +
         "<h2>What it costs</h2>\n" + costs +
         "<p class=\"note\">Rows are those of the decoder. Bytes: attention of tower and decoder, class tokens, splice and "
         "deepstack, all ranks, "
         "forward and backward, counted message by message; the closed form follows from token counts, head ranges and owners "
         "alone. Peak: "
         "scratch and saved tensors of the same calls, on the rank that needs most. Ranks share the cores of this machine, so "
         "speeds do not "
         "show how strategies scale where each rank has a device of its own.</p>\n";
}

std::string owners(report const& r) {
  std::string out = about_owners;
  for (plan const& p : r.plans)
    if (p.ranks() > 1) out += "<h3>" + escaped(p.name) + "</h3>\n" + draw_rank_colours(p) + draw_owners(r, p);
  return out;
}

} // namespace

void write_html(report const& r, std::filesystem::path const& file) {
  outcome const& one = r.in_float().front();
  std::ofstream out(file);
  out << fmt::format(page_head, trainer::page_style)
      << fmt::format(introduction, r.asked.model.merge, r.asked.model.merge, r.parameters, escaped(r.digits->source),
                     r.digits->train.size(), r.digits->held_back.size(), name_of(r.asked.splice), r.ranks_are, r.seconds,
                     escaped(r.found))
      << verdict(r) << fmt::format(about_answers, 100 * one.accuracy(), one.answers.size()) << draw_answers(r, 24) << charts(r)
      << tables(r) << owners(r) << "</body></html>\n"
      << std::flush;
  if (!out) throw std::runtime_error("cannot write " + file.string());
}

} // namespace multimodal
