import io

import av
import numpy as np
import pytest

from transport.codecs.mp4 import Mp4Writer


def read(data):
    with av.open(io.BytesIO(data)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        return np.stack(frames), file.streams.video[0]


@pytest.mark.parametrize("width, height", [(32, 16), (33, 17)])
def test_written_frames_are_read_back(width, height):
    ramp = np.linspace(0, 250, width).astype(np.uint8)
    frames = np.broadcast_to(ramp[None, None, :, None], (9, height, width, 3))
    writer = Mp4Writer(width=width, height=height, fps=16)
    writer.add(frames[:4]).add(frames[4:])
    back, stream = read(writer.close().take())
    assert writer.num_frames == len(back) == 9
    assert stream.average_rate == 16
    assert abs(back[:, :height, :width].astype(int) - frames).mean() < 4


def test_an_odd_size_grows_by_its_last_row_and_column():
    writer = Mp4Writer(width=33, height=17, fps=16)
    back, _ = read(writer.add(np.zeros((2, 17, 33, 3), np.uint8)).close().take())
    assert back.shape == (2, 18, 34, 3)


def test_a_live_file_is_playable_before_its_end_and_no_byte_is_written_twice():
    frames = np.random.default_rng(0).integers(0, 256, (48, 64, 112, 3), np.uint8)
    writer = Mp4Writer(width=112, height=64, fps=16, live=True)
    pieces = [writer.add(frames[start : start + 12]).take() for start in range(0, 48, 12)]
    assert all(pieces)
    assert len(list(av.open(io.BytesIO(b"".join(pieces))).decode(video=0))) >= 36  # no end yet
    back, stream = read(b"".join(pieces) + writer.close().take())
    assert len(back) == 48
    assert stream.average_rate == 16
