"""The chunks of PNG files: which of them Pillow is given, and those that it does not read."""

import struct
import zlib
from collections.abc import Iterator

from PIL.ImageFile import ImageFile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE_BYTES = 8 * 2**20

# Chunks that change how pixels look, beside the critical ones, and the least length of each.
_NEEDED = {
    b"tRNS": 1,
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"eXIf": 1,
    b"acTL": 8,
    b"fcTL": 26,
    b"fdAT": 4,
}
# The factor to 8 bits, by Pillow's raw mode.
_SCALES = {"L;2": 85, "L;4": 17}


def without_rest(data: bytes) -> bytes:
    """The file without chunks that no pixel needs, such as text, and without damaged ones.

    Pillow refuses a file for text that is large or damaged; a browser skips it. Other bytes than a
    PNG file come back as they are.
    """
    if not data.startswith(SIGNATURE):
        return data
    kept, at = [], 0
    for name, start, end in _chunks(data):
        is_critical = not name[0] & 32
        is_needed = name in _NEEDED and end - start - 12 >= _NEEDED[name]
        if not is_critical and not (is_needed and _is_intact(data, start, end)):
            kept.append(memoryview(data)[at:start])
            at = end
    return b"".join([*kept, memoryview(data)[at:]])


def code_points(data: bytes) -> tuple[int, int] | None:
    """The colour primaries and the transfer function of ITU-T H.273 in chunk cICP, or None."""
    body = _find(data, b"cICP")
    return (body[0], body[1]) if body is not None and len(body) == 4 else None


def embedded_profile(data: bytes) -> bytes | None:
    """The ICC profile in chunk iCCP, or None. Pillow would refuse a file for a large one."""
    _, _, rest = (_find(data, b"iCCP") or b"").partition(b"\0")
    if rest[:1] != b"\0":  # no other compression method is defined
        return None
    try:
        return zlib.decompressobj().decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None


def scale_transparency(image: ImageFile) -> None:
    """Give the transparent colour the depth of Pillow's pixels. Call it before they are decoded."""
    colour = image.info.get("transparency")
    raw_mode = image.tile[0].args
    if raw_mode in _SCALES and isinstance(colour, int):
        image.info["transparency"] = colour * _SCALES[raw_mode]
    elif raw_mode == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _find(data: bytes, name: bytes) -> bytes | None:
    """The content of the first intact chunk of this name before the pixels."""
    for found, start, end in _chunks(data):
        if found == name and _is_intact(data, start, end):
            return data[start + 8 : end - 4]
        if found == b"IDAT":
            break
    return None


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each chunk, up to the end of the file or a chunk that is cut off."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        yield name, at, at + 12 + length
        at += 12 + length


def _is_intact(data: bytes, start: int, end: int) -> bool:
    checksum = zlib.crc32(memoryview(data)[start + 4 : end - 4])
    return data[end - 4 : end] == struct.pack(">I", checksum)
