// report.html: one self-contained page with the curves, the table and the pictures.
// No scripts, no fonts, nothing fetched: it can be mailed.
#include <cmath>
#include <fstream>

#include "compare.hpp"
#include "pictures.hpp"
#include "report.hpp"
#include "svg.hpp"

namespace trainer {
namespace {

constexpr char const* style = R"(
:root{--ink:#1c2733;--soft:#5d6b7a;--rule:#dde3ea;--page:#fff;--panel:#f6f8fa}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:var(--page);
 max-width:980px;margin:2.2rem auto;padding:0 1.2rem}
h1{font-size:1.75rem;margin:0 0 .2rem}h2{font-size:1.2rem;margin:2.4rem 0 .3rem}h3{font-size:1rem;margin:1.5rem 0 .2rem}
p{margin:.35rem 0}.lead,.note,figcaption{color:var(--soft)}.note{font-size:.87rem}
svg{width:100%;height:auto;display:block}svg text{font-size:12px;fill:var(--soft)}svg .small{font-size:11px}
.grid{stroke:var(--rule);stroke-width:1}.boundary{stroke:var(--ink);stroke-width:1.5}
.ground{fill:var(--panel)}.causal{fill:#e3e8ee}.frame{fill:none;stroke:var(--ink);stroke-width:.7;opacity:.55}
table{border-collapse:collapse;width:100%;font-size:.8rem;font-variant-numeric:tabular-nums;margin:.6rem 0}
th,td{padding:.32rem .38rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th{font-weight:600;color:var(--soft);vertical-align:bottom}
td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}
tr.one td{border-top:2px solid var(--soft);background:var(--panel)}
.legend{font-size:.85rem;color:var(--soft)}.legend span{margin-right:1.1rem;white-space:nowrap}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.35em}
.maps{display:grid;grid-template-columns:repeat(4,1fr);gap:1rem}.maps figure{margin:.4rem 0;max-width:220px}
figcaption{font-size:.82rem;text-align:center;margin-top:.3rem}
.scroll{overflow-x:auto}
)";

std::vector<curve> curves_of(report const& r, std::string const& type, auto&& values) {
  std::vector<curve> out;
  int number = 0;
  for (outcome const& o : r.outcomes)
    if (o.type == type) out.push_back({o.strategy, values(o), number++});
  return out;
}

/// |loss - loss of one rank| / loss of one rank, step by step.
std::string difference_chart(report const& r, std::string const& type) {
  outcome const* one = nullptr;
  for (outcome const& o : r.outcomes)
    if (o.type == type && o.ranks == 1) one = &o;
  if (!one) return "";
  auto curves = curves_of(r, type, [&](outcome const& o) { return relative(o.losses, one->losses); });
  curves.erase(curves.begin()); // one rank against itself
  return draw_curves(curves, "difference of the loss from one rank, " + type, true);
}

std::string table_of_outcomes(report const& r) {
  std::string t = "<div class=\"scroll\"><table><tr><th>strategy<th>type<th>final "
                  "loss<th>loss<br>difference<th>norm<br>difference<th>first gradients<br>"
                  "difference<th>tokens/s<th>bytes sent<br>per token<th>closed<br>form<th>ratio<th>attention<br>peak/rank</tr>";
  for (outcome const& o : r.outcomes) {
    std::string ratio = o.bytes_expected > 0 ? fmt::format("{:.4f}", o.bytes_counted / o.bytes_expected) : "–";
    t += fmt::format(
        "<tr{}><td>{}<td>{}<td>{:.6f}<td>{:.1e}<td>{:.1e}<td>{:.1e}<td>{:.0f}<td>{:.1f}<td>{:.1f}<td>{}<td>{:.2f} MiB</tr>",
        o.ranks == 1 ? " class=\"one\"" : "", escaped(o.strategy), o.type, final_loss(o), o.loss_difference, o.norm_difference,
        o.gradient_difference, o.tokens_per_second(), o.sent_per_token(), o.expected_per_token(), ratio,
        double(o.workspace) / (1 << 20));
  }
  return t + "</table></div>";
}

std::string what_it_is(plan const& p) {
  if (p.ranks() == 1) return "";
  if (p.ring == 1)
    return "All ranks exchange heads for tokens; each then sees the whole stream for its own heads. The map is the same for all "
           "ranks, one colour stands for them.";
  std::string how =
      p.ulysses > 1 ? "Pairs of ranks exchange heads for tokens and walk the ring together, coloured as the first of the pair. "
                    : "";
  if (p.data > 1) how += fmt::format("Two groups of {} ranks train on different documents of the step. ", p.sequence());
  if (p.schedule == sp::schedule::gather) return how + "Keys are gathered from everybody, then computed in one go.";
  return how + "Keys travel around the ring; in step s rank r meets the keys of rank r − s. Coloured: what is computed; grey: "
               "computed in other steps.";
}

std::string plan_section(report const& r, plan const& p) {
  return fmt::format("<h3>{}</h3><p class=\"note\">{} Busiest rank over mean: {:.3f}.</p>{}{}{}", escaped(p.name), what_it_is(p),
                     imbalance(p, r.first_step), draw_legend(p), draw_owners(p, r.first_step), draw_ring_steps(p, r.first_step));
}

std::string opening(report const& r) {
  shape const& m = r.asked.model;
  return fmt::format("<h1>One model, on one rank and on several</h1>"
                     "<p class=\"lead\">A byte-level decoder with {} parameters ({} layers, width {}, {} query heads on {} kv "
                     "heads), trained on {} documents "
                     "({} KB of text) in steps of {} packed tokens. Every strategy starts from the same seed and reads the same "
                     "text; each must give "
                     "the numbers of one rank. Ranks are {}. All runs took {:.0f} s.</p>",
                     r.parameters, m.layers, m.dim, m.q_heads, m.kv_heads, r.text->documents.size(), r.text->bytes / 1024,
                     r.asked.stream, r.ranks_are, r.seconds);
}

} // namespace

