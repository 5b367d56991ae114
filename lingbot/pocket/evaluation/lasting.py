"""What lasts: looks over minutes, a place that one comes back to, and what the prompt says."""

from collections.abc import Iterable
from random import Random

import numpy as np
import torch
from torch import Tensor

from lingbot.engine import Engine
from lingbot.pocket.evaluation.classifier import Classifier, draw_views, train_classifier
from lingbot.pocket.evaluation.figure import Figure, at_least, at_most
from lingbot.pocket.evaluation.looks import LOOKS, thumbnail
from lingbot.pocket.evaluation.play import draw_opening, held_out_scenes, open_world, play
from lingbot.pocket.scenery.conditions import Conditions, change
from lingbot.pocket.scenery.render import Renderer
from lingbot.pocket.scenery.scene import describe
from lingbot.pocket.training.data import FIRST_HELD_OUT_SEED, SIZE, draw_walk

LONG_CHUNKS = 240  # three minutes
END_CHUNKS = 12  # of a long walk: its last nine seconds


def measure_long(engine: Engine, num_seeds: int) -> Iterable[Figure]:
    """Three minutes: does the end look as the renderer's pictures do?"""
    ratios: dict[str, list[float]] = {"sharpness": [], "brightness": [], "saturation": []}
    for scene in held_out_scenes(num_seeds):
        random = Random(f"long {scene.seed}")
        actions = [key for _ in range(LONG_CHUNKS // 4) for key in _stroll(random)]
        frames = play(engine, *draw_opening(scene, random), actions, keep_last=END_CHUNKS)
        truth = torch.cat(
            [Renderer(scene).render(draw_walk(scene, random, 18)[2][::9], **SIZE) for _ in range(3)]
        )
        for name, measure in LOOKS.items():
            ratios[name].append(measure(frames[::6]) / measure(truth))
    for name, values in ratios.items():
        mean = float(np.exp(np.mean(np.log(values))))
        off = float(np.exp(np.mean(np.abs(np.log(values)))))  # drifts up and down do not cancel
        yield at_most(f"after 3 minutes: {name} is off by a factor of", off, "", 1.25)
        yield Figure(f"after 3 minutes: {name} over the renderer's", mean, "")


def measure_return(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """Eight steps forward and eight back: is the start nearer than other places in that light?"""
    closer = []
    scenes = list(held_out_scenes(max(num_scenes, 2)))
    for i, scene in enumerate(scenes):
        first, prompt = draw_opening(scene, Random(f"return {scene.seed}"))
        frames = play(engine, first, prompt, ["", *["w"] * 8, *["s"] * 8, ""])
        last = thumbnail(frames[-1])
        own = (last - thumbnail(first)).square().mean()
        others = []
        for other in scenes[:i] + scenes[i + 1 :]:
            light = other.under(scene.conditions)
            picture, _ = draw_opening(light, Random(f"return {other.seed}"))
            others.append((last - thumbnail(picture)).square().mean())
        closer.append(float(np.mean([own < other for other in others])))
    share = float(np.mean(closer))
    yield Figure("start nearer than a random scene", share, "", "> 0.5", share > 0.5)


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
        actions = [key for _ in range(3) for key in _stroll(random)]
        for number in range(12):
            prompt = describe(other) if number == 6 else None
            keys = actions[3 * number : 3 * number + 3]
            chunk = torch.from_numpy(engine.step(session, keys, prompt=prompt))
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


def _stroll(random: Random) -> list[str]:
    """Twelve latent frames of somebody who walks about."""
    turned, ahead = random.choice((2, 3, 4)), random.choice((4, 5, 6))
    turn, last = random.choice(("", "", "j", "l")), random.choice(("w", "", "d"))
    return ["w" + turn] * turned + ["w"] * ahead + [last] * (12 - turned - ahead)
