"""A cluster under virtual time: users, groups and nodes, ruled by the server's own policy."""

import heapq
import math
import random
from collections.abc import Callable
from itertools import count
from typing import Any

from msgspec.structs import replace

from benchmarks.fleet_autoscaler import Autoscaler
from benchmarks.fleet_model import DEMAND, Group, Node, Outcome, Scenario, Sums, User
from deployments.sessions.line import LineFull
from deployments.sessions.wait_clock import WaitClock

ASK_AGAIN_S = 5.0  # how long a client waits in one group's line
NUM_ASKED = 32  # groups that the router compares at most
NOTICE_S = 2.0  # after which a session whose group died asks for another place
REPORT_S = 10.0  # between two reports of Serve's handles to the autoscaler
MOVE_S = 1.0  # a session's way to host memory or back


class Fleet:
    """Runs a scenario to the end of its last user."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.sums = Sums()
        self.users: list[User] = []
        self.now = 0.0
        self._random = random.Random(scenario.seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._tickets = count()
        self.groups: list[Group] = []  # but for those that are gone
        self._up: list[Group] = []
        self._nodes: list[Node] = []
        self._num_starting = 0
        self._num_wanted = scenario.min_groups
        self._num_leases = 0
        self._unrouted: dict[str, User] = {}  # no group is up
        self._num_open = scenario.users  # users without an outcome
        self._autoscaler = Autoscaler(
            target_ongoing=scenario.target_ongoing,
            min_groups=scenario.min_groups,
            max_groups=scenario.max_groups,
            upscale_delay_s=scenario.upscale_delay_s,
            downscale_delay_s=scenario.downscale_delay_s,
            look_back_s=scenario.look_back_s,
        )
        for arrival, user in scenario.draw_users(self._random):
            self.users.append(user)
            self._at(arrival, self._arrive, user)
            self.window_s = arrival
        for _ in range(self._num_wanted):
            self._start_group(warm=True)
        self._at(0.0, self._scale)

    def run(self, until: float = math.inf) -> None:
        """To the end of the last user, or to a time after which it may be called again."""
        while self._num_open and self._events[0][0] < until:
            self.now, _, call, args = heapq.heappop(self._events)
            call(*args)
        if self._num_open == 0:
            for group in self.groups:
                self._account(group)
                self.sums.group_s += max(0.0, self.window_s - group.born)

    # ---- users

    def _arrive(self, user: User) -> None:
        scenario = self.scenario
        if not user.has_begun:
            user.asked = self.now
        user.clock = WaitClock(
            queue_timeout_s=scenario.queue_timeout_s,
            warm_up_timeout_s=scenario.warm_up_timeout_s,
            now=self.now,
        )
        self._note_leases(1)
        self._ask(user)

    def _ask(self, user: User, last: Group | None = None) -> None:
        """Send a client's call to the group with the fewest; `last` is the one that let it go."""
        user.num_asked += 1
        num_asked = user.num_asked
        group = self._route(last)
        if group is None:
            self._unrouted[user.name] = user
        else:
            try:
                self._join(user, group)
            except LineFull:
                self._leave(user, "line full")
        if user.num_asked == num_asked:
            self._note_wait(user)

    def _join(self, user: User, group: Group) -> None:
        """Wait in a group's line, or in a session at once. Raises LineFull."""
        if user.has_begun:
            group.line.join_first(user.name, now=self.now)
        elif not len(group.line) and self._fits(user, group):
            self._admit(user, group)
            return
        else:
            assert user.clock is not None
            group.line.join(user.name, now=self.now, waited_s=user.clock.waited_s(self.now))
        user.line = group
        group.waiting[user.name] = user
        self._update(group)

    def _note_wait(self, user: User) -> None:
        starting = self._num_starting > 0 or not self._up
        if user.group is None:  # else its session goes on where it is
            assert user.clock is not None
            user.clock.note("starting" if starting else "queued", self.now)
            if user.clock.give_up_reason(self.now) is not None:
                self._leave_line(user)
                gave_up: Outcome = "gave up: starting" if starting else "gave up: queued"
                self._leave(user, "world lost" if user.has_begun else gave_up)
                return
        self._at(self.now + ASK_AGAIN_S, self._ask_again, user, user.num_asked)

    def _ask_again(self, user: User, num_asked: int) -> None:
        if user.num_asked != num_asked:
            return
        if (last := user.line) is None:
            self._note_wait(user)  # its call waits for a group still
        else:
            self._leave_line(user)
            self._ask(user, last)

    def _route(self, last: Group | None) -> Group | None:
        if not self._up:
            return None
        asked = self._up
        if len(asked) > NUM_ASKED:
            asked = self._random.sample(asked, NUM_ASKED)
        return min(asked, key=lambda group: (group is last, group.num_ongoing))

    def _leave_line(self, user: User) -> None:
        self._unrouted.pop(user.name, None)
        if group := user.line:
            group.line.leave(user.name)
            del group.waiting[user.name]
            user.line = None
            self._update(group)

    def _leave(self, user: User, outcome: Outcome) -> None:
        user.num_asked += 1
        user.outcome = outcome
        self._num_open -= 1
        self._note_leases(-1)

    def _note_leases(self, change: int) -> None:
        self._num_leases += change
        self._autoscaler.note(self._num_leases, self.now)

    # ---- sessions

    def _fits(self, user: User, group: Group) -> bool:
        """A session that was admitted before is not refused for the group's speed."""
        demand = replace(DEMAND, returning=user.has_begun)
        return group.admission.refusal(demand, self.scenario.hardware.bytes_each) is None

    def _admit(self, user: User, group: Group) -> None:
        self._account(group)
        group.admission.admit(user.name, DEMAND, self.scenario.hardware.bytes_each)
        group.sessions[user.name] = user
        old, user.group = user.group, group
        user.num_asked += 1
        if not user.has_begun:
            user.has_begun = True
            user.until += self.now
            self.sums.waits_s.append(self.now - user.asked)
        else:
            self.sums.moved += 1
            if old is None:
                self.sums.lost_place_s.append(self.now - user.asked)
            else:
                self._end_session(user, old)
        user.turn += 1
        self._at(max(self.now, user.until), self._finish, user, user.turn)
        self._plan_pause(user)

    def _update(self, group: Group) -> None:
        """Serve the line, as rank 0 of a group does after each change."""
        self._account(group)
        while group.state != "gone" and (name := group.line.first) is not None:
            if user := group.sessions.get(name):
                if not self._give_memory(user, group):
                    return
            elif group.state == "up" and self._fits(client := group.waiting[name], group):
                group.line.leave(name)
                group.line.admitted(self.now)
                del group.waiting[name]
                client.line = None
                self._admit(client, group)
            else:
                return

    def _give_memory(self, user: User, group: Group) -> bool:
        """Make a suspended session active, if its memory can be freed."""
        others = group.admission.room_for(user.name)
        if others is None:
            return False
        for other in others:
            self._suspend(group, other)
        group.admission.move(user.name, "active", self.now)
        group.line.leave(user.name)
        assert user.wants is not None
        self.sums.resume_waits_s.append(self.now - user.wants + MOVE_S * (1 + len(others)))
        user.wants = None
        self._plan_pause(user)
        return True

    def _plan_pause(self, user: User) -> None:
        """Find the first rest that is long enough to pause the session."""
        scenario, rng = self.scenario, self._random
        idle_s = scenario.idle_after_s
        now = self.now
        while now < user.until and math.isfinite(idle_s):
            now += rng.expovariate(1 / scenario.hold_s)
            rest_s = rng.expovariate(1 / scenario.rest_s)
            if rest_s > idle_s:
                self._at(now + idle_s, self._pause, user, user.turn, now + rest_s)
                return
            now += rest_s

    def _pause(self, user: User, turn: int, until: float) -> None:
        if user.turn != turn:
            return
        group = user.group
        assert group is not None
        self._account(group)
        group.admission.move(user.name, "paused", self.now)
        self._at(until, self._resume, user, turn)
        if (after_s := self.scenario.limits.suspend_after_s) is not None:
            self._at(self.now + after_s, self._suspend_paused, group)
        self._update(group)

    def _suspend_paused(self, group: Group) -> None:
        self._account(group)
        for name in group.admission.to_suspend(self.now):
            self._suspend(group, name)
        self._update(group)

    def _suspend(self, group: Group, name: str) -> None:
        group.admission.move(name, "suspended", self.now)
        self.sums.suspended += 1

    def _resume(self, user: User, turn: int) -> None:
        if user.turn != turn:
            return
        group = user.group
        assert group is not None
        self._account(group)
        if group.admission.state(user.name) == "suspended":
            user.wants = self.now
            group.line.join_first(user.name, now=self.now)
            self._update(group)
        else:
            group.admission.move(user.name, "active", self.now)
            self._plan_pause(user)

    def _finish(self, user: User, turn: int) -> None:
        if user.turn != turn:
            return
        group = user.group
        assert group is not None
        user.group = None
        self._leave_line(user)
        self._end_session(user, group)
        self._leave(user, "finished")

    def _end_session(self, user: User, group: Group) -> None:
        """Take a session, which may have moved, out of its group."""
        self._account(group)
        del group.sessions[user.name]
        group.admission.leave(user.name)
        group.line.leave(user.name)
        user.wants = None
        user.turn += 1
        self._update(group)
        if group.state == "draining" and not group.sessions:
            self._remove_group(group)

    def _account(self, group: Group) -> None:
        """Add what has happened in a group since the last time, until the last arrival."""
        until = min(self.now, self.window_s)
        seconds, group.noted = until - group.noted, max(group.noted, until)
        if seconds > 0 and group.sessions:
            self.sums.add(group, seconds, self.scenario.hardware)

    # ---- groups

    def _scale(self) -> None:
        self._num_wanted = self._autoscaler.decide(
            num_up=len(self._up), num_wanted=self._num_wanted, now=self.now
        )
        self._reconcile()
        self._at(self.now + REPORT_S, self._scale)

    def _reconcile(self) -> None:
        """Start or stop groups until there are as many as wanted."""
        while self._num_starting + len(self._up) < self._num_wanted:
            self._start_group()
        while self._num_starting + len(self._up) > self._num_wanted:
            # Serve stops those that start first, and then the newest
            starting = [group for group in self.groups if group.state == "starting"]
            self.drain((starting or self._up)[-1])

    def _start_group(self, *, warm: bool = False) -> None:
        group = self.scenario.create_group(self._find_node(), self.now)
        group.node.groups.append(group)
        self.groups.append(group)
        self._num_starting += 1
        self.sums.peak_groups = max(self.sums.peak_groups, len(self.groups))
        if warm:
            self._bring_up(group)
        else:
            self._at(self.now + self.scenario.start_s, self._bring_up, group)

    def _find_node(self) -> Node:
        for node in self._nodes:
            if len(node.groups) < self.scenario.groups_per_node:
                return node
        node = Node()
        self._nodes.append(node)
        self._after_life(self.scenario.node_life_s, self.kill_node, node)
        return node

    def _after_life(self, life_s: float, call: Callable[..., None], *args: Any) -> None:
        if math.isfinite(life_s):
            self._at(self.now + self._random.expovariate(1 / life_s), call, *args)

    def _bring_up(self, group: Group) -> None:
        if group.state != "starting":
            return
        self._num_starting -= 1
        group.state, group.noted = "up", self.now
        self._up.append(group)
        self._after_life(self.scenario.group_life_s, self._kill_group, group)
        unrouted, self._unrouted = self._unrouted, {}
        for user in unrouted.values():
            self._ask(user)

    def drain(self, group: Group) -> None:
        if group.state == "starting":
            self._remove_group(group)
            return
        group.state = "draining"
        self._up.remove(group)
        for user in list(group.waiting.values()):
            self._leave_line(user)
            self._ask(user)
        if not self._up or not group.sessions:  # nowhere else to go until another group is up
            self._remove_group(group)
            return
        self._at(self.now + self.scenario.drain_s, self._remove_group, group)
        for user in list(group.sessions.values()):
            self._ask(user)

    def _kill_group(self, group: Group) -> None:
        if group.state != "gone":
            self.sums.deaths += 1
            self._remove_group(group)
            self._reconcile()

    def kill_node(self, node: Node) -> None:
        self._nodes.remove(node)
        for group in list(node.groups):
            self._kill_group(group)

    def _remove_group(self, group: Group) -> None:
        """End a group. Its clients ask for another one, those with a session after a while."""
        if group.state == "gone":
            return
        self._num_starting -= group.state == "starting"
        if group.state == "up":
            self._up.remove(group)
        group.state = "gone"
        self.groups.remove(group)
        group.node.groups.remove(group)
        self.sums.group_s += max(0.0, min(self.now, self.window_s) - group.born)
        for user in list(group.sessions.values()):
            self._leave_line(user)  # it may wait for a place in another group
            self._end_session(user, group)
            user.group, user.asked = None, self.now
            user.num_asked += 1
            self._note_leases(-1)
            self._at(self.now + NOTICE_S, self._arrive, user)
        for user in list(group.waiting.values()):
            self._leave_line(user)
            self._ask(user)

    def _at(self, time: float, call: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._events, (time, next(self._tickets), call, args))
