"""Makes the pocket world: python -m lingbot.pocket.train PART, parts in order."""

import argparse
import logging
from pathlib import Path

import torch

from lingbot.pocket.data import render_bank
from lingbot.pocket.latents import encode_bank
from lingbot.pocket.train_dit import train_dit
from lingbot.pocket.train_vae import train_vae
from lingbot.pocket.whiten import whiten_vae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("bank", "vae", "whiten", "decoder", "latents", "dit"))
    parser.add_argument("--steps", type=int, default=600, help="training steps; clips of the bank")
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    log = logging.FileHandler(options.out / "train.log")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[log])
    if options.part == "bank":
        render_bank(options.out / "bank", num_clips=options.steps, seed=options.seed)
    elif options.part in ("vae", "decoder"):
        only = options.part == "decoder"
        train_vae(options.out, num_steps=options.steps, seed=options.seed, decoder_only=only)
    elif options.part == "whiten":
        whiten_vae(options.out)
    elif options.part == "latents":
        for mirrored in (False, True):
            encode_bank(options.out, mirrored=mirrored)
    else:
        train_dit(options.out, num_steps=options.steps, seed=options.seed)


if __name__ == "__main__":
    main()
