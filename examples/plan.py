"""Plans a walk: forks the world into eight action sequences, and takes the one that scores best.

    make serve                              # in another terminal
    python -m examples.plan --out plan.mp4  # needs the extra [gym]

The score of a sequence is that of its last frame. Without `--goal` it is the frame's contrast, so
that the walk avoids walls and mist; with one, the likeness to that picture.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from transport.client import DEFAULT_URL
from transport.codecs.mp4 import Mp4Writer
from transport.codecs.payload import Frame, Frames
from transport.gym import WorldEnv, WorldVectorEnv
from transport.wire.controls import KEYS

# Keys held in each of two chunks.
SEQUENCES = (
    ("w", "w"),
    ("w", "wj"),
    ("w", "wl"),
    ("wj", "w"),
    ("wl", "w"),
    ("j", "j"),
    ("l", "l"),
    ("s", "s"),
)

Score = Callable[[Frame], float]


def press(keys: str) -> np.ndarray:
    """An action: one bit for each key."""
    return np.array([key in keys for key in KEYS], np.int8)


def contrast(frame: Frame) -> float:
    """The standard deviation of the brightness, in 0 to 255."""
    return float(frame.mean(axis=-1).std())


def likeness(goal: Path, *, size: tuple[int, int]) -> Score:
    """A score: the negative mean difference from a picture, at an eighth of the size."""
    small = (size[0] // 8, size[1] // 8)

    def shrink(image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB").resize(small, Image.Resampling.BOX), np.float64)

    wanted = shrink(Image.open(goal))
    return lambda frame: -float(np.abs(shrink(Image.fromarray(frame)) - wanted).mean())


def imagine(futures: WorldVectorEnv, fork: str) -> Frame:
    """The last frames of all sequences, [8, H, W, 3], each in a fork of the same world."""
    futures.reset(options={"fork": fork})
    for step in range(len(SEQUENCES[0])):
        actions = np.stack([press(sequence[step]) for sequence in SEQUENCES])
        frames, *_ = futures.step(actions)
    return frames[:, -1]


def plan(
    env: WorldEnv, futures: WorldVectorEnv, *, score: Score, num_rounds: int
) -> tuple[list[Frames], list[Sequence[str]]]:
    """Walks `num_rounds` sequences, each the best of its round. Returns frames and sequences."""
    walked: list[Frames] = []
    chosen: list[Sequence[str]] = []
    for number in range(1, num_rounds + 1):
        scores = [score(frame) for frame in imagine(futures, env.fork())]
        best = SEQUENCES[int(np.argmax(scores))]
        chosen.append(best)
        for keys in best:
            frames, *_ = env.step(press(keys))
            walked.append(frames)
        listed = ", ".join(f"{value:.1f}" for value in scores)
        print(
            f"round {number}: {' '.join(best)}, the best of {listed}; got {score(frames[-1]):.1f}"
        )
    return walked, chosen


def main(argv: Sequence[str] | None = None) -> None:
    """Plans a walk and writes its frames as MP4."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.plan", description="Plans a walk by forking the world."
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--token")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--goal", type=Path, help="a picture to walk to")
    parser.add_argument("--out", type=Path, default=Path("plan.mp4"))
    options = parser.parse_args(argv)
    env = WorldEnv(options.url, token=options.token)
    futures = WorldVectorEnv(len(SEQUENCES), options.url, token=options.token)
    try:
        first, _ = env.reset(seed=options.seed)
        _, height, width, _ = first.shape
        score = likeness(options.goal, size=(width, height)) if options.goal else contrast
        walked, _ = plan(env, futures, score=score, num_rounds=options.rounds)
    finally:
        futures.close()
        env.close()
    writer = Mp4Writer(width=width, height=height, fps=env.metadata["render_fps"])
    for frames in [first, *walked]:
        writer.add(frames)
    options.out.write_bytes(writer.close().take())


if __name__ == "__main__":
    main()
