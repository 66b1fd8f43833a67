#!/usr/bin/env python3
"""Runs bench_multimodal --quick and judges what it writes: bench_multimodal_check.py PROGRAM FOLDER.

The table, the JSON and the picture must have every plan at every size, bytes equal to their closed forms, and the sentences about what is
not shown. A byte too many and a wrong number, planted in turn, must each end the program with 1 and a sentence that names the place.
"""
import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

PLANS = ["one rank", "ulysses 2", "ulysses 4", "ring 2", "ring 4"]
STAGES = 9


def run(program, folder, *more):
    return subprocess.run([program, "--quick", "--out", str(folder), *more], capture_output=True, text=True, timeout=100)


def judge(folder, table):
    report = json.loads((folder / "multimodal.json").read_text())
    runs = report["runs"]
    sizes = sorted({r["tokens"] for r in runs})
    yield len(sizes) > 1 and [(r["tokens"], r["plan"]) for r in runs] == [(n, p) for n in sizes for p in PLANS], "plans and sizes"
    for r in runs:
        stages = r["stages"].values()
        where = f"{r['plan']} at {r['tokens']}: "
        yield len(stages) == STAGES and all(s["bytes"] == s["predicted_bytes"] for s in stages), where + "bytes of stages"
        yield sum(s["bytes"] for s in stages) == r["bytes_sent"] == r["predicted_bytes"], where + "sum of bytes"
        yield (r["bytes_sent"] > 0) == (r["ranks"] > 1), where + "bytes are sent by several ranks, and by one none"
        yield r["seconds_per_step"] > 0 and r["patches_and_tokens_per_second"] > 0, where + "times"
        yield r["peak_tensor_bytes_per_rank"] > 0 and r["peak_call_bytes_per_rank"] > 0, where + "memory"
    yield table.count("\n") > len(runs) and all(sentence in table for sentence in report["not_shown"]), "the table and what is not shown"
    text = "".join(xml.etree.ElementTree.parse(folder / "multimodal.svg").getroot().itertext())
    yield all(plan in text for plan in PLANS) and "closed form" in text and "Speed-up" in text, "the picture"


def main():
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    ran = run(program, folder)
    failures = [f"it ends with {ran.returncode}: {ran.stderr}"] if ran.returncode else [what for good, what in judge(folder, ran.stdout) if not good]
    for plant, sentence in (("bytes", "deepstack backward: 0 bytes were counted, the closed form says 1"), ("numbers", "results differ")):
        planted = run(program, folder / "planted", "--plant", plant)
        if planted.returncode != 1 or sentence not in planted.stderr:
            failures.append(f"planted {plant} were not noticed: {planted.returncode} {planted.stderr}")
    if run(program, folder, "--nonsense").returncode != 2:
        failures.append("an unknown option was taken")
    print("\n".join(f"bench_multimodal: wrong: {f}" for f in failures) or "bench_multimodal: all is there, and planted faults are noticed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
