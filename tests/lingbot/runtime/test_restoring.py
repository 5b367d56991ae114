"""Sessions that are rebuilt, on the toy engine. `benchmarks/portable.py` measures how closely."""

import copy

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from lingbot.config import Size
from lingbot.dit.kv_cache import KVWindow, frames_moved_back
from lingbot.errors import LingbotError
from lingbot.runtime.session import SessionSpec
from lingbot.runtime.snapshot import decode_snapshot, encode_snapshot, needed_prompts
from tests.lingbot.toy import SHAPE, WALK, WORLD, encode, make_engine, make_image, make_spec

PROMPTS = {2: "snow at night", 5: "a lake"}


def contexts_of(snapshot, *, exact=False):
    return {prompt: encode(prompt) for prompt in needed_prompts(snapshot, exact=exact)}


def play(engine, session, num_chunks, *, prompts=PROMPTS, recache=False):
    """The frames of the next chunks of a walk with new prompts."""
    frames = []
    for _ in range(num_chunks):
        index = session.next_chunk
        prompt = prompts.get(index)
        context = None if prompt is None else encode(prompt)
        actions = WALK[index % len(WALK)]
        frames.append(
            engine.step(session, actions, context=context, prompt=prompt, recache=recache)
        )
    return frames


def restore(engine, session, *, exact=False):
    """A session of a snapshot that went through a file."""
    snapshot = decode_snapshot(encode_snapshot(session.snapshot()), max_bytes=2**22)
    return engine.restore(snapshot, contexts_of(snapshot, exact=exact), exact=exact)


def equal(a, b):
    return len(a) == len(b) and all(map(np.array_equal, a, b))


@pytest.mark.parametrize("num_chunks", [0, 1, 2, 3])
def test_a_world_of_which_all_chunks_are_kept_goes_on_bit_for_bit(engine, num_chunks):
    """Its window has the same keys and values; two chunks give the decoder's whole state."""
    session = engine.open(make_spec())
    play(engine, session, num_chunks)
    other = restore(engine, session)
    assert other.next_chunk == num_chunks and other.trajectory == session.trajectory
    for name in ("k_NBFTHD", "v_NBFTHD"):
        assert torch.equal(getattr(other.window, name), getattr(session.window, name))
    latents = []
    for one in (session, other):
        latents.append([engine.denoise(one, actions) for actions in WALK])
    assert all(map(torch.equal, *latents))


class Past:
    """The slow twin of a rebuilt window: keys and values by layer, which grow chunk by chunk."""

    def __init__(self):
        self.k, self.v = ([torch.zeros(1, 0, 6, 4, 12) for _ in range(2)] for _ in range(2))

    def attend(self, layer, q, k, v):
        self.write(layer, k, v)
        all_k, all_v = self.k[layer].flatten(1, 2), self.v[layer].flatten(1, 2)
        weights = torch.einsum("bnhd,bmhd->bhnm", q.flatten(1, 2), all_k) / q.shape[-1] ** 0.5
        y = torch.einsum("bhnm,bmhd->bnhd", weights.softmax(-1), all_v)
        return y.view_as(q)

    def write(self, layer, k, v):
        self.k[layer] = torch.cat([self.k[layer], k], dim=1)
        self.v[layer] = torch.cat([self.v[layer], v], dim=1)


@torch.inference_mode()
def rebuilt_by_hand(engine, snapshot):
    """The kept chunks as the only past of a session, at their positions in the world."""
    session, past, chunk = engine.open(make_spec(window=12)), Past(), engine.config.chunk
    for kept in snapshot.chunks:
        first = kept.index * chunk
        session.trajectory.pitch, session.trajectory.started = kept.pitch, kept.index > 0
        with engine._maps(session, kept.actions) as maps:
            inputs = engine.model.prepare_chunk(
                condition=session.condition.of_chunk(kept.index),
                positions=torch.arange(first, first + chunk),
                maps=maps,
                text=engine.embed_context(encode(kept.prompt)),
                kv_cache=past,
            )
            engine.model.write_cache(torch.from_numpy(kept.latents.copy())[None], inputs)
    return past


