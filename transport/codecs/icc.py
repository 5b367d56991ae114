"""ICC profiles of colour spaces that a file names by numbers, as PNG and AVIF do."""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Chromaticity = Sequence[float]  # x and y of white, red, green and blue

SRGB: Chromaticity = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)

# By code point of ITU-T H.273. The others are rare, and are read as sRGB.
_PRIMARIES: dict[int, Chromaticity] = {
    5: (0.3127, 0.3290, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.3140, 0.3510, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
# The numbers of a `para` curve: x^g, or (ax + b)^g from d on and cx below it.
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SRGB_TRANSFER = 13
VIDEO_TRANSFERS = (1, 6, 14, 15)  # a camera's curve, which displays answer with x^2.4
_CURVES: dict[int, Sequence[float]] = {
    **dict.fromkeys(VIDEO_TRANSFERS, (2.4,)),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
}
HDR_TRANSFERS = (16, 18)  # PQ and HLG: they need a tone mapping, so there is no profile

_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def profile_of_code_points(primaries: int, transfer: int) -> bytes | None:
    """The profile of H.273's code points, or None for sRGB. Unknown points are read as sRGB."""
    return _profile(_PRIMARIES.get(primaries, SRGB), _CURVES.get(transfer, _SRGB_CURVE))


def profile_of_gamma(gamma: float, chromaticity: Chromaticity | None) -> bytes | None:
    """The profile of a display: light is the pixel to the power of `gamma`.

    None for sRGB, and if no display has this chromaticity.
    """
    if chromaticity is None and abs(gamma - 2.2) < 0.1:  # programs write it for sRGB
        return None
    return _profile(chromaticity or SRGB, (gamma,))


def _profile(chromaticity: Chromaticity, curve: Sequence[float]) -> bytes | None:
    if chromaticity == SRGB and curve == _SRGB_CURVE:
        return None
    try:
        columns = [_xyz_tag(column) for column in _to_xyz(chromaticity).T]
        curve_tag = b"para" + bytes(4) + struct.pack(">HH", 0 if len(curve) == 1 else 3, 0)
        curve_tag += _fixed(curve)
    except (ArithmeticError, ValueError, struct.error, np.linalg.LinAlgError):
        return None  # primaries in one line, or a number out of range
    tags = {b"wtpt": _xyz_tag(_D50)}
    for channel, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags |= {channel + b"XYZ": column, channel + b"TRC": curve_tag}
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag + struct.pack(">II", start + len(data), len(value))
        data += value
    # ICC.1:2022, table 17: the size, version 4, a display's RGB to XYZ, a signature, the white.
    header = struct.pack(">III", start + len(data), 0, 0x4000000) + b"mntrRGB XYZ " + bytes(12)
    header += b"acsp" + bytes(28) + _fixed(_D50)
    return header.ljust(128, b"\0") + table + data


def _to_xyz(chromaticity: Chromaticity) -> NDArray[np.float64]:
    """The matrix [3, 3] from linear RGB to XYZ under D50."""
    pairs = zip(chromaticity[::2], chromaticity[1::2], strict=True)
    white, *colours = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in pairs)
    primaries = np.column_stack(colours)
    scales = np.linalg.solve(primaries, white)
    cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    matrix: NDArray[np.float64] = (
        np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ (primaries * scales)
    )
    return matrix


def _xyz_tag(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _fixed(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    """Numbers of 16 bits before the point and 16 behind it."""
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)
