#!/usr/bin/env python3
"""Runs sp_trainer and checks what it leaves behind: trainer_check.py PROGRAM FOLDER [--mpi MPI_PROGRAM].

With --mpi four processes of MPI_PROGRAM train as well, and must print, write and end like PROGRAM: the same numbers to the bit.
The numbers of train.json are judged again from the curves themselves; the page must stand alone; wrong paths end with 2.
--self-test shows that every check of the numbers and of the page can fail.
"""
import copy
import json
import math
import os
import pathlib
import pty
import random
import re
import shutil
import subprocess
import sys

STRATEGIES = ["one rank", "ulysses 4", "zigzag ring 4", "striped ring 3", "usp 2 x 2", "data 2 x sequence 2"]
ALLOWED = {"float": 1e-4, "double": 1e-9}
STEPS = {"float": 30, "double": 2}
FALL = 0.8  # of the first loss, from 30 steps on in float


def relative(a, b):
    """Largest |a - b| over |b|; values below a hundredth of the largest |b| are measured by that."""
    floor = max(0.01 * max(map(abs, b)), 1e-300)
    return max(abs(x - y) / max(abs(y), floor) for x, y in zip(a, b))


def mean_of_last_3(values):
    last = values[-3:]
    return sum(last) / len(last)


def judge_numbers(report, steps):
    """Sentences about what is wrong in train.json; `steps` by number type."""
    runs = {(r["strategy"], r["type"]): r for r in report["runs"]}
    wanted = {(s, t) for s in STRATEGIES for t in steps}
    if len(report["runs"]) != len(runs) or set(runs) != wanted:
        return [f"runs: missing {sorted(wanted - set(runs))}, unknown {sorted(set(runs) - wanted)}, {len(report['runs'])} in all"]
    wrong = []
    for (strategy, kind), r in runs.items():
        where = f"{strategy} in {kind}: "
        curves = {"loss": "losses", "gradient_norm": "gradient_norms"}
        broken = [c for c in curves.values() if len(r[c]) != steps[kind] or not all(type(x) is float and math.isfinite(x) and x > 0 for x in r[c])]
        if broken:
            wrong.append(where + f"{broken} have other lengths than {steps[kind]} or values that are not positive numbers")
            continue
        one = runs["one rank", kind]
        for name, curve in curves.items():
            found = relative(r[curve], one[curve]) if len(one[curve]) == steps[kind] else math.inf
            if not found <= ALLOWED[kind]:
                wrong.append(where + f"{curve} differ from one rank by {found:.2e}, allowed {ALLOWED[kind]:.0e}")
            if not math.isclose(found, r["difference"][name], rel_tol=1e-6, abs_tol=1e-15):
                wrong.append(where + f"the difference of {curve} is {found:.3e}, not {r['difference'][name]}")
        if not (type(r["difference"]["first_gradients"]) is float and 0 <= r["difference"]["first_gradients"] <= ALLOWED[kind]):
            wrong.append(where + f"first gradients differ by {r['difference']['first_gradients']}")
        if r["allowed_difference"] != ALLOWED[kind]:
            wrong.append(where + f"allows {r['allowed_difference']}, not {ALLOWED[kind]:.0e}")
        sent = r["bytes_per_token"]
        if sent["counted"] != sent["closed_form"] or (sent["counted"] > 0) != (r["ranks"] > 1):
            wrong.append(where + f"sent {sent['counted']} bytes per token, closed form {sent['closed_form']}")
        if not math.isclose(r["final_loss_mean_of_last_3"], mean_of_last_3(r["losses"]), rel_tol=1e-12):
            wrong.append(where + "the final loss is not the mean of the last three steps")
        if kind == "float" and steps[kind] >= 30 and not mean_of_last_3(r["losses"]) < FALL * r["losses"][0]:
            wrong.append(where + f"the loss went from {r['losses'][0]} to {mean_of_last_3(r['losses'])}")
        if r["ranks"] > 1 and steps[kind] > 2 and not any(x != y for name in curves.values() for x, y in zip(r[name], one[name])):
            wrong.append(where + "equals one rank to the last bit; was it run at all?")
    return wrong


def judge_page(html):
    wrong = []
    if re.search(r"""(?i)\b(src|href|srcset|action|data)\s*=\s*["']?\s*(?!["']?#)""", html):
        wrong.append("the page refers to something outside itself")
    if re.search(r"(?i)<(script|link|iframe|img|object|embed)\b|@import|url\s*\(|https?:", html):
        wrong.append("the page has scripts, links or addresses")
    if html.count("<svg") < len(STRATEGIES) or html.count("<svg") != html.count("</svg>"):
        wrong.append(f"{html.count('<svg')} inline pictures, {html.count('</svg>')} of them closed")
    wrong += [f"'{s}' is not named in the table" for s in STRATEGIES if f"<td>{s}<td>" not in html]
    wrong += [f"'{s}' has no pictures" for s in STRATEGIES[1:] if f"<h3>{s}</h3>" not in html]
    if not html.rstrip().endswith("</html>"):
        wrong.append("the page is cut off")
    return wrong


