"""Image files, read as a browser shows them. The bytes are untrusted, so work has a bound."""

import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil, floor, log

from PIL import Image, ImageFile
from PIL.ExifTags import Base as ExifTag
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from transport.codecs import icc, png
from transport.codecs.image_format import FORMATS, NAMES, describe
from transport.codecs.srgb import open_transform, to_eight_bits, to_srgb

MAX_PIXELS = 110_000_000  # the photos of a camera of 108 megapixels
MAX_DECODER_BYTES = 640 * 2**20
MAX_SCANNED_PIXELS = 2_000_000_000  # in all scans of a JPEG; ten scans are usual
MAX_TILES = 100_000  # or strips, of a TIFF
OVERSAMPLING = 2  # an image reduced to twice the target size looks as good as the whole one
STRIP_PIXELS = 2**21

# Bytes that a decoder and Pillow hold for a pixel. WebP's decoder has two canvases and a copy.
_PIXEL_BYTES = {"WEBP": 16, "AVIF": 12, "TIFF": 12}

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PHOTOMETRIC = ExifTag.PhotometricInterpretation  # of a TIFF

# The markers of a JPEG but for those without a segment, which entropy-coded data may hold.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")

_pillow_lock = threading.Lock()


class UnsuitableImage(ValueError):
    """A readable file that is refused. The text names what it is."""


def read_image(data: bytes, *, sizes: Sequence[tuple[int, int]]) -> Image.Image:
    """An upright sRGB image of one of `sizes`: scaled to cover it, and cropped at its centre.

    The size is the one whose shape is nearest to the image's; the first of several such sizes.
    Black stands under transparent pixels, and where a truncated file ends. Raises ValueError, whose
    text names what the file is.
    """
    try:
        with _pillow_settings():
            file = _open(data)
            orientation = _read_orientation(file)
            if orientation >= 5:  # rotated by 90 degrees
                sizes = [(height, width) for width, height in sizes]
            width, height = min(sizes, key=lambda size: _shape_distance(file.size, size))
            _check_cost(file, data, min_size=(OVERSAMPLING * width, OVERSAMPLING * height))
            profile = _read_profile(file, data)
            image = _decode(file)
        image = _fit(image, profile, width, height)
    except UnsuitableImage:
        raise
    except Image.DecompressionBombError as exc:
        raise ValueError(f"too large, expected at most {MAX_PIXELS} pixels") from exc
    except Exception as exc:  # Pillow's decoders raise a dozen kinds for hostile bytes
        raise ValueError(f"{describe(data)}, expected a {NAMES} image") from exc
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def _shape_distance(size: tuple[int, int], other: tuple[int, int]) -> float:
    """How much wider, for its height, the one is than the other: 0 for the same shape."""
    return abs(log(size[0] * other[1]) - log(size[1] * other[0]))


@contextmanager
def _pillow_settings() -> Iterator[None]:
    """Sets what Pillow keeps for the whole process, and restores it."""
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata that do not matter here
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open(data: bytes) -> ImageFile.ImageFile:
    _check_tiles(data)
    file = Image.open(io.BytesIO(png.without_rest(data)), formats=FORMATS)
    if "progressive" in file.info:  # of a JPEG. Without its end, Pillow would decode nothing
        file = Image.open(io.BytesIO(data + b"\xff\xd9"), formats=("JPEG",))
    return file


def _check_tiles(data: bytes) -> None:
    """Raises UnsuitableImage for a TIFF of very many parts: Pillow makes a decoder for each."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return
    directory, file = ImageFileDirectory_v2(data[:8]), io.BytesIO(data)
    file.seek(directory.next)
    directory.load(file)
    for tag in (ExifTag.StripOffsets, ExifTag.TileOffsets):
        if len(directory.get(tag, ())) > MAX_TILES:
            raise UnsuitableImage(f"a TIFF image in too many parts, expected at most {MAX_TILES}")


def _read_orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8, in formats where a browser reads it.

    Not `Image.getexif`, which also looks in texts. Pillow applies the orientation of a TIFF itself.
    """
    if image.format not in ("JPEG", "MPO", "PNG", "AVIF"):
        return 1
    try:
        exif = Image.Exif()
        exif.load(image.info["exif"])
        orientation = exif[ExifTag.Orientation]
    except Exception:  # none, or a damaged one
        return 1
    return orientation if orientation in _TRANSPOSE else 1


def _check_cost(image: Image.Image, data: bytes, *, min_size: tuple[int, int]) -> None:
    """Raises UnsuitableImage if decoding would take too much memory or time. Decodes no pixel.

    A JPEG will be decoded 2, 4 or 8 times smaller, with no side below that of `min_size`.
    """
    size = f"{image.width} x {image.height}"
    num_pixels = image.width * image.height
    if num_pixels > MAX_PIXELS:
        raise UnsuitableImage(f"too large, {size}, expected at most {MAX_PIXELS} pixels")
    num_bytes = 0
    if image.format in ("JPEG", "MPO"):
        if _count_scans(data) * num_pixels > MAX_SCANNED_PIXELS:
            raise UnsuitableImage(
                f"a JPEG image of {size} in too many scans, expected a baseline JPEG"
            )
        if "progressive" in image.info:  # all of its coefficients are in memory
            num_bytes = 2 * len(image.getbands()) * num_pixels
        image.draft(None, min_size)
    num_bytes += image.width * image.height * _PIXEL_BYTES.get(image.format or "", 4)
    if num_bytes > MAX_DECODER_BYTES:
        raise UnsuitableImage(
            f"a {image.format} image of {size}, which takes {num_bytes // 2**20} MiB to decode, "
            f"expected at most {MAX_DECODER_BYTES // 2**20} MiB, or a JPEG"
        )


