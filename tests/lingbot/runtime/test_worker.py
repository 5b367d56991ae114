"""Commands alone, with ten-line engines; then two ranks in step, in real processes."""

import json
import math
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed import FileStore
from torch.multiprocessing.spawn import spawn

from lingbot.errors import LingbotError, SessionClosed
from lingbot.parallel import process_group
from lingbot.parallel.command_channel import BUFFER_BYTES, CommandChannel
from lingbot.parallel.process_group import join, spawn_ranks
from lingbot.parallel.ulysses import SINGLE
from lingbot.runtime import worker as lockstep_module
from lingbot.runtime.commands import DECODER, ENCODER, Close, Heartbeat, Open, Step, Stop
from lingbot.runtime.worker import Worker
from tests.lingbot.toy import WALK, make_engine, make_spec

SOON_S = 20  # nothing here takes so long


class FakeEngine:
    """Sessions are their prompts, and frames what was denoised: session and first action."""

    group = SINGLE

    def __init__(self):
        self.done = []

    def open(self, spec):
        return spec.prompt

    def denoise(self, session, actions, *, prompt):
        self.done.append(f"{session}{actions[0]}")
        return self.done[-1]

    def decode(self, session, latents):
        return latents

    def close(self, session):
        self.done.append(f"close {session}")


@contextmanager
def running(engine):
    """The lockstep of an engine, which obeys on a thread of its own."""
    lockstep = Worker(engine)
    thread = threading.Thread(target=lockstep.run, daemon=True)
    thread.start()
    try:
        yield lockstep
    finally:
        lockstep.submit(Stop(), deadline=math.inf).result(SOON_S)
        thread.join(SOON_S)


def do(lockstep, command, *, deadline=0.0):
    return lockstep.submit(command, deadline=deadline).result(SOON_S)


def walk_ahead(lockstep, session_id, walk=WALK):
    """The frames of a walk whose next step is asked for as soon as the one before is denoised."""
    decoding = [do(lockstep, Step(session_id, actions)) for actions in walk]
    return [frames.result(SOON_S) for frames in decoding]


# ---- which command is next


def obey(engine, *turns):
    """Have an engine do what was all asked for at once: (due, command) in order of arrival."""
    lockstep = Worker(engine)
    for deadline, command in [*turns, (math.inf, Stop())]:
        lockstep.submit(command, deadline=deadline)
    lockstep.run()
    return engine.done


OPENED = [(-math.inf, Open(name, make_spec(prompt=name))) for name in "abc"]


def test_the_earliest_due_is_first_and_ties_go_by_arrival():
    turns = [(3, Step("a", ["1"])), (1, Step("c", ["2"])), (1, Step("b", ["3"])),
             (1, Step("c", ["4"])), (2, Step("a", ["5"])), (-1, Step("b", ["6"]))]  # fmt: skip
    assert obey(FakeEngine(), *OPENED, *turns) == ["b6", "c2", "b3", "c4", "a5", "a1"]


def test_a_session_that_is_never_due_soon_gets_its_turn():
    """The other one is always due now, and asks again as soon as it is served."""

    class Eager(FakeEngine):
        def denoise(self, session, actions, *, prompt):
            now = len(self.done)
            if session == "a" and now < 8:
                lockstep.submit(Step("a", [""]), deadline=now + 1)
            return super().denoise(session, actions, prompt=prompt)

    engine = Eager()
    lockstep = Worker(engine)
    for deadline, command in [*OPENED, (4.5, Step("b", [""])), (0, Step("a", [""]))]:
        lockstep.submit(command, deadline=deadline)
    lockstep.submit(Stop(), deadline=math.inf)
    lockstep.run()
    assert engine.done == [*"aaaaa", "b", *"aaa"]


def test_what_nobody_waits_for_any_more_is_not_done():
    engine = FakeEngine()
    lockstep = Worker(engine)
    assert lockstep.submit(Step("a", ["1"]), deadline=0).cancel()
    lockstep.submit(Stop(), deadline=1)
    lockstep.run()
    assert engine.done == []


