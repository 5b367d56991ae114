"""Uploaded images, decoded to the first frame of a world. The bytes are untrusted."""

import base64
import re
from collections.abc import Sequence

import numpy as np

from transport.codecs.image_file import read_image
from transport.codecs.payload import Frame
from transport.wire.errors import BadMessage

_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w=.-]+)*;base64,", re.ASCII)
# A scheme, a root, a drive, or a name with a suffix. "/9j/" begins the base64 of a JPEG.
_PATH = re.compile(r"(?!data:)(?:\w+:|[./~\\](?!9j/)|\S{1,255}\.\w{2,5}$)", re.ASCII)


def decode_image(
    source: bytes | str, *, sizes: Sequence[tuple[int, int]], field: str = "first_frame"
) -> Frame:
    """uint8 [height, width, 3]: the image scaled to cover a size, and cropped at its centre.

    The size is the one of `sizes`, each (width, height), whose shape is nearest to the image's.
    `source`: a file of one of `image_format.FORMATS`, its base64, or a data URL. Raises BadMessage
    that names `field`. Takes tens of milliseconds, seconds for 100 megapixels: call it in a thread.
    """
    try:
        data = _read_base64(source) if isinstance(source, str) else source
        image = read_image(data, sizes=sizes)
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
