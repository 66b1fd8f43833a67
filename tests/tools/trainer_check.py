#!/usr/bin/env python3
"""Runs sp_trainer and checks what it leaves behind: trainer_check.py PROGRAM FOLDER [--mpi MPI_PROGRAM | --cuda CUDA_PROGRAM | --model hybrid].

With --mpi four processes of MPI_PROGRAM train as well, and must print, write and end like PROGRAM: the same numbers to the bit.
With --cuda CUDA_PROGRAM, a device's or one over fakes, trains with both kernels, and must have the numbers of PROGRAM within the bounds of
its number types; where it says that there is no device, so does this.
With --model hybrid it trains that model for a few steps.
The numbers of train.json are judged again from the curves themselves; the page must keep its promises, and violations planted on
it must be noticed; wrong paths end with 2. --self-test shows the same without the program, on a report and a page made up here.
"""
import json
import os
import pathlib
import pty
import random
import re
import shutil
import subprocess
import sys

from trainer_numbers import STRATEGIES, judge_hybrid, judge_near, judge_numbers, judge_same
from trainer_page import judge_page
from trainer_violations import self_test, unnoticed_on_page

STEPS = {"float": 30, "double": 2}


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


def run_quick(command, *arguments, environment=None):
    """A short training with --quick; returns what it printed and its exit code."""
    return subprocess.run([*command, "--quick", *map(str, arguments)], env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def failing(good, sentence, done):
    """The sentence with the end of what the program said, unless all is good."""
    tail = (done.stdout + done.stderr).decode(errors="replace")[-3000:]
    return [] if good else [f"{sentence} (exit code {done.returncode})\n{tail}"]


def written(folder):
    """train.json and report.html of a run."""
    return json.loads((folder / "train.json").read_text()), (folder / "report.html").read_text()


def check_mpi(threads, program, folder):
    """The same short training by threads and by four processes."""
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    mpirun = ["mpirun", *root, "--oversubscribe", "-n", "4", program]
    environment = {**os.environ, "TERM": "dumb", "OMPI_MCA_mpi_yield_when_idle": "1"}
    text = pathlib.Path(__file__).resolve().parents[2] / "examples"

    steps = {"float": 8, "double": 2}
    wrong = []
    for model in ("hybrid", "text"):
        reports = []
        for command, name in (([threads], "threads"), (mpirun, "processes")):
            done = run_quick(command, "--model", model, "--steps", steps["float"], "--double-steps", steps["double"], "--text", text,
                             "--out", folder / model / name, environment=environment)
            if done.returncode != 0:
                return failing(False, f"the trainer failed with {name}, --model {model}", done)
            reports.append(written(folder / model / name))
        (of_threads, _), (of_processes, page) = reports
        wrong += judge_numbers(of_processes, steps) + judge_same(of_threads, of_processes) + judge_page(page, of_processes)
    shown = done.stdout.decode()
    print(shown)
    said = [of_threads["ranks_are"], of_processes["ranks_are"]]
    if said != ["threads of this machine", "processes under MPI"]:
        wrong.append(f"ranks are {said}")
    if shown.count("All strategies agree") != 1 or shown.count("Wrote ") != 1 or "\x1b" in shown:
        wrong.append("one process should print, and plain lines only")
    missing = folder / "missing"
    done = run_quick(mpirun, "--text", text, "--text", missing, "--out", folder / "no", environment=environment)
    once = done.stderr.decode(errors="replace").count(f"no file or folder '{missing}'") == 1
    refused = done.returncode == 2 and once and not (folder / "no").exists()
    return wrong + failing(refused, "a missing text beside one that is there was not refused once", done)


def check_cuda(host, program, folder):
    """A few steps on a device with each kernel, beside the same steps on the host; what does not fit is refused."""
    text = pathlib.Path(__file__).resolve().parents[2] / "examples"
    few = ["--steps", 2, "--double-steps", 1, "--text", text]
    wrong = check_misfit([program], ["--workers", 2], "--workers are threads of the host", folder)
    wrong += check_misfit([program], ["--model", "hybrid"], "leave out --cuda", folder)
    done = run_quick([program], *few, "--out", folder / "flash")
    if done.returncode == 77:
        print(done.stderr.decode())
        return wrong + failing(done.stderr.startswith(b"skipped: no CUDA device was found") and not done.stdout, "nothing can be run, but why was not said", done)
    of_host = run_quick([host], *few, "--out", folder / "host")
    of_reference = run_quick([program], *few, "--kernel", "reference", "--out", folder / "reference")
    for what, run in (("with cuda_flash", done), ("on the host", of_host), ("with the kernel for proofs", of_reference)):
        if run.returncode != 0:
            return wrong + failing(False, f"the trainer failed {what}", run)
    for kernel, kind in (("flash", "bf16"), ("reference", "float")):
        report, page = written(folder / kernel)
        found = judge_numbers(report, {kind: 2, "double": 1}) + judge_page(page, report) + judge_near(report, written(folder / "host")[0])
        if "CUDA device" not in report["ranks_are"]:
            found.append(f"ranks are {report['ranks_are']}")
        wrong += [f"--kernel {kernel}: {sentence}" for sentence in found]
    print(done.stdout.decode(), of_reference.stdout.decode())
    return wrong


def check_misfit(command, arguments, sentence, folder):
    """Options that do not fit the program end with 2 and a sentence that says so."""
    done = subprocess.run([*map(str, command), *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)
    refused = done.returncode == 2 and sentence in done.stderr.decode() and not done.stdout
    return failing(refused, f"{' '.join(map(str, arguments))} was not refused", done)


def check_model(program, model, folder):
    """Another model by all strategies, whose first steps in float are compared: soon training amplifies what rounding did."""
    text = pathlib.Path(__file__).resolve().parents[2] / "docs"
    steps = {"float": 10, "double": 2}
    done = run_quick([program], "--model", model, "--steps", steps["float"], "--double-steps", steps["double"], "--text", text, "--out", folder)
    if done.returncode != 0:
        return failing(False, f"the trainer failed with --model {model}", done)
    print(done.stdout.decode())
    report, page = written(folder)
    start = pathlib.Path(__file__).resolve().parents[2] / "examples/run.sh"
    return (judge_numbers(report, steps) + judge_hybrid(report) + judge_page(page, report)
            + failing(b"exchange tokens for heads under ulysses 4, striped ring 3" in done.stdout, "how gated delta nets are computed was not said", done)
            + check_misfit([start], ["--cuda", "--model", model], "leave out --cuda", folder)
            + check_misfit([program], ["--model", "other"], "--model", folder))


def check_repository(program, folder):
    """This repository's text; enough steps that the program itself requires a fall."""
    done = run_quick([program], "--steps", STEPS["float"], "--double-steps", STEPS["double"], "--out", folder)
    if done.returncode != 0:
        return failing(False, "the trainer failed", done)
    print(done.stdout.decode())
    report, page = written(folder)
    wrong = judge_numbers(report, STEPS) + judge_page(page, report)
    wrong += failing(b"\r" not in done.stdout and b"\x1b" not in done.stdout, "carriage returns without a terminal", done)
    wrong += failing(b"was required" in done.stdout, "no fall of the loss was required", done)
    return wrong or unnoticed_on_page(page, report)


def check_noise(program, folder):
    """Random bytes have nothing to learn: the program itself must notice that the loss does not fall, and the page must say so."""
    noise = folder / "noise.txt"
    noise.write_bytes(bytes(random.Random(1).choices(range(1, 256), k=40000)))
    done = run_quick([program], "--text", noise, "--steps", STEPS["float"], "--double-steps", 1, "--out", folder / "noise")
    noticed = done.returncode == 1 and b"was expected" in done.stderr and b"differ" not in done.stderr
    if not noticed:
        return failing(False, "a loss that does not fall was not noticed", done)
    page = written(folder / "noise")[1]
    said = "was expected" in page and "All strategies agree" not in page
    return failing(said, "the page does not say that the loss did not fall", done)


def check_small(program, text, folder):
    """One file, few steps; the same by several threads a rank; then on a terminal, where each run draws a bar."""
    small = ["--text", text, "--steps", 2, "--double-steps", 1, "--out", folder]
    done = run_quick([program], *small)
    if done.returncode != 0 or b" 1 files" not in done.stdout:
        return failing(False, "a single file as text", done)
    report, page = written(folder)
    wrong = judge_numbers(report, {"float": 2, "double": 1}) + judge_page(page, report)
    done = run_quick([program], *small, "--workers", 2)
    if done.returncode != 0:
        return failing(False, "the trainer failed with two workers a rank", done)
    of_two = written(folder)[0]
    if of_two["threads_per_rank"] != 2 or [(r["losses"], r["gradient_norms"]) for r in of_two["runs"]] != [
            (r["losses"], r["gradient_norms"]) for r in report["runs"]]:
        wrong.append("two workers a rank have other numbers than one")
    code, shown = on_a_terminal([program, "--quick", *map(str, small)])
    lines = [s for s in re.split(rb"\n", shown) if "█".encode() in s]
    if code != 0 or len(lines) != 2 * len(STRATEGIES) or any(b"\r" not in s.rstrip(b"\r") for s in lines):
        wrong.append(f"on a terminal: exit code {code}, {len(lines)} bars\n{shown[-1500:].decode(errors='replace')}")
    return wrong


def check_refusals(program, text, folder):
    """What cannot be used ends with 2 and a message, before any training."""
    (folder / "empty").mkdir()
    (folder / "taken/train.json").mkdir(parents=True)
    (folder / "page/report.html").mkdir(parents=True)
    wrong = []
    for what, arguments, named in (
        ("a missing path", ["--text", folder / "missing", "--out", folder / "no"], folder / "missing"),
        ("an empty folder", ["--text", folder / "empty", "--out", folder / "no"], folder / "empty"),
        ("an output folder below a file", ["--text", text, "--out", text / "report"], text / "report"),
        ("an output folder that is a file", ["--text", text, "--out", text], text),
        ("a train.json that cannot be written", ["--text", text, "--out", folder / "taken"], folder / "taken/train.json"),
        ("a report.html that cannot be written", ["--text", text, "--out", folder / "page"], folder / "page/report.html"),
    ):
        done = run_quick([program], "--steps", 2, "--double-steps", 1, *arguments)
        refused = done.returncode == 2 and str(named).encode() in done.stderr and b"loss" not in done.stdout
        wrong += failing(refused, what + " was not refused", done)
    wrong += check_misfit([program], ["--kernel", "flash", "--out", folder / "no"], "start examples/run.sh --cuda", folder)
    wrong += check_misfit([program], ["--seed", "-1", "--out", folder / "no"], "a seed is not below 0", folder)
    wrong += check_misfit([program], ["--schedule", "1", "--out", folder / "no"], "{rotate,cast,pull}", folder)
    start = pathlib.Path(__file__).resolve().parents[2] / "examples/run.sh"
    wrong += check_misfit([start], ["--cuda", "--mpi", "2"], "--mpi and --cuda are two programs", folder)
    if (folder / "no").exists() or (folder / "page/train.json").exists():
        wrong.append("a refused run left files behind")
    return wrong


def check(program, folder):
    text = folder / "one.txt"
    text.write_text("".join(f"line {i} says {i * i}\n" for i in range(200)))
    return (check_repository(program, folder / "whole") + check_noise(program, folder) + check_small(program, text, folder / "one")
            + check_refusals(program, text, folder))


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test(STEPS)
    if len(sys.argv) not in (3, 5):
        sys.exit(__doc__)
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checks = {"--mpi": check_mpi, "--cuda": check_cuda, "--model": check_model}
    wrong = checks[sys.argv[3]](program, sys.argv[4], folder) if len(sys.argv) == 5 else check(program, folder)
    for w in wrong:
        print("trainer_check: " + w, file=sys.stderr)
    return 1 if wrong else 0


sys.exit(main())
