"""Sessions of a rank that are restored, attached to, and handed over."""

import asyncio

import numpy as np
import pytest
from msgspec.structs import replace

from deployments.rank_replies import Opened
from deployments.refusal import Refusal
from deployments.sessions.lease_reply import Ended, NotHere
from tests.deployments.one_rank import (
    HELD,
    IMAGE,
    FakeSnapshot,
    LeaseCall,
    all_of,
    attached,
    denoised,
    opened,
    reserved,
    run,
    spec,
    start,
    start_opening,
    start_step,
)
from tests.waiting import until


def restored(seed):
    """The reply to a restoration."""
    return Opened(f"origin of {seed}", frame(seed))


def frame(seed):
    return Pixels(np.full((1, 1, 3), seed, np.uint8))


class Pixels:
    """Equal to an array of the same pixels."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __eq__(self, other):
        return np.array_equal(self.pixels, other)


def detach(rank, session_id):
    """As the group does when the transport has gone."""
    rank.leave(session_id)
    assert states(rank)[session_id] == "detached"


def states(rank):
    return {status.session_id: status.state for status in rank.sessions()}


def test_a_world_is_restored_and_goes_on():
    async def scenario(rank, engine):
        await reserved(rank, "a")
        (reply,) = await start(rank.restore("a", 1, FakeSnapshot(5, 3), {"": None}))
        assert restored(5) == reply
        _, chunk = await start_step(rank, "a")
        assert chunk.latents.flat[0] == 4  # the fourth
        assert engine.restored[1:] == ({"": None}, False)

    run(scenario)


def test_a_snapshot_that_the_engine_refuses_is_a_refusal_with_its_field():
    async def scenario(rank, engine):
        await reserved(rank, "a")
        refusal = Refusal("snapshot.seed is unlucky", "snapshot.seed")
        assert await start(rank.restore("a", 1, FakeSnapshot(13, 3), {})) == [refusal]
        rank.end("a", 1)
        assert rank.ends() == {"refused": 1}

    run(scenario)


def test_a_rank_encodes_the_prompts_of_a_snapshot_that_comes_without_contexts():
    async def scenario(rank, engine):
        await reserved(rank, "a")
        snapshot = FakeSnapshot(5, 3)
        snapshot.prompt = "rain"
        await start(rank.restore("a", 1, snapshot, None, True))
        _, contexts, exact = engine.restored
        assert exact and list(contexts) == ["rain"]
        assert np.array_equal(contexts["rain"], rank._text_encoder.encode("rain"))

    run(scenario)


@pytest.mark.parametrize("how", ["open", "restore"])
def test_a_world_is_replaced_under_the_same_lease(how):
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        await start_step(rank, "a")
        if how == "open":
            assert await start(rank.open("a", 1, spec(2), IMAGE)) == [Opened("origin of 2")]
        else:
            (reply,) = await start(rank.restore("a", 1, FakeSnapshot(2, 0), {}))
            assert restored(2) == reply
        assert engine.live == [2]
        _, chunk = await start_step(rank, "a")
        assert (chunk.frames.flat[0], chunk.latents.flat[0]) == (2, 1)
        assert len(rank.sessions()) == 1

    run(scenario)


@pytest.mark.parametrize("how", ["open", "restore"])
def test_a_world_stays_when_the_one_in_its_place_is_refused(how):
    async def scenario(rank, engine):
        lease = await opened(rank, "a", 1, resumable=True)
        if how == "open":
            (reply,) = await start(rank.open("a", 1, spec(13), IMAGE))
        else:
            (reply,) = await start(rank.restore("a", 1, FakeSnapshot(13, 0), {}))
        assert isinstance(reply, Refusal) and engine.live == [1]
        assert len(await start_step(rank, "a")) == 2
        await attached(rank, "second", lease)
        rank.end("a", 2)
        assert rank.ends() == {"closed": 1}

    run(scenario)


def test_a_new_world_waits_for_the_steps_that_its_client_has_dropped():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        engine.decode_gate.clear()
        dropped = await denoised(rank, "a")
        await dropped.aclose()
        opening = start(rank.open("a", 1, spec(2), IMAGE))
        await asyncio.sleep(0.01)
        assert engine.live == [1]
        engine.decode_gate.set()
        assert await opening == [Opened("origin of 2")]

    run(scenario)


def test_calls_of_an_older_lease_do_nothing():
    async def scenario(rank, engine):
        lease = await opened(rank, "a", 1, resumable=True)
        second = await attached(rank, "second", lease)
        assert (second.session_id, second.epoch, second.attached) == ("a", 2, True)
        assert HELD["a"].replies == [lease, Ended("taken_over")]
        for call in (
            rank.step("a", 1, ["w"], None, 0),
            rank.step("a", 1, ["w"], "rain", 0),
            rank.open("a", 1, spec(2), IMAGE),
            rank.restore("a", 1, FakeSnapshot(2, 0), {}),
        ):
            assert await start(call) == []
        rank.pause("a", 1)
        rank.touch("a", 1, "a report")
        rank.leave("a")
        rank.end("a", 1)
        assert engine.live == [1] and engine.order == [] and rank.reports() == {}
        assert states(rank) == {"a": "active"}
        assert len(await start_step(rank, "a", epoch=2)) == 2

    run(scenario)


def test_the_report_of_a_transport_that_has_gone_is_not_listed():
    async def scenario(rank, engine):
        lease = await opened(rank, "a", 1, resumable=True)
        rank.touch("a", 1, "first")
        assert rank.reports() == {"a": "first"}
        detach(rank, "a")
        assert rank.reports() == {}
        await attached(rank, "second", lease)
        assert rank.reports() == {}
        rank.touch("a", 2, "second")
        assert rank.reports() == {"a": "second"}

    run(scenario)


def test_a_step_that_runs_when_its_lease_ends_belongs_to_the_world_and_to_nobody():
    """The next lease begins after it."""

    async def scenario(rank, engine):
        lease = await opened(rank, "a", 1, resumable=True)
        engine.gate.clear()
        step = start_step(rank, "a")
        await until(rank.busy_s)
        second = LeaseCall(rank, "second", resume=("a", lease.secret))
        await asyncio.sleep(0.01)
        assert second.replies == []
        engine.gate.set()
        assert await step == [None]
        await until(lambda: second.lease)
        _, chunk = await start_step(rank, "a", epoch=2)
        assert chunk.latents.flat[0] == 2

    run(scenario)


def test_a_restoration_that_runs_when_its_lease_ends_is_finished_before_the_next_one():
    async def scenario(rank, engine):
        lease = await opened(rank, "a", 1, resumable=True)
        engine.gate.clear()
        restoring = start(rank.restore("a", 1, FakeSnapshot(2, 3), {}))
        await until(rank.busy_s)
        rank.leave("a")
        second = LeaseCall(rank, "second", resume=("a", lease.secret))
        await asyncio.sleep(0.01)
        assert second.replies == []
        engine.gate.set()
        assert await restoring == []
        await until(lambda: second.lease)
        assert engine.live == [2]
        world = await rank.hand_over("a", lease.secret, False)
        assert world.snapshot == FakeSnapshot(2, 3) and frame(2) == world.last_frame

    run(scenario)


def test_whoever_attaches_reads_the_world():
    async def scenario(rank, engine):
        lease = await opened(rank, "a", 1, resumable=True)
        world = await rank.hand_over("a", lease.secret, False)
        assert (world.snapshot, world.last_frame) == (FakeSnapshot(1, 0), None)
        await start_step(rank, "a")
        detach(rank, "a")
        await attached(rank, "second", lease)
        world = await rank.hand_over("a", lease.secret, False)
        assert world.snapshot == FakeSnapshot(1, 1) and frame(1) == world.last_frame
        assert world.last_frame.base is None  # the chunk is not kept

    run(scenario)


@pytest.mark.parametrize("state", ["held", "detached"])
def test_a_world_that_is_handed_over_has_no_other_place(state):
    async def scenario(rank, engine):
        lease = await opened(rank, "a", 1, resumable=True)
        await start_step(rank, "a")
        if state == "detached":
            detach(rank, "a")
        assert await rank.hand_over("a", "wrong", True) is None
        assert await rank.hand_over("b", lease.secret, True) is None
        world = await rank.hand_over("a", lease.secret, True)
        assert world.snapshot == FakeSnapshot(1, 1)
        await HELD["a"].task
        assert HELD["a"].replies == [lease, *([Ended("taken_over")] if state == "held" else [])]
        await until(lambda: engine.live == [])
        assert rank.ends() == {"moved": 1} and rank.sessions() == []
        assert await rank.hand_over("a", lease.secret, True) is None
        late = LeaseCall(rank, "late", resume=("a", lease.secret))
        await late.task
        assert late.replies == [NotHere("")]
        assert await start_step(rank, "a") == []

    run(scenario)


def test_a_world_is_handed_over_once_and_after_the_step_that_runs():
    async def scenario(rank, engine):
        lease = await opened(rank, "a", 1, resumable=True)
        engine.gate.clear()
        step = start_step(rank, "a")
        await until(rank.busy_s)
        calls = [asyncio.create_task(rank.hand_over("a", lease.secret, True)) for _ in range(2)]
        await asyncio.sleep(0.01)
        rank.end("a", 1)  # by the transport that has lost it
        engine.gate.set()
        first, second = await asyncio.gather(*calls)
        assert first.snapshot == FakeSnapshot(1, 1) and second is None
        assert await step == [None] and rank.ends() == {"moved": 1}

    run(scenario)


def test_a_world_whose_taker_leaves_before_the_answer_waits_for_another_one():
    async def scenario(rank, engine):
        lease = await opened(rank, "a", 1, resumable=True)
        engine.gate.clear()
        step = start_step(rank, "a")
        await until(rank.busy_s)
        taking = asyncio.create_task(rank.hand_over("a", lease.secret, True))
        await asyncio.sleep(0.01)
        taking.cancel()
        await asyncio.wait([taking])
        assert states(rank) == {"a": "detached"} and rank.ends() == {}
        engine.gate.set()
        await step
        assert (await rank.hand_over("a", lease.secret, True)).snapshot == FakeSnapshot(1, 1)
        assert rank.ends() == {"moved": 1}

    run(scenario)


def test_a_world_whose_step_failed_is_not_attached_to_and_may_be_handed_over():
    async def scenario(rank, engine):
        lease = await opened(rank, "a", 1, resumable=True)
        engine.broken = ZeroDivisionError("oh")
        with pytest.raises(ZeroDivisionError):
            await start_step(rank, "a")
        detach(rank, "a")
        call = LeaseCall(rank, "second", resume=("a", lease.secret))
        await call.task
        assert call.replies == [NotHere("")]
        assert (await rank.hand_over("a", lease.secret, True)).snapshot == FakeSnapshot(1, 0)

    run(scenario)


def test_a_session_that_nobody_resumes_is_freed():
    async def scenario(rank, engine):
        await opened(rank, "a", 1, resumable=True)
        detach(rank, "a")
        await until(lambda: engine.live == [])
        assert rank.ends() == {"not_resumed": 1} and rank._calls._last_frames == {}
        await rank.wait_empty()

    run(scenario, resume_grace_s=0.05)


def test_a_group_is_empty_when_its_last_session_has_ended():
    async def scenario(rank, engine):
        await opened(rank, "a", 1, resumable=True)
        detach(rank, "a")
        waiting = asyncio.create_task(rank.wait_empty())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        rank.end("a", 1)
        await waiting

    run(scenario)


def test_a_client_that_is_lost_while_its_world_is_opened_leaves_nothing():
    async def scenario(rank, engine):
        engine.gate.clear()
        opening = await start_opening(rank, "a", 1, resumable=True)
        await until(rank.busy_s)
        rank.leave("a")
        assert rank.sessions() == [] and rank.ends() == {"client_left": 1}
        engine.gate.set()
        assert await opening == []
        await until(lambda: rank._worker._sessions == {})

    run(scenario)


@pytest.mark.parametrize("recache", [False, True])
def test_a_new_prompt_rebuilds_the_window_where_the_config_says_so(recache):
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        for prompt in (None, "snow"):
            assert len(await start(rank.step("a", 1, ["w"], prompt, 0))) == 2
        assert [step[1:] for step in engine.steps] == [(None, False), ("snow", recache)]
        assert await all_of(rank.step("b", 1, ["w"], "snow", 0)) == []

    run(scenario, prompt_recache=recache)


def test_a_clip_comes_back_from_another_group():
    async def scenario(rank, engine):
        await reserved(rank, "clip", realtime=False, returning=True)
        prompted = replace(spec(5), prompt="a forest")
        assert await start(rank.open("clip", 1, prompted, IMAGE)) == [Opened("origin of 5")]

    run(scenario)
