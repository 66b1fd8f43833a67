#!/usr/bin/env python3
"""Plants the bugs of mutants/ in copies of include/, builds the tests meant for them, and wants to see each test fail of its bug.

Bugs that one test is meant for are built together, each behind a switch (switched.py), and the test must pass while none is switched
on. A bug that cannot be switched, or that its test did not catch so, is planted alone.
Caught: doctest itself reports a failed assertion or exception in the cases named by the mutant, and the program ends by itself; or,
where the mutant says so, a fault in them, which is how memory that stands for a device's tells an access of the host.
A mutant that does not apply, does not compile, crashes or hangs is broken. A sample is planted alone, and that the tests pass without
one is left to their own entries: whoever runs it has run the tests. Exit status 0 only if all are caught; the last line is
"N caught, M survived".
"""
import argparse
import concurrent.futures
import fnmatch
import functools
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
from switched import SWITCH, switched

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FLAGS = ["-std=c++20", "-O0", "-w", "-pthread", "-DDOCTEST_CONFIG_SUPER_FAST_ASSERTS"]
COMPILE_SECONDS = 300
SWITCHED_BUILDS = 6  # of one test, each without the bugs that the compiler refused in the one before
RUN_SECONDS = 60  # tests that wait for a peer have deadlines of their own, far below


class Broken(Exception):
    """The mutant, its test or this suite is at fault. `output`: all that the compiler said."""

    def __init__(self, what, output=""):
        super().__init__(what)
        self.output = output


def run(command, seconds, cwd, planted=None):
    """Exit status and output of a command; Broken when it does not end. `planted`: the number of the bug that is switched on."""
    environment = {**os.environ, "SP_PLANTED": str(planted or 0), "CCACHE_SLOPPINESS": "include_file_mtime,include_file_ctime,pch_defines,time_macros", "CCACHE_NOHASHDIR": "1"}
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # mpirun takes its processes with it when it is asked to end, not when it is killed
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        raise Broken(f"hung for {seconds} s: {' '.join(command)}") from None
    return process.returncode, output


class Verdict:
    """What a run of a test program says, from doctest's own summary."""

    def __init__(self, code, output):
        summary = r"^\[doctest\] test cases: *(\d+) \| *(\d+) passed \| *(\d+) failed"
        cases = re.findall(summary, output, re.MULTILINE)  # several where ranks are processes
        failures = re.findall(r"^\S+:\d+: ((?:FATAL )?ERROR: .*)$", output, re.MULTILINE)
        self.passed = code == 0 and bool(cases) and all(int(n) > 0 and int(bad) == 0 for n, _, bad in cases)
        self.failed = code == 1 and any(int(bad) > 0 for _, _, bad in cases) and bool(failures)
        self.first = failures[0] if failures else ""
        self.output, self.code = output, code
        self.faulted = bool(re.search(r"ERROR: test case CRASHED: SIGSEGV", output))
        if re.search(r"ERROR: test case CRASHED", output):
            self.failed = False


class MPI:
    """How tests over processes are built and started; without an MPI their mutants are left out, and the output says so."""

    found = bool(shutil.which("mpicxx") and shutil.which("mpirun"))
    flags, libraries = [], []

    @classmethod
    def ask(cls):
        words = [subprocess.run(["mpicxx", f"--showme:{w}"], capture_output=True, text=True) for w in ("compile", "link")]
        cls.found = all(w.returncode == 0 for w in words)
        cls.flags, cls.libraries = (w.stdout.split() for w in words)

    @staticmethod
    def runs(program):
        return program.startswith("mpi.")

    @staticmethod
    def launch(source):
        ranks = re.search(r"^// ranks: (\d+)$", source.read_text(), re.MULTILINE)
        options = ["--oversubscribe", "--allow-run-as-root", "--mca", "mpi_yield_when_idle", "1"]
        return ["mpirun", *options, "-n", ranks[1] if ranks else "4"]