void write_html(report const& r, std::filesystem::path const& file) {
  std::string html = fmt::format(
      "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">"
      "<title>sp: training report</title><style>{}</style><body>",
      style);
  html += opening(r);
  html += "<h2>Loss</h2><p class=\"note\">float; the curves lie on each other, so the first is drawn thickest and the last "
          "thinnest.</p>";
  html += draw_curves(curves_of(r, "float", [](outcome const& o) { return o.losses; }), "loss per step", false);
  html += "<h2>Numbers</h2>" + table_of_outcomes(r);
  html += fmt::format(
      "<p class=\"note\">Final loss: mean of the last three steps. Differences are relative to one rank, largest over all steps; "
      "gradients: the first step's, worst matrix "
      "by norm. Allowed: "
      "{:.0e} in float, {:.0e} in double. Bytes are what attention sends, all ranks and layers, forward and backward.</p>",
      bound_of("float"), bound_of("double"));
  html += "<h2>How far from one rank</h2><p class=\"note\">Relative difference of the loss, float. Rounding differs with the "
          "order of sums, and training "
          "amplifies it.</p>" +
          difference_chart(r, "float");
  html += "<p class=\"note\">The same in double.</p>" + difference_chart(r, "double");
  html += fmt::format("<h2>Who owns which tokens, who computes what</h2><p class=\"note\">The bands show the first step: {} "
                      "tokens in {} documents, which dark lines "
                      "separate. The maps below them show which (query, key) pairs each ring step computes: queries downwards, "
                      "keys to the right, the same "
                      "documents scaled down so that every pair is one cell.</p>",
                      r.first_step.size(), r.first_step.documents());
  for (plan const& p : r.plans)
    if (p.ranks() > 1) html += plan_section(r, p);
  std::ofstream out(file);
  out << html << "</body></html>\n" << std::flush;
  if (!out) throw std::runtime_error("cannot write " + file.string());
}

} // namespace trainer
