"""Measures the pocket world against its renderer: python -m pocket.evaluate.

On scenes and walks that training never saw; prints a table, then one line of JSON. All that is
generated goes through the engine, as in play.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from lingbot.runtime.engine import Engine
from lingbot.runtime.presets import load_engine
from pocket.evaluation.figure import Figure
from pocket.evaluation.lasting import measure_long, measure_return
from pocket.evaluation.obedience import measure_keys, measure_rest, measure_turns
from pocket.evaluation.pictures import measure_autoencoder, measure_chunk
from pocket.evaluation.prompts import measure_prompts

PARTS: dict[str, Callable[[Engine, int], Iterable[Figure]]] = {
    "autoencoder": measure_autoencoder,
    "chunk": measure_chunk,
    "keys": measure_keys,
    "turns": measure_turns,
    "rest": measure_rest,
    "return": measure_return,
    "prompts": measure_prompts,
    "long": measure_long,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a folder; absent: the weights in the box")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=12, help="of each figure")
    parser.add_argument("--long-seeds", type=int, default=20, help="walks of three minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART")
    options = parser.parse_args()
    engine = load_engine("pocket", weights=options.weights, device=options.device)
    figures: list[Figure] = []
    for name, measure in PARTS.items():
        if not options.only or name in options.only:
            count = options.long_seeds if name == "long" else options.scenes
            for figure in measure(engine, count):
                print(_row(figure), flush=True)
                figures.append(figure)
    values = {figure.name: round(figure.value, 4) for figure in figures}
    missed = [figure.name for figure in figures if figure.met is False]
    print(json.dumps({"evaluation": "pocket", **values, "missed": missed}))


def _row(figure: Figure) -> str:
    mark = {None: "", True: "met", False: "MISSED"}[figure.met]
    return f"{figure.name:42} {figure.value:10.3f} {figure.unit:8} {figure.claim:12} {mark}"


if __name__ == "__main__":
    main()
