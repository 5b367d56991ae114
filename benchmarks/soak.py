"""A soak: clients of every kind for half an hour, and what is left: `python -m benchmarks.soak`.

The clients of `benchmarks.rude_clients` come, walk, vanish, freeze, send garbage, leave while their
world opens and abort clips, beside a walker. At minute five (or after a third of a shorter run) all
of them leave, and a sample is taken. Then they come again until the end. A server that leaks
nothing looks the same after both parts.

Prints a table by process, the ends of the leases and a line for each check, then one JSON line.
Exits with status 1 if a check fails.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter

from msgspec import Struct

from benchmarks.dashboard import placement_groups
from benchmarks.local_server import LocalServer, local_server, one_group
from benchmarks.printing import print_json, print_table
from benchmarks.rude_clients import ARGS, EARLY_MINUTE, SETTLE_S, Report, observe, summarize
from benchmarks.server_sample import (
    OTHERS,
    Sample,
    lease_ends,
    take_sample,
    to_json,
    unended_sessions,
)

MAX_GROWTH = 0.05  # a share of a process's RSS
METRICS_AGE_S = 10.0  # Ray's figures of its object store are as old at most


class Ground(Struct, kw_only=True):
    """The server's side when all clients have left."""

    sample: Sample
    groups: int  # placement groups that are not removed
    unended: list[str]  # sessions whose end no line of the log reports


async def soak(
    server: LocalServer, *, minutes: float, every_s: float
) -> tuple[Report, list[Ground]]:
    """Both parts. Returns the report of the second one, and what is left after each of them."""
    early = min(EARLY_MINUTE, minutes / 3)
    grounds = []
    for part in (early, minutes - early):
        started_s = time.monotonic()
        report = await observe(server, minutes=part, every_s=every_s)
        grounds.append(await asyncio.to_thread(look_around, server, started_s=started_s))
    return report, grounds


def look_around(server: LocalServer, *, started_s: float) -> Ground:
    """Look at the server when the last worlds that waited for their clients have ended."""
    deadline_s = time.monotonic() + SETTLE_S
    while unended_sessions(server.log.read_text(errors="replace")):
        if time.monotonic() > deadline_s:
            break
        time.sleep(1)
    time.sleep(METRICS_AGE_S)
    states = placement_groups(server)
    return Ground(
        sample=take_sample(server, started_s=started_s),
        groups=sum(state != "REMOVED" for state in states),
        unended=sorted(unended_sessions(server.log.read_text(errors="replace"))),
    )


def check(early: Ground, late: Ground, ends: Counter[str]) -> dict[str, str]:
    """The reason why each check has failed; empty for one that has passed."""
    before, after = early.sample, late.sample
    checks = {
        "sessions": left(after.sessions),
        "connections": left(after.connections),
        "sessions without an end": ", ".join(late.unended),
        "ends without a reason": left(ends[""]),
        "sessions that ended": "" if ends else "none",
        "placement groups": grown(early.groups, late.groups),
        "object store bytes": grown(before.object_store_bytes, after.object_store_bytes),
        "tracebacks": grown(0, after.tracebacks),
    }
    for role, figures in after.processes.items():
        if role == OTHERS:
            continue  # Ray starts and stops idle workers as it likes
        was = before.processes[role]
        checks |= {
            f"processes of {role}": "" if was.count == figures.count else "replaced",
            f"descriptors of {role}": grown(was.descriptors, figures.descriptors),
            f"threads of {role}": grown(was.threads, figures.threads),
            f"RSS of {role}": grown(was.rss_mib, figures.rss_mib, by=MAX_GROWTH),
        }
    return checks


def left(number: int) -> str:
    return f"{number} left" if number else ""


def grown(before: float, after: float, *, by: float = 0.0) -> str:
    """The two figures, if the second one is larger by more than a share `by` of the first."""
    return f"{before:g} -> {after:g}" if after > before * (1 + by) else ""


def print_soak(report: Report, early: Ground, late: Ground, ends: Counter[str]) -> bool:
    """Prints all. Returns True if every check has passed."""
    rows = {
        role: {
            name: f"{getattr(early.sample.processes[role], name)} -> {getattr(figures, name)}"
            for name in ("rss_mib", "uss_mib", "descriptors", "threads")
        }
        for role, figures in late.sample.processes.items()
        if role in early.sample.processes
    }
    print_table("by process, after both parts", rows)
    print_table("rude clients", dict(sorted(report.clients.items())))
    print_table("ends of leases", {reason: {"number": number} for reason, number in ends.items()})
    print()
    checks = check(early, late, ends)
    for name, reason in checks.items():
        print(f"{name:32} {reason or 'ok'}")
    failed = {name: reason for name, reason in checks.items() if reason}
    facts = {"lease_ends": dict(ends), "failed": failed}
    samples = to_json([early.sample, *report.samples, late.sample])
    print_json("soak", {**summarize(report), **facts, "samples": samples})
    return not failed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two clients")
    options = parser.parse_args()
    if options.minutes <= 0 or options.every <= 0:
        parser.error("--minutes and --every must be above 0")
    with local_server(ARGS, change=one_group) as server:
        report, (early, late) = asyncio.run(
            soak(server, minutes=options.minutes, every_s=options.every)
        )
        ends = lease_ends(server.log.read_text(errors="replace"))
    sys.exit(0 if print_soak(report, early, late, ends) else 1)


if __name__ == "__main__":
    main()
