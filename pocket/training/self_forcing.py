"""Self-forcing: the model learns one of its own steps, from a past that it generated itself.

Flow matching trains on true pasts, and its steps begin at the truth with noise. In play both are
generated, and errors accumulate. This stage makes three changes:

- Some clips reuse the past that the model generated last, and some get a past that is blurred and
  pale, as after minutes of play.
- Clean chunks that are among a batch's noisy ones are replaced by generated ones. This takes a
  few rounds, in each of which all chunks are generated at once (as in Resampling Forcing, Guo et
  al., 2025).
- The model denoises from its own levels, and the last step learns (as in Self Forcing, Huang et
  al., 2025).

The loss compares the step's result with the truth by squared error, local contrast, temporal
difference and warping error. A discriminator favours plausible results, so that few steps suffice.

Shape letters as in `batch`.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from lingbot.dit.schedule import add_noise
from lingbot.vae.codec import LatentCodec
from lingbot.vae.tiny import DecoderState
from pocket.training.batch import FlowPredictor, TrainingBatch
from pocket.training.discriminator import Discriminator
from pocket.training.flow_matching import LEVELS
from pocket.training.local_contrast import local_contrast, temporal_difference
from pocket.training.rollout_buffer import RolloutBuffer
from pocket.training.warping import begin_flow, warping_error

MAX_ROUNDS = 2  # in which the past is generated, each from the last
DEGRADED_SHARE = 0.3  # of clips: their past is blurred and pale
MAX_BLURS = 4  # in a degraded past
MIN_ERROR_LEVEL = 0.3  # by which errors are divided: else the lowest level would dominate the loss
NUM_DECODED = 8  # clips at most with a warping error: decoding more takes half of a GPU's step
NEIGHBOURHOOD = 4  # latent pixels along each axis
MIN_CONTRAST = 0.03  # and least temporal difference; latents have a deviation of about 1

_local_contrast, _temporal_difference = (
    partial(measure, neighbourhood=NEIGHBOURHOOD, minimum=MIN_CONTRAST)
    for measure in (local_contrast, temporal_difference)
)


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the squared errors, relative to that of the flow, and of the warping error."""

    local_contrast: float = 2.0
    temporal_difference: float = 1.5
    warping: float = 1.0


WEIGHTS = LossWeights()


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfForcing:
    """The state of the stage beside the model."""

    discriminator: Discriminator
    codec: LatentCodec  # decodes for the warping error
    buffer: RolloutBuffer = field(default_factory=RolloutBuffer)  # empty after a resume
    weights: LossWeights = WEIGHTS

    def backward(
        self,
        predict: FlowPredictor,
        average: FlowPredictor,
        batch: TrainingBatch,
        random: Random,
    ) -> Tensor:
        """Accumulate the gradient of a batch and return the error of the last step.

        `predict` is the model, and `average` its averaged weights, which generate the past.
        """
        degraded = with_degraded_past(self.buffer.sample(batch, random), random)
        batch = rollout_past(average, degraded, random)
        if batch is not degraded:  # a past that no round generated is not the model's own
            self.buffer.add(batch)
        return self.backward_step(predict, average, batch, random)

    def backward_step(
        self,
        predict: FlowPredictor,
        average: FlowPredictor,
        batch: TrainingBatch,
        random: Random,
    ) -> Tensor:
        """Accumulate the gradient of one denoising step; `average` does the steps before it.

        Errors and discriminator see each clip divided by its own contrast. Otherwise a foggy night
        would hardly count, and its faint content would fade.

        Returns the mean squared error of the flow.
        """
        number = random.randrange(1, batch.truth.shape[1])
        true_video = self._decode(batch.truth[:NUM_DECODED], number)
        flows = begin_flow(true_video)
        end = random.randrange(len(LEVELS))
        before = denoise(average, batch, random.randint(0, end), end)
        contrast = batch.contrast[:, None, None, None, None, None]
        generated = denoise_step(predict, batch, before, LEVELS[end]) / contrast
        truth = batch.truth / contrast
        level = max(LEVELS[end], MIN_ERROR_LEVEL)
        ours, theirs = _as_videos(generated) / level, _as_videos(truth) / level
        error = F.mse_loss(ours, theirs)
        contrast_error = F.mse_loss(_local_contrast(ours), _local_contrast(theirs))
        difference_error = F.mse_loss(_temporal_difference(ours), _temporal_difference(theirs))
        video = self._decode((generated * contrast)[:NUM_DECODED], number)
        warping = warping_error(video, true_video, flows)
        loss = error + self.weights.local_contrast * contrast_error
        loss = loss + self.weights.temporal_difference * difference_error
        self.discriminator.backward(generated, truth, loss, unscaled=self.weights.warping * warping)
        return error.detach()

    def _decode(self, chunks: Tensor, number: int) -> Tensor:
        """Decode one of the chunks [B, K', 16, F, h, w], from the last frame of the one before."""
        latents = torch.cat([chunks[:, number - 1, :, -1:], chunks[:, number]], dim=2)
        return self.codec.decode_video(latents, DecoderState())


