# Kills and aborts of real processes: starts mpirun jobs, one rank leaves by force at a random step, and the whole job must be gone.
# kills.py <job program> --count N --seed S [--seconds T] [--limit 3] [--mpirun "mpirun ..."]; the last line is the tally.
import argparse, os, random, shutil, signal, subprocess, sys, tempfile, time


def alive(pid, program):
    """Is this process still a rank of ours? A number that was given to somebody else does not count, nor does a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            state = f.read().rsplit(")", 1)[1].split()[0]
        return state != "Z" and os.path.basename(os.readlink(f"/proc/{pid}/exe")) == os.path.basename(program)
    except OSError:
        return False


def one(options, dice, folder):
    """Runs one job. Returns (what is wrong or '', seconds from the kill to the end of the job, orphans)."""
    ranks = dice.randint(2, 4)
    victim, step, how = dice.randrange(ranks), dice.randint(0, 40), dice.choice(["kill", "abort", "exit"])
    command = options.mpirun.split() + ["-n", str(ranks), options.job, folder, str(victim), str(step), how]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    name = f"rank {victim} of {ranks} leaves by {how} at step {step}"
    def ranks_of_job():
        return [int(open(os.path.join(folder, f)).read()) for f in os.listdir(folder) if f.startswith("pid.") and f.count(".") == 1]

    try:
        _, err = job.communicate(timeout=60)
    except BaseException as reason:  # whatever it is: ranks are groups of processes of their own, and must not stay behind
        os.killpg(job.pid, signal.SIGKILL)
        for p in ranks_of_job():
            if alive(p, options.job):
                os.kill(p, signal.SIGKILL)
        job.communicate()
        if not isinstance(reason, subprocess.TimeoutExpired):
            raise
        return name + ": hangs", 60.0, 0
    ended = time.time()
    pids = ranks_of_job()
    if not os.path.exists(os.path.join(folder, "left")) or len(pids) != ranks:
        return name + ": never got there: " + err.decode(errors="replace")[-500:], 0.0, 0
    took = ended - float(open(os.path.join(folder, "left")).read())
    while any(alive(p, options.job) for p in pids) and time.time() - ended < options.limit - took:
        time.sleep(0.01)  # mpirun may end a moment before the last rank does
    orphans = [p for p in pids if alive(p, options.job)]
    for p in orphans:
        os.kill(p, signal.SIGKILL)
    wrong = []
    if job.returncode == 0:
        wrong.append("the job's status is 0")
    if took > options.limit:
        wrong.append(f"gone only after {took:.2f} s")
    if orphans:
        wrong.append(f"{len(orphans)} orphans")
    return (name + ": " + ", ".join(wrong)) if wrong else "", took, len(orphans)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("job")
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--seconds", type=float, default=0)
    p.add_argument("--limit", type=float, default=3)
    p.add_argument("--mpirun", default="mpirun --oversubscribe --allow-run-as-root --mca mpi_yield_when_idle 1")
    options = p.parse_args()
    dice, start, told = random.Random(options.seed), time.time(), time.time()
    done = wrong = orphans = 0
    slowest = 0.0
    while done < options.count and (options.seconds <= 0 or time.time() - start < options.seconds):
        folder = tempfile.mkdtemp(prefix="sp_soak_")
        try:
            problem, took, left = one(options, dice, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        done, orphans, slowest = done + 1, orphans + left, max(slowest, took)
        if problem:
            wrong += 1
            print("KILL", problem, flush=True)
        if time.time() - told > 30:
            told = time.time()
            print(f"... kills {done} of {options.count}", flush=True)
    print(f"kills {done} wrong {wrong} orphans {orphans} slowest_s {slowest:.2f} seconds {time.time() - start:.1f}")
    return 1 if wrong or orphans else 0


sys.exit(main())
