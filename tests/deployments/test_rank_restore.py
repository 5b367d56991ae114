"""A real world, on small random weights, that goes from one rank to another."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from deployments.config import ServiceConfig
from deployments.rank_replies import Opened
from deployments.refusal import Refusal
from deployments.world_rank import RankAssignment, WorldRank
from lingbot.runtime.commands import Stop
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import decode_snapshot, encode_snapshot
from tests.deployments.one_rank import HELD, attached, reserved, start
from tests.lingbot.toy import WALK, encode, make_engine, make_image
from transport.wire.world import WorldSpec

# The prompt of each chunk that has a new one
PROMPTS = {2: "rain"}
CONTEXTS = {prompt: encode(prompt) for prompt in ("a toy", "rain", "snow")}
SPEC = WorldSpec(prompt="a toy", seed=7, width=48, height=32)


@asynccontextmanager
async def started(**config):
    config = ServiceConfig(**config)
    # Any part of a restoration may be queued for a moment.
    rank = WorldRank(config, load=lambda group: make_engine(group=group), notice_period_s=60)
    await rank.start(RankAssignment())
    await rank.start_loop()
    yield rank
    await asyncio.wrap_future(rank._worker.submit(Stop(), deadline=0))


def run(scenario, **config):
    async def run_in_loop():
        async with asyncio.timeout(60), started(**config) as rank:
            await scenario(rank)

    asyncio.run(run_in_loop())


async def open_world(rank, session_id):
    lease = await reserved(rank, session_id, resumable=True)
    (opened,) = await start(rank.open(session_id, 1, SPEC, make_image(), CONTEXTS["a toy"]))
    assert (opened.origin.seed, opened.last_frame) == (7, None)
    return lease


async def walk(rank, lease, indices):
    """The chunks with these indices."""
    chunks = []
    for index in indices:
        prompt = PROMPTS.get(index)
        context = None if prompt is None else CONTEXTS[prompt]
        keys = WALK[index % len(WALK)]
        step = rank.step(lease.session_id, lease.epoch, keys, prompt, 0, context)
        _, chunk = await start(step)
        chunks.append(chunk)
    return chunks


async def restore(rank, lease, snapshot, *, exact=False):
    """The reply, from a snapshot that has been a file. A world goes on from its last chunks."""
    read = decode_snapshot(encode_snapshot(snapshot), max_bytes=2**20)
    snapshot = History.of(read, budget_bytes=0).snapshot()
    call = rank.restore(lease.session_id, lease.epoch, snapshot, CONTEXTS, exact)
    (reply,) = await start(call)
    return reply


def is_near(one, other):
    """A PSNR of 40 dB."""
    return np.mean((one.astype(float) - other) ** 2) <= 255**2 / 10**4


def frames(chunks, others):
    return [(one.frames, other.frames) for one, other in zip(chunks, others, strict=True)]


def is_same(one, other):
    return np.array_equal(one.frames, other.frames) and np.array_equal(one.latents, other.latents)


@pytest.mark.parametrize("exact", [False, True])
def test_a_world_goes_on_in_another_group(exact):
    async def scenario(one):
        twin = await walk(one, await open_world(one, "twin"), range(8))
        lease = await open_world(one, "a")
        before = await walk(one, lease, range(6))
        assert all(map(is_same, before, twin))
        one.leave("a")
        world = await one.hand_over("a", lease.secret, True)
        assert world.snapshot.next_chunk == 6 and world.snapshot.prompt == "rain"
        assert np.array_equal(world.last_frame, before[-1].frames[-1])

        async with started() as other:
            place = await reserved(other, "b", resumable=True, returning=True)
            reply = await restore(other, place, world.snapshot, exact=exact)
            assert reply.origin.seed == 7
            assert is_near(reply.last_frame, world.last_frame)
            after = await walk(other, place, (6, 7))
            if exact:
                assert np.array_equal(reply.last_frame, world.last_frame)
                assert all(map(is_same, after, twin[6:]))
            else:
                assert not any(map(is_same, after, twin[6:]))  # it would be no test
                assert all(is_near(*pair) for pair in frames(after, twin[6:]))
        assert one.ends() == {"moved": 1}

    run(scenario)


def test_whoever_attaches_goes_on_as_if_nothing_had_been():
    async def scenario(rank):
        twin = await walk(rank, await open_world(rank, "twin"), range(8))
        lease = await open_world(rank, "a")
        await walk(rank, lease, range(6))
        rank.leave("a")
        lease = await attached(rank, "second", lease)
        world = await rank.hand_over("a", lease.secret, False)
        assert world.snapshot.next_chunk == 6
        after = await walk(rank, lease, (6, 7))
        assert all(map(is_same, after, twin[6:]))

    run(scenario)


def test_a_world_is_turned_back_and_walked_again():
    async def scenario(rank):
        lease = await open_world(rank, "a")
        first = await walk(rank, lease, range(6))
        world = await rank.hand_over("a", lease.secret, False)
        later = await walk(rank, lease, (6, 7))
        reply = await restore(rank, lease, world.snapshot)
        assert isinstance(reply, Opened)
        assert is_near(reply.last_frame, first[-1].frames[-1])
        again = await walk(rank, lease, (6, 7))
        assert all(is_near(*pair) for pair in frames(again, later))
        world = await rank.hand_over("a", lease.secret, False)
        assert world.snapshot.next_chunk == 8 and len(world.snapshot.journal.actions) == 8
        reset = await start(rank.open("a", 1, SPEC, make_image(), CONTEXTS["a toy"]))
        assert isinstance(reset[0], Opened)
        assert all(map(is_same, await walk(rank, lease, range(6)), first))

    run(scenario)


def test_a_snapshot_that_lacks_a_context_is_refused_and_the_world_stays():
    async def scenario(rank):
        lease = await open_world(rank, "a")
        await walk(rank, lease, range(6))
        world = await rank.hand_over("a", lease.secret, False)
        (reply,) = await start(rank.restore("a", 1, world.snapshot, {}, False))
        assert isinstance(reply, Refusal) and reply.field == "contexts"
        assert len(await walk(rank, lease, (6,))) == 1

    run(scenario)


@pytest.mark.parametrize("recache", [False, True])
def test_a_prompt_recache_reaches_the_journal(recache):
    async def scenario(rank):
        lease = await open_world(rank, "a")
        await walk(rank, lease, range(3))
        world = await rank.hand_over("a", lease.secret, True)
        assert world.snapshot.journal.recached == ((2,) if recache else ())
        HELD.clear()

    run(scenario, prompt_recache=recache)