class Needs:
    """What a test says that it needs in its line "// needs: ...", see cuda.cmake: libraries, and sources that stand for one."""

    cuda = next((p for p in (os.environ.get("CUDA_HOME", "") + "/include", "/usr/local/cuda/include") if os.path.exists(p + "/cuda_runtime_api.h")), "")
    nccl = next((p for p in (cuda, os.environ.get("NCCL_HOME", "") + "/include", "/usr/include", "/usr/local/include") if os.path.exists(p + "/nccl.h")), "")
    context = next((p for p in ("/usr/include", "/usr/local/include") if os.path.exists(p + "/boost/context/fiber.hpp")), "")
    fakes = ["support/fake_cuda.cpp"] + (["support/fake_nccl.cpp"] if nccl else [])  # linked in place of CUDA and NCCL

    @staticmethod
    def of(source):
        line = re.search(r"^// needs: (.+)$", source.read_text(), re.MULTILINE)
        return line[1].split() if line else []

    @classmethod
    def missing(cls, source):
        return [name for name in cls.of(source) if not getattr(cls, name, "")]

    @classmethod
    def flags(cls, needs):
        return ["-isystem", cls.cuda] if "cuda" in needs else []


def only(cases, text):
    """The text of a test without the cases that no pattern in cases asks for: what they alone instantiate is not compiled, which
    was a third of the time. Lines keep their numbers. A case ends with the first line that begins with its brace."""

    def asked(name):
        return any(fnmatch.fnmatchcase(n.lower(), case.lower()) for case in cases for n in (name, f"{name}<>"))  # <>: of a template

    def left(case):
        name = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', case[1])).replace("\\", "")
        return case[0] if asked(name) else "\n" * case[0].count("\n")

    literals = r'((?:\s*"(?:[^"\\\n]|\\.)*")+)'
    return re.sub(rf"^TEST_CASE(?:_TEMPLATE)?\({literals}[,)](?:[^\n]*}}$|.*?^}})", left, text, flags=re.MULTILINE | re.DOTALL)


