"""Tests that need a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed import FileStore

from lingbot.config import ModelConfig
from lingbot.dit.attention import BACKENDS, choose_backend, find_obstacle, use_backend
from lingbot.dit.camera_cache import CameraCache
from lingbot.dit.fp8 import Float8Linear, check_fp8, quantise, quantise_blocks
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.layers import attention, move_back
from lingbot.dit.model import WorldModel
from lingbot.dit.precision import cast_weights
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps
from lingbot.dit.weights import load_dit
from lingbot.files import read_tensors
from lingbot.parallel.process_group import join
from lingbot.parallel.ulysses import SINGLE
from lingbot.runtime.commands import OpenSession, StepSession
from lingbot.verify.dit import find_schedule
from lingbot.verify.recorded import relative_error
from tests.lingbot.running_worker import execute, running, walk_ahead
from tests.lingbot.toy import WALK, make_engine, make_spec
from tests.waiting import TIMEOUT_S

GOLDEN = Path(__file__).parents[1] / "golden"
DEVICE = torch.device("cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def group(tmp_path):
    """A real group of one rank, which sends to itself."""
    yield join(FileStore(str(tmp_path / "rendezvous"), 1), rank=0, num_ranks=1, device=DEVICE)
    dist.destroy_process_group()


def test_nccl_with_one_rank_changes_no_bit(group):
    assert dist.get_backend_config(group.process_group) == "cpu:gloo,cuda:nccl"
    shown = []
    for members in (group, SINGLE):
        engine = make_engine(device=DEVICE, group=members)
        session = engine.open(make_spec())
        frames = [engine.step(session, actions) for actions in WALK]
        shown.append((frames, session.window.k_NBFTHD))
    (frames, k), (alone_frames, alone_k) = shown
    assert k.device.type == DEVICE.type and k.any()
    assert torch.equal(k, alone_k)
    assert all(map(np.array_equal, frames, alone_frames))


def test_decoding_on_its_own_stream_changes_no_bit():
    """The next chunk is denoised meanwhile. The slow twin uses one stream, in turn."""
    beside, twin = make_engine(device=DEVICE), make_engine(device=DEVICE)
    assert beside._decode_stream is not None
    twin._decode_stream = None
    session = twin.open(make_spec())
    expected = [twin.step(session, actions) for actions in WALK * 4]
    with running(beside) as worker:
        execute(worker, OpenSession("a", make_spec()))
        shown = walk_ahead(worker, "a", WALK * 4)
    assert len(shown) == 20 and all(map(np.array_equal, shown, expected))


def golden_flows(name, dtype):
    """All flows of the first two chunks, ours and the reference's: [2 * S, 16, F, h, w] each."""
    model = load_dit(GOLDEN / name, device=DEVICE, dtype=dtype)
    recorded = read_tensors(GOLDEN / name / "rollout.safetensors")
    given = {key: tensor.to(DEVICE) for key, tensor in recorded.items()}
    steps = build_steps(find_schedule(recorded))
    window = KVWindow.empty(
        model.config, window=6, sink=0, chunk=3, tokens=6, device=DEVICE, dtype=dtype
    )
    flows = []
    with torch.inference_mode():
        text = model.embed_text(given["context"][None].to(dtype))
        for chunk in range(2):
            here = slice(3 * chunk, 3 * chunk + 3)
            control = given["plucker"][:, :, here].split(1, dim=2)
            keys = [bytes([frame]) for frame in range(3)]
            with CameraCache(model, budget_bytes=0).chunk(keys, control.__getitem__) as maps:
                condition = given["y"][None, :, here]
                inputs = prepare_next_chunk(
                    model, window, condition=condition, maps=maps, text=text
                )
                sample_chunk(
                    model,
                    inputs,
                    noise=given["noise"][None, :, here],
                    renoise=given["step_noise"][chunk][:, None].__getitem__,
                    steps=steps,
                    observe=lambda _, flow: flows.append(flow[0]),
                )
            window.advance(3)
    return torch.stack(flows), given["flow_pred"][:2].flatten(0, 1)


