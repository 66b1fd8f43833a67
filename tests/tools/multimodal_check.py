#!/usr/bin/env python3
"""Runs sp_multimodal_trainer and checks what it leaves behind: multimodal_check.py PROGRAM FOLDER [--all].

The numbers of train.json are judged again from the curves and answers themselves, and violations planted there must be noticed; a csv
written here is read, and broken ones end with 2 and the line. With --all every splice is trained, one of them until it has to answer.
"""
import copy
import gzip
import json
import math
import pathlib
import random
import shutil
import subprocess
import sys

from trainer_numbers import mean_of_last_3, relative
from trainer_page import judge_phone

LEARN = ("one rank", "ulysses 4")  # to the end; others take at most 60 steps
STRATEGIES = {"one rank": 1, "ulysses 4": 4, "ring 4, ulysses 4": 4, "usp 2 x 2": 4, "data 2 x sequence 2": 4}
ALLOWED = {"float": 1e-4, "double": 1e-9}
ALLOWED_GRADIENTS = {"float": 1e-4, "double": 1e-10}
CURVES = {"loss": "losses", "gradient_norm": "gradient_norms"}


def judge_run(r, one, steps, compared):
    wrong = []
    for name, curve in CURVES.items():
        if len(r[curve]) != steps or not all(math.isfinite(x) and x > 0 for x in r[curve]):
            return [f"{curve} are not {steps} positive numbers"]
        found = max(relative(r[curve][:compared], one[curve][:compared]))
        if not found <= ALLOWED[r["type"]]:
            wrong.append(f"{curve} differ from one rank by {found:.2e}")
        if not math.isclose(found, r["difference"][name], rel_tol=1e-6, abs_tol=1e-15):
            wrong.append(f"the difference of {curve} is {found:.3e}, not {r['difference'][name]}")
    gradients = r["difference"]["first_gradients"]
    if not gradients <= ALLOWED_GRADIENTS[r["type"]] or (gradients == 0) != (r["ranks"] == 1):
        wrong.append(f"first gradients differ by {gradients}: over the bound, or by nothing at all on several ranks")
    if r["ranks"] != STRATEGIES[r["strategy"]]:
        wrong.append(f"{r['ranks']} ranks")
    sent = r["bytes"]
    if sent["counted"] != sent["closed_form"] or (sent["counted"] == 0) != (r["ranks"] == 1):
        wrong.append(f"bytes {sent}")
    if not math.isclose(r["final_loss_mean_of_last_3"], mean_of_last_3(r["losses"]), rel_tol=1e-12):
        wrong.append("the final loss is not the mean of the last three steps")
    if not all(r[x] > 0 for x in ("rows_per_second", "patches_per_second", "rows", "patches", "peak_bytes_per_rank")):
        wrong.append("a speed, a number of rows or the memory is not positive")
    if len(r["losses"]) == len(one["losses"]) and (r["rows"], r["patches"]) != (one["rows"], one["patches"]):
        wrong.append("other rows or patches than one rank had")
    return wrong


def judge_answers(r, one, report):
    given = r.get("answers", [])
    if len(given) != (report["questions"] if r["type"] == "float" and r["strategy"] in LEARN else 0):
        return [f"{len(given)} answers"]
    if not given:
        return []
    right = sum(wanted == found for _, wanted, found in given) / len(given)
    wrong = [] if math.isclose(right, r["right_answers"], abs_tol=1e-9) else [f"{right} are right, not {r['right_answers']}"]
    if [a[:2] for a in given] != [a[:2] for a in one["answers"]]:
        wrong.append("other questions than one rank was asked")
    if not all("#" in question and wanted.endswith(".") for question, wanted, _ in given):
        wrong.append("a question without a picture, or an answer without its end")
    if not right >= report["required_right_answers"]:
        wrong.append(f"{right} of the answers are right, {report['required_right_answers']} were required")
    return wrong


def judge_numbers(report, steps):
    """Sentences about what is wrong, none when all is well."""
    wrong = []
    runs = report["runs"]
    if [(r["type"], r["strategy"]) for r in runs] != [(t, s) for t in ("double", "float") for s in STRATEGIES]:
        return [f"runs are {[(r['type'], r['strategy']) for r in runs]}"]
    for r in runs:
        one = next(o for o in runs if o["type"] == r["type"])
        taken = steps[r["type"]] if r["type"] == "double" or r["strategy"] in LEARN else min(steps["float"], 60)
        found = judge_run(r, one, taken, r["compared_steps"]) + judge_answers(r, one, report)
        wrong += [f"{r['strategy']}, {r['type']}: {sentence}" for sentence in found]
    if "taken: 2 of vision, 2 of text" not in report["found"]:
        wrong.append(f"in the model were found: {report['found']}")
    slopes = report["gradients_against_differences_of_the_loss"]
    if not 0 < slopes["error"] <= 1e-9:
        wrong.append(f"gradients against differences of the loss: {slopes}")
    return wrong