class Slot:
    """A folder with a copy of the headers, where one mutant at a time is built. Paths in compile commands are relative to it, so
    that the compiler cache knows a program again whatever slot it was built in."""

    def __init__(self, folder, suite):
        self.folder, self.suite = folder, suite
        shutil.copytree(suite.headers, folder / "include", dirs_exist_ok=True)

    def build(self, program, cases, more=()):
        suite, source = self.suite, self.suite.source(program)
        own = re.search(r"^// flags: (.+)$", source.read_text(), re.MULTILINE)  # see doctest.cmake
        needs = Needs.of(source)
        flags = [*suite.flags, *(MPI.flags if MPI.runs(program) else []), *(own[1].split() if own else []), *Needs.flags(needs)]
        prelude = [] if own else ["-include", str(suite.prelude)]
        include = [*prelude, *more, "-Iinclude", f"-I{suite.tests}", "-iquote", str(source.parent), f'-DSP_TEST_DIR="{suite.tests}"']
        (self.folder / source.name).write_text(only(cases, source.read_text()))
        code, output = run([*suite.compiler, *flags, *include, "-c", source.name, "-o", "test.o"], COMPILE_SECONDS, self.folder)
        if code != 0:
            raise Broken(f"{program} does not compile:\n" + "\n".join(output.splitlines()[:12]), output)
        fakes = suite.fakes() if "cuda" in needs else []
        link = [suite.compiler[-1], "-pthread", "test.o", str(suite.main(program)), *fakes, "-o", "test"]
        libraries = [*(MPI.libraries if MPI.runs(program) else []), *(["-lboost_context"] if "context" in needs else [])]
        code, output = run([*link, *libraries], COMPILE_SECONDS, self.folder)
        if code != 0:
            raise Broken(f"{program} does not link:\n{output[:1000]}")

    def test(self, program, case, planted=None):
        launch = MPI.launch(self.suite.source(program)) if MPI.runs(program) else []
        arguments = [f"--test-case={case}", "--no-version", "--no-path-filenames", "--no-colors"]
        return Verdict(*run([*launch, "./test", *arguments], RUN_SECONDS, self.folder, planted))

    def switchable(self, program, mutants):
        """Builds a test with its mutants behind switches. Those that are in the program, by number: what the compiler refuses is left
        out, by the lines that it names. A test with flags of its own is about what the compiler makes of a function, which is not to
        have two bodies."""
        own_flags = re.search(r"^// flags: ", self.suite.source(program).read_text(), re.MULTILINE)
        cases, chosen = list({m.case: None for m in mutants}), dict(enumerate([] if own_flags else mutants, 1))
        for _ in range(SWITCHED_BUILDS):
            files = {}
            for number, m in chosen.items():
                files.setdefault(m.file, []).append((number, m.old, m.new))
            lines = {}  # of each mutant: its file, first and last line
            texts = {file: (self.folder / "include/sp" / file).read_text() for file in files if (self.suite.headers / "sp" / file).is_file()}
            try:
                for file, text in texts.items():
                    planted, where = switched(text, files[file])
                    lines.update({number: (file, *span) for number, span in where.items()})
                    (self.folder / "include/sp" / file).write_text(planted)
                self.build(program, cases, ["-include", str(self.suite.switch)])
                return {number: chosen[number] for number in lines}
            except Broken as e:
                if not lines:
                    raise
                for word in (" error:", ""):  # or what instantiated the lines with errors
                    named = re.findall(rf"^include/sp/([^:\n]+):(\d+):[\d:]*{word}", e.output, re.MULTILINE)
                    refused = {n for n, (f, first, last) in lines.items() if any(f == file and first <= int(at) <= last for file, at in named)}
                    if refused:
                        break
                chosen = {n: chosen[n] for n in lines if refused and n not in refused}
            finally:
                for file, text in texts.items():
                    (self.folder / "include/sp" / file).write_text(text)
        self.build(program, cases)
        return {}

    def together(self, program, mutants):
        """How those mutants were caught that could be switched on, by name. The test must pass while none is."""
        there = self.switchable(program, mutants)
        for case in {m.case: None for m in mutants}:
            verdict = self.test(program, case)
            if not verdict.passed:
                raise Broken(f"{program} --test-case=\"{case}\" fails without a mutant:\n" + verdict.output[-2000:])
        caught = {}
        for number, m in there.items():
            try:
                verdict = self.test(program, m.case, number)
            except Broken:
                continue  # it hangs; alone it is told what it is
            if verdict.faulted if m.faults else verdict.failed:
                caught[m.name] = verdict.first
        return caught

    def planted(self, mutant):
        """What becomes of the test with the mutant in place: (True, how it was caught) or (False, "")."""
        path = self.folder / "include/sp" / mutant.file
        if not path.is_file():
            raise Broken(f"there is no sp/{mutant.file}")
        text = path.read_text()
        found = text.count(mutant.old)
        if found != 1 or mutant.old == mutant.new:
            raise Broken(f"the text to replace is found {found} times in sp/{mutant.file}:\n{mutant.old}")
        path.write_text(text.replace(mutant.old, mutant.new))
        try:
            self.build(mutant.test, [mutant.case])
            verdict = self.test(mutant.test, mutant.case)
        finally:
            path.write_text(text)
        if verdict.passed:
            return False, ""
        if not (verdict.faulted if mutant.faults else verdict.failed):
            raise Broken(f"{mutant.test} ended with status {verdict.code} and no failure of its own:\n" + verdict.output[-1000:])
        return True, verdict.first


