"""The parts of a simulated fleet: the scenario, its users, groups and nodes, and the sums."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from random import Random
from typing import Literal

from deployments.sessions.admission import Admission, Demand, GroupLimits
from deployments.sessions.line import Line
from deployments.sessions.wait_clock import WaitClock

Outcome = Literal["finished", "world lost", "line full", "gave up: queued", "gave up: starting"]

DEMAND = Demand(width=832, height=480)  # of every session
MAY_BE_ZERO = (
    *("swing", "min_groups", "start_s", "upscale_delay_s", "downscale_delay_s", "drain_s", "seed"),
    *("queue_timeout_s", "warm_up_timeout_s"),
)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One replica group's machine and model."""

    chunk_s: float  # the group is busy with one chunk
    media_s: float = 0.75  # a chunk plays
    num_gpus: int = 0
    session_bytes: int  # a rank has for all sessions
    bytes_each: int  # of one session


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Users, groups and limits. Times are in seconds, and means of exponential distributions."""

    hardware: Hardware
    users: int = 10_000
    concurrent: float = 500.0  # users at once, if all were served: sets the rate of arrivals
    session_s: float = 600.0
    swing: float = 0.0  # one wave of the rate over all arrivals: 0 is constant, 1 the largest
    hold_s: float = 3.0  # keys held
    rest_s: float = 6.0  # and not held
    idle_after_s: float = math.inf  # without keys, after which a session pauses
    limits: GroupLimits = GroupLimits()
    target_ongoing: float = 1.0  # leases of a group that the autoscaler aims at
    min_groups: int = 1
    max_groups: int = 1000
    start_s: float = 180.0  # a group takes, always as long
    upscale_delay_s: float = 2.0
    downscale_delay_s: float = 300.0
    look_back_s: float = 30.0
    drain_s: float = 300.0  # after which a draining group ends with its sessions
    queue_timeout_s: float = 60.0
    warm_up_timeout_s: float = 900.0
    group_life_s: float = math.inf  # until it dies
    node_life_s: float = math.inf
    groups_per_node: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError with the name of a field and the expected value."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, (int, float)) and one.name not in MAY_BE_ZERO and not value > 0:
                raise ValueError(f"{one.name}: {value}, expected a number above 0")
        if not 0 <= self.swing <= 1:
            raise ValueError(f"swing: {self.swing}, expected 0 to 1")
        if not 0 <= self.min_groups <= self.max_groups:
            raise ValueError(f"min_groups: {self.min_groups}, expected 0 to {self.max_groups}")

    def draw_users(self, rng: Random) -> "Iterator[tuple[float, User]]":
        """Arrivals of a Poisson process whose rate follows one wave, by thinning."""
        rate = self.concurrent / self.session_s
        day_s = self.users / rate
        now, num_drawn = 0.0, 0
        while num_drawn < self.users:
            now += rng.expovariate(rate * (1 + self.swing))
            wave = 1 - self.swing * math.cos(2 * math.pi * now / day_s)
            if rng.random() * (1 + self.swing) < wave:
                yield now, User(f"{num_drawn}", rng.expovariate(1 / self.session_s))
                num_drawn += 1

    def create_group(self, node: "Node", now: float) -> "Group":
        """A group that starts at `now`, with the server's own admission and line."""
        hardware, limits = self.hardware, self.limits
        admission = Admission(
            limits, media_s=hardware.media_s, session_bytes=hardware.session_bytes
        )
        admission.measure(DEMAND.size, hardware.chunk_s)
        return Group(admission, Line(max_waiting=limits.max_waiting), node, now)


@dataclass(slots=True, eq=False)
class User:
    name: str
    until: float  # when the session ends; its length, until it has begun
    has_begun: bool = False
    clock: WaitClock | None = None  # while the client waits
    asked: float = 0.0
    group: "Group | None" = None  # of the session
    line: "Group | None" = None  # in whose line the client waits; a session that moves has both
    turn: int = 0  # events of an earlier turn of the session are void
    num_asked: int = 0  # events of an earlier question are void, too
    wants: float | None = None  # since when a suspended session wants its memory back
    outcome: Outcome | None = None


@dataclass(slots=True, eq=False)
class Group:
    admission: Admission
    line: Line
    node: "Node"
    born: float
    state: Literal["starting", "up", "draining", "gone"] = "starting"
    sessions: dict[str, User] = field(default_factory=dict)
    waiting: dict[str, User] = field(default_factory=dict)
    noted: float = 0.0

    @property
    def num_ongoing(self) -> int:
        return len(self.sessions) + len(self.waiting)


@dataclass(slots=True, eq=False)
class Node:
    groups: list[Group] = field(default_factory=list)


@dataclass(slots=True)
class Sums:
    """Figures until the last arrival."""

    group_s: float = 0.0
    busy_s: float = 0.0
    session_s: float = 0.0
    chunks: float = 0.0
    late_chunks: float = 0.0
    peak_groups: int = 0
    moved: int = 0  # sessions that went on in another group
    suspended: int = 0
    deaths: int = 0  # of groups
    waits_s: list[float] = field(default_factory=list)  # of the admitted
    lost_place_s: list[float] = field(default_factory=list)  # of sessions whose group had gone
    resume_waits_s: list[float] = field(default_factory=list)  # of suspended sessions

    def add(self, group: Group, seconds: float, hardware: Hardware) -> None:
        """Add a time in which the sessions of a group, at least one, did not change."""
        load = group.admission.load
        num_active = load * hardware.media_s / hardware.chunk_s
        chunks = seconds * num_active / (hardware.media_s * max(1.0, load))
        self.chunks += chunks
        self.late_chunks += chunks if load > 1 else 0.0
        self.busy_s += seconds * min(1.0, load)
        self.session_s += seconds * len(group.sessions)
