"""Draws what the DiT trains on: whole clips, chunk by chunk, the past clean and the present noisy.

Shape letters: B clips, K chunks of a sequence, F latent frames of a chunk, h w latent pixels, U
distinct poses, P distinct prompts, L words of a prompt.
"""

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from lingbot.config import POCKET, ModelConfig
from lingbot.dit.model import WorldModel
from lingbot.text.pocket import HashedWordEncoder
from pocket.training.data import CHUNKS
from pocket.training.latents import LatentBank
from pocket.training.teacher import TeacherMemory, camera_maps, prompt_maps

WINDOW = POCKET.window // POCKET.chunk  # chunks
PROMPT_DROPOUT = 0.1
AWAY = 4 * POCKET.chunk  # latent frames between a sink and a part that may be another place
ELSEWHERE = 0.6  # share of those whose sink was seen in another place, as on a long walk


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of chunks, the clean ones first, with all that the model is told about them."""

    memory: TeacherMemory
    x0: Tensor  # [B, K, 16, F, h, w] float, as the rest
    condition: Tensor  # [B, K, 20, F, h, w]
    positions: Tensor  # [B, K, F] whole numbers
    maps: Tensor  # [U, 384, h, w]
    poses: Tensor  # [B, K, F] rows of `maps`
    contexts: Tensor  # [P, L, text_dim]
    prompts: Tensor  # [B, K] rows of `contexts`
    contrast: Tensor  # [B] how much there is to be seen in the clips; 1 is usual
    clips: list[int]  # B, their numbers in the bank
    rope_scale: tuple[float, float]  # of the bank's size

    @property
    def num_clean(self) -> int:
        return len(self.memory.clean)

    @property
    def recent(self) -> slice:
        """The clean chunks after the sink."""
        return slice(1, self.num_clean)

    @property
    def truth(self) -> Tensor:
        """What the noisy chunks should come to, [B, K', 16, F, h, w]."""
        return self.x0[:, self.num_clean :]


def predict_flow(model: WorldModel, batch: Batch, x: Tensor, sigma: Tensor) -> Tensor:
    """The flow of the noisy chunks: x [B, K, 16, F, h, w], sigma [B, K'] -> [B, K', 16, F, h, w].

    The clean chunks are taken for clean, whatever `x` shows there.
    """
    noisy = (1000 * sigma).floor()[..., None].expand(-1, -1, POCKET.chunk)  # as `build_steps` does
    timestep = torch.cat([torch.zeros_like(batch.positions[:, : batch.num_clean]), noisy], dim=1)
    inputs = model.prepare_chunk(
        condition=batch.condition.flatten(0, 1),
        positions=batch.positions.flatten(0, 1),
        maps=camera_maps(model, batch.maps, batch.poses.flatten(0, 1)),
        text=prompt_maps(model, batch.contexts, batch.prompts.flatten()),
        kv_cache=batch.memory,
        rope_scale=batch.rope_scale,
    )
    flow = model(x.flatten(0, 1), timestep.flatten(0, 1), inputs)
    chunks: Tensor = flow.unflatten(0, x.shape[:2])
    return chunks[:, batch.num_clean :]


@dataclass(frozen=True, slots=True)
class Words:
    """Prompts as the model takes them, padded."""

    contexts: dict[str, Tensor]  # [L, text_dim]

    @classmethod
    def of(cls, bank: LatentBank, model: ModelConfig) -> "Words":
        encoder = HashedWordEncoder(text_dim=model.text_dim, text_len=model.text_len)
        said = {"", *(prompt for prompts in bank.prompts for prompt in prompts)}
        contexts = {prompt: torch.from_numpy(encoder.encode(prompt)) for prompt in said}
        return cls(
            {
                prompt: F.pad(context, (0, 0, 0, model.text_len - len(context)))
                for prompt, context in contexts.items()
            }
        )

    def gather(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """The distinct ones' contexts [P, L, text_dim], and which of them each prompt is."""
        distinct = sorted(set(prompts))
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
        return torch.stack([self.contexts[prompt] for prompt in distinct]), rows


def draw_batch(
    bank: LatentBank, words: Words, num_clips: int, random: Random, *, lively: float = 0.0
) -> Batch:
    """Whole clips from a world's beginning, or their later parts far along in a long walk, on the
    bank's device.

    A later part's rotary positions are moved away from the sink's, and a client's shorter window is
    sometimes shown; what the sink saw may be another place in the same conditions. `lively` is the
    share of clips that are drawn from the bank's lively ones.
    """
    later = random.random() < 0.45
    clean, noisy = range(CHUNKS - 1), range(2 if later else 0, CHUNKS)
    window = WINDOW - 1 if later and random.random() < 0.25 else WINDOW
    memory = TeacherMemory(clean, noisy, window)
    clips = [
        random.choice(bank.lively)
        if random.random() < lively
        else random.randrange(len(bank.latents))
        for _ in range(num_clips)
    ]
    gaps = [draw_gap(random) if later else 0 for _ in clips]
    sinks = [
        random.choice(bank.kin[clip]) if gap >= AWAY and random.random() < ELSEWHERE else clip
        for clip, gap in zip(clips, gaps, strict=True)
    ]
    numbers = torch.tensor([*clean, *noisy])
    sources = torch.where(numbers == 0, torch.tensor(sinks)[:, None], torch.tensor(clips)[:, None])
    frames = numbers[:, None] * POCKET.chunk + torch.arange(POCKET.chunk)  # [K, F]
    unsaid = [random.random() < PROMPT_DROPOUT for _ in clips]
    prompts = [
        "" if unsaid[row] else bank.prompts[source][number]
        for row, places in enumerate(sources.tolist())
        for source, number in zip(places, numbers.tolist(), strict=True)
    ]
    contexts, prompt_rows = words.gather(prompts)
    distinct, poses = bank.poses[sources[..., None], frames].unique(return_inverse=True)
    positions = torch.where(
        frames >= POCKET.chunk, frames + torch.tensor(gaps)[:, None, None], frames
    )
    device = bank.latents.device
    return Batch(
        memory=memory,
        x0=_take(bank.latents, sources, frames),
        condition=_conditions(bank, torch.tensor(sinks), numbers),
        positions=positions.to(device),
        maps=bank.maps[distinct].float(),
        poses=poses.to(device),
        contexts=contexts.to(device),
        prompts=prompt_rows.view_as(sources).to(device),
        contrast=bank.contrast[clips],
        clips=clips,
        rope_scale=bank.rope_scale,
    )


def draw_gap(random: Random) -> int:
    """Latent frames, in whole chunks, that the later part is moved away from the sink by."""
    kind = random.random()
    if kind < 0.2:
        return 0
    return POCKET.chunk * random.randrange(20 if kind < 0.7 else 333)


def _take(latents: Tensor, sources: Tensor, frames: Tensor) -> Tensor:
    """latents [N, 16, T, h, w] of clips [B, K] at frames [K, F]: [B, K, 16, F, h, w] float."""
    return latents[sources[..., None], :, frames].transpose(2, 3).float()


def _conditions(bank: LatentBank, sinks: Tensor, numbers: Tensor) -> Tensor:
    """Mask and image condition of the chunks, [B, K, 20, F, h, w], as in `LatentCodec`."""
    first, later = bank.conditions[sinks].float().split(POCKET.chunk, dim=2)
    latents = torch.stack([later if number else first for number in numbers.tolist()], dim=1)
    mask = torch.zeros_like(latents[:, :, :4])
    mask[:, numbers == 0, :, 0] = 1
    return torch.cat([mask, latents], dim=2)
