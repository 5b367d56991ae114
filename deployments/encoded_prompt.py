"""A prompt on its way from the text encoder to a rank, and the warnings about it.

Tested in `tests/deployments/test_lease_prompts.py`.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from transport.wire.messages import WarningMessage


class EncodedPrompt(Struct, frozen=True):
    """A prompt as cross-attention reads it."""

    context: NDArray[np.float32]  # [L, text_dim]
    num_truncated: int = 0  # tokens that were left out


def warn_of_truncation(num: int, unit: str) -> WarningMessage | None:
    """The warning for a prompt whose last `num` words or tokens were left out; None for none."""
    if not num:
        return None
    text = f"the prompt is too long: its last {num} {unit} have no effect"
    return WarningMessage(text, "prompt_truncated", "prompt")


def warn_of_unknown_words(examples: Sequence[str]) -> WarningMessage:
    """The warning for a prompt that has no word which the world knows, such as the `examples`."""
    *some, last = examples
    text = f"no word of the prompt is known here: use words such as {', '.join(some)} or {last}"
    return WarningMessage(text, "unknown_words", "prompt")
