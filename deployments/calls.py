"""Calls through Serve's handles and actors that outlive the request in which they are made.

Tested in `tests/deployments/test_lease.py`.
"""

from contextlib import suppress
from contextvars import Context
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException


def call_detached(method: Any, *args: Any) -> Any:
    """Call a method outside of the context of this process's request.

    When a client leaves, Serve cancels its request and all calls made in the request's context. An
    error of such a call could arrive before the cancellation, and look like a failed world. A lease
    ends by `LeasedSession.close` instead, and the calls of a session end with it.
    """
    return Context().run(method.remote, *args)


def cancel(call: Any) -> None:
    """Cancel a call on the replica's side. Leaving an iteration or an await would not do that."""
    with suppress(RayError, RayServeException):  # raised if the call never reached a replica
        call.cancel()
