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


def assert_seeks(data: bytes, *, to_s: float) -> None:
    """A player that goes to `to_s` decodes no more than the 2 s from the key frame before it."""
    with av.open(io.BytesIO(data)) as container:
        container.seek(round(to_s * av.time_base))
        times = [frame.time for frame in container.decode(video=0)]
    assert times[0] is not None and to_s - 2.5 <= times[0] <= to_s
    assert times[-1] is not None and times[-1] >= to_s


def assert_moves(frames: list[Frames]) -> None:
    assert all(frame.std() > 10 for frame in frames), "a blank frame"
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1, "the recording does not move"
