"""What the DiT makes of scenes that it was not trained on, beside the truth."""

import math
from pathlib import Path

import torch
from torch import Tensor

from lingbot.config import POCKET
from lingbot.engine import Engine
from lingbot.model import WorldModel
from lingbot.pocket.data import FIRST_HELD_OUT_SEED, Clip, make_clip
from lingbot.pocket.latents import load_codec
from lingbot.pocket.run import save_sheet
from lingbot.pocket.train_vae import to_video
from lingbot.session import SessionSpec
from lingbot.text import PocketTextEncoder

NUM_CLIPS = 6
NUM_CHUNKS = 6
SHOWN_EVERY = 6  # frames of a sheet


def held_out_clips() -> list[Clip]:
    return [make_clip(FIRST_HELD_OUT_SEED + i) for i in range(NUM_CLIPS)]


def save_rollouts(path: Path, model: WorldModel, clips: list[Clip], *, folder: Path) -> list[float]:
    """Play the clips' actions through the engine; give the mean PSNR in dB of each chunk.

    The sheet has the truth above and the rollout below it.
    """
    config = model.config
    engine = Engine(
        POCKET,
        model=model,
        codec=load_codec(folder),
        text_encoder=PocketTextEncoder(text_dim=config.text_dim, text_len=config.text_len),
    )
    rows: list[Tensor] = []
    errors = torch.zeros(NUM_CHUNKS)
    for clip in clips:
        spec = SessionSpec(first_frame=clip.frames[0].numpy(), prompt=clip.prompt)
        session = engine.open(spec)
        actions = [clip.actions[i : i + 3] for i in range(0, 3 * NUM_CHUNKS, 3)]
        chunks = [torch.from_numpy(engine.step(session, three)) for three in actions]
        truth = to_video(clip.frames[None])[0]
        made = to_video(torch.cat(chunks)[None])[0]
        ends = torch.tensor([len(chunk) for chunk in chunks]).cumsum(0).tolist()
        for i, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            errors[i] += (made[begin:end] - truth[begin:end]).square().mean() / len(clips)
        rows += [truth[::SHOWN_EVERY], made[::SHOWN_EVERY]]
    save_sheet(path, rows)
    return [round(-10 * math.log10(error), 2) for error in errors.tolist()]
