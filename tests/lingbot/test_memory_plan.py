"""The formulas are compared with the tensors that they count."""

import pytest
import torch
from msgspec.structs import replace

from lingbot import memory_plan
from lingbot.config import (
    MODEL_1_3B,
    MODEL_14B,
    PRESETS,
    SCHEDULE_V2,
    ModelConfig,
    Size,
    WorldConfig,
)
from lingbot.dit.camera_cache import CameraCache
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import WorldModel
from lingbot.dit.precision import cast_weights
from lingbot.errors import LingbotError
from lingbot.memory_plan import (
    GIB,
    camera_map_bytes,
    decoder_state_bytes,
    decoding_bytes,
    denoising_bytes,
    encoding_bytes,
    kv_bytes,
    num_parameters,
    num_tiny_parameters,
    num_vae_parameters,
    plan_memory,
    weight_bytes,
)
from lingbot.runtime.fastest_dtype import prepare_block
from lingbot.runtime.presets import load_engine
from lingbot.runtime.session import SessionSpec
from lingbot.vae.tiny import DecoderState, TinyVAE
from tests.lingbot.live_bytes import peak_bytes
from tests.lingbot.toy import SHAPE, WALK, WORLD, make_engine, make_image, make_spec

V1, POCKET = PRESETS["v1-14b"], PRESETS["pocket"]
LARGE = Size(832, 480)


def sum_of_bytes(tensors):
    """Bytes of the storages, each counted once."""
    tensors = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(
    "shape",
    [MODEL_14B, MODEL_1_3B, replace(MODEL_14B, control="act"), POCKET.model, SHAPE],
    ids=["14b", "1.3b", "act", "pocket", "toy"],
)
def test_weights_are_those_of_the_model(shape):
    with torch.device("meta"):
        model = WorldModel(shape)
    assert num_parameters(shape) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_that_stay_in_float32_count_as_such(dtype):
    with torch.device("meta"):
        model = cast_weights(WorldModel(MODEL_14B), dtype)
    expected = sum(weight.nbytes for weight in model.parameters())
    assert weight_bytes(MODEL_14B, itemsize=dtype.itemsize) == expected


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_keys_and_values_are_those_of_a_window(num_ranks):
    size = Size(48, 32)
    window = KVWindow.empty(
        SHAPE,
        window=9,
        sink=3,
        chunk=3,
        tokens=size.num_tokens,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        num_ranks=num_ranks,
    )
    expected = window.k_NBFTHD.nbytes + window.v_NBFTHD.nbytes
    assert 9 * kv_bytes(SHAPE, size, itemsize=2, num_ranks=num_ranks) == expected


def test_the_large_models_figures_are_the_known_ones():
    """In `shared/peers.md`: measured by those that serve the 14B model at 832x480."""
    assert kv_bytes(MODEL_14B, LARGE, itemsize=2) / GIB == pytest.approx(1.19, abs=0.005)
    assert camera_map_bytes(MODEL_14B, LARGE, itemsize=2) / GIB == pytest.approx(1.19, abs=0.005)
    four = camera_map_bytes(MODEL_14B, LARGE, itemsize=2, num_ranks=4)
    assert four / GIB == pytest.approx(0.30, abs=0.005)
    assert 2 * num_parameters(MODEL_14B) / 1e9 == pytest.approx(37, abs=0.2)
    full, tiny = (decoder_state_bytes(V1, LARGE, vae=vae, itemsize=2) for vae in ("full", "tiny"))
    assert full / 2**20 == pytest.approx(1801, abs=0.5)
    assert tiny / 1e6 == pytest.approx(67, abs=0.5)


def test_an_entry_of_the_camera_cache_is_as_large_as_planned():
    engine = make_engine(camera_cache_bytes=2**20)
    engine.step(engine.open(make_spec()), ["", "", ""])
    assert isinstance(engine.camera_cache, CameraCache)
    expected = camera_map_bytes(SHAPE, WORLD.size, itemsize=4)
    assert engine.camera_cache.stats.stored_bytes == expected


