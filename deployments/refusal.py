"""A world that the engine refuses, in words for the client.

Tested in `tests/deployments/test_world_rank.py`.
"""

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:  # WorldGroup imports this module, and stays without torch
    from lingbot.errors import LingbotError


class Refusal(Struct, frozen=True):
    """The reason why a world cannot be opened as requested, in words for the client."""

    text: str
    field: str | None


# The wire's names of lingbot's fields, where they differ.
WIRE_FIELDS = {
    "first_frame": "size",
    "num_steps": "num_inference_steps",
    "window": "realtime_causal_kv_cache_num_frames",
    "sink": "realtime_causal_sink_size",
}


def refusal_of(error: "LingbotError") -> Refusal:
    """The refusal for an error of the engine, with the wire's name of the field."""
    field = None if error.field is None else WIRE_FIELDS.get(error.field, error.field)
    return Refusal(str(error), field)
