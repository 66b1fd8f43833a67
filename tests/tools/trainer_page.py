"""Judges report.html of examples/trainer against train.json of the same run: what the page promises its reader.

It stands alone, fits a phone, shows the numbers of train.json, draws every difference where it belongs (exact agreement in a row
of its own), and says what its figures count. Each function returns sentences about what is wrong, none when all is well.
"""
import math
import re

from trainer_numbers import ALLOWED, STRATEGIES, difference_by_step, kinds_of

NARROW = 328  # pixels that a phone of 360 has between the margins


def judge_alone(html):
    wrong = []
    if re.search(r"""(?i)\b(src|href|srcset|action|data)\s*=\s*["']?\s*(?!["']?#)""", html):
        wrong.append("the page refers to something outside itself")
    if re.search(r"(?i)<(script|link|iframe|img|object|embed)\b|@import|url\s*\(|https?:", html):
        wrong.append("the page has scripts, links or addresses")
    if html.count("<svg") < len(STRATEGIES) + 2 or html.count("<svg") != html.count("</svg>"):
        wrong.append(f"{html.count('<svg')} inline pictures, {html.count('</svg>')} of them closed")
    wrong += [f"'{s}' has no pictures" for s in list(STRATEGIES)[1:] if f"<h3>{s}</h3>" not in html]
    if not html.rstrip().endswith("</html>"):
        wrong.append("the page is cut off")
    return wrong


def judge_phone(html):
    """No horizontal scrolling of the page at 360 pixels, and text that can be read there."""
    wrong = []
    style = "".join(re.findall(r"(?s)<style>(.*?)</style>", html))
    if not re.search(r'<meta name="viewport" content="width=device-width\b', html):
        wrong.append("no viewport: a phone would show the page as wide as a desk")
    if "svg{width:100%" not in style or re.search(r"<svg[^>]*\s(width|height)=|<svg(?![^>]*viewBox=)", html):
        wrong.append("a picture that does not scale with the page")
    if ".scroll{overflow-x:auto" not in style or len(re.findall(r'<div class="scroll"[^>]*><table', html)) != html.count("<table"):
        wrong.append("a table outside of a box that scrolls")
    fixed = [w for w in re.findall(r"(?<![-\w])(?:min-)?width:(\d+)px", style) if int(w) > NARROW]
    fixed += [w for column in re.findall(r"grid-template-columns:([^;}]*)", style) for w in re.findall(r"(\d+)px", column)
              if int(w) > NARROW or f",{w}px)" not in column]
    if fixed:
        wrong.append(f"widths of {fixed} pixels do not fit a phone")
    for chart in re.findall(r'<svg viewBox="0 0 (\d+) [^>]*aria-label="(?:loss|largest)', html):
        shown = NARROW / int(chart) * int((re.findall(r"svg text\{font-size:(\d+)px", style) or [0])[0])
        if shown < 10:
            wrong.append(f"text of a chart is {shown:.1f} pixels high on a phone")
    return wrong


def rows_of(html, name):
    """Cells of a table: by type and strategy; and its headings by type."""
    table = re.findall(rf'(?s)<table id="{name}">(.*?)</table>', html)
    rows, headings, kind = {}, {}, None
    for row in re.findall(r"(?s)<tr[^>]*>(.*?)</tr>", table[0] if len(table) == 1 else ""):
        cells = [re.sub(r"<[^>]*>", "", c) for c in re.findall(r"(?s)<t[hd][^>]*>(.*?)</t[hd]>", row)]
        if 'scope="rowgroup"' in row:
            kind = cells[0].split(",")[0]
            headings[kind] = cells[0]
        elif kind:
            rows[cells[0], kind] = cells[1:]
    return rows, headings


def scientific(value):
    return "exactly 0" if value == 0 else f"{value:.1e}"


def power_of_ten(value):
    return f"1e{round(math.log10(value))}"


