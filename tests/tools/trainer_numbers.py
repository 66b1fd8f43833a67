"""Judges train.json of examples/trainer: every number that can be derived from the others or from the plans is derived again here.

Each function returns sentences about what is wrong, none when all is well. Nothing of the trainer's own arithmetic is used.
"""
import math

STRATEGIES = {  # data ranks, ring ranks, Ulysses ranks, who owns which tokens
    "one rank": (1, 1, 1, "contiguous"),
    "ulysses 4": (1, 1, 4, "contiguous"),
    "zigzag ring 4": (1, 4, 1, "zigzag"),
    "striped ring 3": (1, 3, 1, "striped"),
    "usp 2 x 2": (1, 2, 2, "zigzag"),
    "data 2 x sequence 2": (2, 2, 1, "contiguous"),
}
ALLOWED = {"bf16": 1e-2, "float": 1e-4, "double": 1e-9}  # bf16: a model in float with attention in bf16, on a device
ALLOWED_SLOPES = {False: 1e-9, True: 1e-7}  # of gradients of one rank in double against differences of the loss; with gated delta nets
BY_HEADS = ("ulysses 4", "striped ring 3")  # how gated delta nets are computed there; elsewhere by state
FALL = 0.8  # of the first loss, from 30 steps on where the training itself is
CURVES = {"loss": "losses", "gradient_norm": "gradient_norms"}


def relative(a, b):
    """|a - b| over |b|, step by step; values below a hundredth of the largest |b| are measured by that."""
    floor = max(0.01 * max(map(abs, b)), 1e-300)
    return [abs(x - y) / max(abs(y), floor) for x, y in zip(a, b)]


def difference_by_step(run, one):
    n = run["compared_steps"]
    return [max(pair) for pair in zip(*(relative(run[c][:n], one[c][:n]) for c in CURVES.values()))]


def mean_of_last_3(values):
    last = values[-3:]
    return sum(last) / len(last)


def part_of(i, n, parts):
    """The part that position i of n lies in, by the cut rule floor(p n / parts)."""
    return ((i + 1) * parts - 1) // n


def owner(how, in_stream, stream, in_document, document, ranks):
    if how == "contiguous":
        return part_of(in_stream, stream, ranks)
    if how == "striped":
        return in_document % ranks
    chunk = part_of(in_document, document, 2 * ranks)
    return min(chunk, 2 * ranks - 1 - chunk)


