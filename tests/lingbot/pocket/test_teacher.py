import numpy as np
import torch

from lingbot.camera import relative_pose
from lingbot.camera_cache import CameraCache
from lingbot.config import ModelConfig
from lingbot.kv_cache import KVWindow
from lingbot.model import WorldModel
from lingbot.pocket.latents import distinct_maps
from lingbot.pocket.teacher import TeacherMemory, camera_maps

SMALL = ModelConfig(
    dim=24, ffn_dim=32, freq_dim=16, num_heads=2, num_layers=2, text_dim=8, text_len=4
)
CHUNK, GRID = 3, (4, 7)


@torch.inference_mode()
def test_teacher_forcing_sees_what_the_window_shows():
    torch.manual_seed(0)
    model = WorldModel(SMALL)
    frames = 4 * CHUNK
    clean, noisy = torch.randn(2, 1, 16, frames, 8, 14)
    condition = torch.randn(1, 20, frames, 8, 14)
    poses = np.stack([relative_pose(0, "wasdijkl"[i % 8])[0] for i in range(frames)])
    maps, rows = distinct_maps(poses[None])
    maps, text = maps.float(), model.embed_text(torch.randn(1, 4, 8))

    def taught(past):
        order = torch.cat([torch.arange(past), torch.arange(frames)])
        numbers = tuple(range(past // CHUNK)), tuple(range(frames // CHUNK))
        timestep = torch.cat([torch.zeros(1, past), torch.full((1, frames), 600.0)], dim=1)
        return model(
            torch.cat([clean[:, :, :past], noisy], dim=2),
            condition=condition[:, :, order],
            timestep=timestep,
            positions=order,
            camera=camera_maps(model, maps, rows[:, order]),
            text=text,
            memory=TeacherMemory(CHUNK, *numbers),
        )[:, :, past:]

    def played():
        cache = CameraCache(model, budget_bytes=2**20)
        window = KVWindow.empty(
            SMALL,
            window=frames,
            sink=0,
            chunk=CHUNK,
            tokens=GRID[0] * GRID[1],
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        for first in range(0, frames, CHUNK):
            here = slice(first, first + CHUNK)
            control = maps[rows[0, here]].transpose(0, 1)[None].split(1, dim=2)
            with cache.chunk(
                [bytes([row]) for row in rows[0, here]], control.__getitem__
            ) as camera:
                shared = {
                    "condition": condition[:, :, here],
                    "positions": torch.arange(first, first + CHUNK),
                    "camera": camera,
                    "text": text,
                    "memory": window,
                }
                yield model(noisy[:, :, here], timestep=torch.full((1, CHUNK), 600.0), **shared)
                model.remember(clean[:, :, here], **shared)
            window.advance(CHUNK)

    torch.testing.assert_close(
        taught(frames - CHUNK), torch.cat(list(played()), dim=2), rtol=1e-4, atol=1e-5
    )
