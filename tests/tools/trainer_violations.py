"""Shows that every check of trainer_numbers.py and trainer_page.py can fail: violations, planted one at a time.

Those of the page are planted on the page a trainer wrote, and in the self-test on a small page made up here.
"""
import copy
import math
import re

from trainer_numbers import (ALLOWED, BY_HEADS, CURVES, STRATEGIES, difference_by_step, imbalance, judge_hybrid, judge_near, judge_numbers, judge_same, kinds_of,
                             mean_of_last_3, relative)
from trainer_page import cells_of, in_compared_steps, judge_page, power_of_ten, scientific

ON_PAGE = [  # what is wrong, what is replaced, by what
    ("a script", "<svg", "<script></script><svg"),
    ("a link", "</body>", '<a href="x"></a></body>'),
    ("an address", "</body>", "http://x</body>"),
    ("a picture that is not closed", "</svg>", ""),
    ("a page cut off", "</html>", ""),
    ("a strategy without pictures", "<h3>usp 2 x 2</h3>", ""),
    ("no viewport", '<meta name="viewport"[^>]*>', ""),
    ("a picture of a fixed width", "<svg ", '<svg width="940" '),
    ("pictures that do not scale", r"svg\{width:100%", "svg{width:940px"),
    ("a table without a box", '<div class="scroll"[^>]*>', "<div>"),
    ("a box that does not scroll", "overflow-x:auto", "overflow-x:visible"),
    ("something wider than a phone", "</style>", "p{min-width:500px}</style>"),
    ("columns wider than a phone", r"minmax\(min\(100%,320px\)", "minmax(320px"),
    ("text too small for a phone", r"svg text\{font-size:12px", "svg text{font-size:8px"),
    ("another speed in the table", r'(?s)(id="costs".*?>ulysses 4</th><td>\d on \d+</td><td>\d+)', r"\g<1>1"),
    ("another peak in the table", r'(?s)(id="costs".*double, .*?>usp 2 x 2</th>(?:<td>[^<]*</td>){5}<td>\d)', r"\g<1>1"),
    ("another difference in the table", r'(?s)(id="differences".*?>zigzag ring 4</th><td>\d+</td><td>[\d.]+</td><td>)', r"\g<1>1"),
    ("double without its steps", r"double, \d+ steps?\.", "double."),
    ("double without a reason", "Few on purpose", "Few"),
    ("a dot left out", r'(?s)(data-type="double".*?d=")M[\d.]+ [\d.]+h0([^"]*" class="dots")', r"\1\2"),
    ("a dot in a wrong place", r'(?s)(data-type="float".*?d="M[\d.]+ )([\d.]+)(h0[^"]*" class="dots")', r"\g<1>7\g<2>\3"),
    ("a zero drawn on the axis", 'class="zeros"', 'class="dots"'),
    ("a zero outside of its row", r'(d="M[\d.]+ )[\d.]+(h0[^"]*" class="zeros")', r"\g<1>20\2"),
    ("a row of zeros without a name", ">exactly</text>", "></text>"),
    ("no bound", 'class="bound"', 'class="grid"'),
    ("a wrong name of the bound", "allowed: 1e-9<", "allowed: 1e-8<"),
    ("an axis without numbers", r">1e-(\d+)</text>", r">\1</text>"),
    ("a wrong legend", "(<b>striped ring 3</b>: largest )", r"\g<1>9"),
    ("no chart of the loss", 'aria-label="loss', 'aria-label="other'),
    ("a step missing in the loss", r'(?s)(aria-label="loss.*?d=")M[\d.]+ [\d.]+h0([^"]*" class="dots")', r"\1\2"),
    ("no verdict", r"All strategies agree with one rank\.", ""),
    ("another error of gradients", r"from differences of the loss by [^ ]*", "from differences of the loss by 7.7e-12"),
    ("no word about cores", r"\d+ cores?\b(?=[.,])", "cores"),
    ("no word about threads", r"computes\s+on\s+one\s+thread", "computes"),
    ("no limits of the speed", r"It\s+does\s+not\s+show", "It shows"),
    ("imbalance not explained", r"1\.00\s+means\s+that\s+nobody\s+waits", "1.00 is good"),
    ("contiguous not explained", r"\(2P − 1\)/P", "more"),
    ("no largest imbalance", r"Largest\s+here:", "Here:"),
    ("another imbalance beside pictures", r"Imbalance \d", "Imbalance 9"),
    ("memory not explained", r"kept\s+from\s+forward\s+to\s+backward", "kept"),
    ("memory without what is left out", r"Not\s+included:\s+the\s+tensors", "The tensors"),
    ("zero not explained", r"same\s+to\s+the\s+last\s+bit", "same"),
]


def unnoticed_on_page(page, report):
    """The violations that nothing noticed, or that could not be planted."""
    wrong = []
    for what, pattern, replacement in ON_PAGE:
        number = 0 if what.startswith("no word about cores") or "without numbers" in what else 1
        bad, found = re.subn(pattern, replacement, page, count=number)
        if not found or not judge_page(bad, report):
            wrong.append(f"planted on the page: {what}: " + ("was not noticed" if found else "could not be planted"))
    return wrong


