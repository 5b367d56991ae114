"""The dataset on disk."""

import torch

from pocket.training.dataset import ClipDataset


def test_a_dataset_takes_in_clips_that_are_rendered_meanwhile(tmp_path):
    torch.save({"frames": torch.zeros(1, 5, 8, 8, 3)}, tmp_path / "0000010.pt")
    dataset = ClipDataset(tmp_path, torch.device("cpu"))
    torch.save({"frames": torch.ones(1, 5, 8, 8, 3)}, tmp_path / "0000000.pt")
    dataset.refresh()
    dataset.refresh()
    assert [shard.mean() for shard in dataset.shards] == [0, 1]