def judge_same(report, other):
    """What two reports of the same runs differ in; both programs add in the same order, so the bits must agree."""
    return [f"{a['strategy']} in {a['type']}: {field} differs between threads and processes"
            for a, b in zip(report["runs"], other["runs"], strict=True)
            for field in ("strategy", "type", "ranks", "losses", "gradient_norms", "difference", "bytes_per_token", "peak_attention_bytes_per_rank")
            if a[field] != b[field]]


def self_test():
    def run(strategy, kind, i):
        losses = [(5.0 - 0.1 * s) * (1 + i * ALLOWED[kind] / 100) for s in range(STEPS[kind])]
        return {"strategy": strategy, "type": kind, "ranks": 1 if i == 0 else 4, "losses": losses, "gradient_norms": list(losses),
                "difference": {"first_gradients": 0.0}, "allowed_difference": ALLOWED[kind],
                "bytes_per_token": {"counted": 8.0 * i, "closed_form": 8.0 * i}, "peak_attention_bytes_per_rank": 64, "final_loss_mean_of_last_3": mean_of_last_3(losses)}

    good = {"runs": [run(s, t, i) for t in STEPS for i, s in enumerate(STRATEGIES)]}
    for r in good["runs"]:
        one = next(x for x in good["runs"] if x["type"] == r["type"])
        r["difference"].update({n: relative(r[c], one[c]) for n, c in (("loss", "losses"), ("gradient_norm", "gradient_norms"))})
    assert judge_numbers(good, STEPS) == [], judge_numbers(good, STEPS)

    def flat(r):
        for x in r["runs"]:
            x["losses"] = [5.0 * (1 + 1e-12 * (x["ranks"] - 1))] * len(x["losses"])

    changes = [
        lambda r: r["runs"].pop(), lambda r: r["runs"].append(r["runs"][1]), lambda r: r["runs"][1]["losses"].pop(), flat,
        lambda r: r["runs"][2]["losses"].__setitem__(5, 4.51), lambda r: r["runs"][8]["gradient_norms"].__setitem__(1, 4.9000001),
        lambda r: r["runs"][3]["losses"].__setitem__(0, None), lambda r: r["runs"][3]["difference"].__setitem__("loss", 0.0),
        lambda r: r["runs"][3]["difference"].__setitem__("first_gradients", 1e-3), lambda r: r["runs"][4].__setitem__("allowed_difference", 1),
        lambda r: r["runs"][4]["bytes_per_token"].__setitem__("counted", 9.0),
        lambda r: r["runs"][1].__setitem__("bytes_per_token", {"counted": 0.0, "closed_form": 0.0}),
        lambda r: r["runs"][4].__setitem__("final_loss_mean_of_last_3", r["runs"][4]["losses"][-1]),
        lambda r: r["runs"][1].update({c: r["runs"][0][c] for c in ("losses", "gradient_norms")}),
    ]
    for number, change in enumerate(changes):
        bad = copy.deepcopy(good)
        change(bad)
        assert judge_numbers(bad, STEPS), f"change {number} was not noticed"

    other = copy.deepcopy(good)
    assert judge_same(good, other) == []
    other["runs"][3]["losses"][4] = math.nextafter(other["runs"][3]["losses"][4], 0)
    assert len(judge_same(good, other)) == 1

    page = "<html>" + "".join(f"<svg></svg><tr><td>{s}<td>1" for s in STRATEGIES) + "".join(f"<h3>{s}</h3>" for s in STRATEGIES) + "</html>"
    assert judge_page(page) == [], judge_page(page)
    for bad in (page.replace("<svg>", "<script></script><svg>"), page + "<a href=\"x\"></html>", page.replace("<html>", "<html><img src=a>"),
                page.replace("<html>", "<html>http://x"), page.replace("</svg>", ""), page.replace("<td>ulysses 4<td>", ""),
                page.replace("<svg></svg>", ""), page.replace("</html>", ""), page.replace("<h3>usp 2 x 2</h3>", "")):
        assert judge_page(bad), bad
    print(f"{len(changes) + 1} wrong reports and 9 wrong pages were noticed")


