"""The text encoder as a caller of the engine sees it.

Tested in `tests/deployments/test_text_encoder.py`.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TextEncoder(Protocol):
    """Encodes prompts. It runs beside the engine, which takes contexts."""

    def encode(self, prompt: str) -> NDArray[np.float32]:
        """prompt -> context [L, text_dim], L <= text_len."""

    def num_truncated(self, prompt: str) -> int:
        """The words or tokens that `encode` leaves out, because the prompt is too long."""
        ...
