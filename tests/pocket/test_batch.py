"""What the DiT trains on: beginnings, and parts far along with a sink from elsewhere."""

from random import Random

import torch

from lingbot.config import SCHEDULE_POCKET
from lingbot.dit.schedule import build_steps
from pocket.training import batch as batch_module
from pocket.training.batch import Words, draw_batch, predict_flow
from pocket.training.dit import MODEL
from pocket.training.latents import LatentBank


def test_training_is_told_the_timesteps_of_play(bank, monkeypatch):
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(0))
    told = {}
    monkeypatch.setattr(batch_module, "camera_maps", lambda *_: None)
    monkeypatch.setattr(batch_module, "prompt_maps", lambda *_: None)

    class Model:
        def prepare_chunk(self, **_):
            pass

        def __call__(self, x, timestep, _chunk):
            told["timestep"] = timestep
            return x

    for step in build_steps(SCHEDULE_POCKET):
        sigma = torch.full(batch.truth.shape[:2], step.sigma)
        predict_flow(Model(), batch, batch.x0, sigma)
        assert set(told["timestep"].unique().tolist()) == {0, step.timestep}


def test_batches_show_worlds_from_their_beginning_and_from_far_along(bank):
    random, words = Random(0), Words.of(bank, MODEL)
    batches = [draw_batch(bank, words, 2, random) for _ in range(40)]
    early = [batch for batch in batches if 0 in batch.memory.noisy]
    late = [batch for batch in batches if 0 not in batch.memory.noisy]
    assert early and late
    for batch in early:
        assert batch.positions[0].flatten().tolist() == [*range(15), *range(18)]
    assert max(int(batch.positions.max()) for batch in late) > 100
    assert {batch.memory.window for batch in late} == {3, 4}
    unsaid = [bool((batch.contexts[batch.prompts[0]] == 0).all()) for batch in batches]
    assert 0 < sum(unsaid) < len(unsaid) / 2


def test_a_sink_from_elsewhere_brings_its_picture_and_its_words(bank):
    marked = LatentBank(
        latents=torch.arange(4.0)[:, None, None, None, None].expand(4, 16, 18, 8, 14),
        conditions=torch.arange(4.0)[:, None, None, None, None].expand(4, 16, 6, 8, 14),
        poses=bank.poses,
        maps=bank.maps,
        prompts=[[str(i)] * 6 for i in range(4)],
        kin=[[1], [0], [3], [2]],
    )
    random, words = Random(1), Words.of(marked, MODEL)
    batches = [draw_batch(marked, words, 1, random) for _ in range(40)]
    elsewhere = [b for b in batches if b.x0[0, 0].mean() != b.x0[0, 1].mean()]
    assert elsewhere
    for batch in elsewhere:
        sink, clip = int(batch.x0[0, 0].mean()), int(batch.x0[0, 1].mean())
        assert marked.kin[clip] == [sink]
        assert (batch.condition[0, :, 4:] == sink).all()
        assert batch.memory.noisy == range(2, 6)
