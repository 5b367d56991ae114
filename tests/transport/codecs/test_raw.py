import numpy as np

from transport.codecs.payload import FrameBatch
from transport.codecs.raw import RawEncoder


def encode(encoder, frames):
    return encoder.encode(FrameBatch(chunk=frames, start=0, stop=len(frames), position=0))


def test_a_raw_payload_is_the_pixels_themselves(scenery):
    frames = scenery()
    payload = encode(RawEncoder(), frames)
    assert bytes(payload.data) == frames.tobytes()
    assert np.shares_memory(np.frombuffer(payload.data, np.uint8), frames)
    assert payload.data.readonly


def test_raw_takes_frames_that_are_read_only_or_strided(scenery):
    frames = scenery()
    frames.flags.writeable = False
    assert bytes(encode(RawEncoder(), frames).data) == frames.tobytes()
    assert bytes(encode(RawEncoder(), frames[::2]).data) == frames[::2].tobytes()


def test_the_raw_layout_describes_the_bytes(scenery):
    layout = encode(RawEncoder(), scenery()).layout
    assert (layout.format, layout.encoding) == ("rgb24", "raw")
    assert (layout.width, layout.height, layout.channels) == (112, 64, 3)
    assert (layout.bytes_per_frame, layout.raw_size) == (21_504, 258_048)
