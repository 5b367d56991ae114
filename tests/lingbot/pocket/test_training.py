"""The recipe's parts on a run that is small and short, and what they leave behind."""

import logging
from dataclasses import replace
from random import Random

import pytest
import torch
import torch.nn.functional as F
from msgspec import structs
from safetensors.torch import load_file
from torch import nn

from lingbot.config import SCHEDULE_POCKET
from lingbot.load import load_engine
from lingbot.model import WorldModel
from lingbot.pocket.package import SHIPPED, package, unpack
from lingbot.pocket.train import do_part
from lingbot.pocket.training import batch as batch_module
from lingbot.pocket.training import dit, self_forcing, vae, whiten
from lingbot.pocket.training.batch import Words, draw_batch, predict_flow
from lingbot.pocket.training.critic import Critic
from lingbot.pocket.training.data import FIRST_HELD_OUT_SEED, Footage
from lingbot.pocket.training.dit import MODEL, Training
from lingbot.pocket.training.latents import LatentBank, load_codec, load_latents
from lingbot.pocket.training.roughness import liveliness, roughness
from lingbot.pocket.training.run import (
    Machine,
    Muon,
    OutOfTime,
    load_checkpoint,
    orthogonal,
    save_checkpoint,
)
from lingbot.pocket.training.self_forcing import (
    LEVELS,
    OwnPasts,
    fade,
    learn_own_step,
    own_past,
    with_faded_past,
)
from lingbot.schedule import build_steps

