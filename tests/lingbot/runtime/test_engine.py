import copy

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch.nn.attention import SDPBackend

from lingbot.config import Size
from lingbot.dit.conditioner import PrecomputedMaps
from lingbot.dit.layers import attention
from lingbot.errors import LingbotError
from lingbot.runtime.engine import Engine
from lingbot.vae.codec import LatentCodec
from lingbot.vae.protocol import ImageCondition
from tests.lingbot.toy import WORLD, encode, make_engine, make_image

WALK = [["", "w", "w"], ["w", "wl", "l"], ["", "i", "s"], ["a", "a", "a"], ["d", "k", ""]]


def play(engine, session, walk=WALK):
    return [engine.step(session, actions) for actions in walk]


def test_first_chunk_has_9_frames_and_later_ones_12(engine, spec):
    first, second = play(engine, engine.open(spec()), WALK[:2])
    assert (first.shape, second.shape) == ((9, 32, 48, 3), (12, 32, 48, 3))
    assert first.dtype == np.uint8 and first.flags.c_contiguous


def test_same_seed_same_frames(engine, spec):
    a, b = (play(engine, engine.open(spec(seed=3))) for _ in range(2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_another_seed_other_frames(engine, spec):
    (a,), (b,) = (play(engine, engine.open(spec(seed=seed)), WALK[:1]) for seed in (1, 2))
    assert not np.array_equal(a, b)


def test_keys_change_the_frames(engine, spec):
    a, b = (play(engine, engine.open(spec()), [["", "", ""], [key] * 3])[1] for key in ("w", "l"))
    assert not np.array_equal(a, b)


def test_interleaved_sessions_do_not_affect_each_other(engine, spec):
    alone = play(engine, engine.open(spec(seed=1)))
    first, second = engine.open(spec(seed=1)), engine.open(spec(seed=2, prompt="elsewhere"))
    mixed = []
    for actions in WALK:
        mixed.append(engine.step(first, actions))
        engine.step(second, actions[::-1])
    assert all(np.array_equal(x, y) for x, y in zip(mixed, alone, strict=True))


def test_a_prompt_changes_the_world_from_its_chunk_on(engine, spec):
    stay, change = engine.open(spec()), engine.open(spec())
    assert np.array_equal(engine.step(stay, WALK[0]), engine.step(change, WALK[0]))
    stayed = engine.step(stay, WALK[1])
    assert not np.array_equal(stayed, engine.step(change, WALK[1], context=encode("snow at night")))


def test_denoising_passes_do_not_change_the_past(engine, spec, monkeypatch):
    """All passes of a chunk but the last, on a full window."""
    session = engine.open(spec())
    play(engine, session)
    window = session.window
    survivors = range(window.num_frames - window.window + window.sink + 3, window.num_frames)
    slots = [*range(window.sink), *window.slots(torch.tensor(survivors)).tolist()]
    before = window.k_NBFTHD[:, :, slots].clone()

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.model, "write_cache", stop)
    num_frames = window.num_frames
    with pytest.raises(KeyboardInterrupt):
        engine.step(session, WALK[0])
    assert torch.equal(window.k_NBFTHD[:, :, slots], before)
    assert window.num_frames == num_frames


class AtOnce:
    """The slow twin of a KV window: all latent frames in one pass, behind a mask."""

    def __init__(self, window, sink, num_frames, tokens):
        chunk = torch.arange(num_frames) // 3
        end = 3 * chunk[:, None] + 3  # the first frame after the query's chunk
        frame = torch.arange(num_frames)[None]
        seen = (frame < end) & ((frame < sink) | (frame >= end - (window - sink)))
        self.mask = seen.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
        self.k = {}

    def attend(self, layer, q, k, v):
        self.k[layer] = k
        q, k, v = (t.flatten(1, 2) for t in (q, k, v))
        return attention(q, k, v, mask=self.mask).view_as(self.k[layer])

    def write(self, layer, k, v):
        self.k[layer] = k


@pytest.mark.parametrize("window, sink", [(9, 3), (6, 0), (7, 1), (6, 3)])
def test_cached_attention_equals_recomputing_the_past(engine, spec, monkeypatch, window, sink):
    """Five chunks, so that all slots but the sink's have been overwritten."""
    session = engine.open(spec(window=window, sink=sink))
    passes = []
    write_cache = engine.model.write_cache

    def record(x, chunk):
        maps = [chunk.maps.scale_shift(layer) for layer in range(2)]
        maps = torch.stack([torch.stack(pair) for pair in maps])  # [N, 2, B, F or 1, T, C]
        maps = maps.expand(-1, -1, -1, 3, -1, -1)
        passes.append({"x": x, "condition": chunk.condition, "maps": maps})
        write_cache(x, chunk)

    monkeypatch.setattr(engine.model, "write_cache", record)
    play(engine, session)

    def joined(name, axis):
        return torch.cat([one[name] for one in passes], dim=axis)

    twin = AtOnce(window, sink, num_frames=15, tokens=6)
    with torch.inference_mode():
        chunk = engine.model.prepare_chunk(
            condition=joined("condition", 2),
            positions=torch.arange(15),
            maps=PrecomputedMaps(*joined("maps", 3).unbind(1)),
            text=session.text,
            kv_cache=twin,
        )
        write_cache(joined("x", 2), chunk)
    kept = [*range(sink), *range(15 - (window - sink), 15)]
    cached = session.window.k_NBFTHD
    for layer, k in twin.k.items():
        for frame in kept:
            ours = cached[layer, :, session.window.slots(torch.tensor(frame))]
            torch.testing.assert_close(ours, k[:, frame], rtol=1e-4, atol=1e-4)


def test_the_window_does_not_grow_with_the_walk(engine, spec):
    session = engine.open(spec(num_steps=1))
    play(engine, session)
    window = session.window.k_NBFTHD
    play(engine, session, WALK * 2)
    assert session.window.k_NBFTHD is window
    assert session.window.num_frames == 45


def test_sessions_of_several_sizes_equal_those_of_engines_of_one_size(spec):
    """Their calls alternate, and they share an engine and its camera cache."""
    sizes = (Size(48, 32), Size(32, 48), Size(64, 16))
    shared = make_engine(world=replace(WORLD, sizes=sizes), camera_cache_bytes=2**20)
    sessions = [shared.open(spec(first_frame=make_image(size))) for size in sizes]
    mixed = [[shared.step(session, actions) for session in sessions] for actions in WALK]
    for index, size in enumerate(sizes):
        single = make_engine(world=replace(WORLD, sizes=(size,)))
        alone = play(single, single.open(spec(first_frame=make_image(size))))
        assert alone[0].shape == (9, size.height, size.width, 3)
        for chunk, frames in zip(alone, mixed, strict=True):
            assert np.array_equal(chunk, frames[index])


def test_a_first_frame_of_no_served_size_names_all_of_them(spec):
    engine = make_engine(world=replace(WORLD, sizes=(Size(48, 32), Size(32, 48))))
    with pytest.raises(LingbotError, match=r"uint8 \(32, 48, 3\) or \(48, 32, 3\), not uint8"):
        engine.open(spec(first_frame=make_image(Size(64, 16))))


def test_a_world_goes_on_past_the_last_position_in_the_same_memory(spec):
    """1,101 latent frames; the window's own tests compare keys and attention."""
    engine = make_engine(max_positions=1024)
    session = engine.open(spec(num_steps=1))
    memory = [t.data_ptr() for t in (session.window.k_NBFTHD, session.window.v_NBFTHD)]
    seen = []

    def record(*, positions, **options):
        seen.extend(positions.tolist())
        return prepare_chunk(positions=positions, **options)

    prepare_chunk, engine.model.prepare_chunk = engine.model.prepare_chunk, record
    for index in range(367):
        latents = engine.denoise(session, WALK[index % len(WALK)])
        assert latents.isfinite().all()
    assert session.window.num_frames == 1101 and session.window.moved_back == 1017
    assert max(seen) == 1022 and seen[-1] == 1100 - 1017
    assert memory == [t.data_ptr() for t in (session.window.k_NBFTHD, session.window.v_NBFTHD)]


def test_the_passes_of_a_chunk_prefer_the_engines_attention(spec, monkeypatch):
    engine, used = make_engine(attention="cudnn"), []
    session = engine.open(spec(num_steps=1))

    def record(x, timestep, chunk):
        used.append(torch._C._get_sdp_priority_order()[0])
        return torch.zeros_like(x)

    monkeypatch.setattr(engine.model, "forward", record)
    before = torch._C._get_sdp_priority_order()
    engine.denoise(session, WALK[0])
    assert used == [SDPBackend.CUDNN_ATTENTION.value]
    assert torch._C._get_sdp_priority_order() == before


@pytest.mark.parametrize(
    "changes, is_default",
    [
        ({}, True),
        ({"num_steps": 4, "window": 9, "sink": 3}, True),
        ({"num_steps": 8}, False),
        ({"window": 6}, False),
    ],
)
def test_a_session_of_other_steps_or_another_window_has_another_speed(
    engine, spec, changes, is_default
):
    assert engine.open(spec(**changes)).has_default_speed == is_default


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 9}, "num_steps"),
        ({"window": 10}, "window"),
        ({"window": 5}, "sink"),
        ({"first_frame": np.zeros((64, 48, 3), np.uint8)}, "first_frame"),
        ({"first_frame": np.zeros((32, 48, 3), np.float32)}, "first_frame"),
        ({"context": np.zeros((7, 8), np.float32)}, "prompt"),
        ({"context": np.zeros((2, 9), np.float32)}, "prompt"),
        ({"context": np.zeros(8, np.float32)}, "prompt"),
        ({"context": np.zeros((2, 8), np.float64)}, "prompt"),
    ],
)
def test_a_world_that_cannot_be_opened_names_the_field(engine, spec, changes, field):
    with pytest.raises(LingbotError) as refused:
        engine.open(spec(**changes))
    assert refused.value.field == field