def test_a_rebuilt_window_is_that_of_its_kept_chunks_alone():
    engine = make_engine(world=replace(WORLD, window=12))
    session = engine.open(make_spec())
    play(engine, session, 8)
    snapshot = session.snapshot()
    assert [chunk.index for chunk in snapshot.chunks] == [0, 5, 6, 7]
    window, past = restore(engine, session).window, rebuilt_by_hand(engine, snapshot)
    for layer in range(2):
        for ours, expected in ((window.k_NBFTHD, past.k), (window.v_NBFTHD, past.v)):
            torch.testing.assert_close(ours[layer], expected[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recache", [False, True])
def test_exact_replay_repeats_forty_chunks_bit_for_bit(recache):
    """Two prompt changes, and a suspension on the way; then the two go on alike."""
    engine = make_engine(camera_cache_bytes=2**14)
    engine.suspend_frees_memory = True  # though it is on a CPU
    session = engine.open(make_spec())
    frames = play(engine, session, 4, recache=recache)
    assert engine.suspend(session, max_bytes=2**30)
    frames += play(engine, session, 36, recache=recache)
    snapshot = session.snapshot()
    restoration = engine.begin_restore(snapshot, contexts_of(snapshot, exact=True), exact=True)
    again = []
    while not (part := restoration.advance()).is_last:
        again += [engine.decode(restoration.session, latents) for latents in part.latents]
    assert equal(again, frames)
    other = restoration.session
    assert other.next_chunk == 40
    assert equal(play(engine, other, 3), play(engine, session, 3))


def test_a_world_goes_on_with_its_own_noise_prompt_and_pitch(engine):
    """The first chunk after a restoration is much nearer than one of another seed or prompt."""
    session = engine.open(make_spec())
    play(engine, session, 7)
    snapshot, twin = session.snapshot(), copy.deepcopy(session)
    expected = engine.denoise(session, WALK[1])
    context = contexts_of(snapshot)

    def error_of(other):
        return float((engine.denoise(other, WALK[1]) - expected).norm() / expected.norm())

    assert error_of(twin) == 0
    restored = error_of(engine.restore(snapshot, context))
    reseeded = replace(snapshot, origin=replace(snapshot.origin, seed=8))
    assert restored < 0.25 * error_of(engine.restore(reseeded, context))
    other = {**context, "a lake": encode("lava")}
    assert restored < error_of(engine.restore(snapshot, other))
    turned = replace(snapshot, pitch=snapshot.pitch + 40)
    assert restored < error_of(engine.restore(turned, context))


def test_a_recache_equals_a_restoration_under_the_new_prompt(engine):
    session = engine.open(make_spec())
    play(engine, session, 5)
    past = session.snapshot()
    other = engine.restore(
        replace(
            past,
            prompt="lava",
            chunks=tuple(replace(chunk, prompt="lava") for chunk in past.chunks),
        ),
        {"lava": encode("lava")},
    )
    stale = copy.deepcopy(session)
    recached = engine.denoise(session, WALK[0], context=encode("lava"), prompt="lava", recache=True)
    assert torch.equal(recached, engine.denoise(other, WALK[0]))
    late = engine.denoise(stale, WALK[0], context=encode("lava"), prompt="lava")
    assert not torch.equal(recached, late)


def test_a_recache_of_an_unbroken_past_changes_nothing_under_the_same_prompt(engine):
    session = engine.open(make_spec(prompt="a"))
    play(engine, session, 3, prompts={})
    twin = copy.deepcopy(session)
    a = engine.denoise(session, WALK[0], context=encode("a"), prompt="a", recache=True)
    assert torch.equal(a, engine.denoise(twin, WALK[0]))


def test_a_world_beyond_the_last_position_is_restored_with_its_distances():
    """The keys have turned back twice. Its window is that of the world that never stopped."""
    engine = make_engine(max_positions=15)
    session = engine.open(make_spec())
    for count in range(14):
        other = restore(engine, session)
        assert other.window.next_positions(3).tolist() == session.window.next_positions(3).tolist()
        twin = copy.deepcopy(session)
        for _ in range(3):
            actions = WALK[other.next_chunk % len(WALK)]
            a, b = engine.denoise(other, actions), engine.denoise(twin, actions)
            assert (a - b).norm() < 0.2 * b.norm(), count
        play(engine, session, 1, prompts={})


@pytest.mark.parametrize("window, chunk, most", [(9, 3, 15), (12, 3, 1024), (18, 4, 30),
                                                 (6, 3, 6), (7, 3, 11)])  # fmt: skip
def test_how_far_a_windows_keys_have_turned_back(window, chunk, most):
    """By counting chunks, as a window that was never rebuilt does."""
    own = KVWindow.empty(SHAPE, window=window, sink=min(3, window - chunk), chunk=chunk, tokens=1,
                         device=torch.device("cpu"), dtype=torch.float32,
                         max_positions=most)  # fmt: skip
    for count in range(1100):
        expected = frames_moved_back(count, chunk=chunk, window=window, max_positions=most)
        assert own.moved_back == expected
        own.make_room(chunk)
        own.advance(chunk)


@pytest.mark.parametrize("window, sink", [(6, 0), (6, 3), (7, 2), (9, 4), (9, 0)])
def test_worlds_of_all_windows_go_on(engine, window, sink):
    session = engine.open(make_spec(window=window, sink=sink))
    play(engine, session, 6)
    other = restore(engine, session)
    a, b = engine.denoise(session, WALK[1]), engine.denoise(other, WALK[1])
    assert (a - b).norm() < 0.2 * a.norm()


def test_a_bfloat16_world_is_kept_in_half_the_bytes_and_loses_nothing():
    engine = make_engine()
    engine.model.to(torch.bfloat16)
    engine.dtype = torch.bfloat16
    session = engine.open(make_spec())
    play(engine, session, 3)
    other = restore(engine, session)
    assert {chunk.latents.dtype for chunk in session.snapshot().chunks} == {np.dtype(np.uint16)}
    assert torch.equal(other.window.k_NBFTHD, session.window.k_NBFTHD)
    assert torch.equal(engine.denoise(other, WALK[0]), engine.denoise(session, WALK[0]))


def test_a_session_is_steady_again_after_one_chunk(engine):
    """The first chunk after a restoration may have other shapes than all later ones."""
    session = engine.open(make_spec())
    play(engine, session, 6)
    other = restore(engine, session)
    steady = []
    for _ in range(3):
        steady.append(other.is_steady)
        play(engine, other, 1)
    assert steady == [True, True, True] or steady == [False, True, True]


def test_a_snapshot_of_another_world_is_refused(engine):
    session = engine.open(make_spec())
    play(engine, session, 2)
    snapshot = session.snapshot()
    contexts = contexts_of(snapshot)
    other = make_engine(ffn_dim=128)
    cases = [
        (other, snapshot, contexts, False, "snapshot.fingerprint"),
        (make_engine(world=replace(WORLD, sizes=(Size(64, 64),))), snapshot, contexts, False,
         "snapshot.size"),
        (engine, snapshot, {}, False, "contexts"),
        (engine, snapshot, {"a toy": np.zeros((2, 3), np.float32)}, False, "prompt"),
        (engine, replace(snapshot, journal=None), contexts, True, "exact"),
    ]  # fmt: skip
    for one, past, given, exact, field in cases:
        with pytest.raises(LingbotError) as refused:
            one.restore(past, given, exact=exact)
        assert refused.value.field == field


def test_a_context_without_its_text_leaves_no_snapshot(engine):
    untold = engine.open(make_spec())
    engine.denoise(untold, WALK[0], context=encode("snow"))
    with pytest.raises(LingbotError, match="without its prompt's text") as refused:
        untold.snapshot()
    assert refused.value.field == "prompt"
    silent = engine.open(SessionSpec(first_frame=make_image()))
    other = engine.restore(silent.snapshot(), {})
    assert torch.equal(engine.denoise(silent, WALK[0]), engine.denoise(other, WALK[0]))
