"""Uploaded images, decoded to the first frame of a world. The bytes are untrusted."""

import base64
import io
import re

import numpy as np
from PIL import Image, ImageOps

from transport.codecs.payload import Frame
from transport.wire.errors import BadMessage

MAX_PIXELS = 4096 * 4096
OVERSAMPLING = 2  # a JPEG decoded at twice the target size looks as good as the whole one
FORMATS = ("PNG", "JPEG", "WEBP")

_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w=.-]+)*;base64,", re.ASCII)
# A scheme, a root, a drive, or a name with a suffix. "/9j/" begins the base64 of a JPEG.
_PATH = re.compile(r"(?!data:)(?:\w+:|[./~\\](?!9j/)|\S{1,255}\.\w{2,5}$)", re.ASCII)


def decode_image(
    source: bytes | str, *, width: int, height: int, field: str = "first_frame"
) -> Frame:
    """uint8 [height, width, 3]: the image scaled to cover the size, and cropped at its centre.

    `source`: a PNG, JPEG or WebP file, its base64, or a data URL. Raises BadMessage that names
    `field`. Takes tens of milliseconds: call it in a thread.
    """
    try:
        data = _read_base64(source) if isinstance(source, str) else source
        image = _open_image(data, min_side=OVERSAMPLING * max(width, height))
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    except ValueError as exc:
        # A path may be valid base64, so the path check comes last.
        is_path = isinstance(source, str) and _PATH.match(source)
        reason = (
            "a path or a URL, and the server reads no files for clients: send the image's bytes, "
            "its base64 or a data URL"
            if is_path
            else str(exc)
        )
        raise BadMessage(f"`{field}` is {reason}", field=field) from exc
    return np.array(image, dtype=np.uint8)


def _read_base64(text: str) -> bytes:
    """The bytes of base64 text or of a data URL. Raises ValueError."""
    prefix = _DATA_URL.match(text)
    body = text[prefix.end() if prefix else 0 :]
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError as exc:
        raise ValueError(
            "not valid base64, expected an image's bytes, its base64 or a data URL"
        ) from exc


def _open_image(data: bytes, *, min_side: int) -> Image.Image:
    """An upright RGB image. The size is checked before any pixel is decoded.

    A JPEG may be decoded 2, 4 or 8 times smaller, with no side below `min_side`. Raises
    ValueError.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height <= MAX_PIXELS:
            image.draft(None, (min_side, min_side))  # square, because EXIF may rotate it
            return ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ValueError(f"too large, expected at most {MAX_PIXELS} pixels") from exc
    except Exception as exc:  # Pillow's decoders raise a dozen kinds for hostile bytes
        raise ValueError("not a readable image, expected a whole PNG, JPEG or WebP file") from exc
    raise ValueError(
        f"too large, {image.width} x {image.height}, expected at most {MAX_PIXELS} pixels"
    )
