"""The bits of a session that was in host memory. `test_worker` has the commands that move it."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lingbot.parallel.process_group import spawn_ranks
from lingbot.parallel.ulysses import SINGLE
from lingbot.runtime import suspension
from lingbot.runtime.engine import Engine
from lingbot.runtime.suspension import Suspension
from lingbot.vae.codec import LatentCodec
from tests.lingbot.toy import WALK, encode, make_engine, make_spec

ALL = 2**40  # more bytes than any session has


def make_moving_engine(*, dtype=torch.float32, group=SINGLE):
    """An engine on the CPU that copies the tensors of a suspended session all the same."""
    engine = make_engine(group=group, camera_cache_bytes=2**14)
    if dtype != torch.float32:
        network = copy.deepcopy(engine.vae.network).to(dtype)
        engine = Engine(
            engine.config,
            model=engine.model.to(dtype),
            vae=LatentCodec(network, engine.vae.mean, engine.vae.std),
            group=group,
        )
    engine.suspend_frees_memory = True
    return engine


def bytes_on_device(engine, session):
    tensors = [*session.tensors(), *engine.vae.state_tensors(session.decoder)]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def compare_walks(group, dtype):
    """For each chunk: are the frames the same, and is nothing on the device while suspended?

    One session is suspended before each chunk, one never. The window of 9 wraps in the fourth.
    """
    engine = make_moving_engine(group=group, dtype=dtype)
    moving, staying = engine.open(make_spec()), engine.open(make_spec())
    other = engine.open(make_spec(seed=2))
    same = []
    for index, actions in enumerate(WALK):
        context = encode("snow at night") if index == 3 else None
        held = bytes_on_device(engine, moving)
        assert engine.suspend(moving, max_bytes=ALL)
        assert held > 0 and bytes_on_device(engine, moving) == 0
        engine.step(other, actions[::-1])  # reuses the memory
        frames = [engine.step(one, actions, context=context) for one in (moving, staying)]
        assert bytes_on_device(engine, moving) >= held and moving.suspension is None
        state = zip(tensors_of(engine, moving), tensors_of(engine, staying), strict=True)
        same.append(np.array_equal(*frames) and all(torch.equal(*pair) for pair in state))
    return same


def tensors_of(engine, session):
    return [*session.tensors(), *engine.vae.state_tensors(session.decoder)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_suspended_session_goes_on_bit_for_bit(dtype):
    assert compare_walks(SINGLE, dtype) == [True] * len(WALK)


def compare_on_all_ranks(group, dtype):
    values = [None] * group.num_ranks
    torch.distributed.all_gather_object(values, compare_walks(group, dtype))
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_suspended_session_goes_on_bit_for_bit_on_two_ranks(dtype):
    assert spawn_ranks(2, compare_on_all_ranks, dtype) == [[True] * len(WALK)] * 2


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(suspension, "PIECE_BYTES", 1000)


def test_a_session_that_is_resumed_half_way_goes_on_bit_for_bit(small_pieces):
    """After any number of parts, so that some storages have moved, one in part, and some not."""
    engine = make_moving_engine()
    moving, staying = engine.open(make_spec()), engine.open(make_spec())
    num_parts, complete = 0, []
    for actions in WALK * 3:
        num_parts += 7
        moved = [engine.suspend(moving, max_bytes=2500) for _ in range(num_parts)]
        assert not any(moved[:7])
        assert np.array_equal(engine.step(moving, actions), engine.step(staying, actions))
        complete.append(moved[-1])
    assert not complete[0] and complete[-1]


def test_each_part_moves_about_as_many_bytes_as_it_may(small_pieces):
    engine = make_moving_engine()
    session = engine.open(make_spec())
    held = bytes_on_device(engine, session)
    window = session.window.k_NBFTHD
    assert not engine.suspend(session, max_bytes=window.nbytes - 1000)
    assert bytes_on_device(engine, session) == held
    assert not engine.suspend(session, max_bytes=1)
    assert bytes_on_device(engine, session) == held - window.nbytes
    num_parts = 2
    while not engine.suspend(session, max_bytes=5000):
        num_parts += 1
    assert abs(num_parts - (held - window.nbytes) / 5000) < len(list(session.tensors())) + 2
    assert engine.suspend(session, max_bytes=1)  # again: nothing is left to do
    host = sum(len(piece) for one in session.suspension.storages for piece in one.pieces)
    assert host == held


def test_tensors_that_share_a_storage_share_it_afterwards():
    """A view with gaps, an expanded one, a permuted one and an empty one keep their strides."""
    base = torch.randn(4, 6, 5)
    views = [base.permute(2, 0, 1)[::2], base[:1].expand(3, -1, -1), base, torch.zeros(0, 3)]
    before = [(view.clone(), view.stride()) for view in views]
    suspended = Suspension.begin(views, [base[1]], decode_stream=None)
    assert len(suspended.storages) == 1
    assert suspended.move_out(ALL) and base.untyped_storage().nbytes() == 0
    suspended.move_back()
    assert base.untyped_storage().nbytes() == base.nbytes
    for view, (expected, stride) in zip(views, before, strict=True):
        assert torch.equal(view, expected) and view.stride() == stride
    base[0] = 7
    assert (views[1] == 7).all()


def test_closing_a_suspended_session_frees_it():
    engine = make_moving_engine()
    session = engine.open(make_spec())
    engine.step(session, WALK[0])
    assert engine.suspend(session, max_bytes=ALL)
    engine.close(session)
    assert session.suspension is None
    assert session.window.k_NBFTHD.numel() == 0 and session.decoder.memory == []


def test_a_session_stays_suspended_if_the_device_has_no_room_for_it():
    """Its tensors come back once there is room."""
    engine = make_moving_engine()
    moving, staying = engine.open(make_spec()), engine.open(make_spec())
    assert engine.suspend(moving, max_bytes=ALL)
    full = moving.suspension.storages[2]
    storage = full.storage

    def refuse(num_bytes):
        raise torch.OutOfMemoryError

    full.storage = SimpleNamespace(nbytes=lambda: 0, resize_=refuse)
    with pytest.raises(torch.OutOfMemoryError):
        engine.denoise(moving, WALK[0])
    assert moving.suspension is not None and not moving.broken
    full.storage = storage
    assert np.array_equal(engine.step(moving, WALK[0]), engine.step(staying, WALK[0]))


def test_on_a_cpu_nothing_moves(engine):
    session, twin = engine.open(make_spec()), engine.open(make_spec())
    held = bytes_on_device(engine, session)
    assert not engine.suspend_frees_memory
    assert engine.suspend(session, max_bytes=1)
    assert bytes_on_device(engine, session) == held and session.suspension is None
    assert np.array_equal(engine.step(session, WALK[0]), engine.step(twin, WALK[0]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_suspended_session_frees_the_gpu_and_goes_on_bit_for_bit():
    engine = make_engine(device="cuda")
    moving, staying = engine.open(make_spec()), engine.open(make_spec())
    for actions in WALK:
        used = torch.cuda.memory_allocated()
        held = bytes_on_device(engine, moving)
        assert engine.suspend(moving, max_bytes=ALL)
        assert torch.cuda.memory_allocated() <= used - held
        assert all(piece.is_pinned() for one in moving.suspension.storages for piece in one.pieces)
        assert np.array_equal(engine.step(moving, actions), engine.step(staying, actions))
