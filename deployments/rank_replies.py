"""Replies of rank 0 to the calls that open, step and hand over a session.

Tested in `tests/deployments/test_session_calls.py`.
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from lingbot.runtime.snapshot import Origin, Snapshot


class Opened(Struct, frozen=True):
    """The world is open."""

    origin: Origin
    last_frame: NDArray[np.uint8] | None = None  # [H, W, 3], of a restored world that has a past


class Chunk(Struct, frozen=True):
    """One chunk of a world."""

    frames: NDArray[np.uint8]  # [T, H, W, 3]
    # Clean, [16, F, h, w], in the engine's type: float32, or uint16 that holds bfloat16
    latents: NDArray[np.float32] | NDArray[np.uint16]


class HandedOver(Struct, frozen=True, kw_only=True):
    """A session's world, for a transport that does not hold its lease."""

    snapshot: Snapshot
    last_frame: NDArray[np.uint8] | None  # [H, W, 3]; None before the first chunk
    age_s: float = 0.0  # since the session was reserved first, in any group
    epoch: int = 1  # the number of the session's leases, this one included
