"""Takes a session from a replica group that Serve does not send calls to any more.

Rank 0 of a group is a named actor, which answers while the group drains. Tested in
`tests/deployments/test_world.py`.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from deployments.calls import call_detached
from deployments.lease import hand_over
from deployments.rank_replies import HandedOver
from deployments.session_list import NAMESPACE, rank_name
from deployments.sessions.resume_token import ResumeToken

TIMEOUT_S = 30.0  # a step of the session may have to end first

T = TypeVar("T")


async def take_session(application: str, token: ResumeToken) -> HandedOver | None:
    """The world of a session, which ends there. None if its group is gone, or does not have it."""
    try:
        rank = await asyncio.to_thread(find_rank, application, token.group_id)
    except ValueError:
        return None
    call = call_detached(rank.hand_over, token.session_id, token.secret, True)
    return await hand_over(call, timeout_s=TIMEOUT_S)


async def finish_taking(taking: asyncio.Task[T], leave: Callable[[T], None]) -> T:
    """What is taken from its only place. `leave` gets it if the caller is cancelled before."""

    def hand_on(task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            leave(task.result())

    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        taking.add_done_callback(hand_on)
        raise


def find_rank(application: str, group: str) -> Any:
    """The handle of a group's rank 0. Blocks on Ray's GCS. Raises ValueError if it is gone."""
    return ray.get_actor(rank_name(application, group), namespace=NAMESPACE)
