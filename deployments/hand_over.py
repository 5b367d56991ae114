"""Takes a session from a replica group that Serve does not send calls to any more.

Rank 0 of a group is a named actor, which answers while the group drains. Tested in
`tests/deployments/test_world.py`.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from deployments.calls import call_detached
from deployments.lease import hand_over
from deployments.rank_replies import HandedOver
from deployments.session_list import NAMESPACE, rank_name
from deployments.sessions.resume_token import ResumeToken
from transport.wire.errors import RETRY_AFTER_S, Busy

T = TypeVar("T")

logger = logging.getLogger(__name__)


async def take_session(application: str, token: ResumeToken) -> HandedOver | None:
    """The world of a session, which ends there. None if its group is gone, or does not have it.

    It waits for the answer without a limit: a step of the session may have to end first. Raises
    Busy where the cluster does not say whether the group is there.
    """
    try:
        rank = await asyncio.to_thread(find_rank, application, token.group_id)
    except ValueError:
        return None
    except (RayError, OSError) as exc:  # OSError: of the connection to Ray's GCS
        logger.warning("session %s: its group cannot be found: %r", token.session_id, exc)
        text = "the cluster does not find the session's place"
        raise Busy(text, retry_after_s=RETRY_AFTER_S) from exc
    call = call_detached(rank.hand_over, token.session_id, token.secret, True)
    return await hand_over(call, timeout_s=None)


async def finish_taking(
    taking: asyncio.Task[T], leave: Callable[[T], None], *, timeout_s: float
) -> T:
    """Await `taking`, which removes a world from its only place. Raises TimeoutError after a while.

    `leave` gets what comes after that, or after the caller was cancelled.
    """

    def hand_on(task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            leave(task.result())

    try:
        done, _ = await asyncio.wait([taking], timeout=timeout_s)
        if not done:
            raise TimeoutError(f"no answer in {timeout_s:g} s")
    except (asyncio.CancelledError, TimeoutError):
        taking.add_done_callback(hand_on)
        raise
    return taking.result()


def find_rank(application: str, group: str) -> Any:
    """The handle of a group's rank 0. Blocks on Ray's GCS. Raises ValueError if it is gone."""
    return ray.get_actor(rank_name(application, group), namespace=NAMESPACE)
