"""Behaviour over many chunks: image metrics after three minutes, and the way back to a place.

Tested in `tests/pocket/test_image_metrics.py`.
"""

import math
from collections.abc import Iterable, Sequence
from random import Random

import numpy as np
import torch
from torch import Tensor

from lingbot.config import POCKET
from pocket.evaluation.generate import Generate
from pocket.evaluation.held_out import draw_opening, stroll_actions
from pocket.evaluation.image_metrics import IMAGE_METRICS, thumbnail
from pocket.evaluation.metric import Metric, more_than, within, without_target
from pocket.renderer.render import FrameSize, Renderer
from pocket.renderer.scene import Scene
from pocket.training.clips import draw_walk
from pocket.training.config import SIZE

NUM_CHUNKS = 240  # three minutes
END_CHUNKS = 12  # the last nine seconds, which are measured

LogRatios = dict[str, list[float]]  # by image metric, one for each scene


def measure_long(
    generate: Generate, scenes: Iterable[Scene], *, size: FrameSize = SIZE
) -> Iterable[Metric]:
    """Compare image metrics after three minutes with those of rendered frames.

    The mean over all walks is reported, and the mean deviation of single walks, in which upward and
    downward drifts do not cancel. A rendered walk gives the natural spread: a view of a wall and a
    view of a plain differ by themselves.
    """
    generated: LogRatios = {name: [] for name in IMAGE_METRICS}
    rendered: LogRatios = {name: [] for name in IMAGE_METRICS}
    for scene in scenes:
        random, renderer = Random(f"long {scene.seed}"), Renderer(scene)
        actions = [key for _ in range(NUM_CHUNKS // 4) for key in stroll_actions(random)]
        opening = draw_opening(renderer, random, size=size)
        frames = generate(*opening, actions, keep_last=END_CHUNKS)
        walks = [draw_walk(scene, random, 18).poses[::9] for _ in range(3)]
        reference = torch.cat([renderer.render(walk, **size) for walk in walks])
        walk = draw_walk(scene, random, POCKET.chunk * END_CHUNKS).poses
        _append_ratios(generated, frames[::6], reference)
        _append_ratios(rendered, renderer.render(walk[::6], **size), reference)
    for name in IMAGE_METRICS:
        mean, median = (math.exp(average(generated[name])) for average in (np.mean, np.median))
        yield within(f"after 3 minutes: {name} over the renderer's", mean, "", 1 / 1.25, 1.25)
        yield without_target(f"{name} over the renderer's, median walk", median)
        for kind, ratios in (("generated", generated[name]), ("rendered", rendered[name])):
            deviation = math.exp(np.mean(np.abs(ratios)))
            yield without_target(f"{name} of a {kind} walk, off by a factor of", deviation)


def _append_ratios(ratios: LogRatios, frames: Tensor, reference: Tensor) -> None:
    for name, measure in IMAGE_METRICS.items():
        ratios[name].append(np.log(measure(frames) / measure(reference)))


def measure_return(
    generate: Generate, renderers: Sequence[Renderer], *, size: FrameSize = SIZE
) -> Iterable[Metric]:
    """Walk eight steps ahead and eight back, and compare the last frame with the first.

    Counts how often the first frame is nearer than a frame of another scene in the same conditions.
    Needs two scenes or more.
    """
    closer = []
    for renderer in renderers:
        scene = renderer.scene
        first, prompt = draw_opening(renderer, Random(f"return {scene.seed}"), size=size)
        frames = generate(first, prompt, ["", *["w"] * 8, *["s"] * 8, ""])
        last = thumbnail(frames[-1])
        own = (last - thumbnail(first)).square().mean()
        others = []
        for other in renderers:
            if other is not renderer:
                same_light = Renderer(other.scene.under(scene.conditions))
                random = Random(f"return {other.scene.seed}")
                frame, _ = draw_opening(same_light, random, size=size)
                others.append((last - thumbnail(frame)).square().mean())
        closer.append(float(np.mean([own < other for other in others])))
    yield more_than("start nearer than a random scene", float(np.mean(closer)), "", 0.5)