def cells_of(run, report):
    """What the two tables must say about a run."""
    sent = run["bytes_per_token"]
    names = ("loss", "gradient_norm", "first_gradients")
    differences = [scientific(run["difference"][n]) if run["ranks"] > 1 else "–" for n in names]
    allowed = power_of_ten(run["allowed_difference"])
    return {"differences": [str(len(run["losses"])), f"{run['final_loss_mean_of_last_3']:.6f}", *differences, allowed],
            "costs": [f"{run['ranks']} on {report['cores']}", f"{run['tokens_per_second']:.0f}", f"{sent['counted']:.1f}",
                      f"{sent['closed_form']:.1f}", "1.0000" if run["ranks"] > 1 else "–",
                      f"{run['peak_attention_bytes_per_rank'] / 2**20:.2f}", f"{run['imbalance']:.2f}"]}


def judge_tables(html, report):
    wrong = []
    tables = {name: rows_of(html, name) for name in ("differences", "costs")}
    for run in report["runs"]:
        for name, wanted in cells_of(run, report).items():
            shown = tables[name][0].get((run["strategy"], run["type"]))
            if shown != wanted:
                wrong.append(f"{run['strategy']} in {run['type']}, table of {name}: {shown}, but train.json has {wanted}")
    for run in report["runs"][::len(STRATEGIES)]:
        steps = len(run["losses"])
        for name, (_, headings) in tables.items():
            if not headings.get(run["type"], "").startswith(f"{run['type']}, {steps} step"):
                wrong.append(f"the table of {name} does not say that the rows in {run['type']} are {steps} steps")
    if "Few on purpose" not in tables["differences"][1].get("double", ""):
        wrong.append("the table does not say why double has so few steps")
    return wrong


def marks(picture, kind, colour):
    """Points of the dots or zeros of one colour."""
    paths = re.findall(rf'<path d="([^"]*)" class="{kind}"[^>]*stroke="{colour}"', picture)
    return [tuple(map(float, at)) for path in paths for at in re.findall(r"M([-\d.]+) ([-\d.]+)h0", path)]


def judge_strategy(name, values, picture, legend, height):
    entry = re.findall(rf'background:(#\w+)"></i><b>{name}</b>: (.*?)</li>', legend)
    if len(entry) != 1:
        return [f"'{name}' is not in the legend once"]
    colour, said = entry[0]
    dots, zeros = marks(picture, "dots", colour), marks(picture, "zeros", colour)
    wrong = []
    positive = [v for v in values if v > 0]
    exact = len(values) - len(positive)
    told = "exactly 0 in all steps" if not positive else f"largest {scientific(max(values))}; " + (f"exactly 0 in {exact} of {len(values)} steps" if exact else "never exactly 0")
    if said != told:
        wrong.append(f"'{name}': the legend says '{said}', not '{told}'")
    if len(dots) != len(positive) or len(zeros) != exact:
        wrong.append(f"'{name}': {len(dots)} dots and {len(zeros)} marks of zero for {len(positive)} values above zero and {exact} zeros")
    elif any(abs(y - height(v)) > 0.2 for (_, y), v in zip(dots, positive)):
        wrong.append(f"'{name}': a dot does not stand where its value is on the axis")
    ground = re.findall(r'<rect [^>]*y="([\d.]+)"[^>]*height="([\d.]+)" class="ground"', picture)
    if len(ground) != 1 or any(not float(ground[0][0]) < y < float(ground[0][0]) + float(ground[0][1]) for _, y in zeros):
        wrong.append(f"'{name}': a zero does not stand in the row of zeros")
    elif any(y >= float(ground[0][0]) for _, y in dots):
        wrong.append(f"'{name}': a dot stands in the row of zeros")
    return wrong