def imbalance(strategy, cu_seqlens, q_heads):
    """Causal pairs times query heads of the busiest rank over the mean, token by token."""
    data, ring, ulysses, how = STRATEGIES[strategy]
    work = []
    for group in range(data):
        documents = [e - b for b, e in zip(cu_seqlens, cu_seqlens[1:]) if (b + e) // 2 * data // cu_seqlens[-1] == group]
        stream, begin, pairs = sum(documents), 0, [0] * ring
        for length in documents:
            for i in range(length):
                pairs[owner(how, begin + i, stream, i, length, ring)] += i + 1
            begin += length
        cuts = [p * q_heads // ulysses for p in range(ulysses + 1)]
        work += [n * (z - a) for n in pairs for a, z in zip(cuts, cuts[1:])]
    return max(work) * len(work) / sum(work)


def compared_steps(report, steps):
    """Of so many, those that are compared with one rank: with gated delta nets training soon amplifies what rounding did."""
    return min(steps, 8) if "gated_delta_nets" in report["model"] else steps


def judge_curves(r, one, steps, compared):
    broken = [c for c in CURVES.values() if len(r[c]) != steps or not all(type(x) is float and math.isfinite(x) and x > 0 for x in r[c])]
    if broken:
        return [f"{broken} have other lengths than {steps} or values that are not positive numbers"]
    wrong = []
    for name, curve in CURVES.items():
        found = max(relative(r[curve][:compared], one[curve][:compared])) if len(one[curve]) == steps else math.inf
        if not found <= ALLOWED[r["type"]]:
            wrong.append(f"{curve} differ from one rank by {found:.2e}, allowed {ALLOWED[r['type']]:.0e}")
        if not math.isclose(found, r["difference"][name], rel_tol=1e-6, abs_tol=1e-15):
            wrong.append(f"the difference of {curve} is {found:.3e}, not {r['difference'][name]}")
    if r["compared_steps"] != compared:
        wrong.append(f"{r['compared_steps']} steps are compared, not {compared}")
    if not math.isclose(r["final_loss_mean_of_last_3"], mean_of_last_3(r["losses"]), rel_tol=1e-12):
        wrong.append("the final loss is not the mean of the last three steps")
    if r["type"] != "double" and steps >= 30 and not mean_of_last_3(r["losses"]) < FALL * r["losses"][0]:
        wrong.append(f"the loss went from {r['losses'][0]} to {mean_of_last_3(r['losses'])}")
    if r["ranks"] > 1 and steps > 2 and not any(x != y for curve in CURVES.values() for x, y in zip(r[curve], one[curve])):
        wrong.append("equals one rank to the last bit; was it run at all?")
    return wrong


def judge_run(r, report):
    wrong = []
    gradients, sent = r["difference"]["first_gradients"], r["bytes_per_token"]
    if not (type(gradients) is float and 0 <= gradients <= ALLOWED[r["type"]]):
        wrong.append(f"first gradients differ by {gradients}")
    if r["allowed_difference"] != ALLOWED[r["type"]]:
        wrong.append(f"allows {r['allowed_difference']}, not {ALLOWED[r['type']]:.0e}")
    if sent["counted"] != sent["closed_form"] or (sent["counted"] > 0) != (r["ranks"] > 1):
        wrong.append(f"sent {sent['counted']} bytes per token, closed form {sent['closed_form']}")
    expected = imbalance(r["strategy"], report["first_step_cu_seqlens"], report["model"]["q_heads"])
    if not math.isclose(r["imbalance"], expected, rel_tol=1e-12):
        wrong.append(f"imbalance {r['imbalance']}, but token by token it is {expected}")
    return wrong


def judge_slopes(report):
    """Where all is computed on the host, gradients are compared with differences of the loss."""
    if "CUDA device" in report["ranks_are"]:
        return []
    allowed = ALLOWED_SLOPES["gated_delta_nets" in report["model"]]
    slopes = report["gradients_against_differences_of_the_loss"]
    good = type(slopes["error"]) is float and 0 < slopes["error"] <= allowed == slopes["allowed"]
    return [] if good else [f"gradients against differences of the loss: {slopes}"]


def judge_hybrid(report):
    """Three gated delta nets, then a layer of softmax attention; which strategy computes them by what."""
    model, wrong = report["model"], []
    nets = model.get("gated_delta_nets", {})
    if (model["layers"], nets.get("layers")) != (4, 3) or nets["v_heads"] % nets["k_heads"] != 0:
        wrong.append(f"the model is {model}")
    for r in report["runs"]:
        if r["gated_delta_nets_by"] != ("heads" if r["strategy"] in BY_HEADS else "state"):
            wrong.append(f"{r['strategy']}: gated delta nets by {r['gated_delta_nets_by']}")
    return wrong


def judge_numbers(report, steps):
    """`steps` by number type."""
    runs = {(r["strategy"], r["type"]): r for r in report["runs"]}
    wanted = {(s, t) for s in STRATEGIES for t in steps}
    if len(report["runs"]) != len(runs) or set(runs) != wanted:
        return [f"runs: missing {sorted(wanted - set(runs))}, unknown {sorted(set(runs) - wanted)}, {len(report['runs'])} in all"]
    wrong = judge_slopes(report)
    if not (type(report["cores"]) is int and report["cores"] > 0 and report["threads_per_rank"] == 1):
        wrong.append(f"{report['cores']} cores, {report['threads_per_rank']} threads a rank")
    for (strategy, kind), r in runs.items():
        found = judge_curves(r, runs["one rank", kind], steps[kind], compared_steps(report, steps[kind])) + judge_run(r, report)
        wrong += [f"{strategy} in {kind}: {sentence}" for sentence in found]
    return wrong


def kinds_of(report):
    """Its number types, in order."""
    return list(dict.fromkeys(r["type"] for r in report["runs"]))


def judge_near(report, of_host):
    """How far the curves of a device are from those of the same runs on the host; bf16 stands beside float."""
    host = {(r["strategy"], r["type"]): r for r in of_host["runs"]}
    wrong = []
    for r in report["runs"]:
        one = host[r["strategy"], "float" if r["type"] == "bf16" else r["type"]]
        for name in CURVES.values():
            found = max(relative(r[name], one[name])) if len(r[name]) == len(one[name]) else math.inf
            if not found <= ALLOWED[r["type"]]:
                wrong.append(f"{r['strategy']} in {r['type']}: {name} differ from the host's by {found:.2e}, allowed {ALLOWED[r['type']]:.0e}")
    return wrong


def judge_same(report, other):
    """What two reports of the same runs differ in; both programs add in the same order, so the bits must agree."""
    fields = ("strategy", "type", "ranks", "losses", "gradient_norms", "difference", "bytes_per_token", "peak_attention_bytes_per_rank", "imbalance")
    return [f"{a['strategy']} in {a['type']}: {field} differs between threads and processes"
            for a, b in zip(report["runs"], other["runs"], strict=True) for field in fields if a[field] != b[field]]
