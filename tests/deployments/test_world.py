"""Snapshots and forks that clients open, and sessions of groups that drain."""

import asyncio
import threading

import numpy as np
import pytest
from msgspec.structs import replace
from ray.exceptions import RayActorError, RpcError

from deployments.config import ServiceConfig
from deployments.fork_store import LeftWorld
from deployments.hand_over import take_session
from deployments.rank_replies import HandedOver
from deployments.refusal import Refusal
from deployments.saved_world import (
    largest_snapshot_bytes,
    read_snapshot,
    warn_of_large_worlds,
)
from deployments.session_list import NAMESPACE
from deployments.sessions.resume_token import ResumeToken
from deployments.world_group import Lease
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import Origin, encode_snapshot
from lingbot.runtime.snapshot_check import longest_condition
from tests.deployments.fakes import IMAGE, OPENED, SECRET, FakePrompts, FakeRank, run
from tests.deployments.walking import running
from transport.wire.errors import Busy, Refused, SessionGone
from transport.wire.limits import ClientLimits

CONFIG = ServiceConfig()
SIZE = CONFIG.world.largest_size
H, W = SIZE.latent
CHUNK = CONFIG.world.chunk
TOKEN = ResumeToken("group-a", "a", SECRET)


def saved(num_chunks=3, **origin):
    """A world of the pocket preset after some chunks."""
    fields = {
        "preset": "pocket",
        "fingerprint": "f",
        "width": SIZE.width,
        "height": SIZE.height,
        "seed": 4,
        "num_steps": None,
        "window": CONFIG.world.window,
        "sink": CONFIG.world.sink,
        "chunk": CHUNK,
        "condition": np.zeros((16, CHUNK, H, W), np.float32),
    }
    history = History(Origin(**fields | origin), prompt="snow", budget_bytes=2**30)
    for _ in range(num_chunks):
        history.append(np.zeros((16, CHUNK, H, W), np.float32), ["w"] * CHUNK, None)
    return history.snapshot()


def test_a_snapshot_is_described_for_its_client():
    data = encode_snapshot(saved())

    async def scenario(world, group, messages):
        found = world.read_snapshot(data)
        assert (found.width, found.height, found.seed) == (SIZE.width, SIZE.height, 4)
        assert (found.prompt, found.chunk_index) == ("snow", 3)
        assert encode_snapshot(found.world) == data

    run(scenario)


@pytest.mark.parametrize(
    "data, field",
    [
        (b"", "snapshot"),
        (b"\xff" * 100, "snapshot"),
        (encode_snapshot(saved(preset="v1-14b")), "snapshot.preset"),
        (encode_snapshot(saved(window=CONFIG.world.window + CHUNK)), "snapshot.window"),
    ],
)
def test_a_snapshot_of_another_world_is_refused_with_its_field(data, field):
    with pytest.raises(Refused) as refused:
        read_snapshot(data, CONFIG)
    assert refused.value.field == field and refused.value.close_code is None


def test_a_snapshot_larger_than_an_init_is_refused():
    async def scenario(world, group, messages):
        data = encode_snapshot(saved())
        world.read_snapshot(data)
        world.limits = replace(CONFIG.limits, max_init_bytes=1024)  # live ones
        with pytest.raises(Refused, match="1024") as refused:
            world.read_snapshot(data)
        assert refused.value.field == "snapshot"

    run(scenario)


def test_the_largest_snapshot_is_that_of_a_world_that_has_filled_its_window():
    world = CONFIG.world
    frames = longest_condition(world)
    full = saved(30, condition=np.zeros((16, frames, H, W), np.float32))
    assert largest_snapshot_bytes(CONFIG) == full.num_bytes


@pytest.mark.parametrize("max_init_bytes, is_warned", [(2**24, True), (2**25, False)])
def test_worlds_that_cannot_be_saved_are_a_warning(caplog, max_init_bytes, is_warned):
    config = ServiceConfig(preset="v2-14b", sizes=("832x480",))
    warn_of_large_worlds(config, ClientLimits(max_init_bytes=max_init_bytes))
    assert ("`save` will be refused" in caplog.text) == is_warned


async def ignore(status):
    """A client that waits."""


async def start(opening, group, rank):
    """Grant the lease that an opening asks for; returns its session."""
    task = asyncio.create_task(opening)
    while not group.streams:
        await asyncio.sleep(0)
    group.streams[-1].items.put_nowait(
        Lease(session_id="a", rank=rank, group_id="group-a", epoch=1, secret=SECRET, attached=False)
    )
    return await task