def test_a_refused_step_leaves_the_session_as_it_was(engine, spec):
    session, twin = engine.open(spec()), engine.open(spec())
    for wrong in (["w"], ["w", "x", ""], ["ww", "", ""]):
        with pytest.raises(LingbotError):
            engine.step(session, wrong)
    with pytest.raises(LingbotError) as refused:
        engine.step(session, WALK[0], context=np.zeros((7, 8), np.float32))
    assert refused.value.field == "prompt"
    assert np.array_equal(engine.step(session, WALK[0]), engine.step(twin, WALK[0]))


def test_a_step_that_raised_leaves_its_session_unusable(engine, spec, monkeypatch):
    session = engine.open(spec())
    with monkeypatch.context() as patch:
        patch.setattr(engine.vae.network, "decode", None)
        with pytest.raises(TypeError):
            engine.step(session, WALK[0])
    with pytest.raises(LingbotError, match="open another"):
        engine.step(session, WALK[0])


def test_closing_frees_the_memory(engine, spec):
    session = engine.open(spec())
    play(engine, session, WALK[:1])
    engine.close(session)
    assert session.window.k_NBFTHD.numel() == 0
    assert session.decoder.memory == []


def test_bfloat16_gives_nearly_the_same_frames(engine, spec):
    """float32 is the slow twin."""
    vae = LatentCodec(copy.deepcopy(engine.vae.network).bfloat16(), engine.vae.mean, engine.vae.std)
    half = Engine(
        engine.config,
        model=copy.deepcopy(engine.model).bfloat16(),
        vae=vae,
    )
    for exact, rounded in zip(
        play(engine, engine.open(spec()), WALK[:2]), play(half, half.open(spec()), WALK[:2]),
        strict=True,
    ):  # fmt: skip
        error = np.abs(exact.astype(float) - rounded.astype(float)).mean()
        assert 0 < error < 0.05 * exact.std()


