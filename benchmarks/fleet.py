"""How many replica groups a number of users needs: the server's admission under virtual time.

    python -m benchmarks.fleet [--hardware NAME] [--users N] [--target-ongoing T ...] ...

Users arrive at random, hold keys and rest, wait, give up and leave; groups start, are scaled by
Ray Serve's policy, and die. Sessions of a group that drains or dies go on in another one. `--help`
lists every option with its default. An option with several values gives a row for each, in every
combination. The same seed gives the same figures.
"""

import argparse
import itertools
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from benchmarks.fleet_model import Hardware, Scenario
from benchmarks.fleet_simulation import Fleet
from benchmarks.percentiles import percentiles
from benchmarks.printing import Row, print_json, print_table
from deployments.sessions.admission import GroupLimits

GIB = 2**30

# Seconds a chunk are published figures, but for the pocket world's: docs/capacity.md has the
# sources. Bytes are those of the memory plan, in bfloat16 at 832x480.
HARDWARE = {
    "pocket": Hardware(chunk_s=0.31, session_bytes=GIB, bytes_each=9 * 2**20),
    "14b-1xh100": Hardware(
        chunk_s=2.31, num_gpus=1, session_bytes=int(38.3 * GIB), bytes_each=int(11.18 * GIB)
    ),
    "14b-4xh200": Hardware(
        chunk_s=0.628, num_gpus=4, session_bytes=int(99.3 * GIB), bytes_each=int(3.15 * GIB)
    ),
    "14b-8xh100": Hardware(
        chunk_s=0.393, num_gpus=8, session_bytes=int(38.3 * GIB), bytes_each=int(2.7 * GIB)
    ),
    "1.3b-rtx5090": Hardware(
        chunk_s=0.735, num_gpus=1, session_bytes=int(21.4 * GIB), bytes_each=int(4.99 * GIB)
    ),
}
OTHERS = ("hardware", "limits")  # fields of a Scenario that are no numbers
DEFAULTS = {one.name: one.default for one in fields(Scenario)} | msgspec.structs.asdict(
    GroupLimits()
)


def measure(scenario: Scenario) -> Row:
    """Run a scenario. Figures are those until the last arrival; waits are in seconds."""
    start = time.process_time()
    fleet = Fleet(scenario)
    fleet.run()
    sums = fleet.sums
    user_h, group_h = sums.session_s / 3600, sums.group_s / 3600
    num_gpus = scenario.hardware.num_gpus
    outcomes = Counter(str(user.outcome) for user in fleet.users)
    num_refused = scenario.users - outcomes["finished"]
    return {
        "groups": round(sums.group_s / fleet.window_s, 1),
        "peak": sums.peak_groups,
        "group_h_per_user_h": round(ratio(group_h, user_h), 3),
        "gpu_h_per_user_h": round(ratio(group_h, user_h) * num_gpus, 2),
        **percentiles("wait_s", sums.waits_s or [0.0], digits=1),
        "refused_percent": round(100 * num_refused / scenario.users, 2),
        "late_percent": round(100 * ratio(sums.late_chunks, sums.chunks), 2),
        "busy_percent": round(100 * ratio(sums.busy_s, sums.group_s), 1),
        "moved": sums.moved,
        "lost": outcomes["world lost"],
        **percentiles("lost_place_s", sums.lost_place_s or [0.0], digits=1),
        **percentiles("resume_s", sums.resume_waits_s or [0.0], digits=1),
        "suspended": sums.suspended,
        "deaths": sums.deaths,
        "hours": round(fleet.window_s / 3600, 2),
        "gpu_hours": round(group_h * num_gpus),
        "outcomes": dict(outcomes),
        "cpu_s": round(time.process_time() - start, 1),
    }


def ratio(part: float, whole: float) -> float:
    """0 of nothing: nobody was admitted."""
    return part / whole if whole else 0.0


def parse(arguments: Sequence[str] | None = None) -> tuple[str, dict[str, list[Any]]]:
    """The hardware's name, and the values of each option that is given. May exit with status 2."""
    parser = argparse.ArgumentParser("python -m benchmarks.fleet", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--hardware", choices=HARDWARE, default="14b-4xh200")
    for kind in (Scenario, GroupLimits):
        for name, hint in get_type_hints(kind).items():
            if name in OTHERS:
                continue
            is_choice = get_origin(hint) is Literal
            parser.add_argument(
                "--" + name.replace("_", "-"),
                nargs="+",
                type=str if is_choice else read_number,
                choices=get_args(hint) if is_choice else None,
                help=f"default: {DEFAULTS[name]}",
                metavar=None if is_choice else "VALUE",
            )
    options = vars(parser.parse_args(arguments))
    hardware = options.pop("hardware")
    return hardware, {name: values for name, values in options.items() if values is not None}


def build(hardware: str, options: dict[str, Any]) -> Scenario:
    """The scenario of one row. Raises ValueError with the name of a wrong option."""
    ours = {one.name for one in fields(Scenario)}
    limits = {name: value for name, value in options.items() if name not in ours}
    try:
        group = msgspec.convert(limits, GroupLimits)
    except msgspec.ValidationError as exc:
        raise ValueError(str(exc)) from exc
    return Scenario(
        hardware=HARDWARE[hardware],
        limits=group,
        **{name: value for name, value in options.items() if name in ours},
    )


def read_number(text: str) -> float | int:
    """A whole number as an int. Raises ValueError."""
    number = float(text)
    return int(number) if math.isfinite(number) and number == int(number) else number


def main(arguments: Sequence[str] | None = None) -> None:
    hardware, options = parse(arguments)
    if not options:
        options = {"target_ongoing": [1.0, 1.5], "idle_after_s": [math.inf, 3.0]}
    scenarios = {}
    for values in itertools.product(*options.values()):
        row = dict(zip(options, values, strict=True))
        swept = {name: value for name, value in row.items() if len(options[name]) > 1}
        label = ", ".join(f"{name} {value}" for name, value in swept.items())
        try:
            scenarios[label or hardware] = build(hardware, row)
        except (ValueError, TypeError) as exc:
            raise SystemExit(f"python -m benchmarks.fleet: {exc}") from exc
    rows = {label: measure(scenario) for label, scenario in scenarios.items()}
    shown = ("groups", "peak", "gpu_h_per_user_h", "wait_s_p50", "wait_s_p95", "refused_percent")
    more = ("late_percent", "busy_percent", "moved", "lost")
    print_table(
        f"{hardware}: {next(iter(scenarios.values())).users} users",
        {label: {name: row[name] for name in (*shown, *more)} for label, row in rows.items()},
    )
    print_json("fleet", {"hardware": hardware, "rows": rows})


if __name__ == "__main__":
    main()
