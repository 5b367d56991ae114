import pytest
import torch
from msgspec.structs import replace
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.work import TFLOP, chunk_flops
from lingbot.config import SCHEDULE_V2, ModelConfig
from lingbot.dit.camera_cache import CameraCache
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import WorldModel
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps
from tests.lingbot.toy import SHAPE

META = torch.device("meta")
TOKENS = 6  # a latent frame of 4x6 latent pixels has so many
TIME_EMBEDDING = 5  # its products, one a pass


def count(config, num_poses, *, cached):
    """The slow twin: PyTorch's own counter, over a chunk whose window of nine frames is full."""
    with META:
        model = WorldModel(config)
    window = KVWindow.empty(
        config, window=9, sink=3, chunk=3, tokens=TOKENS, device=META, dtype=torch.float32
    )
    window.num_frames = 9
    control = torch.empty(1, config.control_channels * 64, 1, 4, 6, device=META)
    cache = CameraCache(model, budget_bytes=2**30 if cached else 0)
    keys = [bytes([frame % num_poses]) if num_poses else b"" for frame in range(3)]
    if not num_poses:
        with cache.chunk(keys, lambda _: control):
            pass
    noise = torch.empty(1, 16, 3, 4, 6, device=META)
    text = model.embed_text(torch.empty(1, config.text_len, config.text_dim, device=META))
    condition, steps = torch.empty(1, 20, 3, 4, 6, device=META), build_steps(SCHEDULE_V2)
    counter = FlopCounterMode(display=False)
    with counter, cache.chunk(keys, lambda _: control) as maps:
        inputs = prepare_next_chunk(model, window, condition=condition, maps=maps, text=text)
        sample_chunk(model, inputs, noise=noise, renoise=lambda _: noise, steps=steps)
    C, F = config.dim, 3
    time_embedding = 2 * F * (config.freq_dim * C + C * C + 6 * C * C)
    return counter.get_total_flops() - TIME_EMBEDDING * time_embedding


@pytest.mark.parametrize("control", ["cam", "act"])
@pytest.mark.parametrize("num_poses, cached", [(0, True), (1, True), (3, True), (3, False)])
@torch.inference_mode()
def test_the_formula_counts_what_pytorch_counts(control, num_poses, cached):
    config = replace(SHAPE, control=control)
    parts = chunk_flops(
        config,
        tokens=3 * TOKENS,
        window_tokens=9 * TOKENS,
        num_steps=4,
        pose_tokens=num_poses * TOKENS,
        cached=cached,
    )
    assert sum(parts.values()) == count(config, num_poses, cached=cached)


def test_a_chunk_of_14b_takes_the_published_number_of_operations():
    """830 TFLOP at a window of 9 latent frames, 1,010 at 15, with the maps in the cache."""
    config = ModelConfig(
        dim=5120, ffn_dim=13824, freq_dim=256, num_heads=40, num_layers=40, text_dim=4096,
        text_len=512,
    )  # fmt: skip
    for window, expected in ((9, 830), (15, 1010)):
        parts = chunk_flops(
            config,
            tokens=4680,
            window_tokens=window * 1560,
            num_steps=4,
            pose_tokens=0,
            cached=True,
        )
        assert sum(parts.values()) / TFLOP == pytest.approx(expected, rel=0.01)
