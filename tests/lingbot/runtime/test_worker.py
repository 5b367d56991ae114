"""One rank, on ten-line engines and on the toy engine. `test_worker_ranks` has two ranks."""

import threading
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from lingbot.config import Size
from lingbot.errors import LingbotError, SessionClosed
from lingbot.runtime.commands import CloseSession, OpenSession, StepSession
from lingbot.runtime.warm_up import NUM_MEASURED, warm_up
from lingbot.runtime.worker import Worker
from tests.lingbot.fake_engine import FakeEngine
from tests.lingbot.running_worker import execute, running, walk_ahead
from tests.lingbot.toy import WALK, encode, make_spec
from tests.waiting import TIMEOUT_S

# ---- sessions


def test_a_worker_shows_the_engines_frames(engine):
    """Two sessions by turns, with a new prompt in one."""
    alone = {name: engine.open(make_spec(prompt=name)) for name in "ab"}
    with running(engine) as worker:
        for name in "ab":
            execute(worker, OpenSession(name, make_spec(prompt=name)))
        turns = [
            (name, actions, encode("snow") if (name, index) == ("b", 2) else None)
            for index, actions in enumerate(WALK)
            for name in "ab"
        ]
        decoding = [
            execute(worker, StepSession(session_id=name, actions=actions, context=context))
            for name, actions, context in turns
        ]
        shown = [chunk.result(TIMEOUT_S) for chunk in decoding]
    for (frames, latents), (name, actions, context) in zip(shown, turns, strict=True):
        assert np.array_equal(frames, engine.step(alone[name], actions, context=context))
        assert np.array_equal(latents, engine.newest_latents(alone[name]))


def test_a_refused_command_raises_and_changes_nothing(engine):
    expected = engine.step(engine.open(make_spec()), WALK[0])
    with running(engine) as worker:
        with pytest.raises(LingbotError, match="must be 1..8, not 9") as refused:
            execute(worker, OpenSession("a", make_spec(num_steps=9)))
        assert refused.value.field == "num_steps"
        with pytest.raises(SessionClosed, match="session a is not open"):
            execute(worker, StepSession(session_id="a", actions=WALK[0]))
        execute(worker, OpenSession("a", make_spec()))
        for wrong in (["w"], ["w", "x", ""]):
            with pytest.raises(LingbotError):
                execute(worker, StepSession(session_id="a", actions=wrong))
        frames, _ = execute(worker, StepSession(session_id="a", actions=WALK[0])).result(TIMEOUT_S)
        assert np.array_equal(frames, expected)


def test_a_closed_session_cannot_be_stepped_and_may_be_closed_again(engine):
    with running(engine) as worker:
        execute(worker, OpenSession("a", make_spec()))
        for _ in range(2):
            execute(worker, CloseSession("a"))
        with pytest.raises(SessionClosed):
            execute(worker, StepSession(session_id="a", actions=WALK[0]))


@pytest.fixture
def two_sessions(engine):
    """A worker with the sessions a and b, and the frames of b's next two chunks."""
    twin = engine.open(make_spec(seed=2))
    expected = [engine.step(twin, actions) for actions in WALK[:2]]
    with running(engine) as worker:
        execute(worker, OpenSession("a", make_spec()))
        execute(worker, OpenSession("b", make_spec(seed=2)))
        yield worker, expected


def test_an_unexpected_error_breaks_its_session_only(two_sessions, engine, monkeypatch):
    worker, expected = two_sessions
    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "write_cache", None)
        with pytest.raises(TypeError):
            execute(worker, StepSession(session_id="a", actions=WALK[0]))
    with pytest.raises(LingbotError, match="open another"):
        execute(worker, StepSession(session_id="a", actions=WALK[0]))
    assert all(map(np.array_equal, walk_ahead(worker, "b", WALK[:2]), expected))


def test_an_error_in_decoding_is_raised_by_the_future_of_the_frames(
    two_sessions, engine, monkeypatch
):
    worker, expected = two_sessions
    with monkeypatch.context() as patch:
        patch.setattr(engine.vae.network, "decode", None)
        with pytest.raises(TypeError):
            execute(worker, StepSession(session_id="a", actions=WALK[0])).result(TIMEOUT_S)
    with pytest.raises(LingbotError, match="open another"):
        execute(worker, StepSession(session_id="a", actions=WALK[1])).result(TIMEOUT_S)
    assert all(map(np.array_equal, walk_ahead(worker, "b", WALK[:2]), expected))


# ---- decoding beside the next denoising


def test_a_chunk_is_decoded_while_the_next_is_denoised():
    class Handshake(FakeEngine):
        """Decoding the first chunk and denoising the second: neither ends without the other."""

        met = threading.Barrier(2)

        def denoise(self, session, actions, **options):
            if actions == ["second"]:
                self.met.wait(TIMEOUT_S)
            return super().denoise(session, actions)

        def decode(self, session, latents):
            if latents == "afirst":
                self.met.wait(TIMEOUT_S)
            return latents

    with running(Handshake()) as worker:
        execute(worker, OpenSession("a", make_spec(seed=ord("a"))))
        shown = walk_ahead(worker, "a", [["first"], ["second"], ["third"]])
    assert shown == ["afirst", "asecond", "athird"]


class Held(FakeEngine):
    """Denoising and decoding begin, then wait for permission."""

    def __init__(self):
        super().__init__()
        self.begun = {"denoise": threading.Semaphore(0), "decode": threading.Semaphore(0)}
        self.may = {"denoise": threading.Semaphore(0), "decode": threading.Semaphore(0)}
        self.closed = threading.Event()

    def _hold(self, call):
        self.begun[call].release()
        assert self.may[call].acquire(timeout=TIMEOUT_S)

    def denoise(self, session, actions, **options):
        self._hold("denoise")
        return super().denoise(session, actions)

    def decode(self, session, latents):
        self._hold("decode")
        self.done.append(f"decoded {latents}")
        return latents

    def close(self, session):
        super().close(session)
        self.closed.set()


