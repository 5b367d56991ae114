"""What lasts: looks over minutes, and a place that one comes back to."""

import math
from collections.abc import Iterable
from random import Random

import numpy as np
import torch

from lingbot.config import POCKET
from lingbot.runtime.engine import Engine
from pocket.evaluation.figure import Figure, within
from pocket.evaluation.looks import LOOKS, thumbnail
from pocket.evaluation.play import draw_opening, held_out_scenes, play, stroll
from pocket.renderer.render import Renderer
from pocket.training.data import SIZE, draw_walk

LONG_CHUNKS = 240  # three minutes
END_CHUNKS = 12  # of a long walk: its last nine seconds


def measure_long(engine: Engine, num_seeds: int) -> Iterable[Figure]:
    """Three minutes: does the end look as the renderer's pictures do?

    Of all walks together, and of each by itself, where drifts up and down do not cancel. What can
    be asked of one is told by a walk of the renderer's: who ends before a wall sees less than who
    looks over a plain.
    """
    made: dict[str, list[float]] = {name: [] for name in LOOKS}
    own: dict[str, list[float]] = {name: [] for name in LOOKS}
    for scene in held_out_scenes(num_seeds):
        random = Random(f"long {scene.seed}")
        actions = [key for _ in range(LONG_CHUNKS // 4) for key in stroll(random)]
        frames = play(engine, *draw_opening(scene, random), actions, keep_last=END_CHUNKS)
        renderer = Renderer(scene)
        truth = torch.cat(
            [renderer.render(draw_walk(scene, random, 18)[2][::9], **SIZE) for _ in range(3)]
        )
        walk = draw_walk(scene, random, POCKET.chunk * END_CHUNKS)[2]
        other = renderer.render(walk[::6], **SIZE)
        for name, measure in LOOKS.items():
            usual = measure(truth)
            made[name].append(np.log(measure(frames[::6]) / usual))
            own[name].append(np.log(measure(other) / usual))
    for name in LOOKS:
        mean, middle = (math.exp(sum_up(made[name])) for sum_up in (np.mean, np.median))
        yield within(f"after 3 minutes: {name} over the renderer's", mean, "", 1 / 1.25, 1.25)
        yield Figure(f"{name} of the middle walk", middle, "")
        for whose, logs in (("walk", made[name]), ("renderer's walk", own[name])):
            off = math.exp(np.mean(np.abs(logs)))
            yield Figure(f"{name} of a {whose}, off by a factor of", off, "")


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
