"""Pixels and metadata that the pictures of tests share, and their comparison."""

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.transport.codecs.icc_files import rgb_profile

WIDTH, HEIGHT = 96, 64
Y, X = np.mgrid[:HEIGHT, :WIDTH]
# Smooth, so that codecs change little, and different in each corner.
RGB = np.stack([20 + X * 2.2, 30 + Y * 2.9, 60 + X + Y / 2], -1).round().astype(np.uint8)
GREY = RGB[..., :1]
ALPHA = (X[..., None] * 255 / (WIDTH - 1)).round().astype(np.uint8)
RGBA, GREY_ALPHA = np.dstack([RGB, ALPHA]), np.dstack([GREY, ALPHA])
BLACK = np.zeros_like(RGB)
KEYED = RGB.copy()  # the left half is of one colour, which a file may call transparent
KEYED[:, : WIDTH // 2] = (204, 102, 51)
HIDDEN = np.dstack([np.random.default_rng(0).integers(0, 256, RGB.shape), 255 * (Y > 40)])
HIDDEN[Y > 40, :3] = RGB[Y > 40]
HIDDEN = HIDDEN.astype(np.uint8)  # noise under transparent pixels
PALETTE = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 90)], 1)
P3 = rgb_profile()
XMP = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
FINE = {"quality": 95, "subsampling": 0}


@dataclass
class Picture:
    data: bytes
    shows: np.ndarray | None = None  # [height, width, 3]; None: compared with a browser alone


def encode(image, kind, **options):
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image.squeeze())
    image.save(file, kind, **options)
    return file.getvalue()


def grey(pixels):
    return np.broadcast_to(pixels, RGB.shape).astype(np.uint8)


def on_black(pixels, alpha=ALPHA):
    return (pixels * (alpha / 255)).round().astype(np.uint8)


def deep(pixels):
    return pixels.astype(np.uint16) * 257


def upright(orientation, pixels=RGB):
    """The pixels as EXIF's orientation turns them."""
    turns = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}
    turned = np.rot90(pixels, turns.get(orientation, 0))
    return turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned


def exif(orientation, *, before=b"", num=1):
    """A TIFF header and a directory of one entry, or of `num` with those `before`."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", num) + before + entry + bytes(4)


def jpeg_exif(*args, **kwargs):
    return b"Exif\0\0" + exif(*args, **kwargs)


OUTSIDE = struct.pack(">HHII", 0x010F, 2, 4000, 0x7FFFFFFF)  # a value beyond the end of the file


def assert_looks_like(frame, shown, *, mean=2, most=10):
    """The mean error of all values, 0 to 255, is at most `mean`; 99 % of them have at most `most`.

    The rest may have any error: a few values at an edge, or where a truncated file ends.
    """
    error = np.abs(frame.astype(int) - shown)
    assert (error.mean() <= mean, np.quantile(error, 0.99) <= most) == (True, True), (
        f"mean {error.mean():.2f}, 99 % within {np.quantile(error, 0.99):.1f}, worst {error.max()}"
    )