def test_a_pocket_session_and_its_weights_are_as_large_as_planned():
    engine = load_engine("pocket", dtype=torch.float32)
    world = engine.config
    plan = plan_memory(POCKET, world, vae="tiny", itemsize=4)
    assert plan.weights == sum_of_bytes(engine.model.parameters())
    network = engine.vae.network
    assert plan.vae == sum_of_bytes([*network.parameters(), *network.buffers()])
    session = engine.open(SessionSpec(first_frame=make_image(world.size)))
    engine.step(session, WALK[0])
    (planned,) = plan.sessions
    window = session.window
    assert planned.kv == sum_of_bytes([window.k_NBFTHD, window.v_NBFTHD])
    assert planned.text == sum_of_bytes([tensor for pair in session.text for tensor in pair])
    assert planned.vae == sum_of_bytes(session.decoder.memory)
    assert planned.condition == sum_of_bytes(session.condition.chunks)
    assert planned.total == planned.kv + planned.text + planned.vae + planned.condition


@pytest.mark.parametrize("window", [None, 6, 9])
def test_a_session_takes_the_bytes_that_the_plan_says_for_its_size_and_window(window):
    sizes = (WORLD.size, Size(32, 64))
    engine = make_engine(world=replace(WORLD, sizes=sizes))
    toy = replace(POCKET, model=SHAPE, tiny_decoder=(8, 8, 8, 8))
    planned = plan_memory(toy, engine.config, vae="tiny", itemsize=4)
    for size in sizes:
        session = engine.open(make_spec(first_frame=make_image(size), window=window))
        engine.step(session, WALK[0])
        held = [session.window.k_NBFTHD, session.window.v_NBFTHD, *session.condition.chunks]
        held += [tensor for pair in session.text for tensor in pair] + session.decoder.memory
        assert planned.session_bytes(size, window=window) == sum_of_bytes(held)


def test_the_bytes_of_a_session_that_is_not_served_are_refused():
    planned = plan(sizes=["832x480"])
    for options, field in (
        ({"size": Size(48, 32)}, "size"),
        ({"size": LARGE, "window": 19}, "window"),
    ):
        with pytest.raises(LingbotError) as refused:
            planned.session_bytes(**options)
        assert refused.value.field == field
    assert str(refused.value) == "window must be 1..9, not 19"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ffn_dim", [512, 691, 1536])
def test_a_block_holds_no_more_than_planned_and_not_much_less(dtype, ffn_dim):
    shape = ModelConfig(
        dim=256, ffn_dim=ffn_dim, freq_dim=128, num_heads=4, num_layers=1, text_dim=64, text_len=16
    )
    world = WorldConfig(name="", sizes=(Size(208, 128),), schedule=SCHEDULE_V2)
    run, tokens = prepare_block(shape, world, dtype), world.chunk * world.size.num_tokens
    run()
    given = tokens * shape.dim * (4 + 3 * dtype.itemsize)  # the stream, the maps, the camera's
    held = given + peak_bytes(run)
    planned = denoising_bytes(shape, world.size, chunk=3, itemsize=dtype.itemsize)
    assert held <= planned <= 1.25 * held


