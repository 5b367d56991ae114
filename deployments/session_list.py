"""The sessions of all replica groups, from the rank 0 of each.

A Serve handle reaches one replica a call. Rank 0 of a group is a named actor instead, and Ray lists
the names. Tested in `tests/deployments/test_session_list.py`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import ray
from msgspec.structs import asdict
from ray.exceptions import RayError
from ray.util import list_named_actors

from deployments.calls import answer_of
from deployments.observability.session_reports import SessionReport
from transport.http.sessions import SessionInfo, SessionList

NAMESPACE = "lingbot"

logger = logging.getLogger(__name__)


def rank_name(application: str, group: str) -> str:
    """The name of a group's rank 0 in NAMESPACE. `group` is the id of its Serve replica."""
    return f"{application}/{group}"


def find_ranks(application: str) -> dict[str, Any]:
    """The handles of all groups' rank 0 by group. Blocks on Ray's GCS."""
    prefix, found = rank_name(application, ""), {}
    for actor in list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(prefix):
            try:
                rank = ray.get_actor(actor["name"], namespace=NAMESPACE)
            except ValueError:  # it has died since
                continue
            found[actor["name"].removeprefix(prefix)] = rank
    return found


class SessionCollector:
    """Asks the groups of one application."""

    def __init__(
        self,
        application: str,
        *,
        answer_timeout_s: float = 2.0,
        find: Callable[[str], Mapping[str, Any]] = find_ranks,
    ) -> None:
        """A group that does not answer in `answer_timeout_s` is listed as missing."""
        self._application = application
        self._answer_timeout_s = answer_timeout_s
        self._find = find

    async def collect(self) -> SessionList:
        ranks = await asyncio.to_thread(self._find, self._application)
        answers = await asyncio.gather(*(self._ask(*each) for each in ranks.items()))
        missing = [group for group, answer in zip(ranks, answers, strict=True) if answer is None]
        sessions = [session for answer in answers for session in answer or ()]
        return SessionList(complete=not missing, missing_groups=missing, sessions=sessions)

    async def _ask(self, group: str, rank: Any) -> list[SessionInfo] | None:
        """The sessions of one group; None if it does not answer."""
        answers = [answer_of(rank.sessions.remote()), answer_of(rank.reports.remote())]
        _, late = await asyncio.wait(answers, timeout=self._answer_timeout_s)
        try:
            if late:
                raise TimeoutError
            statuses, reports = (answer.result() for answer in answers)
        except (RayError, TimeoutError) as exc:
            logger.warning("group %s did not list its sessions: %r", group, exc)
            return None
        return [describe(group, status, reports.get(status.session_id)) for status in statuses]


def describe(group: str, status: Any, report: SessionReport | None) -> SessionInfo:
    """A session as its group and its transport replica know it. `status` is a SessionStatus."""
    return SessionInfo(
        id=status.session_id,
        group=group,
        state=status.state,
        width=status.width,
        height=status.height,
        age_s=round(status.seconds, 1),
        chunks=status.num_chunks,
        memory_bytes=status.num_bytes,
        **({} if report is None else asdict(report)),
    )
