"""Checkpoints on disk."""

import pytest
import torch

from pocket.training.checkpoint import load_checkpoint, save_checkpoint


def test_checkpoints_come_in_small_files(tmp_path):
    content = {"weights": torch.arange(6e6)}
    save_checkpoint(tmp_path / "run.ckpt", content)
    sizes = [part.stat().st_size for part in (tmp_path / "run.ckpt").iterdir()]
    assert len(sizes) == 2 and max(sizes) <= 16e6
    assert torch.equal(load_checkpoint(tmp_path / "run.ckpt")["weights"], content["weights"])


@pytest.mark.parametrize("old", ["gone", "half deleted"])
def test_a_checkpoint_survives_a_kill_while_it_is_replaced(tmp_path, old):
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, {"step": 1})
    path.rename(tmp_path / "run.written")
    if old == "half deleted":
        path.mkdir()
        (path / "001").write_bytes(b"the last part")
    assert load_checkpoint(path) == {"step": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["run.ckpt"]
    assert load_checkpoint(tmp_path / "other.ckpt") is None
