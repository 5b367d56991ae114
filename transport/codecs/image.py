"""The first frame: a stranger's bytes to the pixels that a world starts from."""

import base64
import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from transport.wire.errors import BadMessage

MAX_PIXELS = 4096 * 4096
OVERSAMPLING = 2  # of a JPEG that is decoded smaller than it is: as good as the whole one
FORMATS = ("PNG", "JPEG", "WEBP")

_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w=.-]+)*;base64,", re.ASCII)
# A scheme, a root, a drive, or a name with a suffix. "/9j/" is how the base64 of a JPEG begins.
_PATH = re.compile(r"(?!data:)(?:\w+:|[./~\\](?!9j/)|\S{1,255}\.\w{2,5}$)", re.ASCII)


def decode_image(
    source: bytes | str, *, width: int, height: int, field: str = "first_frame"
) -> NDArray[np.uint8]:
    """uint8 [height, width, 3], cropped about the centre so that the picture covers the size.

    `source`: a PNG, JPEG or WebP file, or its base64, or a data URL. Raises BadMessage that names
    `field`. Takes tens of milliseconds: call it in a thread.
    """
    try:
        data = _read_base64(source) if isinstance(source, str) else source
        picture = _open(data, min_side=OVERSAMPLING * max(width, height))
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    except ValueError as exc:
        # A path may happen to be good base64, so it is looked for only once nothing else fits.
        is_path = isinstance(source, str) and _PATH.match(source)
        reason = (
            "a path or a URL, and the server reads no files for clients: send the image's bytes, "
            "its base64 or a data URL"
            if is_path
            else str(exc)
        )
        raise BadMessage(f"`{field}` is {reason}", field=field) from exc
    return np.array(picture, dtype=np.uint8)


def _read_base64(text: str) -> bytes:
    """The bytes behind base64 or a data URL."""
    prefix = _DATA_URL.match(text)
    body = text[prefix.end() if prefix else 0 :]
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError as exc:
        raise ValueError(
            "not valid base64, expected an image's bytes, its base64 or a data URL"
        ) from exc


def _open(data: bytes, *, min_side: int) -> Image.Image:
    """An upright RGB picture. The size is checked before any pixel is decoded.

    A JPEG may come out 2, 4 or 8 times smaller, with no side below `min_side`.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height <= MAX_PIXELS:
            picture.draft(None, (min_side, min_side))  # square, because it may lie on its side
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ValueError(f"too large, expected at most {MAX_PIXELS} pixels") from exc
    except Exception as exc:  # Pillow's decoders raise a dozen kinds for hostile bytes
        raise ValueError("not a readable image, expected a whole PNG, JPEG or WebP file") from exc
    raise ValueError(
        f"too large, {picture.width} x {picture.height}, expected at most {MAX_PIXELS} pixels"
    )