def scale_of(picture):
    """Where a value stands: a function from the labels of the axis."""
    labels = [(int(power), float(y) - 4) for y, power in re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>1e(-?\d+)</text>', picture)]
    if len(labels) < 2:
        return None
    (a, at_a), (b, at_b) = labels[0], labels[-1]
    return lambda value: at_a + (math.log10(value) - a) * (at_b - at_a) / (b - a)


def judge_differences(html, report, kind):
    charts = re.findall(rf'(?s)<svg [^>]*data-type="{kind}"[^>]*>(.*?)</svg>\s*<ul class="legend">(.*?)</ul>', html)
    if len(charts) != 1:
        return [f"{len(charts)} charts of differences in {kind}"]
    picture, legend = charts[0]
    height = scale_of(picture)
    if not height:
        return [f"the chart of differences in {kind} has no logarithmic axis"]
    runs = [r for r in report["runs"] if r["type"] == kind]
    wrong = []
    for r in runs:
        wrong += judge_strategy(r["strategy"], difference_by_step(r, runs[0]), picture, legend, height)
    if not re.search(r">exactly</text>.*?>0</text>", picture):
        wrong.append("the row of zeros has no name")
    bound = re.findall(r'<path d="M[\d.]+ ([\d.]+)L[^"]*" class="bound"', picture)
    if len(bound) != 1 or abs(float(bound[0]) - height(ALLOWED[kind])) > 0.2 or f">allowed: {power_of_ten(ALLOWED[kind])}<" not in picture:
        wrong.append(f"the chart in {kind} does not show what is allowed")
    return [f"chart in {kind}: {sentence}" for sentence in wrong]


def judge_loss(html, report):
    charts = re.findall(r'(?s)<svg [^>]*aria-label="loss[^>]*>(.*?)</svg>', html)
    if len(charts) != 1 or len(marks(charts[0], "dots", r"#\w+")) != len(report["runs"][0]["losses"]):
        return [f"{len(charts)} charts of the loss; one with one curve and a dot for each step was expected"]
    return []


def in_compared_steps(report):
    """Where not all steps are compared, which ones."""
    of_one = report["runs"][0]
    return f" in the first {of_one['compared_steps']} steps" if of_one["compared_steps"] < len(of_one["losses"]) else ""


def judge_words(html, report):
    """What the page must say beside its figures."""
    cores = f"{report['cores']} core" + ("" if report["cores"] == 1 else "s")
    text = " ".join(re.sub(r"<[^>]*>", " ", html).split())
    worst = max(report["runs"], key=lambda r: r["imbalance"])
    device = "CUDA device" in report["ranks_are"]
    wanted = {
        "that all agree": [f"All strategies agree with one rank{in_compared_steps(report)}."],
        "what tokens/s leaves out": [cores, "copies what it needs to the device", "it does not show"] if device else [cores, "computes on one thread", "It does not show"],
        "what imbalance is": ["(query, key) pairs", "1.00 means that nobody waits", "(2P − 1)/P", f"Largest here: {worst['imbalance']:.2f}, {worst['strategy']}."],
        "what the attention peak counts": ["Device memory" if device else "Host memory", "the rank that needs most", "scratch", "kept from forward to backward", "Not included: the tensors"],
        "what exactly 0 means": ["same to the last bit", "“exactly 0”"],
    }
    if "gradients_against_differences_of_the_loss" in report:
        error = report["gradients_against_differences_of_the_loss"]["error"]
        wanted["how right one rank's gradients are"] = [f"differ from differences of the loss by {error:.1e}"]
    for r in report["runs"][1:len(STRATEGIES)]:
        if "gated_delta_nets_by" in r:
            how = {"heads": "For gated delta nets ranks exchange tokens for heads", "state": "For gated delta nets each rank sends maps"}
            if not re.search(rf"(?s)<h3>{r['strategy']}</h3>(?:(?!<h3>).)*{how[r['gated_delta_nets_by']]}", html):
                wanted[f"how '{r['strategy']}' computes gated delta nets"] = ["\0"]
        if not re.search(rf"(?s)<h3>{r['strategy']}</h3>(?:(?!<h3>).)*Imbalance {r['imbalance']:.2f}\.", html):
            wanted[f"the imbalance of '{r['strategy']}' beside its pictures"] = ["\0"]
    return [f"the page does not say {what}" for what, words in wanted.items() if any(w not in text for w in words)]


def judge_page(html, report):
    wrong = judge_alone(html) + judge_phone(html) + judge_tables(html, report) + judge_loss(html, report) + judge_words(html, report)
    for kind in kinds_of(report):
        wrong += judge_differences(html, report, kind)
    return wrong
