"""What the prompt does: the hour and the weather of what is made, before and after a change."""

from collections.abc import Iterable
from random import Random

import numpy as np
import torch
from torch import Tensor

from lingbot.runtime.engine import Engine
from pocket.evaluation.classifier import Classifier, draw_views, train_classifier
from pocket.evaluation.figure import Figure, at_least
from pocket.evaluation.play import draw_opening, encode_prompt, held_out_scenes, open_world, stroll
from pocket.renderer.conditions import Conditions, change
from pocket.renderer.scene import describe
from pocket.training.data import FIRST_HELD_OUT_SEED


def measure_prompts(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """Hour and weather of what is made, as a classifier sees them; before and after a change."""
    classifier = train_classifier(num_scenes=1000, first_seed=0)
    frames, conditions = draw_views(100, first_seed=FIRST_HELD_OUT_SEED)
    right = _share_right(classifier, frames, conditions)
    yield Figure("classifier on the renderer's pictures", right, "")
    kept, changed = [], []
    for scene in held_out_scenes(num_scenes * 2):
        random = Random(f"prompts {scene.seed}")
        other = scene.under(_another_light(scene.conditions, random))
        session = open_world(engine, *draw_opening(scene, random))
        actions = [key for _ in range(3) for key in stroll(random)]
        for number in range(12):
            context = encode_prompt(describe(other)) if number == 6 else None
            keys = actions[3 * number : 3 * number + 3]
            chunk = torch.from_numpy(engine.step(session, keys, context=context))
            wanted = scene.conditions if number < 6 else other.conditions
            verdict = _share_right(classifier, chunk[-1:], [wanted])
            if number < 6:
                kept.append(verdict)
            elif number >= 8:
                changed.append(verdict)
    yield at_least("chunks in the prompt's hour and weather", float(np.mean(kept)), "", 0.9)
    yield at_least("from the third after a change on", float(np.mean(changed)), "", 0.9)


def _another_light(conditions: Conditions, random: Random) -> Conditions:
    """Conditions of another hour or weather."""
    while True:
        other = change(conditions, random)
        if (other.time, other.weather) != (conditions.time, conditions.weather):
            return other


def _share_right(classifier: Classifier, frames: Tensor, wanted: list[Conditions]) -> float:
    seen = classifier.classify(frames)
    return float(
        np.mean(
            [
                (one.time, one.weather) == (other.time, other.weather)
                for one, other in zip(seen, wanted, strict=True)
            ]
        )
    )