def sample_run(strategy, kind, number, steps):
    """Losses that fall, a little off those of one rank, in the first step not at all."""
    losses = [(5.0 - 0.1 * s) * (1 + (s > 0) * number * ALLOWED[kind] / 100) for s in range(steps)]
    cu_seqlens, q_heads = [0, 40, 64], 4
    return {"strategy": strategy, "type": kind, "ranks": math.prod(STRATEGIES[strategy][:3]), "losses": losses, "gradient_norms": list(losses),
            "difference": {"first_gradients": 0.0}, "allowed_difference": ALLOWED[kind], "compared_steps": steps, "tokens_per_second": 1000.0 + number,
            "bytes_per_token": {"counted": 8.0 * number, "closed_form": 8.0 * number}, "peak_attention_bytes_per_rank": 1 << 20,
            "imbalance": imbalance(strategy, cu_seqlens, q_heads), "final_loss_mean_of_last_3": mean_of_last_3(losses)}


def near_can_fail(good):
    """A device's numbers near the host's are taken, and numbers further away than its type allows are not."""
    device = copy.deepcopy(good)
    for r in device["runs"]:
        r["type"] = "bf16" if r["type"] == "float" else r["type"]
    assert not judge_near(device, good)
    for run, off in ((1, 2e-2), (len(STRATEGIES) + 1, 1e-8)):
        bad = copy.deepcopy(device)
        bad["runs"][run]["gradient_norms"][1] *= 1 + off
        assert judge_near(bad, good), bad["runs"][run]["type"]


def sample_report(steps):
    runs = [sample_run(s, t, i, n) for t, n in steps.items() for i, s in enumerate(STRATEGIES)]
    for r in runs:
        one = next(x for x in runs if x["type"] == r["type"])
        r["difference"].update({n: max(relative(r[c], one[c])) for n, c in CURVES.items()})
    return {"runs": runs, "ranks_are": "threads of this machine", "cores": 2, "threads_per_rank": 1, "model": {"q_heads": 4}, "first_step_cu_seqlens": [0, 40, 64],
            "gradients_against_differences_of_the_loss": {"error": 1e-11, "allowed": 1e-9}}


def sample_table(name, report):
    rows = ""
    for r in report["runs"]:
        if r["ranks"] == 1:
            rows += f'<tr><th scope="rowgroup">{r["type"]}, {len(r["losses"])} steps. {"Few on purpose" * (r["type"] == "double")}</th></tr>\n'
        rows += f'<tr><th scope="row">{r["strategy"]}</th>' + "".join(f"<td>{c}</td>" for c in cells_of(r, report)[name]) + "</tr>\n"
    return f'<div class="scroll"><table id="{name}">\n{rows}</table></div>\n'


def sample_chart(report, kind):
    """Ten pixels a power of ten."""
    runs = [r for r in report["runs"] if r["type"] == kind]
    drawn = '<text x="1" y="14">1e0</text><text x="1" y="64">1e-5</text><rect x="1" y="200" width="9" height="20" class="ground"/>'
    drawn += f'<text>exactly</text><text>0</text><path d="M1 {-10 * math.log10(ALLOWED[kind]) + 10:.1f}L9 9" class="bound"/>'
    drawn += f"<text>allowed: {power_of_ten(ALLOWED[kind])}</text>"
    legend = ""
    for i, r in enumerate(runs):
        values = difference_by_step(r, runs[0])
        dots = "".join(f"M1 {10 - 10 * math.log10(v):.1f}h0" for v in values if v > 0)
        zeros = [v for v in values if v == 0]
        drawn += f'<path d="{dots}" class="dots" stroke="#{i}"/><path d="{"M1 210h0" * len(zeros)}" class="zeros" stroke="#{i}"/>'
        said = f"largest {scientific(max(values))}; exactly 0 in {len(zeros)} of {len(values)} steps" if dots else "exactly 0 in all steps"
        legend += f'<li><i style="background:#{i}"></i><b>{r["strategy"]}</b>: {said}</li>'
    return f'<svg viewBox="0 0 360 9" aria-label="largest" data-type="{kind}">{drawn}</svg><ul class="legend">{legend}</ul>\n'


NETS = {"heads": "For gated delta nets ranks exchange tokens for heads.", "state": "For gated delta nets each rank sends maps of the state."}