def test_closing_frees_at_once_and_lets_the_running_decoding_end():
    engine = Held()
    with running(engine) as worker:
        execute(worker, OpenSession("a", make_spec(seed=ord("a"))))
        engine.may["denoise"].release()
        frames = execute(worker, StepSession(session_id="a", actions=["1"]))
        assert engine.begun["decode"].acquire(timeout=TIMEOUT_S)
        execute(worker, CloseSession("a"))
        assert engine.closed.is_set()
        engine.may["decode"].release()
        assert frames.result(TIMEOUT_S) == ("a1", "latents")


def test_warming_up_measures_the_chunks_after_the_window_has_wrapped(engine, monkeypatch):
    seen, measured = [], []
    denoise = engine.denoise

    def record(session, actions, **options):
        seen.append((session.window.num_frames, actions[0]))
        return denoise(session, actions, **options)

    monkeypatch.setattr(engine, "denoise", record)
    with running(engine) as worker:
        worker.on_chunk = lambda size, *busy_s: measured.append((size, min(busy_s) > 0))
        warm_up(worker)
        assert worker._sessions == {}
    # The window is 9. Both kinds of shapes have had a full one before the first measured chunk.
    assert seen == [(0, ""), (3, "w"), (6, ""), (9, "w"), (12, ""), (15, "w"), (18, "")]
    assert measured == NUM_MEASURED * [(engine.config.size, True)]


def test_warming_up_measures_chunks_that_are_decoded_at_once():
    class Instant(FakeEngine):
        config = SimpleNamespace(sizes=(Size(16, 16),), window=1, chunk=1, chunk_frames=4, fps=16)

        def open(self, spec):
            return Steady(size="small", is_steady=True)

        def close(self, session):
            pass

    measured = []
    with running(Instant()) as worker:
        worker.on_chunk = lambda size, *busy_s: measured.append(size)
        warm_up(worker)
    assert len(measured) > NUM_MEASURED and set(measured) == {"small"}


@dataclass
class Steady:
    """A session of the fake engine whose first chunk is behind it."""

    size: str
    is_steady: bool = False
    has_default_speed: bool = True
    origin: str = "origin"


class Timed(FakeEngine):
    """Chunks whose actions are the seconds of their denoising and their decoding."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.may_decode = threading.Semaphore(0)

    def open(self, spec):
        return Steady(size=chr(spec.seed), has_default_speed=spec.num_steps is None)

    def denoise(self, session, actions, **options):
        self.now += float(actions[0])
        return float(actions[1])

    def decode(self, session, latents):
        assert self.may_decode.acquire(timeout=TIMEOUT_S)
        self.now += latents
        session.is_steady = True
        return latents


def test_both_parts_of_a_chunk_are_measured_if_another_one_is_decoded_meanwhile():
    """Not of a session's first chunk, and not of one that has steps of its own.

    Each denoising ends before a decoding goes on.
    """
    engine, measured = Timed(), []
    with running(engine, clock=lambda: engine.now) as worker:
        worker.on_chunk = lambda *chunk: measured.append(chunk)

        def show(frames):
            engine.may_decode.release()
            frames.result(TIMEOUT_S)

        for name, num_steps in (("a", None), ("b", None), ("c", 8)):
            spec = make_spec(seed=ord(name), num_steps=num_steps)
            execute(worker, OpenSession(name, spec))
            show(execute(worker, StepSession(session_id=name, actions=["9", "9"])))
        before = execute(
            worker, StepSession(session_id="a", actions=["8", "8"])
        )  # no other chunk is decoded
        for name, actions in (("b", ["3", "1"]), ("c", ["0", "7"]), ("a", ["2", "5"])):
            after = execute(worker, StepSession(session_id=name, actions=actions))
            show(before)
            before = after
        show(before)
    assert measured == [("b", 3, 1), ("a", 2, 5)]


def test_a_command_that_cannot_be_sent_raises_at_once():
    """With several ranks; nothing is queued."""

    class Leader(FakeEngine):
        group = SimpleNamespace(rank=0, num_ranks=2)

    worker = Worker(Leader())
    with pytest.raises(UnicodeEncodeError):
        worker.submit(OpenSession("\ud800", make_spec()), deadline=0)
    assert len(worker._scheduler) == 0


def test_busy_is_the_time_of_the_longest_running_call():
    now = 100.0
    engine = Held()
    with running(engine, clock=lambda: now) as worker:
        execute(worker, OpenSession("a", make_spec(seed=ord("a"))))
        assert worker.busy_s() == 0
        denoised = worker.submit(StepSession(session_id="a", actions=["1"]), deadline=0)
        assert engine.begun["denoise"].acquire(timeout=TIMEOUT_S)
        now = 103.0
        assert worker.busy_s() == 3
        engine.may["denoise"].release()
        frames = denoised.result(TIMEOUT_S)
        assert engine.begun["decode"].acquire(timeout=TIMEOUT_S)
        now = 105.0
        denoised = worker.submit(StepSession(session_id="a", actions=["2"]), deadline=0)
        assert engine.begun["denoise"].acquire(timeout=TIMEOUT_S)
        now = 110.0
        assert worker.busy_s() == 7  # the decoding
        engine.may["decode"].release()
        frames.result(TIMEOUT_S)
        assert worker.busy_s() == 5  # the second denoising
        engine.may["denoise"].release()
        engine.may["decode"].release()
        denoised.result(TIMEOUT_S).result(TIMEOUT_S)
        assert worker.busy_s() == 0
