"""Whether what is seen moves as the keys say: the flow of walks and turns, and that of rest."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lingbot.camera.motion import Poses
from lingbot.config import POCKET
from lingbot.runtime.engine import Engine
from pocket.evaluation.figure import Figure, at_least, at_most
from pocket.evaluation.motion import (
    Mask,
    as_frame,
    compare_flow,
    recovered_turn,
    textured,
    true_flow,
)
from pocket.evaluation.play import held_out_scenes, play, steady_walk
from pocket.optical_flow import Flow, estimated_flow
from pocket.renderer.render import Renderer
from pocket.renderer.scene import Scene, describe
from pocket.training.data import SIZE

STRIDE = 4  # frames between which motion is measured: a latent frame
FLOW_ANGLE_DEGREES, FLOW_STRETCH = 15.0, 0.25  # that an obedient flow may be off by
TURN_ERROR_DEGREES = 0.5  # that yaw and pitch of a latent frame may be off by
TOLD_WITHIN_DEGREES = 0.5  # of the truth, by the renderer's own pictures: there turns are measured


@dataclass(frozen=True, slots=True)
class Told:
    """The flow between two frames of a walk, where the renderer's own pictures tell it."""

    pair: tuple[int, int]
    flow: Flow
    seen: Mask


def measure_keys(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """The flow of chunks against the renderer's, key by key."""
    everything = list[bool]()
    for key in "wasdijkl":
        verdicts = list[bool]()
        for scene in held_out_scenes(num_scenes):
            # Up and down no farther than training went.
            actions, poses = steady_walk(scene, key, num_chunks=2 if key in "ik" else 3)
            first, told = told_flows(scene, poses)
            frames = play(engine, first, describe(scene), actions)
            verdicts += [obeys(frames, flows) for flows in told]
        if verdicts:
            yield Figure(f"chunks that obey {key}", float(np.mean(verdicts)), "")
            everything += verdicts
    yield at_least("chunks that obey their key", float(np.mean(everything)), "", 0.95)


def told_flows(scene: Scene, poses: Poses) -> tuple[Tensor, list[list[Told]]]:
    """A walk's first picture, and the flows of its later chunks.

    Without the chunks of which the renderer's own pictures tell nothing.
    """
    renderer = Renderer(scene)
    shown = renderer.render(poses, **SIZE)
    chunks = []
    for begin in range(POCKET.first_chunk_frames, len(poses), POCKET.chunk_frames):
        flows = []
        for frame in range(begin, begin + POCKET.chunk_frames - STRIDE, STRIDE // 2):
            pair = (frame, frame + STRIDE)
            truth, both = true_flow(renderer, poses[list(pair)], **SIZE)
            found = estimated_flow(*(as_frame(shown[at]) for at in pair))
            off = np.linalg.norm(found - truth, axis=-1)
            seen = both & (off < 0.5 + 0.1 * np.linalg.norm(truth, axis=-1))
            seen &= textured(as_frame(shown[frame]))
            if compare_flow(found, truth, seen) is not None:
                flows.append(Told(pair, truth, seen))
        chunks += [flows] if flows else []
    return shown[0], chunks


def obeys(frames: Tensor, told: list[Told]) -> bool:
    """Whether a chunk's flow is the renderer's, where that tells it: a blur has none there.

    However faint what moves: in a fog by night even the truth is little more than a shadow.
    """
    matches = []
    for flow in told:
        found = estimated_flow(*(as_frame(frames[at]) for at in flow.pair))
        match = compare_flow(found, flow.flow, flow.seen)
        assert match, "told_flows leaves out what tells nothing"
        matches.append(match)
    turn, stretch = np.median(matches, axis=0)
    return bool(turn <= FLOW_ANGLE_DEGREES and abs(stretch - 1) <= FLOW_STRETCH)


def measure_turns(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """Yaw and pitch of a latent frame, from the homography between its ends.

    Only where the renderer's own pictures tell it.
    """
    expected = {"j": (-6.0, 0.0), "l": (6.0, 0.0), "i": (0.0, 4.0), "k": (0.0, -4.0)}
    yaws, pitches, told = list[float](), list[float](), list[bool]()
    for key, (yaw, pitch) in expected.items():
        for scene in held_out_scenes(num_scenes):
            actions, poses = steady_walk(scene, key, num_chunks=2)
            shown = Renderer(scene).render(poses, **SIZE)
            frames = play(engine, shown[0], describe(scene), actions)
            for frame in range(STRIDE, len(frames) - STRIDE, STRIDE):
                is_told = math.dist(_turn_from(shown, frame), (yaw, pitch)) < TOLD_WITHIN_DEGREES
                told.append(is_told)
                if is_told:
                    turn = _turn_from(frames, frame)
                    (yaws if yaw else pitches).append(
                        abs(turn[0] - yaw) if yaw else abs(turn[1] - pitch)
                    )
    yield Figure("turns that the renderer's pictures tell", float(np.mean(told)), "")
    for name, errors in (("yaw", yaws), ("pitch", pitches)):
        median, mean = float(np.median(errors)), float(np.mean(errors))
        yield at_most(f"{name} error, median", median, "degrees", TURN_ERROR_DEGREES)
        yield Figure(f"{name} error, mean", mean, "degrees")


def _turn_from(video: Tensor, frame: int) -> tuple[float, float]:
    """Yaw and pitch of the latent frame that begins there; none where none is recovered."""
    before, after = as_frame(video[frame]), as_frame(video[frame + STRIDE])
    return recovered_turn(before, after) or (0.0, 0.0)


def measure_rest(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """Standing still: nothing moves from one frame to the next.

    Where the picture that stands still has something to be seen: in a plain sky the estimator reads
    motion of a pixel and more into a grey level of change.
    """
    flows, seen = [], []
    for scene in held_out_scenes(num_scenes):
        actions, poses = steady_walk(scene, "", num_chunks=4)
        first = Renderer(scene).render(poses[:1], **SIZE)[0]
        frames = play(engine, first, describe(scene), actions)
        where = textured(as_frame(first))
        for before, after in itertools.pairwise(map(as_frame, frames)):
            flow = np.linalg.norm(estimated_flow(before, after), axis=-1)
            flows.append(float(flow.mean()))
            seen += [float(flow[where].mean())] if where.any() else []
    yield at_most("flow at rest, where there is texture", float(np.mean(seen)), "pixels", 0.1)
    yield Figure("flow at rest, everywhere", float(np.mean(flows)), "pixels")