class Suite:
    def __init__(self, root, build, jobs, flags=(), processes=False):
        self.tests, self.headers = root / "tests", build / "headers"
        self.jobs, self.flags, self.mains = jobs, [*FLAGS, *flags], build
        compiler = os.environ.get("CXX") or next(c for c in ("clang++-16", "clang++", "g++", "c++") if shutil.which(c))
        self.compiler = [*(["ccache"] if shutil.which("ccache") else []), compiler]
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True)
        shutil.copytree(root / "include", self.headers)  # all slots get what is there now, also if somebody edits meanwhile
        self.slots, self.making = queue.Queue(), threading.Lock()
        for i in range(jobs):
            self.slots.put(Slot(build / f"slot{i}", self))
        self.prelude, self.switch = self.precompiled(), build / "planted.hpp"
        self.switch.write_text(SWITCH)
        self.compile_main("main", ROOT / "tests/main.cpp", [])
        if processes:
            MPI.ask()
            self.compile_main("main_mpi", root / "tests/mpi/main.cpp", MPI.flags)

    def precompiled(self):
        """What no mutant touches, compiled once: doctest and the standard headers that ours include."""
        ours = "".join(path.read_text() for path in sorted(self.headers.rglob("*.hpp")))
        standard = sorted(set(re.findall(r"^#include <([a-z_]+)>$", ours, re.MULTILINE)))
        prelude = self.mains / "prelude.hpp"
        prelude.write_text("".join(f"#include <{name}>\n" for name in [*standard, "doctest/doctest.h"]))
        command = [*self.compiler, *self.flags, "-x", "c++-header", str(prelude), "-o", f"{prelude}.gch"]
        code, output = run(command, COMPILE_SECONDS, self.mains)
        if code != 0:
            raise Broken(f"the standard headers do not compile:\n{output[:1000]}")
        return prelude

    def compile_main(self, name, source, flags):
        command = [*self.compiler, *self.flags, *flags, f"-I{ROOT / 'tests'}", "-c", str(source), "-o", f"{name}.o"]
        code, output = run(command, COMPILE_SECONDS, self.mains)
        if code != 0:
            raise Broken(f"{source} does not compile:\n{output[:1000]}")

    @functools.cached_property
    def made_fakes(self):
        for name in Needs.fakes:
            flags = [*Needs.flags(["cuda"]), f"-I{self.headers}"]
            self.compile_main(pathlib.Path(name).stem, self.tests / name, flags)
        return [str(self.mains / f"{pathlib.Path(name).stem}.o") for name in Needs.fakes]

    def fakes(self):
        with self.making:
            return self.made_fakes

    def main(self, program):
        return self.mains / ("main_mpi.o" if MPI.runs(program) else "main.o")

    def source(self, program):
        return self.tests / (program.replace(".", "/test_", 1) + ".cpp")

    def each(self, items, work):
        """Runs work(slot, item) for all items in parallel; yields (item, result or Broken, seconds) as they end."""

        def one(item):
            slot, start = self.slots.get(), time.monotonic()
            try:
                return item, work(slot, item), time.monotonic() - start
            except Broken as e:
                return item, e, time.monotonic() - start
            finally:
                self.slots.put(slot)

        with concurrent.futures.ThreadPoolExecutor(self.jobs) as workers:
            for done in concurrent.futures.as_completed([workers.submit(one, item) for item in items]):
                yield done.result()

    def together(self, mutants):
        """Test by test: every case that is meant for a mutant exists and passes without one. Returns what is wrong, and the names of
        the mutants that were caught behind their switches."""
        tests = {}
        for m in mutants:
            tests.setdefault(m.test, []).append(m)
        wrong, caught, beside_others = [], [], []

        def work(slot, program):
            return slot.together(program, tests[program])

        def judge(program, result, seconds):
            if isinstance(result, Broken):
                print(f"BROKEN   {seconds:5.1f} s  control {program}", flush=True)
                return wrong.append(str(result))
            print(f"passes   {seconds:5.1f} s  control {program}, and {len(result)} of {len(tests[program])} mutants by switches", flush=True)
            for name, how in result.items():
                print(f"caught             {name}: {program}: {how[:110]}", flush=True)
            caught.extend(result)

        for program, result, seconds in self.each(tests, work):
            if isinstance(result, Broken) and MPI.runs(program):  # deadlines of processes are short, and compilers took their time
                beside_others.append(program)
                print(f"again    {seconds:5.1f} s  control {program} failed beside other work: {result}", flush=True)
            else:
                judge(program, result, seconds)
        for one in beside_others:
            for done in self.each([one], work):
                judge(*done)
        return wrong, caught

    def score(self, mutants):
        caught = survived = broken = 0
        for m, result, seconds in self.each(mutants, lambda slot, m: slot.planted(m)):
            if isinstance(result, Broken):
                broken += 1
                word, text = "BROKEN", str(result)
            elif result[0]:
                caught += 1
                word, text = "caught", f"{m.test}: {result[1][:110]}"
            else:
                survived += 1
                word, text = "SURVIVED", f'{m.breaks}; {m.test} --test-case="{m.case}" passes'
            print(f"{word:9}{seconds:5.1f} s  {m.name}: {text}", flush=True)
        return caught, survived, broken


