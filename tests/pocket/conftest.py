"""A small world, a run of its training up to the latents, and scenes to measure on."""

import os
from pathlib import Path

import pytest


def require_cv2():
    """Skip the calling module if OpenCV is missing. CI must have it, so there the import fails."""
    if os.environ.get("CI") == "true":
        import cv2
    else:
        cv2 = pytest.importorskip("cv2")
    cv2.setNumThreads(1)  # frames are small: a second thread would mostly spin


SMALL = {"width": 48, "height": 32}
MEDIUM = {"width": 112, "height": 64}  # the least size at which optical flow can be measured
FULL = {"width": 208, "height": 128}
CLEAR_NOON = {"time": "noon", "weather": "clear", "ground": "grass"}


def sizes(*plain):
    """Parametrize `size` over these sizes, and over the full size under its marker."""
    cases = [pytest.param(size, id=f"{size['width']}x{size['height']}") for size in plain]
    cases.append(pytest.param(FULL, id="full", marks=pytest.mark.slow))
    return pytest.mark.parametrize("size", cases)


def scene_by_day(seed, place):
    from pocket.renderer.conditions import Conditions
    from pocket.renderer.scene import make_scene

    scene = make_scene(seed)
    assert scene.place == place
    return scene.under(Conditions(**CLEAR_NOON))


@pytest.fixture(scope="session")
def town():
    """A renderer of a town by day, one of the scenes with most in it."""
    from pocket.renderer.render import Renderer

    return Renderer(scene_by_day(1, "town"))


@pytest.fixture(scope="session")
def plain():
    """A renderer of a plain by day: few objects, yet textured enough for flow in small frames."""
    from pocket.renderer.render import Renderer

    return Renderer(scene_by_day(8, "plain"))


@pytest.fixture(scope="session")
def config():
    """A world of 48x32 pixels that trains in seconds."""
    from lingbot.config import ModelConfig
    from pocket.training.config import StageConfig, TrainingConfig, VaeConfig

    stages = {
        "small": StageConfig(size="small", num_clips=1, peak_rate=1e-3, after=None),
        "full": StageConfig(size="full", num_clips=1, peak_rate=1e-3, after="small"),
        "self": StageConfig(
            size="full", num_clips=1, peak_rate=1e-3, after="full", self_forcing=True
        ),
    }
    return TrainingConfig(
        size=SMALL,
        small_size={"width": 32, "height": 32},
        vae=VaeConfig(
            encoder_channels=(8, 8, 8, 8),
            decoder_channels=(8, 8, 8, 8),
            batches=((1, 5),),
            whitened_frames=17,
        ),
        model=ModelConfig(
            dim=24, ffn_dim=32, freq_dim=16, num_heads=2, num_layers=2, text_dim=64, text_len=16
        ),
        stages=stages,
        num_rollout_clips=0,
    )


PARTS = ("dataset", "vae", "whiten", "decoder", "latents")


@pytest.fixture(scope="session")
def run(tmp_path_factory, config):
    """A run of two clips up to its latents, with two steps for each training."""
    import torch

    from pocket.train import run_part
    from pocket.training.clips import FIRST_HELD_OUT_SEED
    from pocket.training.run import RunContext

    run = RunContext(
        folder=Path(tmp_path_factory.mktemp("run")),
        device=torch.device("cpu"),
        config=config,
        compiles=False,
    )
    for part in PARTS:
        run_part(run, part, 2, seed=FIRST_HELD_OUT_SEED)
    return run


@pytest.fixture(scope="session")
def dataset(run):
    from pocket.training.latents import load_latents

    return load_latents(run, "small")


@pytest.fixture(scope="session")
def table(dataset, config):
    from pocket.training.batch import PromptTable

    return PromptTable.of(dataset, config.model)


@pytest.fixture(scope="session")
def codec(run):
    from pocket.training.latents import load_codec

    return load_codec(run.folder, device=run.device)
