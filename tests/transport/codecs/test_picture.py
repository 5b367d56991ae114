import io

import numpy as np
import pytest
from PIL import Image

from transport.codecs.decoder import decode_picture
from transport.codecs.payload import FrameBatch
from transport.codecs.picture import PictureEncoder
from transport.wire.messages import Encoding


def encode(encoder, frames):
    return encoder.encode(FrameBatch(chunk=frames, start=0, stop=len(frames), position=0))


def pictures(payload):
    ends = np.cumsum(payload.layout.payload_lengths)
    assert ends[-1] == len(payload.data)
    starts = [0, *ends[:-1]]
    return [payload.data[start:end] for start, end in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_pictures_look_like_the_frames(scenery, psnr, name):
    frames = scenery(6)
    payload = encode(PictureEncoder(Encoding(format=name)), frames)
    assert payload.content_type == f"image/{name}"
    assert psnr(np.stack([decode_picture(one) for one in pictures(payload)]), frames) > 35


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_a_lower_quality_is_smaller(scenery, name):
    sizes = [
        len(encode(PictureEncoder(Encoding(format=name, quality=quality)), scenery(6)).data)
        for quality in (40, 95)
    ]
    assert sizes[0] < sizes[1]


def test_jpeg_keeps_more_colour_with_444(psnr):
    """Red and blue stripes one pixel wide: 4:2:0 averages them away."""
    frames = np.zeros((1, 64, 112, 3), np.uint8)
    frames[:, :, ::2, 0] = frames[:, :, 1::2, 2] = 255
    quality = {}
    for chroma in ("420", "444"):
        payload = encode(PictureEncoder(Encoding(format="jpeg", quality=95, chroma=chroma)), frames)
        quality[chroma] = psnr(decode_picture(payload.data), frames[0])
    assert quality["444"] > quality["420"] + 10


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_a_preview_is_smaller_and_its_layout_has_both_sizes(scenery, name):
    payload = encode(PictureEncoder(Encoding(format=name, preview_max_width=56)), scenery(2))
    layout = payload.layout
    assert (layout.width, layout.height) == (layout.preview_width, layout.preview_height)
    assert (layout.width, layout.height) == (56, 32)
    assert (layout.source_width, layout.source_height) == (112, 64)
    assert layout.bytes_per_frame == 112 * 64 * 3
    with Image.open(io.BytesIO(pictures(payload)[0])) as picture:
        assert picture.size == (56, 32)
