"""The readiness of a deployment, the replica groups above all, as Serve's controller reports it."""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import (  # type: ignore[attr-defined]
    ApplicationStatus,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ProxyStatus,
    ReplicaState,
    ServeStatus,
)

from deployments.placement import replicas_are_coming, why_unplaceable
from transport.wire.errors import WorldFailed

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MODULE = re.compile(r"^(?:\w+\.)+(?=\w+: )")  # before an exception's name
COMING = (ReplicaState.STARTING, ReplicaState.UPDATING)
# True if one of so many starting replicas comes up; by the names of application and deployment
FindComing = Callable[[str, str, int], bool]
# The reason why no replica can be placed, by the names of application and deployment
FindReason = Callable[[str, str, DeploymentStatusOverview], str | None]
UP = (ReplicaState.RUNNING, ReplicaState.PENDING_MIGRATION)


class Readiness:
    """The state of one deployment's replicas, shared by all callers in this process."""

    def __init__(
        self,
        application: str,
        deployment: str,
        *,
        subject: str = "the world",
        status_period_s: float = 1.0,
        answer_timeout_s: float = 1.0,
        ask_status: Callable[[], ServeStatus] = serve.status,
        find_coming: FindComing = replicas_are_coming,
        find_reason: FindReason = why_unplaceable,
    ) -> None:
        """Asks Serve's controller, through `ask_status`, at most once in `status_period_s`.

        While a replica starts beside others, `find_coming` finds out whether it comes up.
        `find_reason` is asked while no replica is up. `subject` is the deployment's name in words
        for a client.
        """
        self._subject = subject
        self._application = application
        self._deployment = deployment
        self._status_period_s = status_period_s
        self._answer_timeout_s = answer_timeout_s
        self._ask_status = ask_status
        self._find_coming = find_coming
        self._find_reason = find_reason
        self._ready = False
        self._is_adding = False
        self._failure: str | None = None
        self._next_ask = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def ask(self) -> bool:
        """True if a replica is up. While the controller does not answer, the last answer stands.

        Raises WorldFailed with the reason when Serve has given up starting replicas.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._next_ask and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._refresh())
            self._next_ask = now + self._status_period_s
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=self._answer_timeout_s)
        if self._failure is not None:
            raise WorldFailed(f"{self._subject} failed to start: {self._failure}")
        return self._ready

    @property
    def is_adding(self) -> bool:
        """True if another replica was coming up at the last `ask`.

        One that waits for resources is coming only while a node is being added.
        """
        return self._is_adding

    async def _refresh(self) -> None:
        with suppress(RayError, RayServeException):
            await self._update(await asyncio.to_thread(self._ask_status))

    async def _update(self, status: ServeStatus) -> None:
        application = status.applications.get(self._application)
        group = application and application.deployments.get(self._deployment)
        # A new controller first lists nothing, and then the groups that it found as RECOVERING.
        if not group or is_recovering(group):
            return
        self._ready = any(group.replica_states.get(state, 0) for state in UP)
        self._is_adding = self._ready and await asyncio.to_thread(self._adds_replica, group)
        self._failure = None if self._ready else await asyncio.to_thread(self._why_not, group)

    def _why_not(self, group: DeploymentStatusOverview) -> str | None:
        if has_given_up(group):
            return reason_of(group.message)
        return self._find_reason(self._application, self._deployment, group)

    def _adds_replica(self, group: DeploymentStatusOverview) -> bool:
        num_starting = sum(group.replica_states.get(state, 0) for state in COMING)
        if not num_starting or has_given_up(group):
            return False
        return self._find_coming(self._application, self._deployment, num_starting)


def has_given_up(group: DeploymentStatusOverview) -> bool:
    """True once the replicas of a deploy, or of a scaling from zero, have failed too often."""
    return group.status == DeploymentStatus.DEPLOY_FAILED or (
        group.status == DeploymentStatus.UNHEALTHY
        and group.status_trigger == DeploymentStatusTrigger.REPLICA_STARTUP_FAILED
    )


def is_recovering(group: DeploymentStatusOverview) -> bool:
    """True while a new controller has not heard yet from the replicas of its predecessor."""
    return group.replica_states.get(ReplicaState.RECOVERING, 0) > 0


def reason_of(message: str) -> str:
    """The reason in a deployment's message, in one line: the error that its traceback ends with."""
    lines = COLOUR.sub("", message).strip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    errors = [line for line in lines[frames[-1] if frames else 0 :] if not line.startswith(" ")]
    if not frames:  # "The deployment failed to start … Error:", and what happened
        errors = errors[1:] or errors
    return MODULE.sub("", errors[0]) if errors else "no reason was given"


class Outcome(Struct, frozen=True):
    """How a start ended."""

    failure: str | None  # the reason in one line; None: worlds can be opened


def outcome_of(status: ServeStatus, *, find_reason: FindReason = why_unplaceable) -> Outcome | None:
    """The outcome of a start with one application; None while it goes on.

    A start has failed, too, if `find_reason` gives a reason.
    """
    for application_name, application in status.applications.items():
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            failed = (
                deployment.message
                for deployment in application.deployments.values()
                if deployment.status == DeploymentStatus.DEPLOY_FAILED
            )
            return Outcome(reason_of(next(failed, application.message)))
        for name, deployment in application.deployments.items():
            if reason := find_reason(application_name, name, deployment):
                return Outcome(reason)
        proxies = status.proxies.values()
        if application.status == ApplicationStatus.RUNNING and proxies:
            return Outcome(None) if set(proxies) == {ProxyStatus.HEALTHY} else None
    return None
