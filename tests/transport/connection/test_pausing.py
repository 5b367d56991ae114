"""Sessions whose client is away, on a clock that jumps."""

import anyio
import pytest

from tests.transport.connection.virtual_clock import serve_on_virtual_clock, take_time
from transport.wire.messages import Queued

FPS = 16
CHUNK_S = 12 / FPS
EXTENSIONS = {"extensions": True}


def hold(*keys, event_id=None):
    payload = {"mode": "state", "transitions": [{"actions": list(keys)}]}
    return {"kind": "camera_actions", "payload": payload, "event_id": event_id}


def see(visibility):
    return {"kind": "visibility", "payload": visibility}


@pytest.fixture
def play(make_world, monkeypatch):
    """Serves one client. Returns what it received, its session and its socket."""

    def run(init, events=(), *, seconds, denoising_s=0.4, acknowledges=None, age_s=0.0, **limits):
        world = make_world()
        sessions = take_time(world, fps=FPS, denoising_s=denoising_s, decoding_s=0.3, age_s=age_s)
        if acknowledges is None:
            acknowledges = init.get("extensions", False)
        socket = serve_on_virtual_clock(
            world,
            {"fps": FPS} | init,
            monkeypatch,
            seconds=seconds,
            events=events,
            acknowledges=acknowledges,
            **limits,
        )
        return socket.received, sessions[0], socket

    return run


def times_of(received, kind):
    return [at_s for at_s, message in received if message["type"] == kind]


def notices(received):
    """Messages but frames, stats and acks, at whole seconds."""
    skipped = ("frame_batch", "chunk_stats", "session", "control_ack", "paced")
    return [(round(at_s), message) for at_s, message in received if message["type"] not in skipped]


def latency_s(received, event_id, sent_s):
    """From the event to the first frame that applies it."""
    return next(
        at_s
        for at_s, message in received
        if event_id in message.get("applied_controls", {}).get("event_ids", [])
    ) - (sent_s)


@pytest.mark.parametrize("extensions", [True, False])
def test_an_idle_session_generates_nothing_until_the_next_key(play, extensions):
    received, session, _ = play(
        {"extensions": extensions}, [(60, hold("w"))], seconds=70, idle_after_s=20
    )
    frames_s = times_of(received, "frame_batch")
    assert max(at_s for at_s in frames_s if at_s < 60) < 20 + 2 * CHUNK_S
    assert 60 < min(at_s for at_s in frames_s if at_s > 30) < 61
    assert max(frames_s) > 69, "a held key keeps it active"
    ((paused_s, num_steps),) = session.pauses
    assert 20 <= paused_s < 20 + CHUNK_S
    assert session.num_steps - num_steps >= 10 / CHUNK_S - 1
    told = [(20, {"type": "paused", "reason": "idle"}), (60, {"type": "resumed"})]
    assert notices(received) == (told if extensions else [])


def test_a_hidden_page_pauses_at_once_and_a_visible_one_resumes(play):
    events = [(5, hold("w")), (10.2, see("hidden")), (10.3, hold()), (40, see("visible"))]
    received, session, _ = play(EXTENSIONS, events, seconds=50)
    frames_s = times_of(received, "frame_batch")
    assert not [at_s for at_s in frames_s if 10.2 + 2 * CHUNK_S < at_s < 40]
    assert min(at_s for at_s in frames_s if at_s >= 40) < 40 + CHUNK_S
    assert len(session.pauses) == 1
    assert notices(received) == [
        (10, {"type": "paused", "reason": "hidden"}),
        (40, {"type": "resumed"}),
    ]


def test_a_page_that_is_hidden_while_its_world_opens_costs_no_chunk(play):
    received, session, _ = play(EXTENSIONS, [(0, see("hidden")), (30, see("visible"))], seconds=40)
    assert times_of(received, "frame_batch")[0] > 30
    assert session.pauses == [(0, 0)]


@pytest.mark.parametrize("phase_s", [0.0, 0.2, 0.4, 0.6])
def test_a_key_reaches_the_screen_of_a_paused_session_as_soon_as_any(play, phase_s):
    """The chunk that the key waits for in an active session is not there."""
    at_s = 30 + phase_s
    event = (at_s, hold("w", event_id=5))
    active, _, _ = play(EXTENSIONS, [(1, hold("s")), event], seconds=40, idle_after_s=10)
    paused, _, _ = play(EXTENSIONS, [event], seconds=40, idle_after_s=10)
    assert ("resumed" in {one["type"] for _, one in paused}) is True
    assert latency_s(paused, 5, at_s) < 0.8  # denoised and decoded
    assert latency_s(paused, 5, at_s) <= latency_s(active, 5, at_s) + 0.1


def test_no_burst_of_late_chunks_follows_a_pause(play):
    received, _, _ = play(EXTENSIONS, [(100, hold("w"))], seconds=130, idle_after_s=10)
    after = [at_s for at_s in times_of(received, "frame_batch") if at_s > 50]
    start = times_of(received, "frame_batch")[: len(after)]
    for num in (1, 3, 10):  # the media clock begins again, as in a new session
        assert after[num] - after[0] == pytest.approx(start[num] - start[0], abs=0.4)
    assert len([at_s for at_s in after if at_s < 110]) <= 10 / CHUNK_S + 2