# ---- sessions


def test_steps_show_what_the_engine_shows_alone(engine):
    """Two sessions by turns, with a new prompt in one."""
    alone = {name: engine.open(make_spec(prompt=name)) for name in "ab"}
    with running(engine) as lockstep:
        for name in "ab":
            do(lockstep, Open(name, make_spec(prompt=name)))
        turns = [
            (name, actions, "snow" if (name, index) == ("b", 2) else None)
            for index, actions in enumerate(WALK)
            for name in "ab"
        ]
        decoding = [do(lockstep, Step(*turn)) for turn in turns]
        shown = [frames.result(SOON_S) for frames in decoding]
    for frames, (name, actions, prompt) in zip(shown, turns, strict=True):
        assert np.array_equal(frames, engine.step(alone[name], actions, prompt=prompt))


def test_refusals_are_told_and_change_nothing(engine):
    expected = engine.step(engine.open(make_spec()), WALK[0])
    with running(engine) as lockstep:
        with pytest.raises(LingbotError, match="must be 1..8, not 9") as refused:
            do(lockstep, Open("a", make_spec(num_steps=9)))
        assert refused.value.field == "num_inference_steps"
        with pytest.raises(SessionClosed, match="session a is not open"):
            do(lockstep, Step("a", WALK[0]))
        do(lockstep, Open("a", make_spec()))
        for wrong in (["w"], ["w", "x", ""]):
            with pytest.raises(LingbotError):
                do(lockstep, Step("a", wrong))
        assert np.array_equal(do(lockstep, Step("a", WALK[0])).result(SOON_S), expected)


def test_a_closed_session_cannot_be_stepped_and_may_be_closed_again(engine):
    with running(engine) as lockstep:
        do(lockstep, Open("a", make_spec()))
        for _ in range(2):
            do(lockstep, Close("a"))
        with pytest.raises(SessionClosed):
            do(lockstep, Step("a", WALK[0]))


@pytest.fixture
def two_sessions(engine):
    """A lockstep with the sessions a and b, and what b will show in its next two chunks."""
    twin = engine.open(make_spec(seed=2))
    expected = [engine.step(twin, actions) for actions in WALK[:2]]
    with running(engine) as lockstep:
        do(lockstep, Open("a", make_spec()))
        do(lockstep, Open("b", make_spec(seed=2)))
        yield lockstep, expected


def test_alone_an_unexpected_error_breaks_its_session_only(two_sessions, engine, monkeypatch):
    lockstep, expected = two_sessions
    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "write_cache", None)
        with pytest.raises(TypeError):
            do(lockstep, Step("a", WALK[0]))
    with pytest.raises(LingbotError, match="open another"):
        do(lockstep, Step("a", WALK[0]))
    assert all(map(np.array_equal, walk_ahead(lockstep, "b", WALK[:2]), expected))


def test_an_error_in_decoding_is_told_to_who_waits_for_the_frames(
    two_sessions, engine, monkeypatch
):
    lockstep, expected = two_sessions
    with monkeypatch.context() as patch:
        patch.setattr(engine.codec.vae, "decode", None)
        with pytest.raises(TypeError):
            do(lockstep, Step("a", WALK[0])).result(SOON_S)
    with pytest.raises(LingbotError, match="open another"):
        do(lockstep, Step("a", WALK[1])).result(SOON_S)
    assert all(map(np.array_equal, walk_ahead(lockstep, "b", WALK[:2]), expected))


# ---- decoding beside the next denoising


def test_a_chunk_is_decoded_while_the_next_is_denoised():
    class Handshake(FakeEngine):
        """Decoding the first chunk and denoising the second: neither ends without the other."""

        met = threading.Barrier(2)

        def denoise(self, session, actions, *, prompt):
            if actions == ["second"]:
                self.met.wait(SOON_S)
            return super().denoise(session, actions, prompt=prompt)

        def decode(self, session, latents):
            if latents == "afirst":
                self.met.wait(SOON_S)
            return latents

    with running(Handshake()) as lockstep:
        do(lockstep, Open("a", make_spec(prompt="a")))
        shown = walk_ahead(lockstep, "a", [["first"], ["second"], ["third"]])
    assert shown == ["afirst", "asecond", "athird"]