def test_closing_lets_a_running_decoding_end(engine, spec, monkeypatch):
    """It finishes with the state that it started with."""
    session, twin = engine.open(spec()), engine.open(spec())
    play(engine, session, WALK[:1])
    play(engine, twin, WALK[:1])
    latents = engine.denoise(session, WALK[1])
    decode = engine.vae.network.decode

    def close_meanwhile(*args, **options):
        engine.close(session)
        return decode(*args, **options)

    expected = engine.step(twin, WALK[1])
    monkeypatch.setattr(engine.vae.network, "decode", close_meanwhile)
    assert np.array_equal(engine.decode(session, latents), expected)
    assert session.decoder.memory == []
    with pytest.raises(LingbotError, match="open another"):
        engine.decode(session, latents)


class BlankVAE:
    """A VAE whose decoder state is a list: it shows the number of decoded chunks."""

    def encode_image(self, image, *, chunk):
        return ImageCondition((torch.zeros(1, 20, chunk, 4, 6),))

    def new_decoder_state(self):
        return []

    def state_tensors(self, state):
        return state

    def decode(self, latents, state):
        state.append(latents)
        return np.full((12, 32, 48, 3), len(state), np.uint8)


def test_any_vae_serves_the_engine(engine, spec):
    blank = Engine(engine.config, model=engine.model, vae=BlankVAE())
    session, other = blank.open(spec()), blank.open(spec())
    shown = [blank.step(session, actions)[0, 0, 0, 0] for actions in WALK[:3]]
    assert shown == [1, 2, 3]
    assert blank.step(other, WALK[0])[0, 0, 0, 0] == 1
    blank.close(session)
    assert session.decoder == []