@pytest.mark.parametrize("preset", [POCKET, V1], ids=["pocket", "taehv"])
def test_a_tiny_vae_holds_about_what_is_planned(preset):
    vae = TinyVAE(encoder_channels=preset.tiny_encoder, decoder_channels=preset.tiny_decoder).fuse()
    state, size = DecoderState(), Size(96, 64)
    latents = torch.randn(1, 3, 16, *size.latent)
    video = torch.rand(1, 24, 3, size.height, size.width)
    with torch.inference_mode():
        vae.decode(latents, state)
    tensors = [*vae.parameters(), *vae.buffers()]
    assert num_tiny_parameters(preset) * 4 == sum_of_bytes(tensors)
    assert decoder_state_bytes(preset, size, vae="tiny", itemsize=4) == sum_of_bytes(state.memory)
    held = peak_bytes(lambda: vae.decode(latents, state))
    assert held <= decoding_bytes(preset, size, chunk=3, vae="tiny", itemsize=4) <= 1.35 * held
    held = peak_bytes(lambda: vae.encode(video))
    alone = replace(preset, vaes=("tiny",))  # otherwise the full VAE encodes
    assert held <= encoding_bytes(alone, size, chunk=3, itemsize=4) <= 1.35 * held


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_wan_vae_holds_about_what_is_planned(monkeypatch, dtype):
    """The real classes, a third as wide as the published weights."""
    diffusers = pytest.importorskip("diffusers")
    width, size = 32, Size(64, 48)
    monkeypatch.setattr(memory_plan, "WAN_WIDTH", width)
    vae = diffusers.AutoencoderKLWan(base_dim=width).eval()
    for part in (vae.encoder, vae.decoder, vae.post_quant_conv):
        part.to(dtype)
    options = {"vae": "full", "itemsize": dtype.itemsize}

    state = [None] * num_causal_convs(vae.decoder)
    latents = torch.randn(1, 16, 3, *size.latent, dtype=dtype)

    def decode(i):
        latent = vae.post_quant_conv(latents[:, :, i : i + 1])
        vae.decoder(latent, feat_cache=state, feat_idx=[0], first_chunk=i == 0)

    with torch.inference_mode():
        decode(0)
        decode(1)
    held = peak_bytes(lambda: decode(2))
    assert decoder_state_bytes(V1, size, **options) == sum_of_bytes(state)
    assert held <= decoding_bytes(V1, size, chunk=3, **options) <= 1.25 * held

    past = [None] * num_causal_convs(vae.encoder)
    video = torch.randn(1, 3, 9, size.height, size.width, dtype=dtype)

    def encode(begin, end):
        vae.encoder(video[:, :, begin:end], feat_cache=past, feat_idx=[0])

    with torch.inference_mode():
        encode(0, 1)
        encode(1, 5)
    held = peak_bytes(lambda: encode(5, 9)) + sum_of_bytes(past)
    assert held <= encoding_bytes(V1, size, chunk=3, itemsize=dtype.itemsize) <= 1.25 * held


def num_causal_convs(part):
    return sum(type(module).__name__ == "WanCausalConv3d" for module in part.modules())


def test_the_full_vaes_weights_are_those_of_the_class():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        vae = diffusers.AutoencoderKLWan()
    assert num_vae_parameters(V1, "full") == sum(weight.numel() for weight in vae.parameters())


def plan(*, window=9, num_ranks=1, free=None, vae="full", **changes):
    world = V1.configure(window=window, **changes)
    return plan_memory(V1, world, vae=vae, itemsize=2, num_ranks=num_ranks, is_gpu=True, free=free)


def test_a_h100_holds_one_world_of_window_9_and_no_world_of_window_30():
    one = plan(free=79 * GIB)
    assert one.num_fitting(one.largest) == 2
    assert one.for_sessions == 79 * GIB - one.fixed
    one.check()
    with pytest.raises(LingbotError) as refused:
        plan(window=40, free=79 * GIB).check()
    assert "window 40 takes K/V" in str(refused.value)
    assert str(refused.value).endswith("and 79.00 are free: 0 fit, expected 1")


def test_a_plan_names_what_other_processes_take():
    beside = plan_memory(V1, V1.world, vae="full", itemsize=2, free=GIB, other_bytes=11 * GIB)
    assert str(beside).endswith("and 1.00 are free beside 11.00 of other processes")
    assert "other processes" not in str(plan(free=GIB))


def test_each_size_has_its_own_session_and_ranks_share_the_heads():
    planned = plan(sizes=["832x464", "832x480"])
    small, large = planned.sessions
    assert (small.size, large.size) == (Size(832, 464), LARGE)
    assert planned.largest is large and small.total < large.total
    assert plan(num_ranks=4).largest.kv * 4 == plan().largest.kv
    assert plan(num_ranks=4).weights == plan().weights


def test_unknown_memory_holds_any_number():
    planned = plan()
    assert planned.num_fitting(planned.largest) is None and planned.for_sessions is None
    planned.check(num_sessions=99)
