"""Everything that differs between two users."""

from dataclasses import dataclass, field

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray

from lingbot.camera.motion import Trajectory
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import TextKV
from lingbot.dit.schedule import DenoisingStep
from lingbot.vae.codec import ImageCondition
from lingbot.vae.tiny import DecoderState


class SessionSpec(Struct, frozen=True, kw_only=True):
    """What a user asks for. None leaves a choice to the world's config."""

    first_frame: NDArray[np.uint8]  # [H, W, 3], the size that is served
    prompt: str = ""
    seed: int = 42
    num_steps: int | None = None
    window: int | None = None
    sink: int | None = None


@dataclass(slots=True)
class Session:
    """Drop it and every trace of the user is gone: no other object holds session state."""

    window: KVWindow
    text: tuple[TextKV, ...]
    condition: ImageCondition
    steps: tuple[DenoisingStep, ...]
    noise: torch.Generator  # on the CPU: a seed means the same noise on every device
    trajectory: Trajectory = field(default_factory=Trajectory)
    decoder: DecoderState = field(default_factory=DecoderState)
    next_chunk: int = 0
    # A call raised, and what it left behind is unusable. Two, as each call knows of its own alone:
    # ranks that are in step must not differ in what they refuse, and only one of them decodes.
    broken: bool = False
    decoder_broken: bool = False