def test_the_times_of_chunks_do_not_count_the_pause(play):
    received, _, _ = play(EXTENSIONS, [(100, hold("w"))], seconds=120, idle_after_s=10)
    stats = [message for _, message in received if message["type"] == "chunk_stats"]
    assert max(one["chunk_total_ms"] for one in stats) < 1000 * 2 * CHUNK_S
    assert max(one["pace_wait_ms"] for one in stats) < 1000 * 2 * CHUNK_S


def test_missing_acks_time_out_after_a_pause_and_not_in_it(play):
    events = [(5, see("hidden")), (500, see("visible"))]
    received, _, socket = play(
        EXTENSIONS, events, seconds=1000, acknowledges=False, ack_timeout_s=10
    )
    assert max(times_of(received, "error")) == pytest.approx(510, abs=1)
    assert socket.closed_with == (1008, "no ack within 10 s")


def test_a_pause_in_the_middle_of_a_step_reaches_the_world_after_it(play):
    received, session, _ = play(EXTENSIONS, [(2.0, see("hidden"))], seconds=30, denoising_s=5)
    assert times_of(received, "paused") == [2.0]
    ((paused_s, num_steps),) = session.pauses
    assert num_steps == session.num_steps == 1 and paused_s == pytest.approx(4.5)


def test_a_client_hears_that_its_step_waits_for_a_place_while_it_is_there(make_world, monkeypatch):
    """While it is away, others have the place first."""
    world = make_world()
    sessions = take_time(world, fps=FPS, denoising_s=0.4, decoding_s=0.3)
    open_timed, waited_s = world.open, []

    async def open_one_that_waits(spec, image, *, on_wait):
        session = await open_timed(spec, image, on_wait=on_wait)
        step = session.step

        async def wait_and_step(actions, **options):
            while session.num_steps == 2 and len(waited_s) < 20:
                waited_s.append(anyio.current_time())
                await on_wait(Queued(1))
                await anyio.sleep(0.5)
            return await step(actions, **options)

        session.step = wait_and_step
        return session

    world.open = open_one_that_waits
    socket = serve_on_virtual_clock(
        world,
        {"fps": FPS} | EXTENSIONS,
        monkeypatch,
        seconds=20,
        events=[(5, see("hidden")), (8, see("visible"))],
        acknowledges=True,
    )
    (session,) = sessions
    there = [at_s for at_s in waited_s if not 5 <= at_s < 8]
    assert 5 < len(there) < len(waited_s) == 20
    assert session.unpauses == there
    assert [at_s for at_s, _ in session.pauses] == [at_s for at_s in waited_s if 5 <= at_s < 8]
    assert times_of(socket.received, "queued") == there
    assert session.num_steps > 5


@pytest.mark.parametrize("extensions", [True, False])
def test_a_session_that_is_paused_for_too_long_is_announced_and_ended(play, extensions):
    received, _, socket = play(
        {"extensions": extensions}, seconds=1000, idle_after_s=20, max_paused_s=300
    )
    text = "the session was paused for 300 s, its longest pause"
    told = [
        (20, {"type": "paused", "reason": "idle"}),
        (260, {"type": "ending", "reason": "idle", "in_s": 60}),
    ]
    error = (320, {"type": "error", "content": text, "code": "session_ended"})
    assert notices(received) == [*(told if extensions else []), error]
    assert socket.closed_with == (1000, text)


def test_a_session_that_is_open_for_too_long_is_announced_and_ended(play):
    received, _, socket = play(EXTENSIONS, [(1, hold("w"))], seconds=1000, max_session_s=120)
    text = "the session was open for 120 s, its longest time"
    assert notices(received) == [
        (90, {"type": "ending", "reason": "longest_session", "in_s": 30}),
        (120, {"type": "error", "content": text, "code": "session_ended"}),
    ]
    assert socket.closed_with == (1000, text)
    assert max(times_of(received, "frame_batch")) > 119


def test_the_time_with_other_sockets_counts_for_the_longest_time(play):
    events = [(1, hold("w"))]
    received, _, socket = play(EXTENSIONS, events, seconds=1000, age_s=100.0, max_session_s=120)
    assert [at_s for at_s, _ in notices(received)][-1] == 20 and socket.closed_with[0] == 1000


def test_a_key_takes_the_announced_end_of_a_pause_back(play):
    events = [(290, hold("w")), (291, hold())]
    received, _, _ = play(EXTENSIONS, events, seconds=330, idle_after_s=20, max_paused_s=300)
    kinds = [message["type"] for _, message in notices(received)]
    assert kinds == ["paused", "ending", "resumed", "paused"]


def test_a_session_of_so_many_chunks_is_not_paused(play):
    received, session, socket = play({"max_chunks": 40}, seconds=60, idle_after_s=2)
    assert session.num_steps == 40 and session.pauses == []
    assert socket.closed_with == (1000, "done")


def test_a_script_is_played_to_its_end(play):
    script = {"kind": "camera_actions", "payload": [[]] * 300}  # 75 s without a key
    _, session, _ = play(EXTENSIONS, [(1, script)], seconds=120, idle_after_s=10)
    ((paused_s, num_steps),) = session.pauses
    assert num_steps >= 100 and 83 < paused_s < 90


def test_a_slow_world_is_told_and_a_slow_client_is_not(play):
    slow, _, _ = play(EXTENSIONS, [(1, hold("w"))], seconds=60, denoising_s=1.5)
    (paced,) = [message for _, message in slow if message["type"] == "paced"]
    assert 45 <= paced["speed_percent"] <= 55
    for acknowledges in (True, False):
        fast, _, _ = play(EXTENSIONS, [], seconds=50, acknowledges=acknowledges)
        assert times_of(fast, "paced") == []
