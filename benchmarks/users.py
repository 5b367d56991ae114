"""Users of one group whose keys come and go: `python -m benchmarks.users`.

The table: 1 to 16 clients walk the pocket world of one group at once. Each holds a key for 3 s and
rests for 6 s, on average. The group is shared (`pace: shared`), once without idling, and once with
sessions that are paused after `--idle-after` seconds without a key. Columns:
- open: sessions that the group served
- in_real_time: sessions whose chunks took no longer on average than 1.05 times their media
- period_p95: the time between two chunks of a session, over their media; pauses left out
- control_p50, control_p95: seconds from a key to the first frame that shows it
- rank_cpu_s, server_cpu_s: CPU seconds of the rank, and of the server, in a minute of a session
- paused: times that a session was paused

The arrivals: clients come at random, at a given rate a minute, whether others wait or not. Each
stays for 30 s on average once its world is open. The group keeps real time (`pace: realtime`).

Prints both tables, then one JSON line. All draws are seeded.
"""

import argparse
import asyncio
import random
import time
from contextlib import suppress
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.key_user import HOLD_S, REST_S, Seen, use_keys
from benchmarks.local_server import LocalServer, local_server, one_group
from benchmarks.printing import Row, print_json, print_table
from benchmarks.server_sample import cpu_seconds

MEDIA_S = 12 / 16  # a chunk of the pocket world
REAL_TIME = 1.05  # the most that a session's mean period may be of its media
STAY_S = 30.0  # the average stay of a client that comes at random
OPEN_TIMEOUT_S = 120.0


async def play_together(server: LocalServer, *, clients: int, seconds: float) -> Row:
    """A row of the first table: `clients` play at once, observed for `seconds`."""
    everyone = [Seen() for _ in range(clients)]
    playing = [
        asyncio.create_task(use_keys(server, seen, random.Random(number)))
        for number, seen in enumerate(everyone)
    ]
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            while any(len(seen.arrived_s) < 2 and seen.error is None for seen in everyone):
                await asyncio.sleep(0.1)
        began_s, before = time.monotonic(), cpu_seconds(server)
        await asyncio.sleep(seconds)
        after = cpu_seconds(server)
    finally:
        for each in playing:
            each.cancel()
        results = await asyncio.gather(*playing, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
    spent = {role: after[role] - before.get(role, 0.0) for role in after}
    return summarize(everyone, since_s=began_s, seconds=seconds, spent=spent)


def summarize(
    everyone: list[Seen], *, since_s: float, seconds: float, spent: dict[str, float]
) -> Row:
    """The figures of the clients from `since_s` on. `spent` has the CPU seconds by role."""
    periods = [
        [period / MEDIA_S for arrived_s, period in seen.periods_s if arrived_s >= since_s]
        for seen in everyone
    ]
    controls = [
        delay for seen in everyone for arrived_s, delay in seen.controls_s if arrived_s >= since_s
    ]
    minutes = seconds / 60 * sum(seen.error is None for seen in everyone)
    every_period = [period for each in periods for period in each]
    return {
        "open": sum(seen.error is None for seen in everyone),
        "in_real_time": sum(bool(each) and fmean(each) <= REAL_TIME for each in periods),
        "period_p95": percentile(every_period, 95),
        "control_p50": percentile(controls, 50),
        "control_p95": percentile(controls, 95),
        "rank_cpu_s": round(spent.get("WorldRank", 0.0) / minutes, 1) if minutes else None,
        "server_cpu_s": round(sum(spent.values()) / minutes, 1) if minutes else None,
        "paused": sum(seen.num_pauses for seen in everyone),
    }


def percentile(sample: list[float], percent: int) -> float | None:
    return round(float(np.percentile(sample, percent)), 2) if sample else None


async def come_at_random(server: LocalServer, *, per_minute: float, seconds: float) -> Row:
    """A row of the second table: open-loop arrivals for `seconds`, then all are served out."""
    chance = random.Random(0)
    everyone: list[Seen] = []
    end_s = time.monotonic() + seconds
    async with asyncio.TaskGroup() as clients:
        while (pause_s := chance.expovariate(per_minute / 60)) < end_s - time.monotonic():
            await asyncio.sleep(pause_s)
            everyone.append(Seen())
            stay_s = chance.expovariate(1 / STAY_S)
            clients.create_task(
                visit(server, everyone[-1], random.Random(len(everyone)), stay_s=stay_s)
            )
    return summarize_arrivals(everyone)


async def visit(server: LocalServer, seen: Seen, chance: random.Random, *, stay_s: float) -> None:
    """Ask for a world, play for `stay_s` once it is open, leave."""
    playing = asyncio.create_task(use_keys(server, seen, chance))
    while not playing.done() and seen.opened_s is None:
        await asyncio.wait([playing], timeout=0.1)
    await asyncio.wait([playing], timeout=stay_s)
    playing.cancel()
    with suppress(asyncio.CancelledError):
        await playing


def summarize_arrivals(everyone: list[Seen]) -> Row:
    waits = [seen.wait_s for seen in everyone if seen.wait_s is not None]
    errors = [seen.error for seen in everyone if seen.opened_s is None and seen.error is not None]
    periods = [period / MEDIA_S for seen in everyone for _, period in seen.periods_s]
    return {
        "came": len(everyone),
        "admitted": len(waits),
        "admission_rate": round(len(waits) / len(everyone), 2) if everyone else None,
        "wait_p50": percentile(waits, 50),
        "wait_p95": percentile(waits, 95),
        "refused": len(errors),
        "told_when_to_retry": sum("retry_after_s" in error for error in errors),
        "period_p95": percentile(periods, 95),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each row of the tables")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rates", type=float, nargs="*", default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--idle-after", type=float, default=1.0)
    parser.add_argument("--queue-timeout", type=float, default=60.0)
    options = parser.parse_args()
    together: dict[str, Row] = {}
    for idle_after_s in (None, options.idle_after):
        args: dict[str, Any] = {
            "group": {"pace": "shared"},
            "limits": {"idle_after_s": idle_after_s},
        }
        name = "no idling" if idle_after_s is None else f"idle after {idle_after_s:g} s"
        for clients in options.clients:  # a server for each: no row pays for another's clients
            with local_server(args, change=one_group) as server:
                row = asyncio.run(play_together(server, clients=clients, seconds=options.seconds))
            together[f"{name}, {clients}"] = row
            print(name, clients, row, flush=True)
    arrivals: dict[str, Row] = {}
    args = {
        "limits": {"idle_after_s": options.idle_after},
        "queue_timeout_s": options.queue_timeout,
    }
    for rate in options.rates:
        with local_server(args, change=one_group) as server:
            row = asyncio.run(come_at_random(server, per_minute=rate, seconds=options.seconds))
        arrivals[f"{rate:g} a minute"] = row
        print(rate, row, flush=True)
    figures = {"hold_s": HOLD_S, "rest_s": REST_S, "together": together, "arrivals": arrivals}
    for title, rows in (("clients at once", together), ("arrivals", arrivals)):
        if rows:
            print_table(title, rows)
    print_json("users", figures)


if __name__ == "__main__":
    main()