def measure(suite, mutants, control=True):
    """Numbers of mutants caught, survived and broken; None if a test fails without one."""
    wrong, switched_on = suite.together(mutants) if control else ([], [])
    if wrong:
        print("\n".join(wrong) + "\nthe tests must pass before a bug can make them fail")
        return None
    caught, survived, broken = suite.score([m for m in mutants if m.name not in switched_on])
    caught += len(switched_on)
    if broken:
        print(f"{broken} broken: repair them in tests/mutation/mutants/")
    print(f"{caught} caught, {survived} survived")
    return caught, survived, broken


def self_test():
    """Plants one mutant of each fate in a small tree of its own; a suite that cannot tell them apart is believed by nobody."""
    from mutants import Mutant

    header = "#pragma once\nint twice(int x) { return 2 * x; }\nint same(int x) { return x; } // same\n"
    test = """#include <doctest/doctest.h>
#include <cstdlib>
#include <sp/probe.hpp>
TEST_CASE("twice") { CHECK(twice(3) == 6); }
TEST_CASE("same") { CHECK(same(3) == 3); }
TEST_CASE(
    "nobody asks "
    "for it") {
  must_not_be_compiled();
}
"""
    fates = {
        "caught": [
            ("2 * x", "3 * x", "twice"),
            ("return 2 * x", "throw 1", "twice"),
            ("return 2 * x;", "return *static_cast<int volatile*>(nullptr);", "twice", True),
        ],
        "survived": [("2 * x", "x + x", "twice"), ("2 * x", "3 * x", "same")],
        "broken": [
            ("3 * x", "4 * x", "twice"),  # the text is not there
            ("int x", "long x", "twice"),  # it is there twice
            ("2 * x;", "2 * y;", "twice"),  # does not compile
            ("return 2 * x;", "abort();", "twice"),  # crashes
            ("return 2 * x;", "abort();", "twice", True),  # crashes, but not by a fault
            ("2 * x", "3 * x", "twice", True),  # fails, but not by a fault
            ("return 2 * x;", "for (;;) { volatile int y = x; y = y; }", "twice"),  # hangs
            ("return 2 * x;", "exit(1);", "twice"),  # fails without a word
        ],
    }
    global RUN_SECONDS
    RUN_SECONDS = 3
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {"include/sp/probe.hpp": header, "tests/probe/test_probe.cpp": test}.items():
            (root / name).parent.mkdir(parents=True)
            (root / name).write_text(text)
        suite = Suite(root, root / "build", 1)
        probe = lambda *what, name="probe": Mutant(name, "a probe", "probe.hpp", what[0], what[1], "probe.probe", *what[2:])
        switches = [probe(*plant, name=f"{fate} {i}") for fate, plants in fates.items() for i, plant in enumerate(plants)]
        wrong, caught = suite.together(switches)
        failures = int(bool(wrong) or sorted(caught) != [f"caught {i}" for i in range(len(fates["caught"]))])
        print(f"{'WRONG' if failures else 'as expected'}: behind switches there were caught: {', '.join(caught)}\n")
        for fate, plants in fates.items():
            for old, new, *case in plants:
                counts = suite.score([probe(old, new, *case)])
                good = counts == tuple(int(fate == f) for f in ("caught", "survived", "broken"))
                failures += not good
                print(f"{'as expected' if good else 'WRONG'}: {old!r} -> {new!r} is {fate}\n")
        failures += measure(suite, [probe("2 * x", "3 * x", "nothing")]) is not None
    print(f"{failures} of {sum(len(p) for p in fates.values()) + 2} fates were not told")
    return 1 if failures else 0


