"""The buffer of generated pasts."""

from dataclasses import replace
from random import Random

import pytest
import torch

from tests.pocket.conftest import require_cv2

require_cv2()

from pocket.training.batch import draw_batch
from pocket.training.rollout_buffer import RolloutBuffer

pytestmark = pytest.mark.xdist_group("pocket_run")


def test_some_clips_go_on_from_the_past_that_was_added_last(dataset, table):
    buffer = RolloutBuffer()
    batch = draw_batch(dataset, table, 8, Random(3))
    assert torch.equal(buffer.sample(batch, Random(0)).x0, batch.x0)
    buffer.add(replace(batch, x0=batch.x0 + 1))
    sampled = buffer.sample(batch, Random(0))
    assert torch.equal(sampled.truth, batch.truth)
    sink, recent = batch.kv_cache.clean.index(0), batch.kv_cache.clean.index(1)
    assert torch.equal(sampled.x0[:, sink], batch.x0[:, sink])
    difference = (sampled.x0 - batch.x0)[:, recent].flatten(1).mean(1)
    assert {round(float(each), 2) for each in difference} == {0.0, 1.0}
