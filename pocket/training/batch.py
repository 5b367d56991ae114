"""Training batches of the DiT: whole clips chunk by chunk, first clean chunks, then noisy ones.

Shape letters: B clips, K chunks of a sequence, K' noisy chunks of it, F latent frames of a chunk.
h w latent pixels, U distinct poses, P distinct prompts, L words of a prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from lingbot.config import POCKET, ModelConfig
from lingbot.dit.model import WorldModel
from lingbot.text.pocket import HashedWordEncoder
from pocket.training.clips import NUM_CHUNKS
from pocket.training.latents import LatentDataset
from pocket.training.teacher_forcing import TeacherForcingCache, camera_maps, prompt_maps

WINDOW = POCKET.window // POCKET.chunk  # chunks
PROMPT_DROPOUT = 0.1
LATER_SHARE = 0.45  # of batches: later parts of clips, far from the sink
SHORT_WINDOW_SHARE = 0.25  # of these batches: a window one chunk shorter, as clients may ask for
MIN_GAP = 4 * POCKET.chunk  # latent frames from the sink to a part that may have another's sink
OTHER_SINK_SHARE = 0.6  # of such parts: the sink is from another clip, as on a long walk


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """Sequences of chunks, clean ones first, with everything that the model is conditioned on."""

    kv_cache: TeacherForcingCache
    x0: Tensor  # [B, K, 16, F, h, w] float, as the rest
    condition: Tensor  # [B, K, 20, F, h, w]
    positions: Tensor  # [B, K, F] whole numbers
    maps: Tensor  # [U, 384, h, w]
    pose_rows: Tensor  # [B, K, F] rows of `maps`
    contexts: Tensor  # [P, L, text_dim]
    prompt_rows: Tensor  # [B, K] rows of `contexts`
    contrast: Tensor  # [B] relative to the median clip
    clips: list[int]  # B numbers of clips in the dataset
    rope_scale: tuple[float, float]

    @property
    def num_clean(self) -> int:
        return len(self.kv_cache.clean)

    @property
    def recent(self) -> slice:
        """The clean chunks after the sink."""
        return slice(1, self.num_clean)

    @property
    def truth(self) -> Tensor:
        """The true latents of the noisy chunks, [B, K', 16, F, h, w]."""
        return self.x0[:, self.num_clean :]


# Flow [B, K', 16, F, h, w] of a batch's noisy chunks in x [B, K, 16, F, h, w] at sigma [B, K'].
FlowPredictor = Callable[[TrainingBatch, Tensor, Tensor], Tensor]


def predict_flow(model: WorldModel, batch: TrainingBatch, x: Tensor, sigma: Tensor) -> Tensor:
    """Predict the flow of the noisy chunks; with the model bound, this is a `FlowPredictor`.

    Clean chunks have timestep 0, also if `x` is not clean there.
    """
    noisy = (1000 * sigma).floor()[..., None].expand(-1, -1, POCKET.chunk)  # as `build_steps` does
    timestep = torch.cat([torch.zeros_like(batch.positions[:, : batch.num_clean]), noisy], dim=1)
    inputs = model.prepare_chunk(
        condition=batch.condition.flatten(0, 1),
        positions=batch.positions.flatten(0, 1),
        maps=camera_maps(model, batch.maps, batch.pose_rows.flatten(0, 1)),
        text=prompt_maps(model, batch.contexts, batch.prompt_rows.flatten()),
        kv_cache=batch.kv_cache,
        rope_scale=batch.rope_scale,
    )
    flow = model(x.flatten(0, 1), timestep.flatten(0, 1), inputs)
    chunks: Tensor = flow.unflatten(0, x.shape[:2])
    return chunks[:, batch.num_clean :]


@dataclass(frozen=True, slots=True)
class PromptTable:
    """The contexts of all prompts of a dataset, padded."""

    contexts: dict[str, Tensor]  # [L, text_dim]

    @classmethod
    def of(cls, dataset: LatentDataset, model: ModelConfig) -> "PromptTable":
        encoder = HashedWordEncoder(text_dim=model.text_dim, text_len=model.text_len)
        used = {"", *(prompt for prompts in dataset.prompts for prompt in prompts)}
        contexts = {prompt: torch.from_numpy(encoder.encode(prompt)) for prompt in used}
        return cls(
            {
                prompt: F.pad(context, (0, 0, 0, model.text_len - len(context)))
                for prompt, context in contexts.items()
            }
        )

    def gather(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Return the contexts of the distinct prompts [P, L, text_dim], and a row per prompt."""
        distinct = sorted(set(prompts))
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
        return torch.stack([self.contexts[prompt] for prompt in distinct]), rows


def draw_batch(
    dataset: LatentDataset,
    table: PromptTable,
    num_clips: int,
    random: Random,
    *,
    high_motion_share: float = 0.0,
) -> TrainingBatch:
    """Draw whole clips, or later parts of clips as if far along a walk, on the dataset's device.

    Later parts get rotary positions far from the sink's, and sometimes a shorter window. Their sink
    may be from another clip in the same conditions. `high_motion_share` is the share of clips drawn
    from the dataset's high-motion half.
    """
    later = random.random() < LATER_SHARE
    clean, noisy = range(NUM_CHUNKS - 1), range(2 if later else 0, NUM_CHUNKS)
    window = WINDOW - 1 if later and random.random() < SHORT_WINDOW_SHARE else WINDOW
    clips = [
        random.choice(dataset.high_motion)
        if random.random() < high_motion_share
        else random.randrange(len(dataset.latents))
        for _ in range(num_clips)
    ]
    gaps = [draw_gap(random) if later else 0 for _ in clips]
    sinks = [_draw_sink(dataset, clip, gap, random) for clip, gap in zip(clips, gaps, strict=True)]
    dropped = [random.random() < PROMPT_DROPOUT for _ in clips]
    numbers = torch.tensor([*clean, *noisy])
    sources = torch.where(numbers == 0, torch.tensor(sinks)[:, None], torch.tensor(clips)[:, None])
    frames = numbers[:, None] * POCKET.chunk + torch.arange(POCKET.chunk)  # [K, F]
    contexts, prompt_rows = table.gather(_prompts(dataset, sources, numbers, dropped))
    distinct, pose_rows = dataset.poses[sources[..., None], frames].unique(return_inverse=True)
    positions = torch.where(
        frames >= POCKET.chunk, frames + torch.tensor(gaps)[:, None, None], frames
    )
    device = dataset.latents.device
    return TrainingBatch(
        kv_cache=TeacherForcingCache(clean, noisy, window),
        x0=_gather_latents(dataset.latents, sources, frames),
        condition=_conditions(dataset, torch.tensor(sinks), numbers),
        positions=positions.to(device),
        maps=dataset.maps[distinct].float(),
        pose_rows=pose_rows.to(device),
        contexts=contexts.to(device),
        prompt_rows=prompt_rows.view_as(sources).to(device),
        contrast=dataset.contrast[clips],
        clips=clips,
        rope_scale=dataset.rope_scale,
    )


def draw_gap(random: Random) -> int:
    """Draw the latent frames, in whole chunks, by which a later part is moved from the sink."""
    kind = random.random()
    if kind < 0.2:
        return 0
    return POCKET.chunk * random.randrange(20 if kind < 0.7 else 333)


def _draw_sink(dataset: LatentDataset, clip: int, gap: int, random: Random) -> int:
    """Draw the clip from which the sink is taken."""
    if gap >= MIN_GAP and random.random() < OTHER_SINK_SHARE:
        return random.choice(dataset.same_conditions[clip])
    return clip


def _prompts(
    dataset: LatentDataset, sources: Tensor, numbers: Tensor, dropped: list[bool]
) -> list[str]:
    """Return the prompts of chunks `numbers` [K] of clips `sources` [B, K], row by row."""
    return [
        "" if dropped[row] else dataset.prompts[source][number]
        for row, places in enumerate(sources.tolist())
        for source, number in zip(places, numbers.tolist(), strict=True)
    ]


def _gather_latents(latents: Tensor, sources: Tensor, frames: Tensor) -> Tensor:
    """latents [N, 16, T, h, w] of clips [B, K] at frames [K, F] -> [B, K, 16, F, h, w] float."""
    return latents[sources[..., None], :, frames].transpose(2, 3).float()


def _conditions(dataset: LatentDataset, sinks: Tensor, numbers: Tensor) -> Tensor:
    """Return mask and image condition of the chunks, [B, K, 20, F, h, w], as `LatentCodec` does."""
    first, later = dataset.conditions[sinks].float().split(POCKET.chunk, dim=2)
    latents = torch.stack([later if number else first for number in numbers.tolist()], dim=1)
    mask = torch.zeros_like(latents[:, :, :4])
    mask[:, numbers == 0, :, 0] = 1
    return torch.cat([mask, latents], dim=2)
