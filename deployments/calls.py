"""Calls through Serve's handles and actors that outlive the request in which they are made.

Tested in `tests/deployments/test_lease.py`.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

T = TypeVar("T")


def answer_of(call: Awaitable[T]) -> "asyncio.Future[T]":
    """The answer of a call, for a caller that may stop waiting for it.

    Such a caller leaves the future alone: to cancel it would make Ray's callback for a late answer
    fail. An error that comes too late is not logged.
    """
    answer = asyncio.ensure_future(call)
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    return answer


def call_detached(method: Any, *args: Any) -> Any:
    """Call a method outside of the context of this process's request.

    When a client leaves, Serve cancels its request and all calls made in the request's context. An
    error of such a call could arrive before the cancellation, and look like a failed world. A lease
    ends by `HeldLease.close` instead, and the calls of a session end with it.
    """
    return Context().run(method.remote, *args)


def cancel(call: Any) -> None:
    """Cancel a call on the replica's side. Leaving an iteration or an await would not do that."""
    with suppress(RayError, RayServeException):  # raised if the call never reached a replica
        call.cancel()
