"""Worlds that training never saw, and walks through them by the engine, as in play.

Shape letters: F frames, H W pixels.
"""

import copy
from collections.abc import Iterable
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.camera.motion import Poses
from lingbot.config import POCKET
from lingbot.runtime.engine import Engine
from lingbot.runtime.presets import load_text_encoder
from lingbot.runtime.session import Session, SessionSpec
from lingbot.vae.codec import LatentCodec
from lingbot.vae.tiny import repeat_first
from pocket.evaluation.motion import as_frame
from pocket.renderer.render import Renderer
from pocket.renderer.scene import Scene, describe, make_scene
from pocket.renderer.trajectory import walk
from pocket.training.data import (
    FIRST_HELD_OUT_SEED,
    SIZE,
    Clip,
    draw_walk,
    is_clear,
    make_clip,
    to_video,
)


def held_out(count: int) -> Iterable[Clip]:
    """Walks that training never saw, whose conditions stay."""
    seed = FIRST_HELD_OUT_SEED
    while count:
        clip = make_clip(seed)
        if len(set(clip.prompts)) == 1 and any(clip.actions):
            count -= 1
            yield clip
        seed += 1


def held_out_scenes(count: int) -> Iterable[Scene]:
    return (make_scene(FIRST_HELD_OUT_SEED + 1000 + i) for i in range(count))


def draw_opening(scene: Scene, random: Random) -> tuple[Tensor, str]:
    """A picture of the scene, and its prompt."""
    _, _, poses = draw_walk(scene, random, 6)
    return Renderer(scene).render(poses[:1], **SIZE)[0], describe(scene)


def steady_walk(scene: Scene, key: str, *, num_chunks: int) -> tuple[list[str], Poses]:
    """One key held from the second latent frame on: actions, and the poses of all frames."""
    random = Random(f"steady {scene.seed}")
    actions = ["", *[key] * (POCKET.chunk * num_chunks - 1)]
    for _ in range(30):
        start = (random.uniform(-0.9, 0.9), random.uniform(-0.9, 0.9), 90.0 * random.randrange(4))
        _, poses = walk(actions, start=start)
        if is_clear(scene, poses):
            break
    return actions, poses


def stroll(random: Random) -> list[str]:
    """Twelve latent frames of somebody who walks about."""
    turned, ahead = random.choice((2, 3, 4)), random.choice((4, 5, 6))
    turn, last = random.choice(("", "", "j", "l")), random.choice(("w", "", "d"))
    return ["w" + turn] * turned + ["w"] * ahead + [last] * (12 - turned - ahead)


def open_world(engine: Engine, first: Tensor, prompt: str) -> Session:
    return engine.open(SessionSpec(first_frame=as_frame(first), context=encode_prompt(prompt)))


def encode_prompt(prompt: str) -> NDArray[np.float32]:
    return load_text_encoder(POCKET.name).encode(prompt)


def codec_of(engine: Engine) -> LatentCodec:
    """The pocket world's VAE, which also encodes videos."""
    assert isinstance(engine.vae, LatentCodec)
    return engine.vae


def play(
    engine: Engine, first: Tensor, prompt: str, actions: list[str], *, keep_last: int | None = None
) -> Tensor:
    """A walk's frames, uint8 [F, H, W, 3]; of a long one its last chunks."""
    session = open_world(engine, first, prompt)
    chunk = POCKET.chunk
    chunks = []
    for begin in range(0, len(actions), chunk):
        chunks.append(torch.from_numpy(engine.step(session, actions[begin : begin + chunk])))
        if keep_last is not None:
            chunks = chunks[-keep_last:]
    return torch.cat(chunks)


@torch.inference_mode()
def predict_each(engine: Engine, clip: Clip) -> Iterable[Tensor]:
    """What the engine makes of each chunk when all before it are the clip's own: uint8 frames."""
    session = open_world(engine, clip.frames[0], clip.prompts[0])
    truth = codec_of(engine).encode(repeat_first(to_video(clip.frames)[None]))
    chunk = POCKET.chunk
    for number, latents in enumerate(truth.split(chunk, dim=2)):
        actions = clip.actions[number * chunk : (number + 1) * chunk]
        trajectory, decoder = copy.deepcopy(session.trajectory), session.decoder.clone()
        yield torch.from_numpy(engine.step(session, actions))
        # The same chunk once more, as it was in truth.
        session.trajectory, session.decoder = trajectory, decoder
        session.window.num_frames -= chunk
        session.next_chunk = number
        with engine.chunk_inputs(session, actions) as inputs:
            engine.model.write_cache(latents, inputs)
        session.next_chunk = number + 1
        session.window.advance(chunk)
        engine.vae.decode(latents, session.decoder)
