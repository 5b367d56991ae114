"""How soon a new prompt is seen, with its window rebuilt (`prompt_recache`) and without.

`python -m pocket.evaluation.recache [--scenes 40]` changes the time of day or the weather after six
chunks of a held-out scene. The classifier of `prompts` looks at each later chunk's last
frame. Both runs of a scene have the same past and the same noise. Prints a table, then one JSON
line.
"""

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from random import Random

import numpy as np
import torch
from msgspec import Struct
from msgspec.structs import asdict
from torch import Tensor

from lingbot.runtime.engine import Engine
from lingbot.runtime.presets import load_engine
from pocket.evaluation.classifier import Classifier, train_classifier
from pocket.evaluation.generate import encode_prompt, open_session
from pocket.evaluation.held_out import draw_opening, held_out_scenes, stroll_actions
from pocket.evaluation.prompts import CHANGED_AT, draw_other_light
from pocket.renderer.conditions import Conditions
from pocket.renderer.prompt import write_prompt
from pocket.renderer.render import Renderer
from pocket.renderer.scene import Scene

NUM_AFTER = 10  # chunks after the change


class Recognition(Struct, frozen=True, kw_only=True):
    """The chunks after a change of prompt, of all scenes."""

    recache: bool
    shares: tuple[float, ...]  # of scenes whose chunk shows the new time and weather, by chunk
    chunks: float  # mean number until the first that does; NUM_AFTER + 1 where none does
    never: int  # scenes without such a chunk


def walk_on(
    engine: Engine, scene: Scene, other: Scene, *, seed: str, recache: bool
) -> Iterator[Tensor]:
    """The last frames [1, H, W, 3] of the chunks from the change on."""
    random = Random(seed)
    session = open_session(engine, *draw_opening(Renderer(scene), random))
    actions = [key for _ in range(4) for key in stroll_actions(random)]
    prompt = write_prompt(other)
    for number in range(CHANGED_AT + NUM_AFTER):
        changed = number == CHANGED_AT
        frames = engine.step(
            session,
            actions[3 * number : 3 * number + 3],
            context=encode_prompt(prompt) if changed else None,
            prompt=prompt if changed else None,
            recache=recache and changed,
        )
        if number >= CHANGED_AT:
            yield torch.from_numpy(frames)[-1:]


def shows(classifier: Classifier, frame: Tensor, target: Conditions) -> bool:
    (found,) = classifier.classify(frame)
    return (found.time, found.weather) == (target.time, target.weather)


def measure_recognition(
    engine: Engine, classifier: Classifier, scenes: list[Scene], *, recache: bool
) -> Recognition:
    """Change the prompt of a world in each scene."""
    seen = []
    for scene in scenes:
        seed = f"recache {scene.seed}"
        other = scene.under(draw_other_light(scene.conditions, Random(seed)))
        frames = walk_on(engine, scene, other, seed=seed, recache=recache)
        seen.append([shows(classifier, frame, other.conditions) for frame in frames])
    first = [row.index(True) + 1 if any(row) else NUM_AFTER + 1 for row in seen]
    return Recognition(
        recache=recache,
        shares=tuple(round(float(share), 3) for share in np.mean(seen, axis=0)),
        chunks=round(statistics.mean(first), 2),
        never=sum(not any(row) for row in seen),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=40, help="held-out scenes")
    parser.add_argument("--views", type=int, default=1000, help="scenes that train the classifier")
    options = parser.parse_args()
    engine, scenes = load_engine("pocket"), list(held_out_scenes(options.scenes))
    classifier = train_classifier(num_scenes=options.views, first_seed=0)
    rows = [
        measure_recognition(engine, classifier, scenes, recache=recache)
        for recache in (False, True)
    ]
    print("share of scenes that show the new time and weather, by chunk after the change")
    for row in rows:
        shares = "".join(f"{share:7.2f}" for share in row.shares)
        name = "recache" if row.recache else "as it is"
        print(f"{name:10}{shares}   first after {row.chunks} chunks; never in {row.never}")
    facts = {"scenes": len(scenes), "cpus": os.cpu_count(), "rows": [asdict(row) for row in rows]}
    print(json.dumps({"benchmark": "recache", **facts}))


if __name__ == "__main__":
    main()
