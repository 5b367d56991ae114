"""Everything about a world that the code needs to know, and the presets that name one."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]

LATENT_CHANNELS = 16
SPATIAL_STRIDE = 8  # pixels a latent pixel stands for, each way
TEMPORAL_STRIDE = 4  # frames a latent frame stands for; the first stands for one
PATCH = 2  # latent pixels a token stands for, each way
NUM_TRAIN_TIMESTEPS = 1000


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of a DiT. A checkpoint's config and its weights give all of it."""

    dim: Positive
    ffn_dim: Positive
    freq_dim: Positive
    num_heads: Positive
    num_layers: Positive
    text_dim: Positive
    text_len: Positive
    control: Literal["cam", "act"] = "cam"
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be divisible by num_heads {self.num_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even: rotary turns pairs")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def control_channels(self) -> int:
        """Channels a pixel of the control map has: origin and direction, or direction and WASD."""
        return 6 if self.control == "cam" else 7


class ScheduleConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of the 1000 training noise levels a few-step model visits."""

    indices: tuple[NonNegative, ...]
    shift: Annotated[float, Meta(gt=0)]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.indices, self.indices[1:], strict=False))
        if not self.indices or not rising or self.indices[-1] >= NUM_TRAIN_TIMESTEPS:
            raise ValueError(f"indices must rise within 0..999, not {list(self.indices)}")


SCHEDULE_V1 = ScheduleConfig(indices=(0, 179, 358, 679), shift=10.0)
SCHEDULE_V2 = ScheduleConfig(indices=(0, 250, 500, 750), shift=5.0)


class WorldConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A world as it is served: its geometry, its memory and its noise schedule."""

    name: str
    width: Positive
    height: Positive
    schedule: ScheduleConfig
    fps: Positive = 16
    chunk: Positive = 3  # latent frames generated together
    window: Positive = 12  # latent frames remembered, sink and current chunk included
    sink: NonNegative = 3  # first latent frames, never forgotten
    max_steps: Positive = 8  # the most denoising steps a session may ask for
    # RoPE distance between rows and between columns of tokens; above 1 at less than a model's size.
    rope_scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        check_window(self.window, sink=self.sink, chunk=self.chunk)
        stride = SPATIAL_STRIDE * PATCH
        if self.width % stride or self.height % stride:
            raise ValueError(f"size {self.width}x{self.height} must be a multiple of {stride}")

    @property
    def latent_size(self) -> tuple[int, int]:
        """Rows and columns of a latent frame."""
        return self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in a latent frame."""
        rows, columns = self.latent_size
        return rows // PATCH, columns // PATCH

    @property
    def first_chunk_frames(self) -> int:
        return 1 + TEMPORAL_STRIDE * (self.chunk - 1)

    @property
    def chunk_frames(self) -> int:
        return TEMPORAL_STRIDE * self.chunk


def check_window(window: int, *, sink: int, chunk: int) -> None:
    """Raise ValueError unless the window holds the sink and one chunk."""
    if window < sink + chunk:
        raise ValueError(f"window {window} must hold the sink ({sink}) and one chunk ({chunk})")


# A small picture is known at higher noise levels than a large one: its last step is at a lower one.
SCHEDULE_POCKET = ScheduleConfig(indices=(0, 300, 600, 850, 940), shift=3.0)

POCKET = WorldConfig(name="pocket", width=208, height=128, schedule=SCHEDULE_POCKET)

PRESETS = {POCKET.name: POCKET}
PRESETS_FOLDER = Path(__file__).parent / "presets"  # weights and openings, a folder a preset
