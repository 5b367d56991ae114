"""A session: the state of one user's world. Tested in `tests/lingbot/runtime/test_engine.py`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from torch import Tensor

from lingbot.camera.motion import Trajectory
from lingbot.config import Size
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import TextKV
from lingbot.dit.schedule import DenoisingStep
from lingbot.errors import LingbotError
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import Origin, Snapshot
from lingbot.runtime.suspension import Suspension
from lingbot.vae.protocol import ImageCondition


class SessionSpec(Struct, frozen=True, kw_only=True):
    """A request for a session. None leaves a choice to the world's config."""

    first_frame: NDArray[np.uint8]  # [H, W, 3], of one of the config's sizes
    context: NDArray[np.float32] | None = None  # [L, text_dim], the encoded prompt; None: no text
    prompt: str | None = None  # the text of `context`, without which there are no snapshots
    seed: int = 42
    num_steps: int | None = None
    window: int | None = None  # latent frames
    sink: int | None = None  # latent frames


@dataclass(slots=True, kw_only=True)
class Session:
    """All state of one user. No other object holds any, so that dropping it frees everything."""

    size: Size
    window: KVWindow
    text: tuple[TextKV, ...]
    condition: ImageCondition
    steps: tuple[DenoisingStep, ...]
    decoder: Any  # the VAE's own state
    history: History  # of the chunks in the window, in host memory
    has_default_speed: bool  # its steps and its window are the config's
    trajectory: Trajectory = field(default_factory=Trajectory)
    next_chunk: int = 0
    # Set when denoise or decode raised: the session must be closed. Two flags, because only rank 0
    # decodes, and all ranks must refuse the same calls.
    broken: bool = False
    decoder_broken: bool = False
    suspension: Suspension | None = None  # set while its tensors are in host memory, or move there
    has_untold_prompt: bool = False  # a context came without its text

    @property
    def origin(self) -> Origin:
        """What does not change while the world goes on."""
        return self.history.origin

    def snapshot(self, *, num_more: int = 0) -> Snapshot:
        """The world before its next chunk. At most RESUMED_CHUNKS more are kept.

        Raises LingbotError, field `prompt`, for a world that was given a context without its text.
        """
        if self.has_untold_prompt:
            raise LingbotError("a context came without its prompt's text", field="prompt")
        return self.history.snapshot(num_more=num_more)

    @property
    def is_steady(self) -> bool:
        """The next chunk has the shapes and the speed of all later ones.

        The window is full, and a chunk has been generated with a full window before. Nothing must
        be resumed first.
        """
        window, chunk = self.window, self.condition.chunks[-1].shape[2]
        return self.suspension is None and window.num_frames >= window.window + chunk

    def tensors(self) -> Iterator[Tensor]:
        """Everything that the session keeps on the device, but for the decoder's state."""
        yield from (self.window.k_NBFTHD, self.window.v_NBFTHD)
        for text in self.text:
            yield from text
        yield from self.condition.chunks
