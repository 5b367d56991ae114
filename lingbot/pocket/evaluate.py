"""Measures the pocket world against its renderer: python -m lingbot.pocket.evaluate.

On scenes and walks that training never saw; prints a table, then one line of JSON. All that is
generated goes through the engine, as in play.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from lingbot.camera import Poses
from lingbot.config import POCKET
from lingbot.engine import Engine
from lingbot.load import load_engine
from lingbot.pocket.evaluation.classifier import Classifier, draw_views, train_classifier
from lingbot.pocket.evaluation.looks import (
    LOOKS,
    gradient_similarity,
    laplacian_variance,
    mean_square,
    psnr,
    thumbnail,
)
from lingbot.pocket.evaluation.motion import (
    Flow,
    Mask,
    as_frame,
    compare_flow,
    estimated_flow,
    recovered_turn,
    seen_before,
    textured,
    true_flow,
)
from lingbot.pocket.evaluation.play import (
    draw_opening,
    held_out,
    held_out_scenes,
    open_world,
    play,
    predict_each,
    steady_walk,
)
from lingbot.pocket.scenery.conditions import Conditions, change
from lingbot.pocket.scenery.render import Renderer
from lingbot.pocket.scenery.scene import Scene, describe
from lingbot.pocket.training.data import (
    FIRST_HELD_OUT_SEED,
    SIZE,
    draw_walk,
    first_frame_of,
    to_video,
)
from lingbot.tiny_vae import DecoderState, repeat_first

STRIDE = 4  # frames between which motion is measured: a latent frame
FLOW_ANGLE_DEGREES, FLOW_STRETCH = 15.0, 0.25  # that an obedient flow may be off by
TURN_ERROR_DEGREES = 0.5  # that yaw and pitch of a latent frame may be off by
TOLD_WITHIN_DEGREES = 0.5  # of the truth, by the renderer's own pictures: there turns are measured
LONG_CHUNKS = 240  # three minutes
END_CHUNKS = 12  # of a long walk: its last nine seconds


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    claim: str = ""
    met: bool | None = None  # None: nothing is claimed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a folder; absent: the weights in the box")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=12, help="of each figure")
    parser.add_argument("--long-seeds", type=int, default=20, help="walks of three minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART")
    options = parser.parse_args()
    engine = load_engine("pocket", weights=options.weights, device=options.device)
    figures: list[Figure] = []
    for name, measure in PARTS.items():
        if not options.only or name in options.only:
            count = options.long_seeds if name == "long" else options.scenes
            for figure in measure(engine, count):
                print(_row(figure), flush=True)
                figures.append(figure)
    values = {figure.name: round(figure.value, 4) for figure in figures}
    missed = [figure.name for figure in figures if figure.met is False]
    print(json.dumps({"evaluation": "pocket", **values, "missed": missed}))


def _row(figure: Figure) -> str:
    mark = {None: "", True: "met", False: "MISSED"}[figure.met]
    return f"{figure.name:42} {figure.value:10.3f} {figure.unit:8} {figure.claim:12} {mark}"


def at_least(name: str, value: float, unit: str, bound: float) -> Figure:
    return Figure(name, value, unit, f">= {bound:g}", value >= bound)


def at_most(name: str, value: float, unit: str, bound: float) -> Figure:
    return Figure(name, value, unit, f"<= {bound:g}", value <= bound)


# --- what is seen ---------------------------------------------------------------------------------


def measure_autoencoder(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """Held-out clips through the autoencoder alone."""
    errors, gradients = [], []
    for clip in held_out(num_scenes):
        truth = to_video(clip.frames)
        with torch.inference_mode():
            latents = engine.codec.encode(repeat_first(truth[None]))
        decoded = torch.from_numpy(engine.codec.decode(latents, DecoderState()))
        errors.append(mean_square(decoded, clip.frames))
        gradients.append(gradient_similarity(decoded, clip.frames))
    yield at_least("autoencoder PSNR", psnr(errors), "dB", 30)
    yield Figure("autoencoder gradient similarity", float(np.mean(gradients)), "")


def measure_chunk(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """One chunk after a true past, where pixels were seen before."""
    errors, gradients, sharpness = [], [], []
    for clip in held_out(num_scenes):
        renderer = Renderer(clip.scene)
        for number, made in enumerate(predict_each(engine, clip)):
            if number == 0:
                continue
            begin, end = first_frame_of(number), first_frame_of(number + 1)
            truth = clip.frames[begin:end]
            past = [0, *range(max(0, begin - 24), begin, 4), begin - 1]
            seen = np.stack(
                [
                    seen_before(renderer, clip.poses, past, frame, **SIZE)
                    for frame in range(begin, end, 3)
                ]
            )
            square = (made[::3].float() - truth[::3].float()).square().mean(-1) / 255**2
            errors.append(float(square[torch.from_numpy(seen)].mean()))
            gradients.append(gradient_similarity(made, truth))
            sharpness.append(laplacian_variance(made) / laplacian_variance(truth))
    yield at_least("next chunk PSNR, seen before", psnr(errors), "dB", 24)
    yield Figure("next chunk gradient similarity", float(np.mean(gradients)), "")
    yield Figure("next chunk sharpness over the truth's", float(np.median(sharpness)), "")


# --- what the keys do -----------------------------------------------------------------------------


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
    """Whether a chunk's flow is the renderer's.

    A blur, where there is something to be seen, does not obey.
    """
    turns, stretches = [], []
    for flow in told:
        before, after = (as_frame(frames[at]) for at in flow.pair)
        where = flow.seen & textured(before)
        turn, stretch = compare_flow(estimated_flow(before, after), flow.flow, where) or (180.0, 0)
        turns.append(turn)
        stretches.append(stretch)
    stretched = abs(float(np.median(stretches)) - 1) <= FLOW_STRETCH
    return float(np.median(turns)) <= FLOW_ANGLE_DEGREES and stretched


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


# --- what lasts -----------------------------------------------------------------------------------


def measure_long(engine: Engine, num_seeds: int) -> Iterable[Figure]:
    """Three minutes: does the end look as the renderer's pictures do?"""
    ratios: dict[str, list[float]] = {"sharpness": [], "brightness": [], "saturation": []}
    for scene in held_out_scenes(num_seeds):
        random = Random(f"long {scene.seed}")
        actions = [key for _ in range(LONG_CHUNKS // 4) for key in _stroll(random)]
        frames = play(engine, *draw_opening(scene, random), actions, keep_last=END_CHUNKS)
        truth = torch.cat(
            [Renderer(scene).render(draw_walk(scene, random, 18)[2][::9], **SIZE) for _ in range(3)]
        )
        for name, measure in LOOKS.items():
            ratios[name].append(measure(frames[::6]) / measure(truth))
    for name, values in ratios.items():
        mean = float(np.exp(np.mean(np.log(values))))
        off = float(np.exp(np.mean(np.abs(np.log(values)))))  # drifts up and down do not cancel
        yield at_most(f"after 3 minutes: {name} is off by a factor of", off, "", 1.25)
        yield Figure(f"after 3 minutes: {name} over the renderer's", mean, "")


def measure_return(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """Eight steps forward and eight back: is the start nearer than other places in that light?"""
    closer = []
    scenes = list(held_out_scenes(max(num_scenes, 2)))
    for i, scene in enumerate(scenes):
        first, prompt = draw_opening(scene, Random(f"return {scene.seed}"))
        frames = play(engine, first, prompt, ["", *["w"] * 8, *["s"] * 8, ""])
        last = thumbnail(frames[-1])
        own = (last - thumbnail(first)).square().mean()
        others = []
        for other in scenes[:i] + scenes[i + 1 :]:
            light = other.under(scene.conditions)
            picture, _ = draw_opening(light, Random(f"return {other.seed}"))
            others.append((last - thumbnail(picture)).square().mean())
        closer.append(float(np.mean([own < other for other in others])))
    share = float(np.mean(closer))
    yield Figure("start nearer than a random scene", share, "", "> 0.5", share > 0.5)


def _stroll(random: Random) -> list[str]:
    """Twelve latent frames of somebody who walks about."""
    turned, ahead = random.choice((2, 3, 4)), random.choice((4, 5, 6))
    turn, last = random.choice(("", "", "j", "l")), random.choice(("w", "", "d"))
    return ["w" + turn] * turned + ["w"] * ahead + [last] * (12 - turned - ahead)


# --- what the prompt does -------------------------------------------------------------------------


def measure_prompts(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """Hour and weather of what is made, as a classifier sees them; before and after a change."""
    classifier = train_classifier(num_scenes=1000, first_seed=0)
    frames, conditions = draw_views(100, first_seed=FIRST_HELD_OUT_SEED)
    right = _share_right(classifier, frames, conditions)
    yield Figure("classifier on the renderer's pictures", right, "")
    kept, changed = [], []
    for scene in held_out_scenes(num_scenes * 2):
        random = Random(f"prompts {scene.seed}")
        other = scene.under(_another_light(scene.conditions, random))
        session = open_world(engine, *draw_opening(scene, random))
        actions = [key for _ in range(3) for key in _stroll(random)]
        for number in range(12):
            prompt = describe(other) if number == 6 else None
            keys = actions[3 * number : 3 * number + 3]
            chunk = torch.from_numpy(engine.step(session, keys, prompt=prompt))
            wanted = scene.conditions if number < 6 else other.conditions
            verdict = _share_right(classifier, chunk[-1:], [wanted])
            if number < 6:
                kept.append(verdict)
            elif number >= 8:
                changed.append(verdict)
    yield at_least("chunks in the prompt's hour and weather", float(np.mean(kept)), "", 0.9)
    yield at_least("from the third after a change on", float(np.mean(changed)), "", 0.9)


def _another_light(conditions: Conditions, random: Random) -> Conditions:
    """Conditions of another hour or weather."""
    while True:
        other = change(conditions, random)
        if (other.time, other.weather) != (conditions.time, conditions.weather):
            return other


def _share_right(classifier: Classifier, frames: Tensor, wanted: list[Conditions]) -> float:
    seen = classifier.classify(frames)
    return float(
        np.mean(
            [
                (one.time, one.weather) == (other.time, other.weather)
                for one, other in zip(seen, wanted, strict=True)
            ]
        )
    )


PARTS: dict[str, Callable[[Engine, int], Iterable[Figure]]] = {
    "autoencoder": measure_autoencoder,
    "chunk": measure_chunk,
    "keys": measure_keys,
    "turns": measure_turns,
    "rest": measure_rest,
    "return": measure_return,
    "prompts": measure_prompts,
    "long": measure_long,
}


if __name__ == "__main__":
    main()