@pytest.mark.parametrize("name", ["dit_cam_global", "dit_cam_window", "dit_act_window"])
def test_bfloat16_gives_nearly_the_golden_flow(name):
    exact, reference = golden_flows(name, torch.float32)
    assert relative_error(exact, reference) < 1e-4
    rounded, _ = golden_flows(name, torch.bfloat16)
    assert 1e-4 < relative_error(rounded, exact) < 2e-2


SHAPE_14B = ModelConfig(  # with 2 of its 40 layers
    dim=5120, ffn_dim=13824, freq_dim=256, num_heads=40, num_layers=2, text_dim=4096, text_len=512
)
TOKENS_14B = 30 * 52  # per latent frame at 832x480
ENTRY_14B_BYTES = 2 * SHAPE_14B.num_layers * TOKENS_14B * SHAPE_14B.dim * 2  # a latent frame's maps
SLACK_BYTES = 2**24  # the allocator rounds large blocks up by as much as 1 MiB each


def use_maps(cache, layers):
    """Run chunks of new poses, each twice; return the peak and the bytes kept after each chunk.

    Both are relative to the bytes allocated before.
    """
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kept = []
    for chunk in range(8):
        keys = [bytes([3 * (chunk // 2) + frame]) for frame in range(3)]
        with torch.inference_mode(), cache.chunk(keys, new_control) as maps:
            for _ in range(5):
                for layer in range(layers):
                    maps.scale_shift(layer)
        del maps
        kept.append(torch.cuda.memory_allocated() - before)
    return torch.cuda.max_memory_allocated() - before, kept


def new_control(_):
    return torch.randn(1, 384, 1, 60, 104, device=DEVICE)


def test_the_camera_cache_keeps_its_budget_at_14b_shapes():
    with DEVICE:
        model = WorldModel(SHAPE_14B).to(torch.bfloat16).eval().requires_grad_(False)
    layers = SHAPE_14B.num_layers
    use_maps(CameraCache(model, budget_bytes=0), layers)  # the libraries' own workspaces
    working, kept = use_maps(CameraCache(model, budget_bytes=0), layers)
    assert max(kept) <= SLACK_BYTES
    for budget in (ENTRY_14B_BYTES - 1, int(2.5 * ENTRY_14B_BYTES), 6 * ENTRY_14B_BYTES):
        cache = CameraCache(model, budget_bytes=budget)
        peak, kept = use_maps(cache, layers)
        assert max(kept) <= budget + SLACK_BYTES
        assert peak <= working + budget + SLACK_BYTES
        torch.cuda.synchronize()
        stats = cache.stats
        assert stats.stored_bytes == budget // ENTRY_14B_BYTES * ENTRY_14B_BYTES
        assert kept[-1] >= stats.stored_bytes
        assert stats.conditioner_s > 0


def walk(engine):
    """The clean latents of a walk over a full window, in float32 on the CPU."""
    session = engine.open(make_spec())
    return torch.cat([engine.denoise(session, actions).float().cpu() for actions in WALK], dim=2)


def make_bfloat16(prepare=lambda model: model, **options):
    engine = make_engine(device=DEVICE, **options)
    prepare(cast_weights(engine.model, torch.bfloat16))
    engine.dtype = torch.bfloat16
    return engine


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_attention_backend_gives_nearly_the_plain_result(backend):
    shape = {"device": DEVICE, "dtype": torch.bfloat16, "head_dim": 128}
    if obstacle := find_obstacle(backend, **shape):
        pytest.skip(f"{backend}: {obstacle}")
    # As in a KV window: the tokens of a head lie side by side.
    q, k, v = torch.randn(3, 1, 8, 1024, 128, device=DEVICE, dtype=torch.bfloat16).transpose(2, 3)
    expected = attention(q.float(), k.float(), v.float())
    with use_backend(backend):
        assert relative_error(attention(q, k, v), expected) < 1e-2


def test_auto_finds_something_faster_than_plain_attention_on_hopper():
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("not a Hopper GPU")
    shape = {"device": DEVICE, "dtype": torch.bfloat16, "head_dim": 128}
    chosen = choose_backend("auto", lambda backend: find_obstacle(backend, **shape))
    assert chosen != "sdpa"
    q = torch.randn(1, 4680, 40, 128, device=DEVICE, dtype=torch.bfloat16)
    k = torch.randn(1, 14040, 40, 128, device=DEVICE, dtype=torch.bfloat16)
    times_ms = {}
    for backend in (chosen, "sdpa", chosen, "sdpa"):  # the second time counts
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with use_backend(backend):
            attention(q, k, k)
            start.record()
            attention(q, k, k)
            end.record()
        end.synchronize()
        times_ms[backend] = start.elapsed_time(end)
    assert times_ms[chosen] < times_ms["sdpa"]


@torch.inference_mode()
def test_fp8_products_equal_those_of_the_rounded_numbers():
    check_fp8(DEVICE, torch.bfloat16)
    layer = Float8Linear(torch.randn(512, 256, device=DEVICE) / 16, torch.randn(512, device=DEVICE))
    x = torch.randn(2, 300, 256, device=DEVICE, dtype=torch.bfloat16)
    x[0, 0] = 0
    rows, scale = quantise(x.flatten(0, 1))
    weight = layer.weight.float() * layer.scale.t()
    expected = (rows.float() * scale) @ weight.t() + layer.bias.float()
    assert relative_error(layer(x).flatten(0, 1), expected) < 1e-2


def test_fp8_generates_nearly_the_world_of_float32():
    exact, quantised = walk(make_engine(device=DEVICE)), walk(make_bfloat16(quantise_blocks))
    assert 1e-3 < relative_error(quantised, exact) < 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")
@pytest.mark.parametrize("quantises", [False, True])
def test_compiled_blocks_generate_nearly_the_same_world(quantises):
    prepare = quantise_blocks if quantises else (lambda model: model.fuse())
    plain = walk(make_bfloat16(prepare))
    compiled = walk(make_bfloat16(lambda model: prepare(model).compile_blocks()))
    assert relative_error(compiled, plain) < (0.1 if quantises else 2e-2)


@pytest.mark.parametrize("max_positions", [1024, 12])
def test_a_chunk_waits_for_the_gpu_at_its_end_alone(max_positions, monkeypatch):
    """Also where the window's keys turn back; the camera's maps are computed anew."""
    engine = make_engine(device=DEVICE, max_positions=max_positions)
    session = engine.open(make_spec())
    for actions in WALK[:3]:
        engine.denoise(session, actions)
    monkeypatch.setattr(torch.cuda.Stream, "synchronize", lambda stream: None)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for actions in WALK[3:]:
            engine.denoise(session, actions)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert bool(session.window.moved_back) == (max_positions == 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_turn_back_as_on_the_cpu(dtype):
    k = torch.randn(2, 9, 6, 4, 128).to(dtype)
    there = k.to(DEVICE)
    move_back(k, 1015)
    move_back(there, 1015)
    torch.testing.assert_close(
        there.cpu(), k, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
    )


def test_a_suspended_session_frees_the_gpu_and_goes_on_bit_for_bit():
    """Another session decodes meanwhile, on the stream that the suspended one's decoder uses."""
    engine = make_engine(device=DEVICE)
    twin = engine.open(make_spec())
    expected = [engine.step(twin, actions) for actions in WALK]
    with running(engine) as worker:
        for name in "ab":
            execute(worker, OpenSession(name, make_spec()))
        shown, session = [], worker._sessions["a"]
        for actions in WALK:
            shown += walk_ahead(worker, "a", [actions])
            tensors = [*session.tensors(), *engine.vae.state_tensors(session.decoder)]
            held = sum({t.data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
            used = torch.cuda.memory_allocated()
            assert worker.suspend("a").result(TIMEOUT_S) is True
            assert torch.cuda.memory_allocated() <= used - held
            pieces = [piece for one in session.suspension.storages for piece in one.pieces]
            assert pieces and all(piece.is_pinned() for piece in pieces)
            execute(
                worker, StepSession(session_id="b", actions=actions)
            )  # it is decoded while `a` is resumed
    assert all(map(np.array_equal, shown, expected))
