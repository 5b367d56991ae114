"""Assertions on recordings."""

import io

import av
import numpy as np

from transport.codecs.payload import Frames


def read_video(data: bytes) -> tuple[list[Frames], float]:
    """The frames [H, W, 3] of a video, and the duration in seconds that the file states."""
    with av.open(io.BytesIO(data)) as container:
        assert container.duration is not None, "the file has no duration"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return frames, container.duration / av.time_base


KEY_PERIOD_S = 2.01  # with the rounding of times


def assert_seeks(data: bytes, *, to_s: float) -> None:
    """A player that goes to `to_s` begins at the last key frame before it.

    Once 2 s have passed since a key frame, the next frame is one.
    """
    with av.open(io.BytesIO(data)) as container:
        frames = [(frame.time or 0.0, frame.key_frame) for frame in container.decode(video=0)]
        container.seek(round(to_s * av.time_base))
        reached_s = next(container.decode(video=0)).time
    key_s = [time_s for time_s, is_key in frames if is_key]
    for time_s, _ in frames:
        last_s = max(at_s for at_s in key_s if at_s <= time_s)
        assert time_s - last_s < KEY_PERIOD_S
    assert reached_s == max(at_s for at_s in key_s if at_s <= to_s)


def assert_moves(frames: list[Frames]) -> None:
    assert all(frame.std() > 10 for frame in frames), "a blank frame"
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1, "the recording does not move"
