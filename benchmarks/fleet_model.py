"""The parts of a simulated fleet: the scenario, its users, groups and nodes, and the sums."""

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from deployments.sessions.admission import Admission, GroupLimits
from deployments.sessions.line import Line
from deployments.sessions.wait_clock import WaitClock

Outcome = Literal["finished", "line full", "gave up: queued", "gave up: starting"]


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
    drain_s: float = 86400.0  # after which a draining group ends with its sessions
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


@dataclass(slots=True, eq=False)
class User:
    name: str
    until: float  # when the session would end; for a client that waits, its length
    clock: WaitClock | None = None  # while the client waits
    asked: float = 0.0
    group: "Group | None" = None  # in its line, or in a session
    turn: int = 0  # events of an earlier turn are void
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
    lost: int = 0  # sessions whose group died or was drained for too long
    suspended: int = 0
    deaths: int = 0  # of groups
    waits_s: list[float] = field(default_factory=list)  # of the admitted
    resume_waits_s: list[float] = field(default_factory=list)  # of suspended sessions
