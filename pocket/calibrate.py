"""Calibrates how far keys carry in the pocket world: python -m pocket.calibrate.

Under uncertainty the model predicts the mean, so motion is about a third too small. The length of a
step enters the model linearly in one place, the embedding of camera maps. This script scales the
weights there, for sideways and forward steps separately. It chooses the scale at which most chunks
have the renderer's flow, on scenes that are used neither for training nor for evaluation.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lingbot.config import PATCH, SPATIAL_STRIDE
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import load_dit, save_dit
from lingbot.runtime.presets import load_engine
from pocket.evaluation.control_accuracy import follows_control, reliable_flows
from pocket.evaluation.generate import Generate, generate_frames
from pocket.evaluation.held_out import steady_walk
from pocket.package import SHIPPED
from pocket.renderer.prompt import write_prompt
from pocket.renderer.render import FrameSize, Renderer
from pocket.renderer.scene import make_scene
from pocket.training.config import SIZE

FIRST_SEED = 900_000  # of the scenes; training seeds begin at 0, evaluation seeds at 1 000 000
NUM_CHUNKS = 3  # of a walk
GAINS = (1.0, 1.2, 1.4, 1.6, 1.8)
NUM_INPUTS = (SPATIAL_STRIDE * PATCH) ** 2  # the embedding's inputs for one channel of a camera map
# Keys, and the input columns of the ray origin's axes along which these keys move.
AXES = {"ad": slice(NUM_INPUTS), "ws": slice(NUM_INPUTS, 3 * NUM_INPUTS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, nargs="?", default=SHIPPED, help="folder of weights")
    parser.add_argument("--scenes", type=int, default=36, help="scenes to walk through")
    options = parser.parse_args()
    calibrate_translation(options.target, num_scenes=options.scenes)


def calibrate_translation(target: Path, *, num_scenes: int) -> None:
    """Scale the translation weights in the folder `target` by the best gains."""
    engine = load_engine("pocket", weights=target)
    model = load_dit(target, device=torch.device("cpu"), dtype=torch.float32)
    scenes = map(make_scene, range(FIRST_SEED, FIRST_SEED + num_scenes))
    renderers = [Renderer(scene) for scene in scenes]
    generate = partial(generate_frames, engine)
    for keys, axes in AXES.items():
        shares = accuracy_by_gain(engine.model, generate, renderers, keys, axes)
        best = max(GAINS, key=lambda gain: shares[gain])
        print(keys, {gain: round(share, 3) for gain, share in shares.items()}, "->", best)
        scale_translation_weights(model, axes, best)
    save_dit(model.half(), target)


def accuracy_by_gain(
    model: WorldModel,
    generate: Generate,
    renderers: Sequence[Renderer],
    keys: str,
    axes: slice,
    *,
    gains: Sequence[float] = GAINS,
    num_chunks: int = NUM_CHUNKS,
    size: FrameSize = SIZE,
) -> dict[float, float]:
    """Return the share of chunks that follow their key, one of `keys`, by gain along `axes`.

    `generate` must use `model`, and no camera cache: it would keep the maps of another gain.
    """
    chunks: dict[float, list[bool]] = {gain: [] for gain in gains}
    weights = model.camera_embedding.weight.clone()
    for renderer in renderers:
        prompt = write_prompt(renderer.scene)
        for key in keys:
            actions, poses = steady_walk(renderer.scene, key, num_chunks=num_chunks)
            first, reliable = reliable_flows(renderer, poses, size=size)
            for gain in gains:
                scale_translation_weights(model, axes, gain)
                frames = generate(first, prompt, actions)
                with torch.no_grad():
                    model.camera_embedding.weight.copy_(weights)
                chunks[gain] += [follows_control(frames, flows) for flows in reliable]
    return {gain: float(np.mean(followed)) for gain, followed in chunks.items()}


def scale_translation_weights(model: WorldModel, axes: slice, gain: float) -> None:
    """Scale the model's response to camera translation along one of AXES."""
    with torch.no_grad():
        model.camera_embedding.weight[:, axes] *= gain


if __name__ == "__main__":
    main()