class Held(FakeEngine):
    """Denoising and decoding begin, and go on when they may."""

    def __init__(self):
        super().__init__()
        self.begun = {"denoise": threading.Semaphore(0), "decode": threading.Semaphore(0)}
        self.may = {"denoise": threading.Semaphore(0), "decode": threading.Semaphore(0)}
        self.closed = threading.Event()

    def _hold(self, what):
        self.begun[what].release()
        assert self.may[what].acquire(timeout=SOON_S)

    def denoise(self, session, actions, *, prompt):
        self._hold("denoise")
        return super().denoise(session, actions, prompt=prompt)

    def decode(self, session, latents):
        self._hold("decode")
        self.done.append(f"decoded {latents}")
        return latents

    def close(self, session):
        super().close(session)
        self.closed.set()


def test_closing_frees_at_once_and_lets_the_running_decoding_end():
    engine = Held()
    with running(engine) as lockstep:
        do(lockstep, Open("a", make_spec(prompt="a")))
        engine.may["denoise"].release()
        frames = do(lockstep, Step("a", ["1"]))
        assert engine.begun["decode"].acquire(timeout=SOON_S)
        do(lockstep, Close("a"))
        assert engine.closed.is_set()
        engine.may["decode"].release()
        assert frames.result(SOON_S) == "a1"


def test_warming_up_denoises_and_decodes_until_the_window_went_round(engine, monkeypatch):
    seen = []
    decode = engine.decode

    def record(session, latents):
        seen.append(session.window.num_frames)
        return decode(session, latents)

    monkeypatch.setattr(engine, "decode", record)
    with running(engine) as lockstep:
        lockstep.warm_up()
        assert seen == [3, 6, 9, 12]  # the window is 9
        assert lockstep._sessions == {}


def test_what_cannot_be_sent_is_the_askers_business():
    """With several ranks; and nobody is left waiting for it."""

    class Leader(FakeEngine):
        group = SimpleNamespace(rank=0, num_ranks=2)

    with pytest.raises(UnicodeEncodeError):
        Worker(Leader()).submit(Open("a", make_spec(prompt="\ud800")), deadline=0)


