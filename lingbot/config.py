"""The shapes and schedules of worlds, and the presets that name them. Imports no torch.

A `variant` of a published model is an implementation that runs its weights. The table in
`docs/checkpoints.md` has the figures of both, and their sources.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from lingbot.errors import LingbotError

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]

LATENT_CHANNELS = 16
SPATIAL_STRIDE = 8  # pixels per latent pixel, in each direction
TEMPORAL_STRIDE = 4  # frames per latent frame; the first latent frame has one
PATCH = 2  # latent pixels per token, in each direction
SIZE_MULTIPLE = SPATIAL_STRIDE * PATCH  # pixels per token, in each direction
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


class Size(Struct, frozen=True):
    """The pixels of a frame."""

    width: Positive
    height: Positive

    def __post_init__(self) -> None:
        if self.width % SIZE_MULTIPLE or self.height % SIZE_MULTIPLE:
            raise ValueError(f"size {self} must be a multiple of {SIZE_MULTIPLE}")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def num_pixels(self) -> int:
        return self.width * self.height

    @property
    def latent(self) -> tuple[int, int]:
        """Latent rows and columns of a latent frame."""
        return self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in a latent frame."""
        return self.height // SIZE_MULTIPLE, self.width // SIZE_MULTIPLE

    @property
    def num_tokens(self) -> int:
        """Tokens of a latent frame."""
        rows, columns = self.grid
        return rows * columns


def read_size(text: str) -> Size:
    """The size that "832x480" names. Raises ValueError with the expected form."""
    match = re.fullmatch("([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", text)
    if match is None:
        raise ValueError(f"{text!r}, expected 'WIDTHxHEIGHT' like '832x480'")
    return Size(int(match[1]), int(match[2]))


class WorldConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A world as it is served: its geometry, its window and its noise schedule."""

    name: str
    sizes: tuple[Size, ...]  # those that a session may have; the first is the default
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
        if not self.sizes:
            raise ValueError("a world needs a size")

    @property
    def size(self) -> Size:
        """The default size."""
        return self.sizes[0]

    @property
    def largest_size(self) -> Size:
        return max(self.sizes, key=lambda size: size.num_pixels)

    @property
    def num_steps(self) -> int:
        """The denoising steps of a session that requests no other number."""
        return len(self.schedule.indices)

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


Widths = tuple[int, int, int, int]  # channels of a tiny VAE's levels
VaeKind = Literal["full", "tiny"]  # Wan 2.1's, or one in the TAEHV layout
Variant = Literal["diffusers", "reference"]
Variants = Mapping[Variant, WorldConfig]


class Preset(Struct, frozen=True, kw_only=True):
    """A model that can be served, and the files that it is loaded from.

    File names are relative to the weights' folder, which is `folder` or the operator's. If they
    are empty, the files are found by their content.
    """

    model: ModelConfig  # the shape of its weights; see `checkpoint.expected`
    world: WorldConfig  # the default variant, if there are variants
    variants: Variants = {}
    max_pixels: Positive  # of a frame
    vaes: tuple[VaeKind, ...]  # the first is the default
    tiny_encoder: Widths = (64, 64, 64, 64)
    tiny_decoder: Widths = (256, 128, 64, 64)
    condition_frames: Positive = 30  # latent frames over which the first frame's condition changes
    text_encoder: Literal["hashed_words", "umt5"]
    folder: Path | None = None  # weights in this package; None: the operator names a folder
    dit_file: str = ""  # its config.json lies beside it
    vae_file: str = ""
    openings: Path | None = None  # an openings.json; None: the world has no openings

    def configure(
        self,
        *,
        variant: Variant | None = None,
        sizes: Sequence[str] | None = None,
        window: int | None = None,
        sink: int | None = None,
    ) -> WorldConfig:
        """The world with an operator's changes. None leaves a figure to the preset.

        Raises LingbotError with the wrong field.
        """
        world = self.world
        if variant is not None:
            if variant not in self.variants:
                raise LingbotError(f"preset {world.name!r} has no variants", field="variant")
            world = self.variants[variant]
        field = "window" if sink is None else "sink"
        window = world.window if window is None else window
        sink = min(world.sink, max(0, window - world.chunk)) if sink is None else sink
        try:
            check_window(window, sink=sink, chunk=world.chunk)
        except ValueError as exc:
            raise LingbotError(str(exc), field=field) from exc
        if sizes is not None:
            world = replace(world, sizes=self._read_sizes(sizes))
        return replace(world, window=window, sink=sink)

    def _read_sizes(self, texts: Sequence[str]) -> tuple[Size, ...]:
        sizes: list[Size] = []
        if not texts:
            raise LingbotError("no size, expected at least one", field="sizes")
        for index, text in enumerate(texts):
            field = f"sizes[{index}]"
            try:
                size = read_size(text)
            except ValueError as exc:
                raise LingbotError(str(exc), field=field) from exc
            if size.num_pixels > self.max_pixels:
                most = f"{self.max_pixels} of preset {self.world.name!r}"
                text = f"{text} has {size.num_pixels} pixels, expected at most the {most}"
                raise LingbotError(text, field=field)
            if size in sizes:
                raise LingbotError(f"{text} is given twice", field=field)
            sizes.append(size)
        return tuple(sizes)

    def choose_vae(self, kind: VaeKind | None) -> VaeKind:
        """The VAE to load; None is the default. Raises LingbotError for one that does not fit."""
        if kind is None:
            return self.vaes[0]
        if kind not in self.vaes:
            listed = " or ".join(map(repr, self.vaes))
            text = f"preset {self.world.name!r} has no VAE {kind!r}, expected {listed}"
            raise LingbotError(text, field="vae")
        return kind


PRESETS_FOLDER = Path(__file__).parent / "presets"  # one folder per preset

# At a given noise level a small frame shows more than a large one: the last level is lower here.
SCHEDULE_POCKET = ScheduleConfig(indices=(0, 300, 600, 850, 940), shift=3.0)
POCKET = WorldConfig(name="pocket", sizes=(Size(208, 128),), schedule=SCHEDULE_POCKET)
POCKET_MODEL = ModelConfig(
    dim=256, ffn_dim=768, freq_dim=128, num_heads=4, num_layers=5, text_dim=64, text_len=16
)

MODEL_14B = ModelConfig(
    dim=5120,
    ffn_dim=13824,
    freq_dim=256,
    num_heads=40,
    num_layers=40,
    text_dim=4096,
    text_len=512,
)
MODEL_1_3B = replace(MODEL_14B, dim=1536, ffn_dim=8960, num_heads=12, num_layers=30)

PUBLISHED_SIZES = (Size(832, 480), Size(832, 464), Size(480, 832))


V1 = WorldConfig(name="", sizes=PUBLISHED_SIZES, schedule=SCHEDULE_V1, window=18, sink=9)
V2 = replace(V1, schedule=SCHEDULE_V2)
V1_VARIANTS: Variants = {"diffusers": V1, "reference": replace(V1, window=21)}
V2_VARIANTS: Variants = {
    "diffusers": V2,
    "reference": replace(V2, schedule=SCHEDULE_V2_CLI, chunk=4, sink=6),
}


def published(
    name: str, model: ModelConfig, variants: Variants, *, default: Variant = "diffusers"
) -> Preset:
    """A preset of published weights."""
    named: Variants = {each: replace(world, name=name) for each, world in variants.items()}
    return Preset(
        model=model,
        world=named[default],
        variants=named,
        max_pixels=1280 * 720,
        vaes=("full", "tiny"),
        text_encoder="umt5",
    )


PRESETS = {
    "pocket": Preset(
        model=POCKET_MODEL,
        world=POCKET,
        max_pixels=POCKET.size.num_pixels,
        vaes=("tiny",),
        tiny_encoder=(32, 48, 64, 64),
        tiny_decoder=(96, 64, 32, 16),
        condition_frames=3,
        text_encoder="hashed_words",
        folder=PRESETS_FOLDER / "pocket",
        dit_file="diffusion_pytorch_model.safetensors",
        vae_file="tiny_vae.safetensors",
        openings=PRESETS_FOLDER / "pocket" / "openings.json",
    ),
    "v1-14b": published("v1-14b", MODEL_14B, V1_VARIANTS),
    "v1-14b-act": published("v1-14b-act", replace(MODEL_14B, control="act"), V1_VARIANTS),
    "v2-14b": published("v2-14b", MODEL_14B, V2_VARIANTS),
    # Published in the release's own layout alone, so that the release's own figures come first.
    "v2-1.3b": published("v2-1.3b", MODEL_1_3B, V2_VARIANTS, default="reference"),
}