CPU = torch.device("cpu")
HERE = Machine(CPU, compiles=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run up to its latents: two clips, an autoencoder of two steps."""
    folder = tmp_path_factory.mktemp("pocket")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "BATCHES", ((1, 5),))
        patch.setattr(whiten, "MEASURED_FRAMES", 17)
        for part in ("bank", "vae", "whiten", "decoder", "latents"):
            do_part(part, folder, HERE, 2, seed=FIRST_HELD_OUT_SEED)
    return folder


@pytest.fixture(scope="module")
def bank(folder):
    return load_latents(folder, "small", device=CPU)


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


def test_latents_are_of_both_sizes_and_white(folder, bank):
    full = load_latents(folder, "full", device=CPU)
    assert bank.latents.shape == (4, 16, 18, 8, 14)  # two clips and their mirror images
    assert full.latents.shape == (2, 16, 18, 16, 26)
    assert full.spacing == (1, 1)
    assert bank.spacing == (2, 13 / 7)
    covariance = torch.cov(full.latents.float().transpose(0, 1).flatten(1))
    assert covariance.diagonal() == pytest.approx(torch.ones(16), rel=0.5)


def test_a_part_that_is_done_is_not_done_again(folder, caplog):
    caplog.set_level(logging.INFO)
    for part in ("bank", "vae", "whiten", "decoder", "latents"):
        do_part(part, folder, HERE, 2, seed=FIRST_HELD_OUT_SEED)
    assert not caplog.records


def test_a_stage_that_was_cut_off_goes_on(folder, no_sheets, small_model, monkeypatch):
    late = Machine(CPU, deadline=0, compiles=False)
    monkeypatch.setitem(dit.STAGES, "small", dit.Stage("small", 1, 1e-3, after=None))
    for step in (1, 2):
        with pytest.raises(OutOfTime):
            do_part("small", folder, late, 3, seed=0)
        assert load_checkpoint(folder / "small.ckpt")["step"] == step
    do_part("small", folder, HERE, 3, seed=0)
    finished = load_checkpoint(folder / "small.ckpt")
    assert finished["step"] == 3
    begun = Training.resume(folder, "full", seed=0, device=CPU)
    assert begun.step == 0
    for name, weight in begun.model.state_dict().items():
        assert torch.equal(weight, finished["average"][name])


def test_the_last_full_stage_is_shipped(folder, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("tiny_vae.safetensors", "train.log"):
        source = folder / name
        (tmp_path / "run" / name).write_bytes(source.read_bytes() if source.exists() else b"")
    with pytest.raises(FileNotFoundError, match=r"none of full\.ckpt, self\.ckpt"):
        package(tmp_path / "run", tmp_path / "box")
    models = {name: WorldModel(MODEL).state_dict() for name in ("full", "self")}
    for name, weights in models.items():
        save_checkpoint(tmp_path / "run" / f"{name}.ckpt", {"average": weights})
    for share in (0, 1.5):
        with pytest.raises(ValueError, match=f"at most 1, not {share}"):
            package(tmp_path / "run", tmp_path / "box", share=share)
    package(tmp_path / "run", tmp_path / "box")
    shipped = load_engine("pocket", weights=tmp_path / "box", dtype=torch.float32).model
    assert shipped.config == MODEL
    torch.testing.assert_close(shipped.state_dict(), models["self"], rtol=1e-3, atol=1e-3)
    save_checkpoint(tmp_path / "run" / "self.ckpt", {"average": models["full"]})
    package(tmp_path / "run", tmp_path / "box", share=0.25)
    mixed = load_engine("pocket", weights=tmp_path / "box", dtype=torch.float32).model
    for name, weight in mixed.state_dict().items():
        mean = 0.25 * models["full"][name] + 0.75 * models["self"][name]
        torch.testing.assert_close(weight, mean, rtol=2e-3, atol=2e-3)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "box").iterdir()}
    for name in ("train.log", "tiny_vae.safetensors"):
        (tmp_path / "run" / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            package(tmp_path / "run", tmp_path / "box")
    assert {path.name: path.read_bytes() for path in (tmp_path / "box").iterdir()} == whole


@pytest.mark.parametrize("stage", ["full", "self"])
def test_a_run_goes_on_from_shipped_weights(tmp_path, stage):
    unpack(SHIPPED, tmp_path / "more", stage)
    begun = Training.resume(tmp_path / "more", stage, seed=0, device=CPU)
    shipped = load_engine("pocket", dtype=torch.float32)
    assert begun.step == 0
    torch.testing.assert_close(begun.model.state_dict(), shipped.model.state_dict())
    codec = load_codec(tmp_path / "more", device=CPU)
    picture = torch.rand(1, 3, 128, 208)
    torch.testing.assert_close(
        codec.encode_condition(picture, chunk=3), shipped.codec.encode_condition(picture, chunk=3)
    )
    with pytest.raises(FileExistsError):
        unpack(SHIPPED, tmp_path / "more", stage)


def test_a_decoder_goes_on_from_shipped_weights_and_the_rest_stays(folder, tmp_path):
    run, box = tmp_path / "run", tmp_path / "box"
    unpack(SHIPPED, run, "decoder")
    (run / "bank").symlink_to(folder / "bank")
    do_part("decoder", run, HERE, 1, seed=0)
    package(run, box)
    before, after = (load_file(at / "tiny_vae.safetensors") for at in (SHIPPED, box))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    models = [load_engine("pocket", weights=at, dtype=torch.float32).model for at in (SHIPPED, box)]
    torch.testing.assert_close(*(model.state_dict() for model in models))


def test_a_stage_wants_the_one_before(tmp_path):
    with pytest.raises(FileNotFoundError, match="stage full goes on there"):
        Training.resume(tmp_path, "full", seed=0, device=CPU)


def test_checkpoints_come_in_small_files(tmp_path):
    content = {"weights": torch.arange(6e6)}
    save_checkpoint(tmp_path / "run.ckpt", content)
    sizes = [part.stat().st_size for part in (tmp_path / "run.ckpt").iterdir()]
    assert len(sizes) == 2 and max(sizes) <= 16e6
    assert torch.equal(load_checkpoint(tmp_path / "run.ckpt")["weights"], content["weights"])


@pytest.mark.parametrize("old", ["gone", "half deleted"])
def test_a_checkpoint_survives_a_kill_while_it_takes_its_place(tmp_path, old):
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, {"step": 1})
    path.rename(tmp_path / "run.written")
    if old == "half deleted":
        path.mkdir()
        (path / "001").write_bytes(b"the end of it")
    assert load_checkpoint(path) == {"step": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["run.ckpt"]
    assert load_checkpoint(tmp_path / "other.ckpt") is None


def test_training_is_told_the_timesteps_of_play(bank, monkeypatch):
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(0))
    told = {}
    monkeypatch.setattr(batch_module, "camera_maps", lambda *_: None)
    monkeypatch.setattr(batch_module, "prompt_maps", lambda *_: None)

    def forward(x, *, timestep, **_):
        told["timestep"] = timestep
        return x

    for step in build_steps(SCHEDULE_POCKET):
        sigma = torch.full(batch.truth.shape[:2], step.sigma)
        predict_flow(forward, batch, batch.x0, sigma)
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


def test_with_perfect_steps_the_past_is_the_truth_and_nothing_is_lost(bank, monkeypatch):
    torch.manual_seed(0)
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    levels = set()

    def perfect(_model, batch, x, sigma):
        levels.update(round(float(level), 3) for level in sigma.flatten())
        noisy, wide = x[:, batch.num_clean :], sigma[..., None, None, None, None]
        return torch.where(wide > 0, (noisy - batch.truth) / wide.clamp(min=1e-6), 0.0)

    monkeypatch.setattr(self_forcing, "predict_flow", perfect)
    for seed in range(8):
        past = own_past(None, batch, Random(seed))
        torch.testing.assert_close(past.x0, batch.x0, rtol=0, atol=1e-4)
    assert levels == {round(level, 3) for level in LEVELS}
    levels.clear()
    slip = torch.zeros((), requires_grad=True)
    monkeypatch.setattr(self_forcing, "predict_flow", lambda *told: perfect(*told) + slip)
    for seed in range(8):
        assert learn_own_step(None, None, batch, Critic(CPU), Random(seed)) < 1e-6
    assert levels == {round(level, 3) for level in LEVELS}
    assert slip.grad is not None


def test_a_clip_counts_by_its_own_contrast(bank, monkeypatch):
    dim = replace(bank, latents=torch.cat([bank.latents[:1], 0.5 * bank.latents[:1]]))
    assert dim.contrast[0] == pytest.approx(2 * dim.contrast[1].item())
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    dimmer = replace(batch, x0=0.5 * batch.x0, contrast=0.5 * batch.contrast)

    def nearly(_model, batch, x, sigma):
        noisy, wide = x[:, batch.num_clean :], sigma[..., None, None, None, None]
        return (noisy - 1.1 * batch.truth) / wide + slip

    slip = torch.zeros((), requires_grad=True)
    monkeypatch.setattr(self_forcing, "predict_flow", nearly)
    losses = [learn_own_step(None, None, told, Critic(CPU), Random(0)) for told in (batch, dimmer)]
    assert losses[0] > 0
    torch.testing.assert_close(losses[0], losses[1])


def test_what_is_as_rough_as_the_truth_is_better_than_what_is_smooth(bank, monkeypatch):
    torch.manual_seed(0)
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    batch = replace(batch, x0=torch.randn_like(batch.x0), contrast=torch.ones(1))
    amount = torch.tensor(0.5, requires_grad=True)

    def something_else(_model, batch, x, sigma):
        made = amount * torch.randn_like(batch.truth)
        return (x[:, batch.num_clean :] - made) / sigma[..., None, None, None, None]

    monkeypatch.setattr(self_forcing, "predict_flow", something_else)
    learn_own_step(None, None, batch, Critic(CPU), Random(0))
    assert amount.grad < 0  # an error alone would draw the amount to 0


def test_roughness_is_told_from_blur_and_not_from_place():
    torch.manual_seed(0)
    grass = torch.rand(2, 3, 16, 24)
    rough = {"neighbourhood": 8, "least": 1e-3}
    assert roughness(grass, **rough).shape == (2, 3, 3, 5)
    blurred = F.avg_pool2d(grass, 3, stride=1, padding=1)
    assert (roughness(blurred, **rough) < 0.5 * roughness(grass, **rough)).all()
    elsewhere = roughness(grass.roll((5, 7), (2, 3)), **rough)
    assert elsewhere.mean() == pytest.approx(roughness(grass, **rough).mean().item(), rel=0.02)
    plain = torch.zeros(1, 1, 8, 8, requires_grad=True)
    roughness(plain, **rough).sum().backward()
    assert torch.isfinite(plain.grad).all()


def test_liveliness_grows_with_the_way_and_not_with_what_stands():
    torch.manual_seed(0)
    lively = {"neighbourhood": 4, "least": 1e-3}
    picture = F.avg_pool2d(torch.rand(1, 3, 24, 32), 9, stride=1, padding=4)
    still = liveliness(picture[:, None].expand(-1, 3, -1, -1, -1), **lively)
    assert still.shape == (2, 3, 11, 15)
    torch.testing.assert_close(still, torch.full_like(still, 1e-3))
    walks = [
        torch.stack([picture.roll(frame * way, 3) for frame in range(3)], dim=1) for way in (1, 2)
    ]
    slow, fast = (liveliness(walk, **lively).mean() for walk in walks)
    assert 1.5 * slow < fast < 2 * slow


def test_what_moves_as_far_as_the_truth_is_better_than_what_lags(bank, monkeypatch):
    torch.manual_seed(0)
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    shape = batch.x0.shape
    place = torch.randn(shape[0], shape[1], shape[2], 1, *shape[4:])
    x0 = place + 0.3 * torch.randn(shape)
    batch = replace(batch, x0=x0, contrast=torch.ones(1))
    amount = torch.tensor(0.5, requires_grad=True)
    monkeypatch.setattr(self_forcing, "ROUGHNESS", 0.0)

    def elsewhere(_model, batch, x, sigma):
        still = place[:, batch.num_clean :].expand_as(batch.truth)
        made = still + amount * 0.3 * torch.randn_like(batch.truth)
        return (x[:, batch.num_clean :] - made) / sigma[..., None, None, None, None]

    monkeypatch.setattr(self_forcing, "predict_flow", elsewhere)
    learn_own_step(None, None, batch, Critic(CPU), Random(0))
    assert amount.grad < 0


def test_a_past_is_taken_up_where_the_model_left_it(bank):
    pasts = OwnPasts()
    batch = draw_batch(bank, Words.of(bank, MODEL), 8, Random(3))
    assert torch.equal(pasts.recall(batch, Random(0)).x0, batch.x0)
    pasts.keep(replace(batch, x0=batch.x0 + 1))
    recalled = pasts.recall(batch, Random(0))
    assert torch.equal(recalled.truth, batch.truth)
    sink, recent = batch.memory.clean.index(0), batch.memory.clean.index(1)
    assert torch.equal(recalled.x0[:, sink], batch.x0[:, sink])
    apart = (recalled.x0 - batch.x0)[:, recent].flatten(1).mean(1)
    assert {round(float(each), 2) for each in apart} == {0.0, 1.0}


def test_a_past_of_ones_own_is_not_the_truth(bank, monkeypatch):
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    monkeypatch.setattr(self_forcing, "predict_flow", lambda _model, batch, x, _: 0 * batch.truth)
    past = own_past(None, batch, Random(0))
    assert torch.equal(past.truth, batch.truth)
    made = [number in batch.memory.noisy for number in batch.memory.clean]
    moved = (past.x0 != batch.x0)[0, : batch.num_clean].flatten(1).any(1).tolist()
    assert moved == made


def test_a_faded_past_keeps_its_sink_and_what_it_should_come_to(bank):
    batch = draw_batch(bank, Words.of(bank, MODEL), 8, Random(3))
    sink, recent = batch.memory.clean.index(0), batch.memory.clean.index(1)
    faded = with_faded_past(batch, Random(0))
    assert torch.equal(faded.truth, batch.truth)
    assert torch.equal(faded.x0[:, sink], batch.x0[:, sink])
    changed = (faded.x0[:, recent] != batch.x0[:, recent]).flatten(1).any(1)
    assert 0 < changed.sum() < len(changed)
    kept = faded.x0[:, recent].std((-2, -1)) <= batch.x0[:, recent].std((-2, -1)) + 1e-6
    assert kept.all()


def test_fading_keeps_each_channels_mean():
    latents = torch.randn(2, 16, 3, 8, 14)
    assert torch.equal(fade(latents, 0, 1.0), latents)
    pale = fade(latents, 0, 0.25)
    torch.testing.assert_close(pale.mean((-2, -1)), latents.mean((-2, -1)))
    torch.testing.assert_close(pale.std((-2, -1)), 0.25 * latents.std((-2, -1)))
    steps = [fade(latents, blurs, 1.0).diff(dim=-1).abs().mean() for blurs in range(4)]
    assert steps == sorted(steps, reverse=True)


def test_poses_are_worth_nothing_to_a_model_that_is_deaf_to_them(bank, monkeypatch):
    batch = draw_batch(bank, Words.of(bank, MODEL), 2, Random(0))
    batch = replace(batch, poses=torch.arange(batch.poses.numel()).view_as(batch.poses))
    told = []

    def deaf(_model, batch, x, _sigma):
        told.append(batch.poses)
        return 0 * batch.truth

    monkeypatch.setattr(dit, "predict_flow", deaf)
    assert dit.camera_worth(None, batch) == 0
    assert torch.equal(told[0], batch.poses) and torch.equal(told[1], batch.poses.flip(0))


def test_flow_matching_moves_the_weights(bank, small_model, tmp_path):
    training = Training.resume(tmp_path, "small", seed=0, device=CPU)
    training.model.spacing = bank.spacing
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(0))
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        losses.append(training.learn(batch, Random(0)))
        training.advance(1e-3)
    assert losses[-1] < losses[0]


def test_forcing_itself_moves_the_weights_and_goes_on_where_it_was_cut_off(
    bank, small_model, tmp_path
):
    save_checkpoint(tmp_path / "full.ckpt", {"average": WorldModel(small_model).state_dict()})
    training = Training.resume(tmp_path, "self", seed=0, device=CPU)
    before = training.model.head.head.weight.clone()
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(0))
    training.learn(batch, Random(0))
    training.advance(1e-3)
    assert not torch.equal(training.model.head.head.weight, before)
    training.save(tmp_path)
    resumed = Training.resume(tmp_path, "self", seed=0, device=CPU)
    assert resumed.step == resumed.critic.step == 1


def test_the_decoder_changes_no_latent(folder):
    before, after = (load_file(folder / f"{name}.safetensors") for name in ("whitened", "tiny_vae"))
    names = [name for name in before if name.startswith("encoder.")]
    assert all(torch.equal(before[name], after[name]) for name in names)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_footage_takes_in_what_is_rendered_meanwhile(tmp_path):
    torch.save({"frames": torch.zeros(1, 5, 8, 8, 3)}, tmp_path / "0000010.pt")
    footage = Footage(tmp_path, CPU)
    torch.save({"frames": torch.ones(1, 5, 8, 8, 3)}, tmp_path / "0000000.pt")
    footage.look_again()
    footage.look_again()
    assert [shard.mean() for shard in footage.shards] == [0, 1]


def test_weights_that_are_lost_are_not_saved(folder, small_model, no_sheets, tmp_path, monkeypatch):
    (tmp_path / "latents").symlink_to(folder / "latents")
    monkeypatch.setattr(Training, "learn", lambda *_: torch.tensor(float("nan")))
    monkeypatch.setattr(Training, "advance", lambda *_: None)
    monkeypatch.setattr(dit, "SAVE_EVERY", 0)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        do_part("small", tmp_path, HERE, 3, seed=0)
    assert not (tmp_path / "small.ckpt").exists()


def test_weights_of_one_shape_are_moved_together_as_alone():
    torch.manual_seed(0)
    shapes = [(4, 6, 3, 3), (4, 6, 3, 3), (20, 8)]
    together = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    together[1].data = together[1].data.to(memory_format=torch.channels_last)
    alone = [nn.Parameter(weight.detach().clone()) for weight in together]
    optimizers = [Muon(together), *(Muon([weight]) for weight in alone)]
    for _ in range(2):
        for one, other in zip(together, alone, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1
            optimizer.step()
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8)])
def test_matrices_are_made_orthogonal_together_as_alone(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    together = orthogonal(matrices)
    for one, matrix in zip(together, matrices, strict=True):
        torch.testing.assert_close(one, orthogonal(matrix[None])[0])
    values = torch.linalg.svdvals(together)
    assert values.min() > 0.5 and values.max() < 1.5