def test_busy_is_how_long_the_longest_running_call_has_taken(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(lockstep_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    engine = Held()
    with running(engine) as lockstep:
        do(lockstep, Open("a", make_spec(prompt="a")))
        assert lockstep.busy_s() == 0
        denoised = lockstep.submit(Step("a", ["1"]), deadline=0)
        assert engine.begun["denoise"].acquire(timeout=SOON_S)
        clock.now = 103.0
        assert lockstep.busy_s() == 3
        engine.may["denoise"].release()
        frames = denoised.result(SOON_S)
        assert engine.begun["decode"].acquire(timeout=SOON_S)
        clock.now = 105.0
        denoised = lockstep.submit(Step("a", ["2"]), deadline=0)
        assert engine.begun["denoise"].acquire(timeout=SOON_S)
        clock.now = 110.0
        assert lockstep.busy_s() == 7  # the decoding
        engine.may["decode"].release()
        frames.result(SOON_S)
        assert lockstep.busy_s() == 5  # the second denoising
        engine.may["denoise"].release()
        engine.may["decode"].release()
        denoised.result(SOON_S).result(SOON_S)
        assert lockstep.busy_s() == 0


# ---- two ranks


def lead(lockstep, scenario):
    """On rank 0 what a scenario gives; the other ranks follow until it is over."""
    if not lockstep.leads:
        return lockstep.run()
    with_leader = threading.Thread(target=lockstep.run, daemon=True)
    with_leader.start()
    try:
        return scenario(lockstep)
    finally:
        do(lockstep, Stop(), deadline=math.inf)
        with_leader.join(SOON_S)


def state_of(session):
    """What must not differ between ranks."""
    text = [float(part.double().sum()) for kv in session.text for part in kv]
    noise = session.noise.get_state().numpy().tobytes()
    return session.next_chunk, session.window.num_frames, session.broken, text, noise


def on_all_ranks(value):
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def told(lockstep, command):
    """What the asker is told of a command that is refused."""
    with pytest.raises(LingbotError) as refused:
        do(lockstep, command)
    return type(refused.value).__name__, str(refused.value), refused.value.field


LONG_PROMPT = "an endless prompt " * 1000


def walk_together(lockstep):
    """Refusals, then two sessions by turns, and a third that is closed on its way."""
    closed_again = make_spec(seed=3)
    refusals = [
        told(lockstep, Open("a", make_spec(num_steps=9))),
        told(lockstep, Open("a", make_spec(first_frame=np.zeros((32, 48, 3), np.float32)))),
        told(lockstep, Step("a", WALK[0])),
    ]
    lockstep.warm_up()
    for name, spec in (("a", make_spec()), ("b", make_spec(seed=2)), ("c", closed_again)):
        do(lockstep, Open(name, spec))
    refusals += [told(lockstep, Step("a", ["w"])), told(lockstep, Step("a", ["w", "x", ""]))]
    decoding = {"a": [], "b": []}
    for index, actions in enumerate(WALK):
        prompt = LONG_PROMPT if index == 3 else None
        decoding["a"].append(do(lockstep, Step("a", actions, prompt)))
        decoding["b"].append(do(lockstep, Step("b", actions[::-1])))
        if index == 1:
            do(lockstep, Step("c", actions))
            do(lockstep, Close("c"))
            refusals.append(told(lockstep, Step("c", actions)))
    frames = {name: [one.result(SOON_S) for one in chunks] for name, chunks in decoding.items()}
    return frames, refusals


def messages():
    """Commands shorter and longer than the buffer, and of every length about its own."""
    about = range(BUFFER_BYTES - 60, BUFFER_BYTES + 10)
    lengths = [3 * BUFFER_BYTES, 0, *about, *reversed(about), 1]
    steps = [Step("a", ["w", "", "ä"], "x" * length) for length in lengths]
    return [*steps, Step("a", []), Close("b"), Heartbeat(), Stop()]


def pictures():
    small, turned = np.arange(12, dtype=np.uint8).reshape(2, 2, 3), make_spec().first_frame
    return [small, turned.transpose(1, 0, 2), np.ones((2, 1, 3), np.float32)]


def opening(number):
    return Open("a", make_spec(first_frame=pictures()[number], prompt=LONG_PROMPT, window=7))


def send_commands(group):
    """What the last rank received: commands, then the pictures and prompts of sessions."""
    channel = CommandChannel()
    commands = messages() + [opening(number) for number in range(len(pictures()))]
    if group.rank == 0:
        for command in commands:
            channel.send(ENCODER.encode(command))
    received = [DECODER.decode(channel.receive()) for _ in commands] if group.rank else []
    return on_all_ranks(received)[-1]


def be_two(group):
    received = send_commands(group)
    lockstep = Worker(make_engine(group=group, camera_cache_bytes=2**14))
    results = lead(lockstep, walk_together)
    states = on_all_ranks({name: state_of(one) for name, one in lockstep._sessions.items()})
    return received, results, states


@pytest.fixture(scope="module")
def two():
    received, (frames, refusals), states = spawn_ranks(2, be_two)
    return SimpleNamespace(received=received, frames=frames, refusals=refusals, states=states)


def test_two_ranks_show_one_ranks_frames(two, engine):
    a, b = engine.open(make_spec()), engine.open(make_spec(seed=2))
    for index, actions in enumerate(WALK):
        prompt = LONG_PROMPT if index == 3 else None
        alone = {"a": engine.step(a, actions, prompt=prompt), "b": engine.step(b, actions[::-1])}
        for name, frames in alone.items():
            ours = two.frames[name][index].astype(int)
            assert ours.shape == frames.shape and np.abs(ours - frames).max() <= 1


def test_two_ranks_are_in_the_same_state_after_refusals_and_steps(two):
    leader, follower = two.states
    assert leader == follower
    assert {name: state[:3] for name, state in leader.items()} == {
        "a": (5, 15, False),
        "b": (5, 15, False),
    }


def test_two_ranks_tell_the_asker_what_is_refused(two):
    closed = ("SessionClosed", "session {} is not open", None)
    assert two.refusals == [
        ("LingbotError", "num_inference_steps must be 1..8, not 9", "num_inference_steps"),
        (
            "LingbotError",
            "first_frame must be uint8 (32, 48, 3), not float32 (32, 48, 3)",
            "size",
        ),
        (closed[0], closed[1].format("a"), None),
        ("LingbotError", "a step takes 3 actions, not 1", "actions"),
        ("LingbotError", "action 'x' must be distinct keys of 'wasdijkl'", "actions"),
        (closed[0], closed[1].format("c"), None),
    ]


def test_commands_of_any_length_arrive_whole(two):
    assert two.received[: len(messages())] == messages()


@pytest.mark.parametrize("number", range(len(pictures())))
def test_a_session_arrives_whole(two, number):
    arrived, sent = two.received[len(messages()) + number], opening(number)
    picture, expected = arrived.spec.first_frame, sent.spec.first_frame
    assert picture.dtype == expected.dtype and np.array_equal(picture, expected)
    for name in ("prompt", "seed", "num_steps", "window", "sink"):
        assert getattr(arrived.spec, name) == getattr(sent.spec, name)


# ---- two ranks that wait 4 s for each other, where 20 s is usual


def wait_idly(lockstep):
    do(lockstep, Open("a", make_spec()))
    time.sleep(2 * process_group.TIMEOUT_S)
    return do(lockstep, Step("a", WALK[0])).result(SOON_S).shape


def fail(*args, **kwargs):
    raise ZeroDivisionError


def step_once(lockstep):
    """Ends when a rank fails: what `run` raised here, and after how many seconds."""
    if lockstep.leads:
        lockstep.submit(Open("a", make_spec()), deadline=0)
        lockstep.submit(Step("a", WALK[0]), deadline=1)
    began = time.monotonic()
    try:
        lockstep.run()
    except Exception as exc:
        return type(exc).__name__, time.monotonic() - began


def be_impatient(rank, folder):
    torch.set_num_threads(1)
    process_group.TIMEOUT_S, lockstep_module.HEARTBEAT_S = 4.0, 1.0
    report = {}
    for scenario in ("idle", "follower fails", "leader fails"):
        store = FileStore(str(folder / scenario), 2)
        group = join(store, rank=rank, num_ranks=2, device=torch.device("cpu"))
        engine = make_engine(group=group)
        if scenario == "follower fails" and rank == 1:
            engine.denoise = fail  # rank 0 waits for it in an all-to-all
        if scenario == "leader fails" and rank == 0:
            engine.open = fail  # rank 1 waits for the next command
        lockstep = Worker(engine)
        idle = scenario == "idle"
        report[scenario] = lead(lockstep, wait_idly) if idle else step_once(lockstep)
        # Stay: it is the timeout that tells the other one, not a connection that closed.
        store.set(f"over {rank}", "")
        store.wait([f"over {other}" for other in (0, 1)], timedelta(seconds=SOON_S))
        dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(report))


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """By rank, what happened in each scenario."""
    folder = tmp_path_factory.mktemp("impatient")
    spawn(be_impatient, (folder,), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_an_idle_group_lives_longer_than_its_timeout(impatient):
    assert impatient[0]["idle"] == [9, 32, 48, 3]


@pytest.mark.parametrize("scenario, failing", [("follower fails", 1), ("leader fails", 0)])
def test_an_unexpected_error_on_one_rank_ends_run_on_both(impatient, scenario, failing):
    assert impatient[failing][scenario][0] == "ZeroDivisionError"
    name, seconds = impatient[1 - failing][scenario]
    assert name == "RuntimeError" and seconds < SOON_S / 2
