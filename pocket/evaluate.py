"""Measures the pocket world against its renderer: python -m pocket.evaluate.

Uses scenes and walks that training never sees, and generates frames through the engine, as in play.
Prints a table, then one line of JSON.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from lingbot.runtime.engine import Engine
from lingbot.runtime.presets import load_engine
from pocket.evaluation.control_accuracy import measure_keys, measure_rest, measure_turns
from pocket.evaluation.generate import Generate, generate_frames
from pocket.evaluation.held_out import held_out_clips, held_out_scenes
from pocket.evaluation.long_horizon import measure_long, measure_return
from pocket.evaluation.metric import Metric
from pocket.evaluation.prompts import measure_prompts
from pocket.evaluation.reconstruction import measure_autoencoder, measure_chunk
from pocket.renderer.render import Renderer

# Each part measures an engine on a number of scenes.
PARTS: dict[str, Callable[[Engine, int], Iterable[Metric]]] = {
    "autoencoder": lambda engine, count: measure_autoencoder(engine, held_out_clips(count)),
    "chunk": lambda engine, count: measure_chunk(engine, held_out_clips(count)),
    "keys": lambda engine, count: measure_keys(_generate(engine), _renderers(count)),
    "turns": lambda engine, count: measure_turns(_generate(engine), _renderers(count)),
    "rest": lambda engine, count: measure_rest(_generate(engine), _renderers(count)),
    "return": lambda engine, count: measure_return(_generate(engine), _renderers(max(count, 2))),
    "prompts": lambda engine, count: measure_prompts(engine, held_out_scenes(2 * count)),
    "long": lambda engine, count: measure_long(_generate(engine), held_out_scenes(count)),
}


def _generate(engine: Engine) -> Generate:
    return partial(generate_frames, engine)


def _renderers(count: int) -> list[Renderer]:
    return [Renderer(scene) for scene in held_out_scenes(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="folder of weights; default: the shipped ones")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=12, help="scenes of each part")
    parser.add_argument("--long-seeds", type=int, default=20, help="walks of three minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    engine = load_engine("pocket", weights=options.weights, device=options.device)
    metrics: list[Metric] = []
    for name, measure in PARTS.items():
        if not options.only or name in options.only:
            count = options.long_seeds if name == "long" else options.scenes
            for metric in measure(engine, count):
                print(_row(metric), flush=True)
                metrics.append(metric)
    values = {metric.name: round(metric.value, 4) for metric in metrics}
    missed = [metric.name for metric in metrics if metric.met is False]
    print(json.dumps({"evaluation": "pocket", **values, "missed": missed}))


def _row(metric: Metric) -> str:
    mark = {None: "", True: "met", False: "MISSED"}[metric.met]
    return f"{metric.name:46} {metric.value:10.3f} {metric.unit:8} {metric.target:12} {mark}"


if __name__ == "__main__":
    main()
