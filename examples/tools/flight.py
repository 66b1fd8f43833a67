#!/usr/bin/env python3
"""Merges the flight records of all ranks and names the first operation in which they disagree; merges Chrome traces.

flight.py DUMP...              what SP_FLIGHT_FILE made; exits with 0 if the ranks agree, 1 if they do not, 2 if a file is bad
flight.py --trace OUT TRACE... what SP_TRACE_FILE made, on one clock that begins at 0
"""
import argparse
import json
import sys
from collections import defaultdict


class BadFile(Exception):
    pass


def listed(ranks):
    ranks = sorted(ranks)
    return f"rank {ranks[0]}" if len(ranks) == 1 else "ranks " + ", ".join(str(r) for r in ranks)


def verb(ranks, one, many):
    return one if len(ranks) == 1 else many


def say(*lines):
    """Prints lines that hold texts of other programs: they stay lines, and give the terminal no orders."""
    for line in lines:
        print("".join(c if c.isprintable() else "?" for c in line))


def load(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return json.load(file)
    except (OSError, ValueError) as problem:
        raise BadFile(f"{path}: {problem}") from problem


def load_dumps(paths):
    dumps = {}
    for path in paths:
        dump = load(path)
        if not isinstance(dump, dict) or dump.get("sp_flight") != 1:
            raise BadFile(f"{path}: not a flight record of sp")
        if not all(isinstance(dump.get(key), int) for key in ("rank", "size")):
            raise BadFile(f"{path}: no rank and size, not a flight record of sp")
        if dump["rank"] in dumps:
            raise BadFile(f"{path}: rank {dump['rank']} is there already; give the files of one failure")
        dumps[dump["rank"]] = dump
    sizes = {dump["size"] for dump in dumps.values()}
    if len(sizes) > 1:
        raise BadFile(f"the files are of worlds of {', '.join(map(str, sorted(sizes)))} ranks; give the files of one failure")
    return dumps, sizes.pop()


def unfinished(op):
    return op["state"] != "done"


def title(op):
    text = f"{op['primitive']} ({op['kind']})" if op["primitive"] != op["kind"] else op["kind"]
    return text + (f" in {op['call']}" if op["call"] else "")


class Group:
    """The operations of one group: by rank of the world, then by number."""

    def __init__(self, number, ranks):
        self.number, self.ranks = number, ranks
        self.operations = {}

    def name(self):
        return f"group {self.number} ({listed(self.ranks)})"

    def came(self, rank, number):
        """The operation; True if it has left the ring; None if it was never begun or nothing is known."""
        own = self.operations.get(rank, {})
        return own.get(number) or (True if own and number < min(own) else None)


def groups_of(dumps):
    found = {}
    for rank, dump in dumps.items():
        members = {g["group"]: tuple(g["ranks"]) for g in dump["groups"]}
        for op in dump["operations"]:
            if op["kind"] == "call" or op["group"] not in members:
                continue
            key = (op["group"], members[op["group"]])
            found.setdefault(key, Group(*key)).operations.setdefault(rank, {})[op["number"]] = op
    return [found[key] for key in sorted(found)]


def where(dump):
    """What a rank does now, as far as its record shows."""
    calls = [op for op in dump["operations"] if op["kind"] == "call" and unfinished(op)]
    others = [op for op in dump["operations"] if op["kind"] != "call"]
    if calls:
        place = f"it is in {calls[-1]['call']}"
    else:
        place = "it is in no call of sp"
    if not others:
        return place + " and has begun no operation"
    last = others[-1]
    return f"{place}; its last operation is {last['number']} of group {last['group']}, {title(last)}, {last['state']}"


def blocked_elsewhere(dump, group):
    return any(unfinished(op) and op["kind"] != "call" and op["group"] != group.number for op in dump["operations"])


def different(came):
    """Ranks are in different operations."""
    kinds = defaultdict(list)
    for rank, op in came.items():
        kinds[op["kind"], op["primitive"]].append(rank)
    if len(kinds) < 2:
        return None
    sides = sorted(kinds.values(), key=lambda ranks: (-len(ranks), ranks))
    most, others = sides[0], sides[1:]
    told = "; ".join(f"{listed(ranks)} entered {title(came[ranks[0]])}" for ranks in others)
    return f"{told} while {listed(most)} {verb(most, 'is', 'are')} in {title(came[most[0]])}"


def never_came(group, came, missing, dumps):
    """Some ranks wait, and others never came."""
    waiting = [rank for rank, op in came.items() if unfinished(op)]
    behind = [rank for rank in missing if any(unfinished(op) for op in group.operations.get(rank, {}).values())]
    missing = [rank for rank in missing if rank not in behind] or missing  # who is still in an earlier one is on its way
    if not missing or not waiting:
        return None
    asked = {came[rank]["peer"] for rank in waiting}
    unknown = [rank for rank in missing if rank not in dumps]
    if unknown and not (asked & set(missing)) and len(unknown) == len(missing):
        return None  # no record of them, and nobody waits for them
    there = f"where {listed(waiting)} {verb(waiting, 'waits', 'wait')}"
    told = [f"{listed(missing)} never came to {title(came[waiting[0]])}, {there}"]
    for rank in missing:
        failure = dumps[rank]["failure"] if rank in dumps else None
        if rank not in dumps:
            told.append(f"rank {rank} left no flight record")
        elif failure and failure["rank"] == rank and failure["code"] != "timeout":
            told.append(f"rank {rank} failed first; {where(dumps[rank])}")
        else:
            told.append(f"of rank {rank}: {where(dumps[rank])}")
    return "; ".join(told)


def other_bytes(group, came):
    """All came to the same exchange, but what is sent is not what is expected."""
    if set(came) != set(group.ranks) or any(op["kind"] != "exchange" for op in came.values()):
        return None
    out, into = (sum(op[key] for op in came.values()) for key in ("bytes_out", "bytes_in"))
    if out == into:
        return None
    counts = defaultdict(list)
    for rank, op in came.items():
        counts[op["bytes_out"], op["bytes_in"]].append(rank)
    sides = sorted(counts.items(), key=lambda side: (-len(side[1]), side[1]))
    told = [f"bytes differ in {title(next(iter(came.values())))}: {out} are sent, {into} expected"]
    for (sent, expected), ranks in sides:
        told.append(f"{listed(ranks)} {verb(ranks, 'sends', 'send')} {sent} and {verb(ranks, 'expects', 'expect')} {expected}")
    return "; ".join(told)


def never_met(group, came, timed_out):
    """All came and all timed out: each waits for another one."""
    if not timed_out or set(came) != set(group.ranks) or len(came) < 2 or not all(op["state"] != "done" for op in came.values()):
        return None
    if any(op["peer"] < 0 for op in came.values()):
        return None
    waits = ", ".join(f"rank {rank} for {op['peer']}" for rank, op in sorted(came.items()))
    return f"everybody is in {title(next(iter(came.values())))} and nobody is answered; {waits}"


def divergences(group, dumps):
    """The first operation of a group where its ranks disagree, as (is explained by another group, time, sentence)."""
    numbers = sorted({number for own in group.operations.values() for number in own})
    timed_out = any(d["failure"] and d["failure"]["code"] == "timeout" for d in dumps.values())
    for number in numbers:
        seen = {rank: group.came(rank, number) for rank in group.ranks}
        came = {rank: op for rank, op in seen.items() if isinstance(op, dict)}
        missing = [rank for rank, op in seen.items() if op is None]
        sentence = (
            different(came)
            or never_came(group, came, missing, dumps)
            or other_bytes(group, came)
            or never_met(group, came, timed_out)
        )
        if sentence:
            victim = any(rank in dumps and blocked_elsewhere(dumps[rank], group) for rank in missing)
            times = [op["wait_us"] or op["begin_us"] for op in came.values() if unfinished(op)]
            yield victim, min(times, default=0), f"operation {number} of {group.name()}: {sentence}"
            return


def table(dumps, last):
    now = max(dump["dumped_us"] for dump in dumps.values())
    rows = [("rank", "group", "number", "operation", "state", "peer", "out", "in", "began")]
    for rank, dump in sorted(dumps.items()):
        for op in dump["operations"][-last:]:
            call = op["kind"] == "call"
            rows.append((
                str(rank),
                "" if call else str(op["group"]),
                "" if call else str(op["number"]),
                op["call"] + " (call)" if call else title(op),
                op["state"],
                str(op["peer"]) if op["peer"] >= 0 else "",
                "" if call else str(op["bytes_out"]),
                "" if call else str(op["bytes_in"]),
                f"{(op['wait_us'] or op['begin_us'] or now) / 1e6 - now / 1e6:.3f} s",
            ))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = [3, 4]
    cells = [[f.ljust(w) if i in text else f.rjust(w) for i, (f, w) in enumerate(zip(row, widths))] for row in rows]
    return ["  ".join(row).rstrip() for row in cells]


def report(paths, last):
    dumps, size = load_dumps(paths)
    say(f"{len(dumps)} of {size} ranks left a flight record")
    missing = set(range(size)) - set(dumps)
    if missing:
        say(f"no record of {listed(missing)}")
    for failure in sorted({(d["failure"]["rank"], d["failure"]["why"]) for d in dumps.values() if d["failure"]}):
        say(f"failure of rank {failure[0]}: {failure[1]}")
    found = sorted(d for group in groups_of(dumps) for d in divergences(group, dumps))
    if not found:
        say("no divergence: the ranks agree in every operation that is on record")
    for i, (_, _, sentence) in enumerate(found):
        say(f"{'also' if i else 'first divergence'}: {sentence}")
    say(*table(dumps, last))
    return 1 if found else 0


def on_the_wall(path, events):
    """The events of one file with wall times in place of the process's own, by the readings of both clocks in it."""
    if not isinstance(events, list):
        raise BadFile(f"{path}: not a trace of sp")
    clocks = [event["args"] for event in events if event.get("name") == "sp_clock"]
    if not clocks:
        raise BadFile(f"{path}: no clock readings, not a trace of sp")
    first, last = min(clocks, key=lambda c: c["ts"]), max(clocks, key=lambda c: c["ts"])
    span = last["ts"] - first["ts"]
    rate = (last["wall_us"] - first["wall_us"]) / span if span > 1e5 else 1.0
    for event in events:
        if event.get("ph") == "X":
            event["ts"] = first["wall_us"] + (event["ts"] - first["ts"]) * rate
            event["dur"] *= rate
    return [event for event in events if event.get("name") != "sp_clock"]


def merge_traces(out, paths):
    merged = [event for path in paths for event in on_the_wall(path, load(path))]
    begin = min((event["ts"] for event in merged if event.get("ph") == "X"), default=0)
    for event in merged:
        if event.get("ph") == "X":
            event["ts"] = round(event["ts"] - begin, 3)
            event["dur"] = round(event["dur"], 3)
    with open(out, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(event) for event in merged) + "\n]\n")
    ranks = {event["pid"] for event in merged}
    print(f"{len(merged)} events of {listed(ranks) if ranks else 'no rank'} in {out}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", metavar="OUT", help="merge Chrome traces into this file")
    parser.add_argument("--last", type=int, default=4, help="operations of each rank in the table (4)")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # whatever the terminal can show
    try:
        return merge_traces(options.trace, options.files) if options.trace else report(options.files, options.last)
    except BadFile as problem:
        print(problem, file=sys.stderr)
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as problem:  # JSON, but not what sp writes
        print(f"a file is cut short or was changed by somebody: {problem!r}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
