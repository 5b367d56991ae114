"""Effect of the prompt: the conditions of generated frames, before and after a change."""

from collections.abc import Iterable
from random import Random

import numpy as np
import torch
from torch import Tensor

from lingbot.runtime.engine import Engine
from pocket.evaluation.classifier import Classifier, draw_views, train_classifier
from pocket.evaluation.generate import encode_prompt, open_session
from pocket.evaluation.held_out import draw_opening, stroll_actions
from pocket.evaluation.metric import Metric, at_least, without_target
from pocket.renderer.conditions import Conditions, change_conditions
from pocket.renderer.prompt import write_prompt
from pocket.renderer.render import Renderer
from pocket.renderer.scene import Scene
from pocket.training.clips import FIRST_HELD_OUT_SEED

NUM_CHUNKS, CHANGED_AT = 12, 6
SETTLED_AT = CHANGED_AT + 2  # first chunk that is held to the new prompt


def measure_prompts(engine: Engine, scenes: Iterable[Scene]) -> Iterable[Metric]:
    """Classify the time of day and the weather of generated chunks, before and after a change."""
    classifier = train_classifier(num_scenes=1000, first_seed=0)
    frames, conditions = draw_views(100, first_seed=FIRST_HELD_OUT_SEED)
    accuracy = _accuracy(classifier, frames, conditions)
    yield without_target("classifier on rendered frames", accuracy)
    before, after = [], []
    for scene in scenes:
        random = Random(f"prompts {scene.seed}")
        other = scene.under(draw_other_light(scene.conditions, random))
        session = open_session(engine, *draw_opening(Renderer(scene), random))
        actions = [key for _ in range(3) for key in stroll_actions(random)]
        for number in range(NUM_CHUNKS):
            context = encode_prompt(write_prompt(other)) if number == CHANGED_AT else None
            keys = actions[3 * number : 3 * number + 3]
            chunk = torch.from_numpy(engine.step(session, keys, context=context))
            target = scene.conditions if number < CHANGED_AT else other.conditions
            correct = _accuracy(classifier, chunk[-1:], [target])
            if number < CHANGED_AT:
                before.append(correct)
            elif number >= SETTLED_AT:
                after.append(correct)
    yield at_least("chunks in the prompt's time and weather", float(np.mean(before)), "", 0.9)
    yield at_least("from the third chunk after a change", float(np.mean(after)), "", 0.9)


def draw_other_light(conditions: Conditions, random: Random) -> Conditions:
    """Draw conditions with another time of day or another weather."""
    while True:
        other = change_conditions(conditions, random)
        if (other.time, other.weather) != (conditions.time, conditions.weather):
            return other


def _accuracy(classifier: Classifier, frames: Tensor, targets: list[Conditions]) -> float:
    """Return the share of frames whose time of day and weather are classified as the target's."""
    return float(
        np.mean(
            [
                (found.time, found.weather) == (target.time, target.weather)
                for found, target in zip(classifier.classify(frames), targets, strict=True)
            ]
        )
    )
