"""Trains the pocket world: python -m pocket.train cpu. The same command resumes a stopped run.

The parts follow one another. Each part keeps its result in the run's folder and is done once.
"""

import argparse
import ctypes
import logging
import sys
import time
from pathlib import Path

import torch

from pocket.training.config import TrainingConfig
from pocket.training.dataset import render_dataset
from pocket.training.dit import train_dit
from pocket.training.latents import encode_dataset
from pocket.training.run import DeadlineReached, RunContext
from pocket.training.vae import train_decoder, train_vae
from pocket.training.whiten import whiten_vae

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
BATCH_FACTORS = {"cpu": 1, "gpu": 8}
# Clips of the dataset and steps of each training, in the order of the parts.
RECIPES = {
    "cpu": {
        "dataset": 800,
        "vae": 4000,
        "whiten": 0,
        "decoder": 1800,
        "latents": 0,
        "small": 2400,
        "full": 2500,
        "self": 600,
    },
    "gpu": {  # as far as one H100 came in 13 minutes
        "dataset": 3100,
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
    options = build_parser().parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.FileHandler(folder / "train.log"), logging.StreamHandler(sys.stdout)],
    )
    run = RunContext(
        folder=folder,
        device=torch.device("cuda" if options.recipe == "gpu" else "cpu"),
        config=TrainingConfig(),
        deadline=time.monotonic() + 60 * options.minutes,
        compiles=not options.eager,
        batch_factor=options.batch_factor or BATCH_FACTORS[options.recipe],
        num_processes=options.threads,
    )
    try:
        for part, size in RECIPES[options.recipe].items():
            if not options.only or part in options.only:
                run_part(run, part, options.steps or size, seed=options.seed, rate=options.rate)
    except DeadlineReached:
        sys.exit("deadline reached; everything is saved: run the same command again to resume")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"), help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="save and stop after this time"
    )
    parser.add_argument("--eager", action="store_true", help="do not compile the DiT")
    parser.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="of torch, and processes that render",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=RECIPES["cpu"],
        metavar="PART",
        help="do these parts only: " + ", ".join(RECIPES["cpu"]),
    )
    parser.add_argument("--steps", type=int, help="clips or steps of each part")
    parser.add_argument("--rate", type=float, help="peak learning rate of the DiT's stages")
    parser.add_argument("--batch-factor", type=int, help="multiplies the clips of a batch")
    return parser


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors in this process.

    By default glibc returns large blocks to the kernel at once and asks for them again. Encoding
    ten clips on two cores then took 8.3 s, half of it in the kernel, instead of 4.1 s.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def run_part(
    run: RunContext, part: str, size: int, *, seed: int, rate: float | None = None
) -> None:
    """Do one part of a recipe, or the rest of it. `size` is its number of clips or steps."""
    if part == "dataset":
        render_dataset(run, num_clips=size, seed=seed)
    elif part == "vae":
        if not (run.folder / "vae.safetensors").exists():
            train_vae(run, num_steps=size, seed=seed)
    elif part == "whiten":
        if not (run.folder / "whitened.safetensors").exists():
            whiten_vae(run)
    elif part == "decoder":
        if not (run.folder / "tiny_vae.safetensors").exists():
            train_decoder(run, num_steps=size, seed=seed)
    elif part == "latents":
        for size_name in run.config.sizes:
            encode_dataset(run, size_name)
    else:
        train_dit(run, part, num_steps=size, seed=seed, peak_rate=rate)


if __name__ == "__main__":
    main()