def with_degraded_past(batch: TrainingBatch, random: Random) -> TrainingBatch:
    """Make the past of some clips blurred and pale, as after minutes of play.

    The sink does not change, because it does not change in play. From the sink, the prompt and the
    poses the model learns to recover.
    """
    x0 = batch.x0.clone()
    for past in x0[:, batch.recent]:
        if random.random() < DEGRADED_SHARE:
            past[:] = degrade(past, random.randint(0, MAX_BLURS), random.random())
    return replace(batch, x0=x0)


def degrade(latents: Tensor, num_blurs: int, contrast: float) -> Tensor:
    """Blur latents, and scale their contrast around the mean of each channel and frame.

    `latents` are [K, 16, F, h, w].
    """
    maps = latents.flatten(0, 2)[:, None]
    for _ in range(num_blurs):
        maps = F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.lerp(maps.mean((-2, -1), keepdim=True), maps, contrast).view_as(latents)


def rollout_past(predict: FlowPredictor, batch: TrainingBatch, random: Random) -> TrainingBatch:
    """Replace clean chunks by generated ones, in up to MAX_ROUNDS rounds.

    Each round starts at a drawn noise level, and returns the batch itself if there is no round.
    """
    for _ in range(random.randint(0, MAX_ROUNDS)):
        start = random.randrange(len(LEVELS))
        batch = batch_with_past(batch, denoise(predict, batch, start, len(LEVELS)))
    return batch


@torch.no_grad()
def denoise(predict: FlowPredictor, batch: TrainingBatch, start: int, end: int) -> Tensor:
    """Denoise the noisy chunks from level `start` up to, without, level `end`.

    Starts at the truth under the noise of level `start`; at level 0 there is only noise. Returns
    [B, K', 16, F, h, w].
    """
    x0 = batch.truth
    for level in LEVELS[start:end]:
        x0 = denoise_step(predict, batch, x0, level)
    return x0


def denoise_step(predict: FlowPredictor, batch: TrainingBatch, x0: Tensor, level: float) -> Tensor:
    """Add new noise of a level to `x0`, and do one step as in play: [B, K', 16, F, h, w] each."""
    x = add_noise(x0, torch.randn_like(x0), level)
    sequence = torch.cat([batch.x0[:, : batch.num_clean], x], dim=1)
    sigma = torch.full(x0.shape[:2], level, device=x0.device)
    return x - level * predict(batch, sequence, sigma).float()


def batch_with_past(batch: TrainingBatch, generated: Tensor) -> TrainingBatch:
    """Replace the clean chunks that are among the noisy ones by `generated` [B, K', ...]."""
    x0 = batch.x0.clone()
    noisy = list(batch.kv_cache.noisy)
    for place, number in enumerate(batch.kv_cache.clean):
        if number in noisy:
            x0[:, place] = generated[:, noisy.index(number)]
    return replace(batch, x0=x0)


def _as_videos(chunks: Tensor) -> Tensor:
    """Chunks [B, K', 16, F, h, w] -> videos [B * K', F, 16, h, w]."""
    return chunks.transpose(2, 3).flatten(0, 1)
