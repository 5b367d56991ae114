"""The context of a run."""

from pathlib import Path

import pytest
import torch

from pocket.training.config import TrainingConfig
from pocket.training.run import RunContext


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matrix_products_have_the_type_of_the_run(dtype):
    run = RunContext(
        folder=Path(), device=torch.device("cpu"), config=TrainingConfig(), dtype=dtype
    )
    with run.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype
