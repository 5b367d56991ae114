"""Sizes and stages of a training run; the defaults are those of the shipped pocket world.

Tested in `tests/pocket/test_train.py`.
"""

from dataclasses import dataclass, field

from lingbot.config import POCKET, POCKET_MODEL, ModelConfig
from lingbot.vae.tiny import Widths
from pocket.renderer.render import FrameSize

SIZE: FrameSize = {"width": POCKET.size.width, "height": POCKET.size.height}


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeConfig:
    """The autoencoder and its batches."""

    encoder_channels: Widths = (32, 48, 64, 64)  # wide, because play encodes one image only
    decoder_channels: Widths = (96, 64, 32, 16)
    batches: tuple[tuple[int, int], ...] = ((6, 9), (6, 9), (3, 17))  # clips, frames; one is drawn
    whitened_shards: int = 16  # shards of which two clips each are measured for whitening
    whitened_frames: int = 33  # frames of each of these clips


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage of the DiT's training."""

    size: str  # a key of `TrainingConfig.sizes`
    num_clips: int  # in a batch
    peak_rate: float
    after: str | None  # the stage whose averaged weights this one begins with
    high_motion_share: float = 0.0  # clips from the high-motion half, which show the camera
    high_noise_share: float = 0.0  # levels from the two highest, which hide the frame most
    self_forcing: bool = False


STAGES = {
    "small": StageConfig(
        size="small",
        num_clips=8,
        peak_rate=1.5e-3,
        after=None,
        high_motion_share=0.8,
        high_noise_share=0.7,
    ),
    "full": StageConfig(
        size="full",
        num_clips=2,
        peak_rate=1e-3,
        after="small",
        high_motion_share=0.3,
        high_noise_share=0.2,
    ),
    "self": StageConfig(size="full", num_clips=2, peak_rate=3e-4, after="full", self_forcing=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything that a run trains, and its sizes."""

    size: FrameSize = field(default_factory=SIZE.copy)
    # A quarter of a frame, or a whole frame at about half its size: the autoencoder's crops, and
    # the frames of the stage `small`.
    small_size: FrameSize = field(default_factory=lambda: FrameSize(width=112, height=64))
    vae: VaeConfig = VaeConfig()
    model: ModelConfig = POCKET_MODEL
    stages: dict[str, StageConfig] = field(default_factory=STAGES.copy)
    num_rollout_clips: int = 6  # held-out clips that a stage's reports roll out; 0: no reports

    @property
    def sizes(self) -> dict[str, FrameSize]:
        """Frame sizes by the names that stages and folders of latents use."""
        return {"small": self.small_size, "full": self.size}

    def rope_scale(self, size: str) -> tuple[float, float]:
        """RoPE distance between rows and between columns of tokens at a size, 1 at the full one."""
        own = self.sizes[size]
        return self.size["height"] / own["height"], self.size["width"] / own["width"]
