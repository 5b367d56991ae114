from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lingbot.runtime.engine import Engine
from lingbot.vae.memory import condition_bytes, wan_decoder_bytes
from lingbot.vae.split import SplitVAE
from lingbot.vae.statistics import WAN_MEAN, WAN_STD
from lingbot.vae.wan import count_unsettled
from tests.lingbot.toy import WALK, make_engine, make_spec
from tests.lingbot.vae.toy_wan import make_network, make_wan_vae


@pytest.fixture(scope="module")
def vae():
    return make_wan_vae()


def random_latents(*, seed, frames):
    return torch.randn(1, 16, frames, 2, 3, generator=torch.Generator().manual_seed(seed))


def random_video(*, seed, frames):
    return 2 * torch.rand(1, 3, frames, 16, 24, generator=torch.Generator().manual_seed(seed)) - 1


def state_bytes(state):
    return sum(kept.nbytes for kept in state if isinstance(kept, torch.Tensor))


@torch.inference_mode()
@pytest.mark.parametrize("shape", [{}, {"depth": 2}, {"temperal_downsample": [True, True, False]}])
def test_diffusers_own_methods_are_the_slow_twin(shape):
    """They hold the state of one video on the module."""
    vae = make_wan_vae(**shape)
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (WAN_MEAN, WAN_STD))
    latents, video = random_latents(seed=0, frames=4), random_video(seed=1, frames=13)
    decoded = vae.decode_video(latents, vae.new_decoder_state())
    theirs = vae.network.decode(latents * std + mean).sample
    torch.testing.assert_close(decoded.clamp(-1, 1), theirs, rtol=1e-4, atol=2e-5)
    assert decoded.shape == (1, 3, 13, 16, 24) and theirs.std() > 0.01
    encoded = vae.encode(video, vae.new_encoder_state())
    moments = vae.network.encode(video).latent_dist.mode()
    torch.testing.assert_close(encoded, (moments - mean) / std, rtol=1e-4, atol=2e-5)


@torch.inference_mode()
@pytest.mark.parametrize("sizes", [(1, 3, 2), (3, 3), (2, 1, 1, 2)])
def test_pieces_give_the_bits_of_all_at_once(vae, sizes):
    latents = random_latents(seed=0, frames=6)
    whole = vae.decode_video(latents, vae.new_decoder_state())
    state = vae.new_decoder_state()
    pieces = [vae.decode_video(part, state) for part in latents.split(sizes, dim=2)]
    assert torch.equal(torch.cat(pieces, dim=2), whole)

    video = random_video(seed=0, frames=21)
    encoded = vae.encode(video, vae.new_encoder_state())
    state = vae.new_encoder_state()
    frames = [4 * sizes[0] - 3, *(4 * size for size in sizes[1:])]
    pieces = [vae.encode(part, state) for part in video.split(frames, dim=2)]
    assert torch.equal(torch.cat(pieces, dim=2), encoded)


@torch.inference_mode()
def test_interleaved_sessions_give_the_bits_of_each_alone(vae):
    sessions = [random_latents(seed=seed, frames=9) for seed in range(3)]
    alone = [vae.decode_video(latents, vae.new_decoder_state()) for latents in sessions]
    states = [vae.new_decoder_state() for _ in sessions]
    shown = [[] for _ in sessions]
    for turn in range(3):
        for latents, state, frames in zip(sessions, states, shown, strict=True):
            frames.append(vae.decode_video(latents[:, :, 3 * turn : 3 * turn + 3], state))
    for frames, expected in zip(shown, alone, strict=True):
        assert torch.equal(torch.cat(frames, dim=2), expected)
    assert not torch.equal(alone[0], alone[1])


def test_threads_may_decode_and_encode_at_once(vae):
    before = dict(vars(vae.network))

    @torch.inference_mode()
    def decode(seed):
        return vae.decode(random_latents(seed=seed, frames=6), vae.new_decoder_state())

    @torch.inference_mode()
    def encode(seed):
        video = random_video(seed=seed, frames=9)
        return vae.encode(video, vae.new_encoder_state()).numpy()

    with ThreadPoolExecutor(4) as pool:
        jobs = [
            (work, pool.submit(work, seed), seed) for seed in range(8) for work in (decode, encode)
        ]
        for work, job, seed in jobs:
            assert np.array_equal(job.result(), work(seed))
    assert vars(vae.network) == before, "the network holds a state"


@torch.inference_mode()
def test_a_copied_state_is_a_point_to_return_to(vae):
    """Entries are replaced, and their tensors not written into."""
    latents, state = random_latents(seed=0, frames=6), vae.new_decoder_state()
    vae.decode_video(latents[:, :, :3], state)
    kept = list(state)
    first = vae.decode_video(latents[:, :, 3:], state)
    assert torch.equal(vae.decode_video(latents[:, :, 3:], kept), first)


@torch.inference_mode()
def test_frames_are_the_rounded_video(vae):
    latents, state = random_latents(seed=0, frames=3) * 3, vae.new_decoder_state()
    frames = vae.decode(latents, state)
    video = vae.decode_video(latents, vae.new_decoder_state())[0].permute(1, 2, 3, 0)
    expected = ((video + 1) / 2 * 255).clamp(0, 255).numpy()
    assert frames.dtype == np.uint8 and frames.shape == (9, 16, 24, 3)
    assert np.abs(frames - expected).max() <= 0.501
    assert vae.decode(latents, state).shape == (12, 16, 24, 3)