def on_a_terminal(command):
    """Runs with a pseudo-terminal as output; returns the exit code and what it printed."""
    main_end, program_end = pty.openpty()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=program_end, stderr=program_end)
    os.close(program_end)
    shown = b""
    while True:
        try:
            piece = os.read(main_end, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(main_end)
    return process.wait(), shown


def check_mpi(threads, program, folder):
    """The same short training by threads and by four processes."""
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    mpirun = ["mpirun", *root, "--oversubscribe", "-n", "4", program]
    steps = {"float": 8, "double": 2}
    text = pathlib.Path(__file__).resolve().parents[2] / "examples"
    environment = {**os.environ, "TERM": "dumb", "OMPI_MCA_mpi_yield_when_idle": "1"}

    def run(command, *arguments):
        return subprocess.run([*command, "--quick", "--steps", "8", "--double-steps", "2", "--text", text, *map(str, arguments)], env=environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    reports = []
    for command, name in (([threads], "threads"), (mpirun, "processes")):
        done = run(command, "--out", folder / name)
        if done.returncode != 0:
            return [f"the trainer failed with {name} (exit code {done.returncode})\n{(done.stdout + done.stderr).decode(errors='replace')[-3000:]}"]
        reports.append(json.loads((folder / name / "train.json").read_text()))
    shown = done.stdout.decode()
    print(shown)
    wrong = judge_numbers(reports[1], steps) + judge_same(*reports) + judge_page((folder / "processes/report.html").read_text())
    if [r["ranks_are"] for r in reports] != ["threads of this machine", "processes under MPI"]:
        wrong.append(f"ranks are {[r['ranks_are'] for r in reports]}")
    if shown.count("All strategies agree") != 1 or shown.count("Wrote ") != 1 or "\x1b" in shown:
        wrong.append("one process should print, and plain lines only")
    done = run(mpirun, "--text", folder / "missing", "--out", folder / "no") # as well as the text that is there
    said = done.stderr.decode(errors="replace")
    if done.returncode != 2 or said.count(f"no file or folder '{folder / 'missing'}'") != 1 or (folder / "no").exists():
        wrong.append(f"a missing text ended with {done.returncode}\n{said}")
    return wrong


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if sys.argv[3:4] == ["--mpi"]:
        return report_wrong(check_mpi(program, sys.argv[4], folder))
    return report_wrong(check(program, folder))


def report_wrong(wrong):
    for w in wrong:
        print("trainer_check: " + w, file=sys.stderr)
    return 1 if wrong else 0


def check(program, folder):
    wrong = []

    def run(*arguments):
        return subprocess.run([program, "--quick", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def expect(good, sentence, done):
        if not good:
            tail = (done.stdout + done.stderr).decode(errors="replace")[-1500:]
            wrong.append(f"{sentence} (exit code {done.returncode})\n{tail}")

    # this repository's text; enough steps that the program itself requires a fall
    done = run("--steps", STEPS["float"], "--double-steps", STEPS["double"], "--out", folder / "whole")
    expect(done.returncode == 0, "the trainer failed", done)
    if done.returncode == 0:
        print(done.stdout.decode())
        wrong += judge_numbers(json.loads((folder / "whole/train.json").read_text()), STEPS)
        wrong += judge_page((folder / "whole/report.html").read_text())
        expect(b"\r" not in done.stdout and b"\x1b" not in done.stdout, "carriage returns without a terminal", done)
        expect(b"was required" in done.stdout, "no fall of the loss was required", done)

    # random bytes have nothing to learn: the program itself must notice that the loss does not fall
    noise = folder / "noise.txt"
    noise.write_bytes(bytes(random.Random(1).choices(range(1, 256), k=40000)))
    done = run("--text", noise, "--steps", STEPS["float"], "--double-steps", 1, "--out", folder / "noise")
    expect(done.returncode == 1 and b"was expected" in done.stderr and b"differ" not in done.stderr, "a loss that does not fall was not noticed", done)

    # one file
    text = folder / "one.txt"
    text.write_text("".join(f"line {i} says {i * i}\n" for i in range(200)))
    small = ["--steps", 2, "--double-steps", 1]
    done = run("--text", text, *small, "--out", folder / "one")
    expect(done.returncode == 0 and b" 1 files" in done.stdout, "a single file as text", done)
    if done.returncode == 0:
        wrong += judge_numbers(json.loads((folder / "one/train.json").read_text()), {"float": 2, "double": 1})

    # a terminal
    code, shown = on_a_terminal([program, "--quick", "--text", str(text), *map(str, small), "--out", str(folder / "one")])
    lines = [s for s in re.split(rb"\n", shown) if "█".encode() in s]
    if code != 0 or len(lines) != 2 * len(STRATEGIES) or any(b"\r" not in s.rstrip(b"\r") for s in lines):
        wrong.append(f"on a terminal: exit code {code}, {len(lines)} bars\n{shown[-1500:].decode(errors='replace')}")

    # what cannot be used ends with 2 and a message, before any training
    (folder / "empty").mkdir()
    (folder / "taken/train.json").mkdir(parents=True)
    (folder / "page/report.html").mkdir(parents=True)
    for what, arguments, named in (
        ("a missing path", ["--text", folder / "missing", "--out", folder / "no"], folder / "missing"),
        ("an empty folder", ["--text", folder / "empty", "--out", folder / "no"], folder / "empty"),
        ("an output folder below a file", ["--text", text, "--out", text / "report"], text / "report"),
        ("an output folder that is a file", ["--text", text, "--out", text], text),
        ("a train.json that cannot be written", ["--text", text, "--out", folder / "taken"], folder / "taken/train.json"),
        ("a report.html that cannot be written", ["--text", text, "--out", folder / "page"], folder / "page/report.html"),
    ):
        done = run(*small, *arguments)
        expect(done.returncode == 2 and str(named).encode() in done.stderr and b"loss" not in done.stdout, what + " was not refused", done)
    if (folder / "no").exists() or (folder / "page/train.json").exists():
        wrong.append("a refused run left files behind")

    return wrong


sys.exit(main())
