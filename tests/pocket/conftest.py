"""A run of the pocket world's training that is small and short, and a town by day."""

import pytest
import torch
from msgspec import structs

from pocket.renderer.conditions import Conditions
from pocket.renderer.scene import make_scene
from pocket.train import do_part
from pocket.training import dit, vae, whiten
from pocket.training.data import FIRST_HELD_OUT_SEED
from pocket.training.dit import MODEL
from pocket.training.latents import load_codec, load_latents
from pocket.training.run import Machine

CPU = torch.device("cpu")
HERE = Machine(CPU, compiles=False)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A run up to its latents: two clips, an autoencoder of two steps."""
    folder = tmp_path_factory.mktemp("pocket")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "BATCHES", ((1, 5),))
        patch.setattr(whiten, "MEASURED_FRAMES", 17)
        for part in ("bank", "vae", "whiten", "decoder", "latents"):
            do_part(part, folder, HERE, 2, seed=FIRST_HELD_OUT_SEED)
    return folder


@pytest.fixture(scope="session")
def bank(folder):
    return load_latents(folder, "small", device=CPU)


@pytest.fixture(scope="session")
def codec(folder):
    return load_codec(folder, device=CPU)


@pytest.fixture
def small_model(monkeypatch):
    """As the pocket world's, but quickly trained and saved."""
    small = structs.replace(MODEL, dim=48, ffn_dim=96, num_heads=2, num_layers=2)
    monkeypatch.setattr(dit, "MODEL", small)
    return small


@pytest.fixture
def no_sheets(monkeypatch):
    monkeypatch.setattr(dit, "held_out_clips", list)
    monkeypatch.setattr(dit, "save_rollouts", lambda *_, **__: [])


@pytest.fixture(scope="session")
def town():
    """By day."""
    scene = next(scene for scene in map(make_scene, range(100)) if scene.place == "town")
    return scene.under(Conditions(time="noon", weather="clear", ground="grass"))