@functools.cache
def text_read(test):
    """How much of this project's text a test includes, which tells how long it takes to build."""
    files = [ROOT / "tests" / (test.replace(".", "/test_", 1) + ".cpp")]
    for file in files:
        for name in re.findall(r'^#include [<"](.+)[>"]', file.read_text(), re.MULTILINE):
            found = [f / name for f in (file.parent, ROOT / "include", ROOT / "tests") if (f / name).is_file()]
            files += [f for f in found[:1] if f not in files]
    return sum(f.stat().st_size for f in files)


def one_of_each_area(mutants):
    """A sample: of every layer of the headers the first bug among those whose test is the quickest to build."""
    areas = {}
    for m in mutants:
        areas.setdefault(m.file.split("/")[0], []).append(m)
    return [min(area, key=lambda m: text_read(m.test)) for area in areas.values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="these mutants only")
    parser.add_argument(
        "--sample", action="store_true", help="one mutant of every area only; that the tests pass without one is left to their own entries"
    )
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many are built at once")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/mutation", help="where; emptied first")
    parser.add_argument("--flag", action="append", default=[], help="one more flag of the compiler")
    parser.add_argument("--self-test", action="store_true", help="tell known fates apart")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from mutants import MUTANTS

    if arguments.self_test:
        return self_test()
    names = [m.name for m in MUTANTS]
    unknown = set(arguments.names) - set(names)
    if unknown or len(set(names)) != len(names):
        sys.exit(f"no such mutant, or a name twice: {', '.join(sorted(unknown) or names)}")
    chosen = [m for m in MUTANTS if not arguments.names or m.name in arguments.names]
    if arguments.sample:
        chosen = one_of_each_area(chosen)
        print(f"one mutant of every area: {len(chosen)} of {len(names)}")
    if arguments.list:
        for m in chosen:
            print(f"{m.name:32}{m.file}: {m.breaks}\n{'':32}{m.test}: {m.case}")
        print(f"{len(chosen)} mutants")
        return 0
    over_processes = [m for m in chosen if MPI.runs(m.test)]
    if over_processes and not MPI.found:
        print(f"left out, because there is no mpicxx and mpirun: {', '.join(m.name for m in over_processes)}")
        chosen = [m for m in chosen if m not in over_processes]
    for m in [m for m in chosen if Needs.missing(ROOT / "tests" / (m.test.replace(".", "/test_", 1) + ".cpp"))]:
        print(f"left out, because its test needs what is not installed: {m.name}")
        chosen.remove(m)
    chosen.sort(key=lambda m: -text_read(m.test))  # the longest first, so that none is left when the others have ended
    suite = Suite(ROOT, arguments.build.resolve(), max(1, arguments.jobs), arguments.flag, any(MPI.runs(m.test) for m in chosen))
    counts = measure(suite, chosen, control=not arguments.sample)
    return 0 if counts == (len(chosen), 0, 0) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as e:
        sys.exit(str(e))
