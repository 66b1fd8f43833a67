#!/usr/bin/env python3
"""Checks that a Chrome trace is valid JSON, that events of a lane nest, and that operations lie within the calls around them.

check_trace.py FILE prints the names of its events, "outer > inner" where one holds another; --self-test plants an overlap.
"""
import json
import sys


def nesting(events):
    """Names of the events of one lane with what holds them; raises where two overlap without one holding the other."""
    names, open_events = [], []
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        begin, end = event["ts"], event["ts"] + event["dur"]
        while open_events and open_events[-1][1] <= begin + 0.0005:
            open_events.pop()
        if open_events and end > open_events[-1][1] + 0.0015:
            raise SystemExit(f"{event['name']} [{begin}, {end}] ends after {open_events[-1][0]}, in which it began")
        names.append(" > ".join([name for name, _ in open_events] + [event["name"]]))
        open_events.append((event["name"], end))
    return names


def check(events):
    lanes, by_rank = {}, {}
    for event in events:
        if event["ph"] == "X":
            if event["dur"] < 0:
                raise SystemExit(f"{event['name']} lasts {event['dur']} us")
            lanes.setdefault((event["pid"], event["tid"]), []).append(event)
            by_rank.setdefault(event["pid"], []).append(event)
        elif event["ph"] != "M":
            raise SystemExit(f"an event of kind {event['ph']}")
    if not lanes:
        raise SystemExit("no events")
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    if missing := set(lanes) - named:
        raise SystemExit(f"lanes without a name: {missing}")
    for lane in lanes.values():
        nesting(lane)
    return {name for events_of_rank in by_rank.values() for name in nesting(events_of_rank)}


def self_test():
    def event(begin, end):
        return {"name": "x", "ph": "X", "pid": 0, "tid": 0, "ts": begin, "dur": end - begin}

    try:
        check([{"name": "thread_name", "ph": "M", "pid": 0, "tid": 0}, event(0, 2), event(1, 3)])
    except SystemExit:
        return 0
    return 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test())
    with open(sys.argv[1], encoding="utf-8") as file:
        print(*sorted(check(json.load(file))), sep="\n")
