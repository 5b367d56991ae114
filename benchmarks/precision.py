"""The error of each precision and speed switch: `python -m benchmarks.precision [FOLDER ...]`.

Reruns golden rollouts, whose weights are random, and walks five chunks of the pocket world, whose
weights are trained. Each is compared with the same in float32: the flows of all passes, and the
clean latents. A rollout's noise is recorded, but its chunks attend to its own past.

8-bit products run on a CPU here, by the same formula as on a GPU. `float32` against the recorded
flows of the public reference is the first row of a rollout. Prints tables, then one JSON line.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.local_server import ROOT
from benchmarks.printing import Row, print_json, print_table
from benchmarks.random_world import WALK, random_spec
from lingbot.dit.fp8 import quantise_blocks
from lingbot.dit.model import WorldModel
from lingbot.dit.precision import cast_weights
from lingbot.dit.weights import load_dit
from lingbot.parallel.ulysses import SINGLE
from lingbot.runtime.presets import load_engine
from lingbot.verify.dit import (
    ROLLOUT_FILE,
    ROLLOUT_INPUTS,
    ROLLOUT_OUTPUTS,
    empty_window,
    find_schedule,
    rerun,
)
from lingbot.verify.recorded import read_recorded, relative_error

BFLOAT16 = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Variant:
    """A model with some switches, made in place from one in float32."""

    prepare: Callable[[WorldModel], WorldModel]
    dtype: torch.dtype = BFLOAT16  # the KV window's and the prompt's


VARIANTS = {
    "float32, compiled": Variant(lambda model: model.fuse().compile_blocks(), torch.float32),
    "every weight bfloat16": Variant(lambda model: model.to(BFLOAT16).fuse()),
    "bfloat16": Variant(lambda model: cast_weights(model, BFLOAT16).fuse()),
    "bfloat16, compiled": Variant(
        lambda model: cast_weights(model, BFLOAT16).fuse().compile_blocks()
    ),
    "bfloat16, fp8": Variant(lambda model: quantise_blocks(cast_weights(model, BFLOAT16))),
}
PLAIN = Variant(lambda model: model.fuse(), torch.float32)


@torch.inference_mode()
def rerun_rollout(folder: Path, variant: Variant) -> tuple[Tensor, Tensor, Tensor]:
    """Flows and clean latents of a golden rollout, and the recorded flows."""
    model = load_dit(folder, device=torch.device("cpu"), dtype=torch.float32)
    recorded = read_recorded(folder / ROLLOUT_FILE, ROLLOUT_INPUTS, ROLLOUT_OUTPUTS)
    window = empty_window(model, folder, recorded, SINGLE, dtype=variant.dtype)
    model = variant.prepare(model)
    flows, latents = rerun(model, window, recorded, find_schedule(recorded), SINGLE)
    return flows, latents, recorded["flow_pred"]


def measure_rollout(folder: Path) -> dict[str, Row]:
    """Relative errors by variant. `first` is the first pass of the first chunk."""
    flows, latents, reference = rerun_rollout(folder, PLAIN)
    rows: dict[str, Row] = {
        "float32, to the reference": {
            "first": shown(relative_error(flows[0, 0], reference[0, 0])),
            "flows": shown(relative_error(flows, reference)),
            "latents": "",
        }
    }
    for name, variant in VARIANTS.items():
        ours, clean, _ = rerun_rollout(folder, variant)
        rows[name] = {
            "first": shown(relative_error(ours[0, 0], flows[0, 0])),
            "flows": shown(relative_error(ours, flows)),
            "latents": shown(relative_error(clean, latents)),
        }
    return rows


def walk_pocket(variant: Variant) -> list[Tensor]:
    """The clean latents of five chunks of the pocket world."""
    engine = load_engine("pocket", dtype=torch.float32)
    engine.model = variant.prepare(engine.model)
    engine.dtype = variant.dtype
    session = engine.open(random_spec(engine.config))
    return [engine.denoise(session, actions) for actions in WALK]


def measure_pocket() -> dict[str, Row]:
    """Relative errors by variant and chunk: they grow, because each chunk goes on from the last."""
    exact = walk_pocket(PLAIN)
    rows: dict[str, Row] = {}
    for name, variant in VARIANTS.items():
        pairs = zip(walk_pocket(variant), exact, strict=True)
        rows[name] = {
            f"chunk {index}": shown(relative_error(ours, reference))
            for index, (ours, reference) in enumerate(pairs)
        }
    return rows


def shown(error: float) -> float:
    return float(f"{error:.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    golden = sorted((ROOT / "tests" / "golden").glob("dit_*"))
    parser.add_argument("folders", type=Path, nargs="*", default=golden, help="golden rollouts")
    options = parser.parse_args()
    tables = {folder.name: measure_rollout(folder) for folder in options.folders}
    tables["pocket"] = measure_pocket()
    for name, rows in tables.items():
        print_table(f"{name}: relative error against float32", rows)
    print_json("precision", {"torch": torch.__version__, "errors": tables})


if __name__ == "__main__":
    main()
