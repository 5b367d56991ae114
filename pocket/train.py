"""Makes the pocket world: python -m pocket.train cpu, and again where it was cut off.

The parts follow one another; each leaves its result in the run's folder and is not done twice.
"""

import argparse
import ctypes
import logging
import sys
import time
from pathlib import Path

import torch

from pocket.training.data import render_bank
from pocket.training.dit import STAGES, train_dit
from pocket.training.latents import SIZES, encode_bank
from pocket.training.run import Machine, OutOfTime
from pocket.training.vae import train_decoder, train_vae
from pocket.training.whiten import whiten_vae

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
BATCH_FACTORS = {"cpu": 1, "gpu": 8}  # times the clips of a step on a CPU
# Clips of the bank, steps of the trainings; in the order in which they are done.
RECIPES = {
    "cpu": {
        "bank": 800,
        "vae": 4000,
        "whiten": 0,
        "decoder": 1800,
        "latents": 0,
        "small": 2400,
        "full": 2500,
        "self": 600,
    },
    "gpu": {  # what one H100 got through in 13 minutes
        "bank": 3100,
        "vae": 2620,
        "whiten": 0,
        "decoder": 1460,
        "latents": 0,
        "small": 335,
        "full": 1836,
        "self": 635,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"), help="the run's folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="save and stop then")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--only", nargs="+", choices=RECIPES["cpu"], metavar="PART", help="these parts alone"
    )
    parser.add_argument("--steps", type=int, help="instead of the recipe's, of each part")
    parser.add_argument("--rate", type=float, help="the DiT's highest, instead of its stage's")
    parser.add_argument("--batch-factor", type=int, help="instead of the recipe's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.FileHandler(folder / "train.log"), logging.StreamHandler(sys.stdout)],
    )
    device = torch.device("cuda" if options.recipe == "gpu" else "cpu")
    deadline = time.monotonic() + 60 * options.minutes
    batch_factor = options.batch_factor or BATCH_FACTORS[options.recipe]
    machine = Machine(device, deadline, compiles=not options.eager, batch_factor=batch_factor)
    try:
        for part, steps in RECIPES[options.recipe].items():
            if not options.only or part in options.only:
                steps = options.steps or steps
                do_part(part, folder, machine, steps, options.seed, rate=options.rate)
    except OutOfTime:
        sys.exit("out of time; what there is is saved: run it again to go on")


def keep_memory() -> None:
    """Let the memory of freed tensors stay with this process.

    glibc gives large blocks back at once, and asks for them again. To encode ten clips on two cores
    took 8.3 s so, half of it in the kernel, and takes 4.1.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def do_part(
    part: str, folder: Path, machine: Machine, steps: int, seed: int, *, rate: float | None = None
) -> None:
    """One part of a recipe, or what is left of it."""
    if part == "bank":
        render_bank(folder / "bank", machine, num_clips=steps, seed=seed)
    elif part == "vae":
        if not (folder / "vae.safetensors").exists():
            train_vae(folder, machine, num_steps=steps, seed=seed)
    elif part == "whiten":
        if not (folder / "whitened.safetensors").exists():
            whiten_vae(folder, machine.device)
    elif part == "decoder":
        if not (folder / "tiny_vae.safetensors").exists():
            train_decoder(folder, machine, num_steps=steps, seed=seed)
    elif part == "latents":
        for size in SIZES:
            encode_bank(folder, size, machine)
    else:
        assert part in STAGES
        train_dit(folder, machine, part, num_steps=steps, seed=seed, peak_rate=rate)


if __name__ == "__main__":
    main()
