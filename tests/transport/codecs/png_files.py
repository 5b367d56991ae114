"""PNG files of every depth, colour type and chunk, most of which Pillow cannot write."""

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # by number of channels
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
PASSES.append((0, 1, 1, 2))  # Adam7: first column and row, step of columns and rows


def chunk(name, data=b""):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(pixels, *, bits=8, palette=None, chunks=(), after=(), interlaced=False):
    """A PNG file of `pixels` [height, width, channels], integers of `bits` bits.

    `palette` [num, 3] makes them indices. `chunks` go before the pixels and `after` behind them.
    """
    height, width, channels = pixels.shape
    colour = COLOUR_TYPES[channels] if palette is None else 3
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    parts = [chunk(b"IHDR", header)]
    colours = [] if palette is None else [chunk(b"PLTE", np.uint8(palette).tobytes())]
    # A profile stands before the palette, and transparency behind it.
    parts += [one for one in chunks if one[4:8] != b"tRNS"] + colours
    parts += [one for one in chunks if one[4:8] == b"tRNS"]
    parts += [chunk(b"IDAT", zlib.compress(scanlines(pixels, bits, interlaced)))]
    return SIGNATURE + b"".join([*parts, *after, chunk(b"IEND")])


def scanlines(pixels, bits, interlaced=False):
    """Each row with a filter byte before it, by pass where the file is interlaced."""
    passes = PASSES if interlaced else [(0, 0, 1, 1)]
    images = (pixels[y::rows, x::columns] for x, y, columns, rows in passes)
    return b"".join(b"\0" + packed(row, bits) for image in images if image.size for row in image)


def packed(row, bits):
    values = row.reshape(-1)
    if bits >= 8:
        return values.astype(">u2" if bits == 16 else np.uint8).tobytes()
    digits = (values[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.astype(np.uint8)).tobytes()


def compressed_text(size):
    return chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(size)))


def profile_chunk(icc):
    return chunk(b"iCCP", b"profile\0\0" + zlib.compress(icc))


def gamma_chunk(value):
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def primaries_chunk(*values):
    """White, red, green and blue, x and y of each."""
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))


def transparent(*values):
    """The one colour, of one or three channels, that is transparent."""
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def damaged(data, name):
    """The file with a wrong checksum of its chunk `name`."""
    at = data.index(name) - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    return data[: end - 1] + bytes([data[end - 1] ^ 255]) + data[end:]
