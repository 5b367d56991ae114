"""Teacher forcing computes what play computes chunk by chunk."""

import numpy as np
import pytest
import torch

from lingbot.camera.motion import relative_pose
from lingbot.config import ModelConfig
from lingbot.dit.camera_cache import CameraCache
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.layers import attention
from lingbot.dit.model import WorldModel
from pocket.training.latents import distinct_maps
from pocket.training.teacher_forcing import (
    TeacherForcingCache,
    _attention,
    camera_maps,
    prompt_maps,
)
from tests.pocket.conftest import MEDIUM

MODEL = ModelConfig(
    dim=24, ffn_dim=32, freq_dim=16, num_heads=2, num_layers=2, text_dim=8, text_len=4
)
NUM_CHUNKS, CHUNK, GRID = 4, 3, (4, 7)


class Clip:
    """Random chunks; the prompt changes under way."""

    def __init__(self):
        self.clean, self.noisy = torch.randn(2, NUM_CHUNKS, 16, CHUNK, 8, 14)
        self.condition = torch.randn(NUM_CHUNKS, 20, CHUNK, 8, 14)
        poses = [relative_pose(0, "wasdijkl"[i % 8])[0] for i in range(NUM_CHUNKS * CHUNK)]
        maps, rows = distinct_maps(np.stack(poses)[None], MEDIUM)
        self.maps, self.pose_rows = maps.float(), rows.view(NUM_CHUNKS, CHUNK)
        self.contexts, self.prompt_rows = torch.randn(2, 4, 8), torch.tensor([0, 0, 1, 1])
        self.positions = torch.arange(NUM_CHUNKS * CHUNK).view(NUM_CHUNKS, CHUNK)
        self.timestep = torch.full((NUM_CHUNKS, CHUNK), 600.0)


def train_flow(model, clip, window):
    """The flow of all chunks in one pass."""
    order = torch.tensor([*range(NUM_CHUNKS - 1), *range(NUM_CHUNKS)])
    inputs = model.prepare_chunk(
        condition=clip.condition[order],
        positions=clip.positions[order],
        maps=camera_maps(model, clip.maps, clip.pose_rows[order]),
        text=prompt_maps(model, clip.contexts, clip.prompt_rows[order]),
        kv_cache=TeacherForcingCache(range(NUM_CHUNKS - 1), range(NUM_CHUNKS), window // CHUNK),
    )
    x = torch.cat([clip.clean[:-1], clip.noisy])
    timestep = torch.cat([torch.zeros(NUM_CHUNKS - 1, CHUNK), clip.timestep])
    return model(x, timestep, inputs)[NUM_CHUNKS - 1 :]


def play_flow(model, clip, window, sink):
    """The flow of each chunk, with the clean chunks before it in a KV window."""
    cache = CameraCache(model, budget_bytes=2**20)
    past = KVWindow.empty(
        MODEL,
        window=window,
        sink=sink,
        chunk=CHUNK,
        tokens=GRID[0] * GRID[1],
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    for i in range(NUM_CHUNKS):
        rows = clip.pose_rows[i]
        control = clip.maps[rows].transpose(0, 1)[None].split(1, dim=2)
        with cache.chunk([bytes([row]) for row in rows], control.__getitem__) as maps:
            inputs = model.prepare_chunk(
                condition=clip.condition[i : i + 1],
                positions=clip.positions[i],
                maps=maps,
                text=model.embed_text(clip.contexts[clip.prompt_rows[i]][None]),
                kv_cache=past.for_chunk(CHUNK),
            )
            yield model(clip.noisy[i : i + 1], clip.timestep[i : i + 1], inputs)
            model.write_cache(clip.clean[i : i + 1], inputs)
        past.advance(CHUNK)


@pytest.mark.parametrize("window, sink", [(4 * CHUNK, 0), (3 * CHUNK, CHUNK)])
@torch.inference_mode()
def test_teacher_forcing_sees_the_chunks_that_the_window_holds(window, sink):
    """The prompt changes under way, and the shorter window forgets a chunk."""
    torch.manual_seed(0)
    model, clip = WorldModel(MODEL), Clip()
    trained = train_flow(model, clip, window)
    played = torch.cat(list(play_flow(model, clip, window, sink)))
    torch.testing.assert_close(trained, played, rtol=1e-4, atol=1e-5)


def test_attention_on_a_cpu_equals_that_on_a_gpu():
    q, k, v = (torch.randn(2, length, 2, 8) for length in (5, 11, 11))
    torch.testing.assert_close(_attention(q, k, v), attention(q, k, v))
