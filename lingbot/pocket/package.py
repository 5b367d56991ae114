"""Ships a finished run: python -m lingbot.pocket.package runs/pocket."""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SHIPPED = Path(__file__).parent
VAE, DIT = "tiny_vae.safetensors", "diffusion_pytorch_model.safetensors"


def package(run: Path, target: Path) -> None:
    """Copy a run's weights, in half precision, its config and its log next to the code."""
    for source in (run / VAE, run / "dit" / DIT):
        tensors = load_file(source)
        halves = {
            name: tensor if name.startswith("latents_") else tensor.to(torch.float16)
            for name, tensor in tensors.items()
        }
        save_file(halves, target / source.name)
    shutil.copy(run / "dit" / "config.json", target / "config.json")
    shutil.copy(run / "train.log", target / "train.log")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    package(parser.parse_args().run, SHIPPED)