@pytest.mark.parametrize("source", ["a file", "a fork"])
def test_a_saved_world_goes_on_where_it_was(source):
    async def scenario(world, group, messages):
        data = encode_snapshot(saved(num_steps=8))
        world.forks.worlds["t"] = data
        found = world.read_snapshot(data) if source == "a file" else await world.read_fork("t")
        rank = FakeRank(replace(OPENED, last_frame=IMAGE))
        opening = world.open_snapshot(found, on_wait=ignore, realtime=False, resumable=True)
        session = await start(opening, group, rank)
        (demand,) = group.demands
        assert (demand.width, demand.realtime, demand.resumable) == (SIZE.width, False, True)
        assert demand.num_steps == 8
        assert not demand.returning  # it is a new world for the group
        assert rank.restored[0].next_chunk == session.chunk_index == 3
        assert (session.last_frame == IMAGE).all() and session.earliest_chunk <= 3
        session.close()

    run(scenario)


def test_a_saved_world_gets_the_contexts_of_its_prompts():
    async def scenario(world, group, messages):
        rank = FakeRank()
        found = world.read_snapshot(encode_snapshot(saved()))
        session = await start(world.open_snapshot(found, on_wait=ignore), group, rank)
        assert list(rank.calls[0][3]) == ["snow"]
        session.close()

    run(scenario, prompts=FakePrompts)


def test_a_rank_that_refuses_a_snapshot_refuses_it_for_the_client():
    async def scenario(world, group, messages):
        rank = FakeRank(Refusal("other weights", "snapshot.fingerprint"))
        found = world.read_snapshot(encode_snapshot(saved()))
        with pytest.raises(Refused, match="other weights") as refused:
            await start(world.open_snapshot(found, on_wait=ignore), group, rank)
        assert refused.value.field == "snapshot.fingerprint"
        assert group.streams[0].cancelled and len(group.streams) == 1

    run(scenario)


def test_a_server_without_a_store_has_no_forks():
    async def scenario(world, group, messages):
        world.left.forks = None
        with pytest.raises(SessionGone):
            await world.read_fork("t")
        rank = FakeRank()
        found = world.read_snapshot(encode_snapshot(saved()))
        session = await start(world.open_snapshot(found, on_wait=ignore), group, rank)
        with pytest.raises(Refused, match="no forks"):
            await session.fork()
        session.close()

    run(scenario)


# ---- groups that drain


def find(rank):
    def get_actor(name, namespace):
        assert (name, namespace) == ("lingbot/group-a", NAMESPACE)
        if rank is None:
            raise ValueError(name)
        return rank

    return get_actor


@pytest.mark.parametrize("state", ["it has the session", "unknown", "it dies", "it is gone"])
def test_a_group_that_drains_is_asked_by_the_name_of_its_rank(monkeypatch, state):
    handed = HandedOver(snapshot=saved(), last_frame=IMAGE)

    async def scenario():
        rank = FakeRank()
        rank.handed_over = handed if state == "it has the session" else None
        if state == "it dies":
            rank.die(RayActorError())
        monkeypatch.setattr("ray.get_actor", find(None if state == "it is gone" else rank))
        return await take_session("lingbot", TOKEN), rank.calls

    found, calls = asyncio.run(scenario())
    assert found is (handed if state == "it has the session" else None)
    assert calls == ([] if state == "it is gone" else [("a", SECRET, True)])


@pytest.mark.parametrize("error", [RpcError("unavailable"), OSError("refused")])
def test_a_client_comes_back_where_the_cluster_does_not_know_its_group(monkeypatch, error):
    """Its world may still be there."""

    def get_actor(name, namespace):
        raise error

    async def scenario(world, group, messages):
        running(world, "group-b")
        with pytest.raises(Busy) as busy:
            await world.resume(str(TOKEN), on_wait=ignore)
        assert busy.value.retry_after_s == 5 and group.streams == []

    monkeypatch.setattr("ray.get_actor", get_actor)
    run(scenario)


@pytest.mark.parametrize("source", ["a fork", "a world without a place"])
def test_a_stored_world_is_read_beside_the_event_loop(source, monkeypatch):
    threads = []

    def read(data, config):  # without the limits of a client, which has not sent it
        threads.append(threading.get_ident())
        return read_snapshot(data, config)

    for module in ("world", "left_worlds"):
        monkeypatch.setattr(f"deployments.{module}.read_snapshot", read)

    async def scenario(world, group, messages):
        data = encode_snapshot(saved())
        rank = FakeRank()
        if source == "a fork":
            world.forks.worlds["t"] = data
            found = await world.read_fork("t")
            session = await start(world.open_snapshot(found, on_wait=ignore), group, rank)
        else:
            running(world, "group-b")
            world.forks.left[str(TOKEN)] = LeftWorld(data=data, age_s=0.0, claim=2)
            session, _ = await start(world.resume(str(TOKEN), on_wait=ignore), group, rank)
        session.close()
        assert len(threads) == 1 and threads[0] != threading.get_ident()

    async def gone(application, token):
        return None

    run(scenario, hand_over=gone, limits=ClientLimits(max_init_bytes=1024))
