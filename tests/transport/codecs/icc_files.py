"""ICC profiles for tests, and what they do to pixels, without a library for either."""

import struct

import numpy as np

# Columns of the matrix to XYZ under D50, as the profiles' makers publish them.
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE_RGB = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries=DISPLAY_P3, gamma=2.2):
    """A matrix profile of a display."""
    names = ("rXYZ", "gXYZ", "bXYZ")
    colours = {name: xyz(value) for name, value in zip(names, primaries, strict=True)}
    curves = {name: curve(gamma) for name in ("rTRC", "gTRC", "bTRC")}
    return profile(b"mntr", b"RGB ", b"XYZ ", {"wtpt": xyz(D50), **colours, **curves})


def grey_profile(gamma=1.0):
    return profile(b"mntr", b"GRAY", b"XYZ ", {"wtpt": xyz(D50), "kTRC": curve(gamma)})


def cmyk_profile():
    """Inks whose full coverage leaves Lab (20 + 60 * paper, 0, 0): unlike any plain conversion."""
    grid = np.indices((2, 2, 2, 2)).reshape(4, -1).T  # C slowest, K fastest
    lightness = 20 + 60 * (1 - grid.mean(axis=1))
    lab = np.stack([lightness * 2.55, np.full(16, 128), np.full(16, 128)], axis=1)
    line = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 if at % 4 == 0 else 0 for at in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix
    table += line * 4 + lab.round().astype(np.uint8).tobytes() + line * 3
    return profile(b"prtr", b"CMYK", b"Lab ", {"wtpt": xyz(D50), "A2B0": table})


def xyz(values):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def profile(kind, space, connection, tags):
    """The header of 128 bytes, the table of tags, and their data on boundaries of 4 bytes."""
    tags = {
        "desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        "cprt": b"text" + bytes(4) + b"none\0",
        **tags,
    }
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name.encode() + struct.pack(">II", start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    header = bytearray(128)
    header[0:4] = struct.pack(">I", start + len(data))
    header[8:12] = bytes([2, 0x10, 0, 0])
    header[12:24] = kind + space + connection
    header[24:36] = struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">3i", *(round(value * 65536) for value in D50))
    return bytes(header) + table + data


def shown_in_srgb(pixels, primaries=SRGB, gamma=2.2):
    """uint8 [..., 3] in sRGB of pixels under a profile of `rgb_profile`, by its formula."""
    light = (pixels / 255) ** gamma @ np.array(primaries) @ np.linalg.inv(SRGB)
    light = np.clip(light, 0, 1)
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * curve).round().astype(np.uint8)