@torch.inference_mode()
@pytest.mark.parametrize("depth, unsettled", [(1, 21), (2, 29)])
def test_grey_settles_where_the_image_is_out_of_reach(depth, unsettled):
    """Two residual blocks a level are the published depth."""
    vae = make_wan_vae(depth=depth)
    assert count_unsettled(vae.network.config) == unsettled
    image = random_video(seed=0, frames=1)
    grey = torch.zeros(1, 3, 4 * (unsettled + 3), 16, 24)
    latents = vae.encode(torch.cat([image, grey], dim=2), vae.new_encoder_state())
    other = vae.encode(torch.cat([-image, grey], dim=2), vae.new_encoder_state())
    differs = (latents != other).flatten(3).any(dim=3).any(dim=1)[0]
    assert differs[: unsettled - 1].all() and not differs[unsettled:].any()
    assert (latents[:, :, unsettled:] == latents[:, :, -1:]).all()
    assert torch.equal(vae.encode_condition(image[:, :, 0]), latents[:, :, : unsettled + 1])


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [3, 4])
def test_a_world_is_conditioned_on_a_video_of_its_image_then_grey(vae, chunk):
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    condition = vae.encode_image(image, chunk=chunk)
    first = torch.from_numpy(image).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    video = torch.cat([first, torch.zeros(1, 3, 4 * 35, 16, 24)], dim=2)
    expected = vae.encode(video, vae.new_encoder_state())
    for index in range(36 // chunk):
        part = condition.of_chunk(index)
        assert part.shape == (1, 20, chunk, 2, 3)
        here = expected[:, :, index * chunk : (index + 1) * chunk]
        torch.testing.assert_close(part[:, 4:], here, rtol=1e-4, atol=1e-5)
    assert condition.of_chunk(36 // chunk) is condition.of_chunk(10**6)


@torch.inference_mode()
def test_a_condition_keeps_what_changes_alone():
    vae = make_wan_vae(depth=2)
    condition = vae.encode_image(np.zeros((16, 24, 3), np.uint8), chunk=3)
    (storage,) = {part.untyped_storage().data_ptr() for part in condition.chunks}
    kept = condition.chunks[0].untyped_storage().nbytes()
    assert kept == condition_bytes(width=24, height=16, latent_frames=30)


@torch.inference_mode()
@pytest.mark.parametrize("depth, base", [(1, 4), (2, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_state_has_the_planned_size(depth, base, dtype):
    vae = make_wan_vae(depth=depth, base=base, dtype=dtype)
    state = vae.new_decoder_state()
    planned = wan_decoder_bytes(
        width=24, height=16, itemsize=dtype.itemsize, base=base, num_res_blocks=depth
    )
    vae.decode_video(random_latents(seed=0, frames=1), state)
    assert state_bytes(state) < planned
    for _ in range(2):
        vae.decode_video(random_latents(seed=0, frames=3), state)
        assert state_bytes(state) == planned


@torch.inference_mode()
def test_bfloat16_gives_nearly_the_same_video(vae):
    half = make_wan_vae(dtype=torch.bfloat16)
    latents = random_latents(seed=0, frames=6)
    exact = vae.decode_video(latents, vae.new_decoder_state())
    rounded = half.decode_video(latents, half.new_decoder_state())
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("frames, size", [(4, (16, 24)), (5, (15, 24))])
def test_encode_refuses_an_incomplete_group(vae, frames, size):
    with pytest.raises(ValueError, match=rf"{frames} frames of {size[1]}x{size[0]}: expected"):
        vae.encode(torch.zeros(1, 3, frames, *size), vae.new_encoder_state())


def test_the_engine_plays_on_it():
    toy = make_engine()
    engine = Engine(toy.config, model=toy.model, vae=make_wan_vae())
    sessions = [engine.open(make_spec(seed=seed)) for seed in (1, 2)]
    turns = [[engine.step(session, actions) for session in sessions] for actions in WALK]
    assert [frames.shape for frames, _ in turns] == [(9, 32, 48, 3)] + [(12, 32, 48, 3)] * 4
    session = engine.open(make_spec(seed=1))
    for actions, (expected, other) in zip(WALK, turns, strict=True):
        assert np.array_equal(engine.step(session, actions), expected)
        assert not np.array_equal(expected, other)


def test_a_suspended_session_goes_on_bit_for_bit():
    """Its image condition repeats a latent frame without copying it, and stays as small."""
    toy = make_engine()
    for vae in (make_wan_vae(), SplitVAE(make_wan_vae(), toy.vae)):
        engine = Engine(toy.config, model=toy.model, vae=vae)
        engine.suspend_frees_memory = True
        moving, staying = engine.open(make_spec()), engine.open(make_spec())
        for actions in WALK:
            kept = [*moving.tensors(), *vae.state_tensors(moving.decoder)]
            held = storage_bytes(kept)
            assert engine.suspend(moving, max_bytes=2**40) and storage_bytes(kept) == 0
            engine.resume(moving)
            assert storage_bytes(kept) == held
            frames = [engine.step(one, actions) for one in (moving, staying)]
            assert np.array_equal(*frames)


def storage_bytes(tensors):
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def test_the_statistics_are_those_of_diffusers():
    config = make_network().config
    assert (tuple(config.latents_mean), tuple(config.latents_std)) == (WAN_MEAN, WAN_STD)