def unnoticed(report, steps):
    """Violations that are planted into good numbers one by one; those that nothing is said about."""

    def change(path, f):
        changed = copy.deepcopy(report)
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = f(at[path[-1]])
        return changed

    last, asked = len(report["runs"]) - 1, len(STRATEGIES) + 1
    planted = {
        "a loss": change(("runs", 2, "losses", 1), lambda x: x * (1 + 1e-6)),
        "a norm": change(("runs", last, "gradient_norms", 0), lambda x: x * 1.01),
        "gradients": change(("runs", 1, "difference", "first_gradients"), lambda x: 2e-10),
        "gradients that nobody compared": change(("runs", 1, "difference", "first_gradients"), lambda x: 0),
        "a byte": change(("runs", 3, "bytes", "counted"), lambda x: x + 1),
        "a run": change(("runs",), lambda x: x[:-1]),
        "an answer": change(("runs", asked, "answers", 0), lambda x: [x[0], x[1], x[1] if x[2] != x[1] else "?"]),
        "a question": change(("runs", asked, "answers", 0), lambda x: ["#-#=", x[1], x[2]]),
        "slopes": change(("gradients_against_differences_of_the_loss", "error"), lambda x: 1e-6),
        "patches": change(("runs", 4, "patches"), lambda x: x - 1),
    }
    return [f"nothing was said about {what} that was changed" for what, changed in planted.items() if not judge_numbers(changed, steps)]


def judge_page(page, report):
    wrong = judge_phone(page)
    for strategy in STRATEGIES:
        if page.count(strategy) < 4:
            wrong.append(f"'{strategy}' is missing in a table or chart")
    if page.count('class="patches"') != 3 + 2 or page.count("<figure") == 0 or page.count("<svg") != page.count("</svg>"):
        wrong.append("pictures are missing")
    if "All strategies agree" not in page or "http" in page or not page.rstrip().endswith("</html>"):
        wrong.append("no verdict, something that is fetched, or no end")
    if f"{report['runs'][5]['right_answers']:.3f}" not in page:
        wrong.append("the page does not say how many answers are right")
    return wrong


def train(program, folder, *arguments):
    return subprocess.run([program, "--out", folder, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)


def check_training(program, folder, steps, *arguments):
    done = train(program, folder, "--steps", steps["float"], "--double-steps", steps["double"], *arguments)
    print(done.stdout.decode(), done.stderr.decode())
    if done.returncode != 0:
        return [f"{arguments}: exit code {done.returncode}"]
    report, page = json.loads((folder / "train.json").read_text()), (folder / "report.html").read_text()
    return judge_numbers(report, steps) + judge_page(page, report) + unnoticed(report, steps)


def csv_of(each, change=lambda lines: lines):
    """Pictures of noise, `each` of every digit."""
    dice = random.Random(3)
    lines = [",".join(str(dice.randrange(17)) for _ in range(64)) + f",{label}" for label in range(10) for _ in range(each)]
    return "\n".join(change(lines)) + "\n"


def check_pictures(program, folder):
    """A csv that is read, one with a heading, and broken ones."""
    few = ["--quick", "--steps", 1, "--double-steps", 1, "--images"]
    csv = folder / "digits.csv"
    csv.write_text(csv_of(6, lambda lines: [",".join(f"pixel{i}" for i in range(64)) + ",label", *lines]))
    done = train(program, folder / "csv", *few, csv)
    if done.returncode != 0:
        return [f"pictures of a csv were not trained on: exit code {done.returncode}\n{done.stderr.decode()}"]
    pictures = json.loads((folder / "csv/train.json").read_text())["pictures"]
    wrong = [] if pictures == {"source": "digits.csv", "train": 50, "held_back": 10} else [f"pictures are {pictures}"]

    def with_line(line):
        return lambda lines: [*lines[:3], line, *lines[3:]]

    for what, text, said in (
        ("a digit that is none", csv_of(6, with_line(",".join(["0"] * 64) + ",11")), ":4"),
        ("a pixel that is none", csv_of(6, with_line(",".join(["17"] * 64) + ",1")), ":4"),
        ("a short line", csv_of(6, with_line("1,2,3")), ":4"),
        ("a word", csv_of(6, with_line("ink" + ",0" * 64)), ":4"),
        ("too few pictures", csv_of(4), "at least 5"),
    ):
        csv.write_text(text)
        done = train(program, folder / "no", *few, csv)
        if done.returncode != 2 or said.encode() not in done.stderr or (folder / "no").exists():
            wrong.append(f"{what} was not refused: exit code {done.returncode}, {done.stderr.decode()}")
    packed = folder / "digits.csv.gz"
    packed.write_bytes(gzip.compress(csv_of(6).encode()))
    done = train(program, folder / "no", *few, packed)
    if done.returncode != 2 or b"gunzip" not in done.stderr or (folder / "no").exists():
        wrong.append(f"a compressed csv was not refused: exit code {done.returncode}, {done.stderr.decode()}")
    done = train(program, folder / "no", *few, folder / "missing.csv")
    if done.returncode != 2 or b"missing.csv" not in done.stderr:
        wrong.append(f"a csv that is not there was not refused: exit code {done.returncode}, {done.stderr.decode()}")
    for refused in (("--splice", "other"), ("--splice", "1"), ("--seed", "-1"), ("--images", "")):
        if train(program, folder / "no", "--quick", *refused).returncode != 2 or (folder / "no").exists():
            wrong.append(f"{refused} was not refused, or the refused run left files behind")
    return wrong


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    few = {"float": 5, "double": 4}  # one of them without pictures
    wrong = check_training(program, folder / "llava", few, "--quick", "--splice", "llava") + check_pictures(program, folder)
    if sys.argv[3:] == ["--all"]:
        wrong += check_training(program, folder / "internvl", few, "--quick", "--splice", "internvl")
        wrong += check_training(program, folder / "qwen", {"float": 600, "double": 4}, "--splice", "qwen")
    for w in wrong:
        print("multimodal_check: " + w, file=sys.stderr)
    return 1 if wrong else 0


sys.exit(main())
