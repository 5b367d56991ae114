"""Walks through worlds of fake groups, which a test lets die or drain."""

from msgspec.structs import replace

from deployments.world_group import Lease
from tests.deployments.fakes import (
    DEPLOYMENT,
    SECRET,
    SPEC,
    FakeRank,
    chunk,
    start_opening,
)
from tests.waiting import until

RESUMABLE = replace(SPEC, prompt="snow", resumable=True)


def grant(group, name, *, rank=None, group_id=None, attached=False, epoch=1, age_s=0.0):
    """Answer the newest lease call."""
    rank = rank or FakeRank()
    lease = Lease(
        session_id=name,
        rank=rank,
        group_id=group_id or f"group-{name}",
        epoch=epoch,
        secret=SECRET,
        attached=attached,
        age_s=age_s,
    )
    group.streams[-1].items.put_nowait(lease)
    return rank


async def next_lease(group, number):
    """Returns once the call of this number has been made."""
    await until(lambda: len(group.streams) > number)


async def opened(world, group, messages=(), *, spec=RESUMABLE):
    opening = await start_opening(world, group, messages or [], spec=spec)
    rank = grant(group, "a")
    return await opening, rank


async def start_step(session, keys="w", prompt=None):
    return await session.step([keys], prompt=prompt, time_to_underrun_s=0.5)


async def walk(session, *numbers):
    """Step, and check that these chunks come."""
    for number in numbers:
        assert (await (await start_step(session)) == chunk(number).frames).all()


def die(group, rank, number=0):
    """A group dies: its rank, and the lease call on it."""
    rank.die()
    group.streams[number].items.put_nowait(rank.error)


def running(world, *groups):
    world._running.update(DEPLOYMENT, frozenset(groups))


async def walked(world, group, num_chunks):
    session, rank = await opened(world, group)
    await walk(session, *range(num_chunks))
    return session, rank
