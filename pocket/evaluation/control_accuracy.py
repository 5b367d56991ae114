"""Accuracy of the controls: motion under held keys, turns, and rest without keys."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lingbot.camera.motion import Poses
from lingbot.config import POCKET
from pocket.evaluation.generate import Generate
from pocket.evaluation.held_out import steady_walk
from pocket.evaluation.metric import Metric, at_least, at_most, without_target
from pocket.evaluation.motion import (
    Mask,
    compare_flow,
    estimate_turn,
    textured,
    to_array,
    true_flow,
)
from pocket.optical_flow import Flow, estimated_flow
from pocket.renderer.prompt import write_prompt
from pocket.renderer.render import FrameSize, Renderer
from pocket.training.config import SIZE

STRIDE = 4  # frames between which motion is measured: a latent frame
# A chunk with greater errors does not follow its key.
MAX_FLOW_ANGLE_DEGREES, MAX_FLOW_SCALE_ERROR = 15.0, 0.25
MAX_TURN_ERROR_DEGREES = 0.5  # target for yaw and pitch of one latent frame
RELIABLE_TURN_DEGREES = 0.5  # greatest error of an estimate on rendered frames that counts
TURNS = {"j": (-6.0, 0.0), "l": (6.0, 0.0), "i": (0.0, 4.0), "k": (0.0, -4.0)}  # yaw, pitch


@dataclass(frozen=True, slots=True)
class ReliableFlow:
    """The true flow between two frames, on pixels where an estimate on rendered frames agrees."""

    pair: tuple[int, int]  # numbers of the frames
    flow: Flow
    mask: Mask


def measure_keys(
    generate: Generate, renderers: Sequence[Renderer], *, size: FrameSize = SIZE
) -> Iterable[Metric]:
    """Compare the flow of chunks with the renderer's, key by key."""
    all_chunks = list[bool]()
    for key in "wasdijkl":
        chunks = list[bool]()
        for renderer in renderers:
            # Training walks look up and down no farther than two chunks.
            num_chunks = 2 if key in "ik" else 3
            actions, poses = steady_walk(renderer.scene, key, num_chunks=num_chunks)
            first, reliable = reliable_flows(renderer, poses, size=size)
            frames = generate(first, write_prompt(renderer.scene), actions)
            chunks += [follows_control(frames, flows) for flows in reliable]
        if chunks:
            yield without_target(f"chunks that follow {key}", float(np.mean(chunks)))
            all_chunks += chunks
    yield at_least("chunks that follow their key", float(np.mean(all_chunks)), "", 0.95)


def reliable_flows(
    renderer: Renderer, poses: Poses, *, size: FrameSize = SIZE
) -> tuple[Tensor, list[list[ReliableFlow]]]:
    """Return the first frame of a walk and the reliable flows of each chunk after the first.

    Chunks without a reliable flow are left out.
    """
    frames = renderer.render(poses, **size)
    chunks = []
    for begin in range(POCKET.first_chunk_frames, len(poses), POCKET.chunk_frames):
        flows = []
        for frame in range(begin, begin + POCKET.chunk_frames - STRIDE, STRIDE // 2):
            pair = (frame, frame + STRIDE)
            truth, visible = true_flow(renderer, poses[list(pair)], **size)
            estimate = estimated_flow(*(to_array(frames[at]) for at in pair))
            error = np.linalg.norm(estimate - truth, axis=-1)
            mask = visible & (error < 0.5 + 0.1 * np.linalg.norm(truth, axis=-1))
            mask &= textured(to_array(frames[frame]))
            if compare_flow(estimate, truth, mask) is not None:
                flows.append(ReliableFlow(pair, truth, mask))
        chunks += [flows] if flows else []
    return frames[0], chunks


def follows_control(frames: Tensor, reliable: list[ReliableFlow]) -> bool:
    """Return whether a chunk's optical flow matches the renderer's, on reliable pixels.

    `frames` [F, H, W, 3] are those of the whole walk. Their contrast does not count, because fog at
    night has little contrast in rendered frames, too.
    """
    matches = []
    for flow in reliable:
        estimate = estimated_flow(*(to_array(frames[at]) for at in flow.pair))
        match = compare_flow(estimate, flow.flow, flow.mask)
        assert match, "reliable flows can be compared"
        matches.append(match)
    angle, scale = np.median(matches, axis=0)
    return bool(angle <= MAX_FLOW_ANGLE_DEGREES and abs(scale - 1) <= MAX_FLOW_SCALE_ERROR)


def measure_turns(
    generate: Generate, renderers: Sequence[Renderer], *, size: FrameSize = SIZE
) -> Iterable[Metric]:
    """Estimate yaw and pitch of latent frames from the homography between first and last frame.

    Counts only latent frames for which an estimate on rendered frames is right.
    """
    yaws, pitches, reliable = list[float](), list[float](), list[bool]()
    for key, (yaw, pitch) in TURNS.items():
        for renderer in renderers:
            actions, poses = steady_walk(renderer.scene, key, num_chunks=2)
            rendered = renderer.render(poses, **size)
            generated = generate(rendered[0], write_prompt(renderer.scene), actions)
            for frame in range(STRIDE, len(generated) - STRIDE, STRIDE):
                error = math.dist(_turn_from(rendered, frame), (yaw, pitch))
                reliable.append(error < RELIABLE_TURN_DEGREES)
                if reliable[-1]:
                    turn = _turn_from(generated, frame)
                    (yaws if yaw else pitches).append(
                        abs(turn[0] - yaw) if yaw else abs(turn[1] - pitch)
                    )
    yield without_target("turns that can be measured", float(np.mean(reliable)))
    for name, errors in (("yaw", yaws), ("pitch", pitches)):
        median, mean = float(np.median(errors)), float(np.mean(errors))
        yield at_most(f"{name} error, median", median, "degrees", MAX_TURN_ERROR_DEGREES)
        yield without_target(f"{name} error, mean", mean, "degrees")


def _turn_from(video: Tensor, frame: int) -> tuple[float, float]:
    """Estimate yaw and pitch of the latent frame that begins at `frame`; (0, 0) on failure."""
    before, after = to_array(video[frame]), to_array(video[frame + STRIDE])
    return estimate_turn(before, after) or (0.0, 0.0)


def measure_rest(
    generate: Generate, renderers: Sequence[Renderer], *, size: FrameSize = SIZE
) -> Iterable[Metric]:
    """Measure the optical flow between frames while no key is held.

    The target holds for textured pixels. In a plain sky the estimator turns a change of one grey
    level into a flow of a pixel and more.
    """
    everywhere, on_texture = [], []
    for renderer in renderers:
        actions, poses = steady_walk(renderer.scene, "", num_chunks=4)
        first = renderer.render(poses[:1], **size)[0]
        frames = generate(first, write_prompt(renderer.scene), actions)
        mask = textured(to_array(first))
        for before, after in itertools.pairwise(map(to_array, frames)):
            flow = np.linalg.norm(estimated_flow(before, after), axis=-1)
            everywhere.append(float(flow.mean()))
            on_texture += [float(flow[mask].mean())] if mask.any() else []
    yield at_most("flow at rest on texture", float(np.mean(on_texture)), "pixels", 0.1)
    yield without_target("flow at rest everywhere", float(np.mean(everywhere)), "pixels")
