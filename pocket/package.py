"""Ships the weights of a run: python -m pocket.package runs/pocket [FOLDER].

With --unpack, copies the other way: a part of a new run then begins with the shipped weights, as in
`--unpack self` and then `python -m pocket.train cpu --only dataset latents self`.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lingbot.config import PRESETS, PRESETS_FOLDER
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import load_dit, save_dit
from pocket.training.checkpoint import load_checkpoint, save_checkpoint, save_tensors
from pocket.training.config import STAGES, TrainingConfig

SHIPPED = PRESETS_FOLDER / "pocket"
VAE_FILE = PRESETS["pocket"].vae_file
SHIPPED_LOG = Path(__file__).parent / "train.log"  # beside the model card


def package(run: Path, target: Path, config: TrainingConfig, *, lerp: float = 1.0) -> None:
    """Write the weights of a run's last full-size stage in half precision, its config and its log.

    With `lerp` below 1, the DiT's weights are interpolated from those in `target` to the run's. The
    mean of the weights before and after a short training is often better than both.

    Raises FileNotFoundError if no full-size stage has begun or the autoencoder is not finished, and
    ValueError for a `lerp` outside (0, 1]. Then `target` does not change.
    """
    if not 0 < lerp <= 1:
        raise ValueError(f"lerp must be more than 0 and at most 1, not {lerp:g}")
    names = [f"{name}.ckpt" for name, stage in config.stages.items() if stage.size == "full"]
    checkpoints = [found for name in names if (found := load_checkpoint(run / name))]
    if not checkpoints:
        raise FileNotFoundError(f"{run} has none of {', '.join(names)}")
    model = WorldModel(config.model)
    model.load_state_dict(checkpoints[-1]["average"])
    vae = {
        name: tensor if name.startswith("latents_") else tensor.half()
        for name, tensor in load_file(run / VAE_FILE).items()
    }
    if lerp < 1:
        before = load_dit(target, device=torch.device("cpu"), dtype=torch.float32).state_dict()
        for name, weight in model.state_dict().items():
            weight.copy_(torch.lerp(before[name], weight, lerp))
    log = (run / "train.log").read_bytes()
    save_dit(model.half(), target)
    save_file(vae, target / VAE_FILE)
    _log_of(target).write_bytes(log)


def unpack(source: Path, run: Path, part: str) -> None:
    """Begin a run whose part `decoder`, `full` or `self` continues from shipped weights.

    Raises FileExistsError if the run exists.
    """
    if run.exists():
        raise FileExistsError(f"{run} exists; a new run needs a new folder")
    run.mkdir(parents=True)
    vae = {name: tensor.float() for name, tensor in load_file(source / VAE_FILE).items()}
    save_tensors(run / "whitened.safetensors", vae)
    if part != "decoder":
        save_tensors(run / VAE_FILE, vae)
    done = "self" if part == "decoder" else STAGES[part].after
    model = load_dit(source, device=torch.device("cpu"), dtype=torch.float32)
    save_checkpoint(run / f"{done}.ckpt", {"average": model.state_dict()})
    if _log_of(source).exists():
        shutil.copy(_log_of(source), run / "train.log")


def _log_of(weights: Path) -> Path:
    """Return the path of the training log of a folder of weights."""
    return SHIPPED_LOG if weights == SHIPPED else weights / "train.log"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument(
        "target", type=Path, nargs="?", default=SHIPPED, help="folder of weights; default: shipped"
    )
    parser.add_argument(
        "--lerp",
        type=float,
        default=1.0,
        help="interpolate the DiT's weights from the target's (0) to the run's (1)",
    )
    parser.add_argument(
        "--unpack",
        choices=("decoder", "full", "self"),
        help="begin this part of a new run with the target's weights",
    )
    options = parser.parse_args()
    try:
        if options.unpack:
            unpack(options.target, options.run, options.unpack)
        else:
            package(options.run, options.target, TrainingConfig(), lerp=options.lerp)
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
