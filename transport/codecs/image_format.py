"""The image formats that a client may send, and names for what else it may send."""

import re

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # Pillow's names
NAMES = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"

# How a file begins, and what it is. An accepted format is described only if it was not readable.
_BEGINNINGS = [
    (re.compile(beginning, re.DOTALL), name)
    for beginning, name in (
        (rb"\x89PNG", "a damaged PNG image"),
        (rb"\xff\xd8", "a damaged JPEG image"),
        (rb"RIFF....WEBP", "a damaged WebP image"),
        (rb"GIF8", "a damaged GIF image"),
        (rb"BM", "a damaged BMP image"),
        (rb"II\*\0|MM\0\*", "a damaged TIFF image"),
        (rb"....ftypavi[fs]", "a damaged AVIF image"),
        (rb"....ftyp(hei|hev|mif1|msf1)", "a HEIC image"),
        (rb"....ftypcrx", "a camera's raw image"),
        (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", "a video"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image"),
        (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "a JPEG 2000 image"),
        (rb"\0\0\x01\0", "an icon (ICO)"),
        (rb"8BPS", "a Photoshop image (PSD)"),
        (rb"gimp xcf", "a GIMP image (XCF)"),
        (rb"v/1\x01", "an OpenEXR image"),
        (rb"#\?RADIANCE|#\?RGBE", "a Radiance HDR image"),
        (rb"DDS ", "a DirectDraw surface (DDS)"),
        (rb"qoif", "a QOI image"),
        (rb"P[1-7]\s", "a Netpbm image"),
        (rb"%PDF", "a PDF document"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document"),
        (rb"PK\x03\x04", "a ZIP archive"),
        (rb"\x1f\x8b", "a gzip archive"),
        (rb"(?i:\s*|\xef\xbb\xbf)(<[?!].{0,2048})?<svg[\s>]", "an SVG image"),
        (rb"(?i:\s*(<!doctype )?<?html)", "an HTML page"),
        (rb"\Z", "empty"),
    )
]


def describe(data: bytes) -> str:
    """A name for these bytes, with its article, such as "an SVG image"."""
    names = (name for beginning, name in _BEGINNINGS if beginning.match(data))
    return next(names, "not a known image")
