"""Any history of a group that follows Admission and Line keeps their promises."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deployments.sessions.admission import FULL, Admission, Demand, GroupLimits
from deployments.sessions.line import Line, LineFull

MEDIA_S = 0.75
SESSION_BYTES, SUSPENDED_BYTES = 100, 60
MAX_SESSIONS, MAX_WAITING = 6, 4
CHUNK_S = {(208, 128): 0.2, (416, 256): 0.35, (832, 480): 1.0}
PAUSED_SHARE = 0.25


class Group(RuleBasedStateMachine):
    """Clients join, wait, ask again and leave; sessions pause, are suspended and resume."""

    def __init__(self):
        super().__init__()
        limits = GroupLimits(
            max_sessions=MAX_SESSIONS,
            paused_share=PAUSED_SHARE,
            suspend_after_s=5,
            suspended_bytes=SUSPENDED_BYTES,
        )
        self.admission = Admission(limits, media_s=MEDIA_S, session_bytes=SESSION_BYTES)
        for size, chunk_s in CHUNK_S.items():
            self.admission.measure(size, chunk_s)
        self.line = Line(max_waiting=MAX_WAITING)
        self.now = 0.0
        self.asked = {}  # first, by waiting client
        self.demands = {}
        self.sessions = []
        self.resuming = set()
        self.detached = set()
        self.number = 0

    def names(self, state):
        return [name for name in self.sessions if self.admission.state(name) == state]

    def serve(self):
        """A group does this after each event."""
        while (name := self.line.first) is not None:
            if name in self.resuming:
                if (others := self.admission.room_for(name)) is None:
                    break
                for other in others:
                    self.admission.move(other, "suspended", self.now)
                self.admission.move(name, "active", self.now)
                self.resuming.remove(name)
                self.line.leave(name)
            elif not self.try_to_admit(name):
                break
            else:
                # FIFO: nobody who waits asked before it
                assert all(self.asked[name] <= asked for asked in self.asked.values())
                del self.asked[name]
                self.line.leave(name)
                self.line.admitted(self.now)

    def try_to_admit(self, name):
        demand, num_bytes = self.demands[name]
        admission = self.admission
        before = admission.load
        if admission.refusal(demand, num_bytes) is not None:
            return False
        admission.admit(name, demand, num_bytes)
        self.sessions.append(name)
        if demand.realtime:  # it made nobody late
            assert admission.load <= FULL or before == 0
        return True

    @rule(
        size=st.sampled_from(sorted(CHUNK_S)),
        num_bytes=st.integers(1, SESSION_BYTES),
        realtime=st.booleans(),
        num_steps=st.none() | st.integers(1, 8),
    )
    def ask(self, size, num_bytes, realtime, num_steps):
        self.number += 1
        name = f"{self.number}"
        width, height = size
        demand = Demand(width=width, height=height, realtime=realtime, num_steps=num_steps)
        self.demands[name] = (demand, num_bytes)
        if self.line.first is None and self.try_to_admit(name):
            return
        num_clients = len(self.asked)
        try:
            self.line.join(name, now=self.now)
        except LineFull:
            assert num_clients + len(self.resuming) >= MAX_WAITING
        else:
            self.asked[name] = self.now

    @rule(seconds=st.floats(0.01, 10))
    def wait(self, seconds):
        self.now += seconds
        for name in self.admission.to_suspend(self.now):
            self.admission.move(name, "suspended", self.now)
        self.serve()

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), again=st.booleans())
    def leave_line(self, data, again):
        name = data.draw(st.sampled_from(sorted(self.asked)))
        place = self.line.position(name)
        self.line.leave(name)
        if again:
            self.line.join(name, now=self.now, waited_s=self.now - self.asked[name])
            same = [other for other in self.asked if self.asked[other] == self.asked[name]]
            assert abs(self.line.position(name) - place) < len(same)
        else:
            del self.asked[name]
        self.serve()

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def end(self, data):
        name = data.draw(st.sampled_from(self.sessions))
        self.sessions.remove(name)
        self.admission.leave(name)
        self.line.leave(name)
        self.resuming.discard(name)
        self.detached.discard(name)
        self.serve()

    @precondition(lambda self: set(self.sessions) - self.detached)
    @rule(data=st.data())
    def detach(self, data):
        name = data.draw(st.sampled_from(sorted(set(self.sessions) - self.detached)))
        num_bytes = self.admission.num_bytes
        if name in self.resuming:  # its step ends with its lease
            self.resuming.remove(name)
            self.line.leave(name)
        self.admission.detach(name, self.now)
        self.detached.add(name)
        assert self.admission.num_bytes == num_bytes
        assert self.admission.state(name) != "active"
        self.serve()

    @precondition(lambda self: self.detached)
    @rule(data=st.data())
    def attach(self, data):
        name = data.draw(st.sampled_from(sorted(self.detached)))
        load = self.admission.load
        self.admission.attach(name)
        self.detached.remove(name)
        assert self.admission.load == load  # until its next step

    @precondition(lambda self: self.names("active"))
    @rule(data=st.data())
    def pause(self, data):
        self.admission.move(data.draw(st.sampled_from(self.names("active"))), "paused", self.now)
        self.serve()

    @precondition(lambda self: set(self.names("paused")) - self.detached)
    @rule(data=st.data())
    def press_key(self, data):
        paused = sorted(set(self.names("paused")) - self.detached)
        self.admission.move(data.draw(st.sampled_from(paused)), "active", self.now)

    @precondition(lambda self: set(self.names("suspended")) - self.resuming - self.detached)
    @rule(data=st.data())
    def resume(self, data):
        waiting = sorted(set(self.names("suspended")) - self.resuming - self.detached)
        name = data.draw(st.sampled_from(waiting))
        self.resuming.add(name)
        self.line.join_first(name, now=self.now)
        self.serve()

    @invariant()
    def no_more_bytes_than_allowed(self):
        assert self.admission.num_bytes <= SESSION_BYTES
        assert self.admission.suspended_bytes <= SUSPENDED_BYTES
        assert len(self.admission) == len(self.sessions) <= MAX_SESSIONS

    @invariant()
    def everyone_who_waits_has_a_place(self):
        waiting = {*self.asked, *self.resuming}
        places = sorted(self.line.position(name) for name in waiting)
        assert places == list(range(1, len(waiting) + 1))
        first = {name for name in waiting if self.line.position(name) <= len(self.resuming)}
        assert first == self.resuming
        assert len(self.asked) <= MAX_WAITING

    def teardown(self):
        """Nobody starves: all who wait are served in as many steps as there are sessions."""
        while len(self.line):
            assert self.sessions, "the first of the line does not fit into an empty group"
            self.now += 1
            oldest = next(name for name in self.sessions if name not in self.resuming)
            self.sessions.remove(oldest)
            self.admission.leave(oldest)
            self.serve()


TestGroup = Group.TestCase
TestGroup.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
