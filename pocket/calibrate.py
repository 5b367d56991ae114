"""Sets how far the keys carry in the pocket world: python -m pocket.calibrate.

What training cannot tell for certain it draws to the middle: where a thing will be after a step is
put between where it was and where it should be, and who walks is too slow by a third. The length of
a pose's step enters the model in one place, linearly. There it is made longer, for sideways and
ahead apart, until walks through scenes that are neither trained on nor evaluated have the
renderer's flow as often as they can.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from lingbot.config import PATCH, SPATIAL_STRIDE
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import load_dit, save_dit
from lingbot.runtime.engine import Engine
from lingbot.runtime.presets import load_engine
from pocket.evaluation.obedience import obeys, told_flows
from pocket.evaluation.play import play, steady_walk
from pocket.package import SHIPPED
from pocket.renderer.scene import describe, make_scene

FIRST_SEED = 900_000  # of the scenes: training's begin at 0, evaluation's at a million
CHUNKS = 3  # of a walk
GAINS = (1.0, 1.2, 1.4, 1.6, 1.8)
INPUTS = (SPATIAL_STRIDE * PATCH) ** 2  # of the camera's embedding, for one channel of a ray
WALKS = {"ad": slice(INPUTS), "ws": slice(INPUTS, 3 * INPUTS)}  # keys, and the origin's axes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, nargs="?", default=SHIPPED, help="the weights' folder")
    parser.add_argument("--scenes", type=int, default=36)
    options = parser.parse_args()
    engine = load_engine("pocket", weights=options.target)
    model = load_dit(options.target, device=torch.device("cpu"), dtype=torch.float32)
    for keys, axes in WALKS.items():
        shares = obedience(engine, keys, axes, options.scenes)
        best = max(GAINS, key=lambda gain: shares[gain])
        print(keys, {gain: round(share, 3) for gain, share in shares.items()}, "->", best)
        lengthen(model, axes, best)
    save_dit(model.half(), options.target)


def obedience(engine: Engine, keys: str, axes: slice, num_scenes: int) -> dict[float, float]:
    """The share of chunks that obey, by gain.

    The engine must have no camera cache: it would show the maps of another gain.
    """
    verdicts: dict[float, list[bool]] = {gain: [] for gain in GAINS}
    usual = engine.model.camera_embedding.weight.clone()
    for seed in range(FIRST_SEED, FIRST_SEED + num_scenes):
        scene = make_scene(seed)
        for key in keys:
            actions, poses = steady_walk(scene, key, num_chunks=CHUNKS)
            first, told = told_flows(scene, poses)
            for gain in GAINS:
                lengthen(engine.model, axes, gain)
                frames = play(engine, first, describe(scene), actions)
                with torch.no_grad():
                    engine.model.camera_embedding.weight.copy_(usual)
                verdicts[gain] += [obeys(frames, flows) for flows in told]
    return {gain: float(np.mean(kept)) for gain, kept in verdicts.items()}


def lengthen(model: WorldModel, axes: slice, gain: float) -> None:
    """Let the model take the camera's steps along these axes for longer by this factor."""
    with torch.no_grad():
        model.camera_embedding.weight[:, axes] *= gain


if __name__ == "__main__":
    main()
