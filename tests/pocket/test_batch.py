"""Training batches: beginnings of walks, and later parts with a sink from another clip."""

from random import Random

import pytest
import torch

from tests.pocket.conftest import require_cv2

require_cv2()

from lingbot.config import SCHEDULE_POCKET
from lingbot.dit.model import WorldModel
from lingbot.dit.schedule import build_steps
from pocket.training.batch import PromptTable, draw_batch, predict_flow
from pocket.training.latents import LatentDataset

pytestmark = pytest.mark.xdist_group("pocket_run")


def test_training_has_the_timesteps_of_play(dataset, table, config):
    batch = draw_batch(dataset, table, 1, Random(0))
    model = WorldModel(config.model)
    seen = []
    model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    with torch.no_grad():
        for step in build_steps(SCHEDULE_POCKET):
            sigma = torch.full(batch.truth.shape[:2], step.sigma)
            predict_flow(model, batch, batch.x0, sigma)
            assert set(seen[-1].unique().tolist()) == {0, step.timestep}


def test_batches_show_worlds_from_their_beginning_and_from_far_along(dataset, table):
    random = Random(0)
    batches = [draw_batch(dataset, table, 2, random) for _ in range(40)]
    early = [batch for batch in batches if 0 in batch.kv_cache.noisy]
    late = [batch for batch in batches if 0 not in batch.kv_cache.noisy]
    assert early and late
    for batch in early:
        assert batch.positions[0].flatten().tolist() == [*range(15), *range(18)]
    assert max(int(batch.positions.max()) for batch in late) > 100
    assert {batch.kv_cache.window for batch in late} == {3, 4}
    dropped = [bool((batch.contexts[batch.prompt_rows[0]] == 0).all()) for batch in batches]
    assert 0 < sum(dropped) < len(dropped) / 2


def test_a_sink_from_another_clip_brings_its_image_and_its_prompt(dataset, config):
    marked = LatentDataset(
        latents=torch.arange(4.0)[:, None, None, None, None].expand(4, 16, 18, 4, 4),
        conditions=torch.arange(4.0)[:, None, None, None, None].expand(4, 16, 6, 4, 4),
        poses=dataset.poses,
        maps=dataset.maps,
        prompts=[[str(i)] * 6 for i in range(4)],
        same_conditions=[[1], [0], [3], [2]],
        rope_scale=(1.0, 1.0),
    )
    random, table = Random(1), PromptTable.of(marked, config.model)
    batches = [draw_batch(marked, table, 1, random) for _ in range(40)]
    other_sinks = [b for b in batches if b.x0[0, 0].mean() != b.x0[0, 1].mean()]
    assert other_sinks
    for batch in other_sinks:
        sink, clip = int(batch.x0[0, 0].mean()), int(batch.x0[0, 1].mean())
        assert marked.same_conditions[clip] == [sink]
        assert (batch.condition[0, :, 4:] == sink).all()
        assert batch.kv_cache.noisy == range(2, 6)