def _count_scans(data: bytes) -> int:
    """The scans of a JPEG up to its end: a phone may have appended a video.

    Segments are passed by their lengths, as libjpeg does: one may hold any bytes, such as a
    thumbnail.
    """
    num_scans, at = 0, 0
    while (found := _MARKER.search(data, at)) and found[1] != b"\xd9":
        num_scans += found[1] == b"\xda"
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return num_scans


def _read_profile(image: Image.Image, data: bytes) -> bytes | None:
    """The ICC profile of the pixels, or None for sRGB. Raises UnsuitableImage for an HDR image."""
    embedded: bytes | None = image.info.get("icc_profile")
    points = None
    if image.format == "PNG":
        embedded = png.embedded_profile(data)
        points = png.code_points(data)  # they go before a profile
    elif image.format == "AVIF" and not embedded:
        at = data.find(b"colrnclx")
        points = struct.unpack_from(">HH", data, at + 8) if at >= 0 else None
    elif image.format == "BMP" and data[70:74] == b"DEBM":  # version 5: "MBED", embedded
        start, length = struct.unpack_from("<II", data, 126)
        embedded = data[14 + start :][:length]
    if points is not None:
        primaries, transfer = points
        if transfer in icc.HDR_TRANSFERS:
            raise UnsuitableImage(
                "an HDR image (PQ or HLG), expected one of standard dynamic range"
            )
        if image.format == "AVIF" and transfer in icc.VIDEO_TRANSFERS:
            transfer = icc.SRGB_TRANSFER  # as in a browser's videos
        return icc.profile_of_code_points(primaries, transfer)
    gamma = image.info.get("gamma")  # of a PNG
    if embedded or "srgb" in image.info or not gamma:
        return embedded
    return icc.profile_of_gamma(1 / gamma, image.info.get("chromaticity"))


def _decode(file: ImageFile.ImageFile) -> Image.Image:
    """The first frame, with at most 8 bits in a channel. The rest of a truncated file is black."""
    if getattr(file, "default_image", False):
        file.seek(1)  # the frames of an APNG follow an image for programs that cannot animate
    if file.format == "PNG":
        png.scale_transparency(file)
    is_interlaced, extents = file.info.get("interlace"), None
    if file.format == "GIF":
        _, extents, _, args = file.tile[0]
        is_interlaced = args is not None and args[1]
    try:
        file.load()
    except OSError:
        file.tile = []  # then Pillow gives the part that it has decoded
        # With a palette the rest is not black, and no part of an interlaced image is complete.
        if file.mode == "P" or is_interlaced or file.getbbox(alpha_only=False) is None:
            raise
    if extents is None or extents == (0, 0, *file.size):
        is_inverted = isinstance(file, TiffImageFile) and file.tag_v2.get(_PHOTOMETRIC) == 0
        return to_eight_bits(file, is_inverted=is_inverted)
    canvas = Image.new("RGBA", file.size)  # the frame covers a part of it
    canvas.paste(file.convert("RGBA").crop(extents), extents[:2])
    return canvas


def _fit(image: Image.Image, profile: bytes | None, width: int, height: int) -> Image.Image:
    """The centre of the image in sRGB, scaled to this size.

    The conversion goes strip by strip, so that it needs little memory.
    """
    # The part that has the wanted shape. `min` makes one side exactly that of the image.
    part_width = min(image.width, image.height * width / height)
    part_height = min(image.height, image.width * height / width)
    left, top = (image.width - part_width) / 2, (image.height - part_height) / 2
    right, bottom = left + part_width, top + part_height
    box = floor(left), floor(top), min(ceil(right), image.width), min(ceil(bottom), image.height)
    factor = max(1, int(part_width / width / OVERSAMPLING))
    transform = open_transform(image, profile)
    rows = factor * max(1, STRIP_PIXELS // (image.width * factor))
    strips = Image.new("RGB", (ceil((box[2] - box[0]) / factor), ceil((box[3] - box[1]) / factor)))
    for row in range(box[1], box[3], rows):
        strip = image.crop((box[0], row, box[2], min(row + rows, box[3])))
        strips.paste(to_srgb(strip, transform).reduce(factor), (0, (row - box[1]) // factor))
    fitted = (
        (left - box[0]) / factor,
        (top - box[1]) / factor,
        min((right - box[0]) / factor, strips.width),
        min((bottom - box[1]) / factor, strips.height),
    )
    return strips.resize((width, height), Image.Resampling.LANCZOS, box=fitted)
