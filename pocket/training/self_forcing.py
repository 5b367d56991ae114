"""The last stage: the model on its own past, by its own steps, held to the truth and to a critic.

Flow matching knows the past as it was, and its steps begin at the truth with noise. In play both
are what the model made of them, and errors pile up. Here the past of some clips is what the model
made of it when it last saw them, and that of some is made soft and pale, as after minutes of play.
Clean chunks that are among a batch's noisy ones are replaced by what the model makes of them, all
at once and in a few rounds (as in Resampling Forcing, Guo et al., 2025); then the model goes down
its own levels, and the last step learns: the error draws it to the truth, its roughness, what
changes from frame to frame and where things go to the truth's, and a critic to what looks true, so
that few steps suffice (as in Self Forcing, Huang et al., 2025).

Shape letters as in `batch`; K' noisy chunks.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from lingbot.config import SCHEDULE_POCKET
from lingbot.dit.model import WorldModel
from lingbot.dit.schedule import add_noise, build_steps
from lingbot.vae.codec import LatentCodec
from lingbot.vae.tiny import DecoderState
from pocket.training.batch import Batch, predict_flow
from pocket.training.critic import Critic
from pocket.training.roughness import liveliness, roughness
from pocket.training.warping import begin_flow, warping_error

LEVELS = tuple(step.sigma for step in build_steps(SCHEDULE_POCKET))  # that play visits, falling
MOST_ROUNDS = 2  # times that the past is made anew, each time from the last
RECALLED = 0.5  # share of the clips whose past is what the model last made of it
FADED = 0.3  # share of the clips whose past is made soft and pale
MOST_BLURS = 4  # of such a past
LEAST_LEVEL = 0.3  # by which errors are measured: else those of the lowest level would be all
ROUGHNESS, LIVELINESS = 2.0, 1.5  # weights of their squared errors; the flow's has 1
WARPING = 1.0  # weight of its error: of what moves otherwise than in the truth
DECODED = 8  # clips at most that are asked so: decoding more is half of a GPU's step
LEAST_ROUGHNESS = 0.03  # and liveliness; a latent's own size is about 1
NEIGHBOURHOOD = 4  # latent pixels, each way

_roughness, _liveliness = (
    partial(size, neighbourhood=NEIGHBOURHOOD, least=LEAST_ROUGHNESS)
    for size in (roughness, liveliness)
)


class OwnPasts:
    """What the model last made of each clip's past: where it was, it comes back to later.

    So a past's errors are those of many rounds, as in a long walk, and a step pays for a few.
    """

    def __init__(self) -> None:
        self._made = dict[int, Tensor]()  # [K, 16, F, h, w] half precision, by clip

    def recall(self, batch: Batch, random: Random) -> Batch:
        """The batch, and some clips with the past that was kept last, if one was."""
        x0 = batch.x0.clone()
        for row, clip in enumerate(batch.clips):
            if random.random() < RECALLED and clip in self._made:
                x0[row, batch.recent] = self._made[clip].float()
        return replace(batch, x0=x0)

    def keep(self, batch: Batch) -> None:
        for row, clip in enumerate(batch.clips):
            self._made[clip] = batch.x0[row, batch.recent].half()


@dataclass(frozen=True, slots=True)
class SelfForcing:
    """What a run of this stage has beside the model."""

    critic: Critic
    codec: LatentCodec  # its decoder shows what moves
    pasts: OwnPasts = field(default_factory=OwnPasts)  # a resumed run begins them anew

    def learn(self, model: WorldModel, average: WorldModel, batch: Batch, random: Random) -> Tensor:
        """Leave the gradient of a batch, whose pasts the average makes; give its error."""
        told = with_faded_past(self.pasts.recall(batch, random), random)
        batch = own_past(average, told, random)
        if batch is not told:  # what no round made anew is not the model's
            self.pasts.keep(batch)
        return learn_own_step(model, average, batch, self.critic, self.codec, random)


def with_faded_past(batch: Batch, random: Random) -> Batch:
    """The batch, and some clips with a past that is soft and pale, as after minutes of play.

    The sink is as it was: it stays in play, too. By it, the prompt and the poses the model is to
    find the way back.
    """
    x0 = batch.x0.clone()
    for past in x0[:, batch.recent]:
        if random.random() < FADED:
            past[:] = fade(past, random.randint(0, MOST_BLURS), random.random())
    return replace(batch, x0=x0)


def fade(latents: Tensor, num_blurs: int, contrast: float) -> Tensor:
    """Softer, and nearer to the mean of each channel and frame: [K, 16, F, h, w]."""
    maps = latents.flatten(0, 2)[:, None]
    for _ in range(num_blurs):
        maps = F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.lerp(maps.mean((-2, -1), keepdim=True), maps, contrast).view_as(latents)


def own_past(model: WorldModel, batch: Batch, random: Random) -> Batch:
    """The batch, and its clean chunks as the model makes them of noise, or of the true under it."""
    for _ in range(random.randint(0, MOST_ROUNDS)):
        start = random.randrange(len(LEVELS))
        batch = _with_past(batch, descend(model, batch, start, len(LEVELS)))
    return batch


@torch.no_grad()
def descend(model: WorldModel, batch: Batch, start: int, end: int) -> Tensor:
    """What the model makes of the noisy chunks, from the truth under the noise of level `start` on.

    [B, K', 16, F, h, w], after the levels up to `end`, which is not done. At level 0 noise is all
    there is.
    """
    made = batch.truth
    for level in LEVELS[start:end]:
        made = take_step(model, batch, made, level)
    return made


def take_step(model: WorldModel, batch: Batch, made: Tensor, level: float) -> Tensor:
    """The noisy chunks after one step of play, from `made` under new noise."""
    x = add_noise(made, torch.randn_like(made), level)
    sequence = torch.cat([batch.x0[:, : batch.num_clean], x], dim=1)
    sigma = torch.full(made.shape[:2], level, device=made.device)
    return x - level * predict_flow(model, batch, sequence, sigma).float()


def learn_own_step(
    model: WorldModel,
    average: WorldModel,
    batch: Batch,
    critic: Critic,
    codec: LatentCodec,
    random: Random,
) -> Tensor:
    """Leave the gradient of one step of the model, where those before are its average's own.

    Errors and critic see each clip by its own contrast: or else a night in fog, in which little is
    to be seen, would count for nothing, and that little would fade. Gives the mean squared error,
    of the flow.
    """
    number = random.randrange(1, batch.truth.shape[1])
    true = _decode(codec, batch.truth[:DECODED], number)
    flows = begin_flow(true)
    end = random.randrange(len(LEVELS))
    before = descend(average, batch, random.randint(0, end), end)
    contrast = batch.contrast[:, None, None, None, None, None]
    made = take_step(model, batch, before, LEVELS[end]) / contrast
    truth = batch.truth / contrast
    level = max(LEVELS[end], LEAST_LEVEL)
    ours, theirs = (_as_videos(chunks) / level for chunks in (made, truth))  # as their flows
    error = F.mse_loss(ours, theirs)
    rough, lively = (F.mse_loss(size(ours), size(theirs)) for size in (_roughness, _liveliness))
    warping = warping_error(_decode(codec, (made * contrast)[:DECODED], number), true, flows)
    loss = error + ROUGHNESS * rough + LIVELINESS * lively
    critic.backward(made, truth, loss, aside=WARPING * warping)
    return error.detach()


def _decode(codec: LatentCodec, chunks: Tensor, number: int) -> Tensor:
    """One of the chunks [B, K', 16, F, h, w], and what leads from the one before into it."""
    latents = torch.cat([chunks[:, number - 1, :, -1:], chunks[:, number]], dim=2)
    return codec.decode_video(latents, DecoderState())


def _as_videos(chunks: Tensor) -> Tensor:
    """Chunks [B, K', 16, F, h, w] -> [B * K', F, 16, h, w]."""
    return chunks.transpose(2, 3).flatten(0, 1)


def _with_past(batch: Batch, made: Tensor) -> Batch:
    """The batch with clean chunks taken from `made` [B, K', 16, F, h, w] where it has them."""
    x0 = batch.x0.clone()
    for place, number in enumerate(batch.memory.clean):
        if number in batch.memory.noisy:
            x0[:, place] = made[:, list(batch.memory.noisy).index(number)]
    return replace(batch, x0=x0)