def sample_page(report):
    style = "svg{width:100%}svg text{font-size:12px}.scroll{overflow-x:auto}.charts{grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr))}"
    loss = "M1 1h0" * len(report["runs"][0]["losses"])
    worst = max(report["runs"], key=lambda r: r["imbalance"])
    words = (f"All strategies agree with one rank{in_compared_steps(report)}. A rank computes on one thread, 2 cores. It does not show. (query, key) pairs, 1.00 means that nobody "
             "waits, (2P − 1)/P. Host memory, the rank that needs most, scratch, kept from forward to backward. Not included: the tensors. "
             f"In double they differ from differences of the loss by {report['gradients_against_differences_of_the_loss']['error']:.1e}. "
             f"The same to the last bit: “exactly 0”. Largest here: {worst['imbalance']:.2f}, {worst['strategy']}.")
    pictures = "".join(f'<h3>{r["strategy"]}</h3>{NETS.get(r.get("gated_delta_nets_by"), "")} Imbalance {r["imbalance"]:.2f}.<svg viewBox="0 0 9 9"></svg>' for r in report["runs"][1:len(STRATEGIES)])
    return (f'<html><head><meta name="viewport" content="width=device-width"><style>{style}</style></head><body>{words}'
            f'<svg viewBox="0 0 360 9" aria-label="loss"><path d="{loss}" class="dots" stroke="#6"/></svg>'
            + "".join(sample_chart(report, kind) for kind in kinds_of(report)) + sample_table("differences", report) + sample_table("costs", report)
            + pictures + "</body></html>")


def flat(report):
    for r in report["runs"]:
        r["losses"] = [5.0 * (1 + 1e-12 * (r["ranks"] - 1))] * len(r["losses"])


IN_NUMBERS = [
    lambda r: r["runs"].pop(), lambda r: r["runs"].append(r["runs"][1]), lambda r: r["runs"][1]["losses"].pop(), flat,
    lambda r: r["runs"][2]["losses"].__setitem__(5, 4.51), lambda r: r["runs"][8]["gradient_norms"].__setitem__(1, 4.9000001),
    lambda r: r["runs"][3]["losses"].__setitem__(0, None), lambda r: r["runs"][3]["difference"].__setitem__("loss", 0.0),
    lambda r: r["runs"][3]["difference"].__setitem__("first_gradients", 1e-3), lambda r: r["runs"][4].__setitem__("allowed_difference", 1),
    lambda r: r["runs"][4]["bytes_per_token"].__setitem__("counted", 9.0),
    lambda r: r["runs"][1].__setitem__("bytes_per_token", {"counted": 0.0, "closed_form": 0.0}),
    lambda r: r["runs"][4].__setitem__("final_loss_mean_of_last_3", r["runs"][4]["losses"][-1]),
    lambda r: r["runs"][1].update({c: r["runs"][0][c] for c in CURVES.values()}),
    lambda r: r["runs"][4].__setitem__("compared_steps", 1),
    lambda r: r["runs"][5].__setitem__("imbalance", 1.0), lambda r: r.__setitem__("cores", 0), lambda r: r.__setitem__("threads_per_rank", 2),
    lambda r: r["gradients_against_differences_of_the_loss"].__setitem__("error", 1e-8),
    lambda r: r["gradients_against_differences_of_the_loss"].__setitem__("error", None),
]


def hybrid_can_fail(good):
    """Other layers than the hybrid has, and nets computed by something else than their strategy says."""
    hybrid = copy.deepcopy(good)
    hybrid["model"].update({"layers": 4, "gated_delta_nets": {"layers": 3, "k_heads": 2, "v_heads": 4}})
    for r in hybrid["runs"]:
        r["gated_delta_nets_by"] = "heads" if r["strategy"] in BY_HEADS else "state"
        r["compared_steps"] = min(8, r["compared_steps"])
    assert judge_hybrid(hybrid) == [], judge_hybrid(hybrid)
    for change in (lambda r: r["model"]["gated_delta_nets"].__setitem__("layers", 2), lambda r: r["model"].__setitem__("layers", 2),
                   lambda r: r["runs"][1].__setitem__("gated_delta_nets_by", "state")):
        bad = copy.deepcopy(hybrid)
        change(bad)
        assert judge_hybrid(bad)
    page = sample_page(hybrid)
    assert judge_page(page, hybrid) == [], judge_page(page, hybrid)
    for said, wrong in ((NETS["state"], NETS["heads"]), (" in the first 8 steps", "")):
        assert said in page and judge_page(page.replace(said, wrong, 1), hybrid), said


def self_test(steps):
    good = sample_report(steps)
    assert judge_numbers(good, steps) == [], judge_numbers(good, steps)
    for number, change in enumerate(IN_NUMBERS):
        bad = copy.deepcopy(good)
        change(bad)
        assert judge_numbers(bad, steps), f"change {number} of the numbers was not noticed"

    other = copy.deepcopy(good)
    assert judge_same(good, other) == []
    other["runs"][3]["losses"][4] = math.nextafter(other["runs"][3]["losses"][4], 0)
    assert len(judge_same(good, other)) == 1

    near_can_fail(good)
    hybrid_can_fail(good)
    page = sample_page(good)
    assert judge_page(page, good) == [], judge_page(page, good)
    assert not unnoticed_on_page(page, good), unnoticed_on_page(page, good)
    print(f"{len(IN_NUMBERS) + 4} wrong reports and {len(ON_PAGE) + 2} wrong pages were noticed")
