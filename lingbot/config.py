"""The shapes and schedules of worlds, and the presets that name them. Imports no torch."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]

LATENT_CHANNELS = 16
SPATIAL_STRIDE = 8  # pixels per latent pixel, in each direction
TEMPORAL_STRIDE = 4  # frames per latent frame; the first latent frame has one
PATCH = 2  # latent pixels per token, in each direction
NUM_TRAIN_TIMESTEPS = 1000
MAX_POSITIONS = 1024  # positions of latent frames in the reference's rotary embedding


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of a DiT, as a checkpoint's config and weights give it."""

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
            raise ValueError(f"head_dim {self.head_dim} must be even: RoPE rotates pairs")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def control_channels(self) -> int:
        """Channels per pixel of the control map: origin and direction, or direction and WASD."""
        return 6 if self.control == "cam" else 7


class ScheduleConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The training noise levels, of 1000, that a few-step model visits."""

    indices: tuple[NonNegative, ...]  # rising, within 0..999
    shift: Annotated[float, Meta(gt=0)]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.indices, self.indices[1:], strict=False))
        if not self.indices or not rising or self.indices[-1] >= NUM_TRAIN_TIMESTEPS:
            raise ValueError(f"indices must rise within 0..999, not {list(self.indices)}")


SCHEDULE_V1 = ScheduleConfig(indices=(0, 179, 358, 679), shift=10.0)
SCHEDULE_V2 = ScheduleConfig(indices=(0, 250, 500, 750), shift=5.0)
SCHEDULE_V2_CLI = ScheduleConfig(indices=SCHEDULE_V2.indices, shift=10.0)  # v2's command line


class WorldConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A world as it is served: its geometry, its window and its noise schedule."""

    name: str
    width: Positive  # pixels
    height: Positive  # pixels
    schedule: ScheduleConfig
    fps: Positive = 16
    chunk: Positive = 3  # latent frames generated together
    window: Positive = 12  # latent frames in the KV window, sink and current chunk included
    sink: NonNegative = 3  # latent frames at the world's beginning that stay in the window
    max_positions: Positive = MAX_POSITIONS  # past it, the window's keys are turned back
    max_steps: Positive = 8  # the most denoising steps that a session may request
    # RoPE distance between token rows and between columns; above 1 below the model's own size.
    rope_scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        check_window(
            self.window, sink=self.sink, chunk=self.chunk, max_positions=self.max_positions
        )
        stride = SPATIAL_STRIDE * PATCH
        if self.width % stride or self.height % stride:
            raise ValueError(f"size {self.width}x{self.height} must be a multiple of {stride}")

    @property
    def latent_size(self) -> tuple[int, int]:
        """Latent rows and columns of a latent frame."""
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


def check_window(window: int, *, sink: int, chunk: int, max_positions: int = MAX_POSITIONS) -> None:
    """Raise ValueError unless the window holds sink and chunk, and each frame has a position."""
    if window < sink + chunk:
        raise ValueError(f"window {window} must hold the sink ({sink}) and one chunk ({chunk})")
    if window > max_positions:
        raise ValueError(f"window {window} must be at most max_positions {max_positions}")


class Preset(Struct, frozen=True, kw_only=True):
    """A world that can be served, and the files that it is loaded from.

    File names are relative to the weights' folder, which is `folder` or the operator's.
    """

    world: WorldConfig
    dit_file: str = "diffusion_pytorch_model.safetensors"  # its config.json lies beside it
    vae_file: str
    text_encoder: Literal["hashed_words"]
    text_dim: Positive  # width of the text encoder's contexts
    text_len: Positive  # their most rows
    folder: Path | None = None  # weights in this package; None: the operator names a folder
    openings: Path | None = None  # an openings.json; None: the world has no openings


PRESETS_FOLDER = Path(__file__).parent / "presets"  # one folder per preset

# At a given noise level a small frame shows more than a large one: the last level is lower here.
SCHEDULE_POCKET = ScheduleConfig(indices=(0, 300, 600, 850, 940), shift=3.0)
POCKET = WorldConfig(name="pocket", width=208, height=128, schedule=SCHEDULE_POCKET)

PRESETS = {
    POCKET.name: Preset(
        world=POCKET,
        vae_file="tiny_vae.safetensors",
        text_encoder="hashed_words",
        text_dim=64,
        text_len=16,
        folder=PRESETS_FOLDER / "pocket",
        openings=PRESETS_FOLDER / "pocket" / "openings.json",
    )
}
