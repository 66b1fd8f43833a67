#!/usr/bin/env python3
"""Faults on real processes: starts jobs of sp::mpi in which one rank fails in a chosen way, and measures what becomes of the others.

processes.py WORKER MPIEXEC FLAG... : the groups of scenarios below one after the other; --only NAME runs one of them. Whatever happens,
no process is left behind: every job is a session of its own and is killed with all its children when its scenario ends.
"""
import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

DEADLINE = 1.5  # of the worker, seconds
OBJECTS = ("rotate", "cast", "ulysses", "usp")


class Job:
    """One mpirun: its lines, its exit code, when it ended. `tag` is an argument of every process of the job."""

    def __init__(self, scenario, obj, rank, call, number=0, ranks=4, limit=30, again=2):
        self.what = f"{scenario} {obj} rank {rank} call {call} number {number}"
        self.tag = "sp-fault-" + uuid.uuid4().hex
        command = [*MPIEXEC, "-n", str(ranks), WORKER, scenario, obj, str(rank), str(call), str(number), self.tag]
        self.run(command, limit)
        while again > 0 and self.code is None and self.left == [self.process.pid]:
            # Open MPI 4.1: now and then mpirun stays although all of its processes have ended, when several of them end at once
            print(f"{self.what}: every rank has ended, mpirun alone has not: once more", flush=True)
            again -= 1
            self.run(command, limit)

    def run(self, command, limit):
        self.lines = []
        with tempfile.TemporaryFile() as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                self.wait(time.monotonic() + limit)
                self.ended = time.monotonic()
                self.code = self.process.poll()
                self.left = self.alive()
                while self.left and self.code is not None and time.monotonic() < self.ended + 2:
                    time.sleep(0.02)  # a process that is being killed needs a moment to vanish
                    self.left = self.alive()
                self.gone = time.monotonic()
            finally:
                self.clean_up()
            output.seek(0)
            self.text = output.read().decode(errors="replace")
        for line in self.text.splitlines():
            found = re.match(r"(event|ended|digest|throws|told) (.*)", line)
            if found:
                fields = dict(re.findall(r"(\w+)=(\S*)", found[2].split(" what=")[0]))
                fields["what"] = found[2].split(" what=")[1] if " what=" in found[2] else ""
                self.lines.append((found[1], fields))

    def wait(self, end):
        """Until mpirun ends, but not long where it stays behind alone: nothing more comes of it."""
        started, last_with_ranks, look = False, 0, 0
        while self.process.poll() is None and (now := time.monotonic()) < end:
            if now >= look:
                look = now + 0.5
                if self.alive() != [self.process.pid]:
                    started, last_with_ranks = True, now
                elif started and now > last_with_ranks + 4:
                    return
            time.sleep(0.01)

    def alive(self):
        """Processes of this job: those that have its tag among their arguments."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    arguments = f.read().split(b"\0")
                with open(f"/proc/{pid}/stat") as f:
                    state = f.read().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if self.tag.encode() in arguments and state != "Z":
                found.append(int(pid))
        return found

    def clean_up(self):
        for _ in range(50):
            left = self.alive()
            for pid in left:
                for number in (signal.SIGCONT, signal.SIGKILL):
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        pass
            if not left and self.process.poll() is not None:
                return
            time.sleep(0.02)

    def of(self, kind):
        return [fields for k, fields in self.lines if k == kind]

    def event(self):
        events = self.of("event")
        return float(events[0]["time"]) if events else None

    def demand_named(self, timeouts, rank):
        """A timeout names the rank that is missing: it waited for it, or shows it as the silent one among all. Ranks begin to wait
        within microseconds, so the first to give up may be one that waits for another victim."""

        def names(e):
            entries = re.search(r"entered by rank: (.*?)\. Look", e["what"])
            silent = [i for i, entry in enumerate(entries[1].split(", ")) if "silent" in entry] if entries else []
            return int(e["peer"]) == rank or silent == [rank] or re.search(rf"(from|,) rank {rank}\b", e["what"])

        self.demand(any(names(e) for e in timeouts), f"no timeout names rank {rank}")

    def demand(self, condition, sentence):
        global FAILURES
        if condition:
            return
        FAILURES += 1
        print(f"FAILED: {self.what}: {sentence}\n  exit code {self.code}, left {self.left}\n  " + "\n  ".join(self.text.splitlines()[-30:]))

    def demand_over(self, good=False):
        """The job is gone, with the right exit code, and nobody is left."""
        self.demand(self.code is not None, "the job does not end")
        self.demand((self.code == 0) == good, "the exit code is wrong")
        self.demand(not self.left, "processes are left behind")

    def demand_codes(self, codes, but=None, peer=None, text=""):
        """Every rank but `but` ended with one of these codes, naming the peer and the text."""
        ended = {int(e["rank"]): e for e in self.of("ended")}
        for rank in range(4):
            if rank == but:
                continue
            e = ended.get(rank)
            self.demand(e is not None, f"rank {rank} does not say how it ended")
            if e is None:
                continue
            self.demand(e["code"] in codes, f"rank {rank} ended with {e['code']}, expected {' or '.join(codes)}")
            if peer is not None:
                self.demand(int(e["peer"]) == peer, f"rank {rank} names rank {e['peer']}, expected {peer}")
            self.demand(text in e["what"], f"rank {rank} does not say '{text}'")


def f1_throw():
    """F1: a throw in any rank at any exchange of any object: everybody else is aborted at once."""
    job = Job("throws", "rotate", -1, -1, limit=100)
    job.demand_over(good=True)
    for t in job.of("throws"):
        job.demand(int(t["count"]) > 60, "too few throws")
        job.demand(int(t["wrong"]) == 0, "a rank was told something else than `aborted`, by whom and why")
        job.demand(float(t["median_ms"]) <= 100, "the median is over 100 ms")
        job.demand(float(t["max_ms"]) <= 2000, "the slowest is over 2 s")
        print(f"F1 {t['count']} throws: median {t['median_ms']} ms, slowest {t['max_ms']} ms")
    job.demand(len(job.of("throws")) == 1, "no summary")
    for obj, rank, call in (("rotate", 2, 3), ("usp", 0, 1)):
        job = Job("throw", obj, rank, call)
        job.demand_over()
        job.demand_codes(["aborted"], but=rank, peer=rank, text="out of coffee")
    f1_busy()


def f1_busy():
    """F1 with files of flight records, to ranks that wait and to ranks that compute, which look where they exchange."""
    for attempt in range(3):  # a busy machine may be slow once
        job = Job("busy", "rotate", -1, -1, 64, limit=60)
        job.demand_over(good=True)
        told = job.of("told")
        job.demand(len(told) == 4, "a summary is missing")
        job.demand(all(int(t["wrong"]) == 0 for t in told), "a rank was told something else than `aborted`, or left no flight record")
        late = [t for t in told if float(t["median_ms"]) > 100 + int(t["computing"]) * float(t["step_ms"])]
        if not late:
            break
    job.demand(not late, f"the median is over 100 ms and a step: {late}")
    for t in told:
        doing = f"compute steps of {t['step_ms']} ms" if int(t["computing"]) else "wait"
        files = f"files of {t['records']} records" if int(t["records"]) else "no files"
        print(f"F1 throw to 3 that {doing}, {files}: median {t['median_ms']} ms, slowest {t['max_ms']} ms")


def f2_late():
    """F2: a rank that does not arrive: timeout within the deadline and a tenth."""
    for obj, rank in (("rotate", 1), ("ulysses", 3)):
        best = 1e9
        for _ in range(3):  # a busy machine may be slow once
            job = Job("late", obj, rank, 2, 4000)
            job.demand_over()
            job.demand_codes(["timeout", "aborted"], but=rank)
            first = [e for e in job.of("ended") if e["code"] == "timeout"]
            job.demand(len(first) >= 1, "nobody reports a timeout")
            job.demand_named(first, rank)
            waited = [float(e["time"]) - job.event() for e in first]
            job.demand(min(waited, default=0) > DEADLINE - 0.2, "the timeout comes before the deadline")
            best = min([best, *waited])
            if best <= DEADLINE * 1.1:
                break
        job.demand(best <= DEADLINE * 1.1, f"the timeout comes after {best:.2f} s")
        print(f"F2 {obj}: timeout after {best:.3f} s of {DEADLINE} s")


def f3_mismatch():
    """F3, F13: kv heads that differ between processes. At level 1 a ring sees other counts; in Ulysses the counts of these shapes agree,
    and level 2 is what finds it. All ranks throw it."""
    job = Job("mismatch", "rotate", 2, -1, 1)
    job.demand_over()
    job.demand_codes(["short_message", "aborted"])
    job.demand(any(e["code"] == "short_message" for e in job.of("ended")), "nobody reports short_message")
    for obj in ("rotate", "ulysses"):
        job = Job("mismatch", obj, 2, -1, 2)
        job.demand_over()
        job.demand_codes(["rank_mismatch"], text="rank 2 differs from ranks 0, 1, 3 in kv heads: 4 against 2")
        job = Job("levels", obj, 2, -1)
        job.demand_over()
        job.demand_codes(["rank_mismatch", "aborted"])
        told = [e for e in job.of("ended") if e["code"] == "rank_mismatch"]
        job.demand(told and "in check" in told[0]["what"], "nobody reports that one rank alone is at level 2")
        job.demand(all(float(e["seconds"]) < DEADLINE for e in job.of("ended")), "levels that differ are found at the deadline only")
    print("F3, F13: short_message at level 1, rank_mismatch at level 2, and between levels")


def f4_delays():
    """F4: seeded delays change no bit."""
    for obj in OBJECTS:
        seen = {}
        for seed in (0, 1, 2):
            job = Job("delay", obj, -1, -1, seed)
            job.demand_over(good=True)
            job.demand(len(job.of("digest")) == 4, "a rank gives no digest")
            for d in job.of("digest"):
                job.demand(seen.setdefault(d["rank"], d["value"]) == d["value"], f"the bits of rank {d['rank']} differ")
    print("F4: bits are the same under delays")


def f5_abort():
    """F5: an abort from another thread at any time."""
    for number, obj in zip((0, 300, 1100, 5000), OBJECTS):
        job = Job("abort", obj, 0, -1, number)
        job.demand_over()
        job.demand_codes(["aborted"], peer=0, text="the power went")
    print("F5: everybody hears the reason of an abort")


def f7_messages():
    """F7: messages that are too short, double or corrupted."""
    for scenario, code in (("truncate", "short_message"), ("duplicate", "short_message"), ("corrupt", "backend_error")):
        for obj in ("rotate", "ulysses"):
            job = Job(scenario, obj, 1, 2)
            job.demand_over()
            job.demand_codes([code, "aborted"])
            job.demand(any(e["code"] == code for e in job.of("ended")), f"nobody reports {code}")
    print("F7: short, double and corrupted messages are found")


def f10_kill():
    """F10: SIGKILL at exchange k: the job is gone within 3 s, and nobody is left."""
    times = []
    for obj, rank, call in (("rotate", 0, 0), ("rotate", 3, 4), ("cast", 1, 2), ("ulysses", 2, 1), ("usp", 3, 7), ("usp", 0, 30)):
        job = Job("kill", obj, rank, call, again=0)
        job.demand_over()
        times.append(job.gone - job.event() if job.event() else 99)
        job.demand(times[-1] <= 3, f"the job ends after {times[-1]:.2f} s")
    print(f"F10 {len(times)} kills: job gone after {statistics.median(times):.2f} s, at most {max(times):.2f} s")


def f11_stop():
    """F11: SIGSTOP: the others report a timeout that names the stopped rank."""
    for obj, rank in (("rotate", 2), ("ulysses", 0)):
        best = 99
        for _ in range(3):  # a busy machine may be late
            job = Job("stop", obj, rank, 3, limit=20)
            job.demand_over()
            ended = [e for e in job.of("ended") if e["code"] in ("timeout", "aborted")]
            job.demand(len(ended) >= 1, "nobody says how it ended")
            job.demand_named([e for e in ended if e["code"] == "timeout"], rank)
            best = min(best, max((float(e["time"]) - job.event() for e in ended if int(e["rank"]) != rank), default=99))
            if best <= DEADLINE * 1.1 + 0.05:
                break
        job.demand(best <= DEADLINE * 1.1 + 0.05, f"the last error comes after {best:.2f} s")
        print(f"F11 {obj}: every error within {best:.2f} s of {DEADLINE} s")


def f12_leave():
    """F12: a rank that leaves: _exit(0), an early return, a throw."""
    job = Job("exit0", "rotate", 1, 3)
    job.demand_over()
    for obj, rank in (("rotate", 1), ("usp", 2)):
        job = Job("return", obj, rank, -1)
        job.demand_over()
        job.demand_codes(["peer_failed", "aborted"], but=rank)
        job.demand(any(e["code"] == "peer_failed" for e in job.of("ended")), "nobody reports peer_failed")
    job = Job("throw", "ulysses", 3, 0)
    job.demand_over()
    job.demand_codes(["aborted"], but=3, peer=3, text="out of coffee")
    print("F12: ranks that leave end the job")


def control():
    """The worker does its steps when nothing happens, and a job that is left behind would be seen."""
    for obj in OBJECTS:
        job = Job("good", obj, -1, -1)
        job.demand_over(good=True)
        job.demand_codes(["none"])
    global FAILURES
    before, quiet = FAILURES, sys.stdout
    with open(os.devnull, "w") as sys.stdout:
        job = Job("late", "rotate", 1, 0, 60000, limit=1.5)  # cut short while it waits: still running, so all checks must object
        job.demand_over()
    sys.stdout = quiet
    found, FAILURES = FAILURES - before, before
    job.demand(found >= 2, "a job that has not ended passes")
    job.demand(not job.alive(), "the driver leaves processes behind")


GROUPS = {f.__name__: f for f in (control, f1_throw, f2_late, f3_mismatch, f4_delays, f5_abort, f7_messages, f10_kill, f11_stop, f12_leave)}
FAILURES = 0

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=GROUPS, action="append")
    parser.add_argument("worker")
    parser.add_argument("mpiexec", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    WORKER, MPIEXEC = arguments.worker, arguments.mpiexec
    for name in arguments.only or GROUPS:
        begin = time.monotonic()
        GROUPS[name]()
        print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)
    sys.exit(1 if FAILURES else 0)
