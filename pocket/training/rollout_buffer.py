"""Generated pasts of clips, from which later batches go on."""

from dataclasses import replace
from random import Random

from torch import Tensor

from pocket.training.batch import TrainingBatch

REUSED_SHARE = 0.5  # of clips: their past is the one that was generated last


class RolloutBuffer:
    """The past that the model generated last for each clip.

    A past taken from the buffer has the errors of many rounds, as on a long walk, while a training
    step pays for a few rounds only.
    """

    def __init__(self) -> None:
        self._pasts = dict[int, Tensor]()  # [K, 16, F, h, w] in half precision, by clip

    def sample(self, batch: TrainingBatch, random: Random) -> TrainingBatch:
        """Replace the past of some clips by the one that was added last, if there is one."""
        x0 = batch.x0.clone()
        for row, clip in enumerate(batch.clips):
            if random.random() < REUSED_SHARE and clip in self._pasts:
                x0[row, batch.recent] = self._pasts[clip].float()
        return replace(batch, x0=x0)

    def add(self, batch: TrainingBatch) -> None:
        for row, clip in enumerate(batch.clips):
            self._pasts[clip] = batch.x0[row, batch.recent].half()
