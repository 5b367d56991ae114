"""Ships a run: python -m pocket.package runs/pocket, and into another folder to try it.

With --unpack the other way: a part of a new run begins with the shipped weights, as by
`--unpack self` and then `train cpu --only bank latents self`.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lingbot.config import PRESETS, PRESETS_FOLDER
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import load_dit, save_dit
from pocket.training.dit import MODEL, STAGES
from pocket.training.run import load_checkpoint, save_checkpoint, save_tensors

SHIPPED = PRESETS_FOLDER / "pocket"
VAE_FILE = PRESETS["pocket"].vae_file


def package(run: Path, target: Path, *, share: float = 1.0) -> None:
    """Write the weights of a run's last full stage, in half precision, its config and its log.

    Of the DiT's weights this `share`; what is left of one is of those that the target holds. The
    mean of weights before and after some more training is often better than both.

    Raises FileNotFoundError where no stage of full pictures has begun, or the autoencoder is not
    finished, and ValueError for a share that is none; then the target is as it was.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be more than 0 and at most 1, not {share:g}")
    full = [name for name, stage in STAGES.items() if stage.size == "full"]
    checkpoints = [found for name in full if (found := load_checkpoint(run / f"{name}.ckpt"))]
    if not checkpoints:
        raise FileNotFoundError(f"{run} has none of {', '.join(f'{name}.ckpt' for name in full)}")
    model = WorldModel(MODEL)
    model.load_state_dict(checkpoints[-1]["average"])
    vae = {
        name: tensor if name.startswith("latents_") else tensor.half()
        for name, tensor in load_file(run / VAE_FILE).items()
    }
    if share < 1:
        before = load_dit(target, device=torch.device("cpu"), dtype=torch.float32).state_dict()
        for name, weight in model.state_dict().items():
            weight.copy_(torch.lerp(before[name], weight, share))
    log = (run / "train.log").read_bytes()
    save_dit(model.half(), target)
    save_file(vae, target / VAE_FILE)
    (target / "train.log").write_bytes(log)


def unpack(source: Path, run: Path, part: str) -> None:
    """Begin a run whose decoder, or stage `full` or `self`, goes on from what is shipped.

    Raises FileExistsError where there is a run already.
    """
    if run.exists():
        raise FileExistsError(f"{run} is there already: a new run wants a new folder")
    run.mkdir(parents=True)
    vae = {name: tensor.float() for name, tensor in load_file(source / VAE_FILE).items()}
    save_tensors(run / "whitened.safetensors", vae)
    if part != "decoder":
        save_tensors(run / VAE_FILE, vae)
    done = "self" if part == "decoder" else STAGES[part].after
    model = load_dit(source, device=torch.device("cpu"), dtype=torch.float32)
    save_checkpoint(run / f"{done}.ckpt", {"average": model.state_dict()})
    log = source / "train.log"
    if log.exists():
        shutil.copy(log, run)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="of the run in the DiT's weights; the rest is the target's",
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
            package(options.run, options.target, share=options.share)
    except (OSError, ValueError) as error:
        parser.error(str(error))
