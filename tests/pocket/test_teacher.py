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
from pocket.training.teacher import TeacherMemory, _attention, camera_maps, prompt_maps

SMALL = ModelConfig(
    dim=24, ffn_dim=32, freq_dim=16, num_heads=2, num_layers=2, text_dim=8, text_len=4
)
CHUNK, GRID = 3, (4, 7)


@pytest.mark.parametrize("window, sink", [(4 * CHUNK, 0), (3 * CHUNK, CHUNK)])
@torch.inference_mode()
def test_teacher_forcing_sees_what_the_window_shows(window, sink):
    """Also where the prompt changes under way, and where the window has forgotten something."""
    torch.manual_seed(0)
    model = WorldModel(SMALL)
    chunks = 4
    clean, noisy = torch.randn(2, chunks, 16, CHUNK, 8, 14)
    condition = torch.randn(chunks, 20, CHUNK, 8, 14)
    poses = [relative_pose(0, "wasdijkl"[i % 8])[0] for i in range(chunks * CHUNK)]
    maps, rows = distinct_maps(np.stack(poses)[None], 112, 64)
    maps, rows = maps.float(), rows.view(chunks, CHUNK)
    contexts, prompts = torch.randn(2, 4, 8), torch.tensor([0, 0, 1, 1])
    positions = torch.arange(chunks * CHUNK).view(chunks, CHUNK)
    timestep = torch.full((chunks, CHUNK), 600.0)

    def taught():
        order = torch.tensor([*range(chunks - 1), *range(chunks)])
        memory = TeacherMemory(range(chunks - 1), range(chunks), window // CHUNK)
        inputs = model.prepare_chunk(
            condition=condition[order],
            positions=positions[order],
            maps=camera_maps(model, maps, rows[order]),
            text=prompt_maps(model, contexts, prompts[order]),
            kv_cache=memory,
        )
        everything = torch.cat([clean[:-1], noisy])
        levels = torch.cat([torch.zeros(chunks - 1, CHUNK), timestep])
        return model(everything, levels, inputs)[chunks - 1 :]

    def played():
        cache = CameraCache(model, budget_bytes=2**20)
        past = KVWindow.empty(
            SMALL,
            window=window,
            sink=sink,
            chunk=CHUNK,
            tokens=GRID[0] * GRID[1],
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        for i in range(chunks):
            control = maps[rows[i]].transpose(0, 1)[None].split(1, dim=2)
            with cache.chunk([bytes([row]) for row in rows[i]], control.__getitem__) as chunk_maps:
                inputs = model.prepare_chunk(
                    condition=condition[i : i + 1],
                    positions=positions[i],
                    maps=chunk_maps,
                    text=model.embed_text(contexts[prompts[i]][None]),
                    kv_cache=past.for_chunk(CHUNK),
                )
                yield model(noisy[i : i + 1], timestep[i : i + 1], inputs)
                model.write_cache(clean[i : i + 1], inputs)
            past.advance(CHUNK)

    torch.testing.assert_close(taught(), torch.cat(list(played())), rtol=1e-4, atol=1e-5)


def test_the_attention_of_a_cpu_is_that_of_a_gpu():
    q, k, v = (torch.randn(2, length, 2, 8) for length in (5, 11, 11))
    torch.testing.assert_close(_attention(q, k, v), attention(q, k, v))
