"""PNG pictures of every depth, colour and damage. `pictures.py` has all."""

import numpy as np

from tests.transport.codecs import icc_files as icc
from tests.transport.codecs import png_files as png
from tests.transport.codecs.picture import (
    GREY,
    GREY_ALPHA,
    HIDDEN,
    KEYED,
    P3,
    PALETTE,
    RGB,
    RGBA,
    WIDTH,
    XMP,
    Picture,
    X,
    deep,
    exif,
    grey,
    on_black,
    upright,
)
from tests.transport.codecs.png_files import chunk


def png_depths():
    for bits in (1, 2, 4, 8):
        values = GREY >> (8 - bits)
        shows = grey(values * (255 // (2**bits - 1)))
        yield f"png grey {bits}", Picture(png.png(values, bits=bits), shows)
        colours = PALETTE[:: 256 >> bits]
        alphas = np.arange(2**bits) * (256 >> bits)
        indexed = {"bits": bits, "palette": colours}
        yield (
            f"png palette {bits}",
            Picture(png.png(values, **indexed), colours[values[..., 0]].astype(np.uint8)),
        )
        alpha = chunk(b"tRNS", alphas.astype(np.uint8).tobytes())
        shows = on_black(colours[values[..., 0]], alphas[values])
        yield (
            f"png palette {bits} alpha",
            Picture(png.png(values, **indexed, chunks=[alpha]), shows),
        )
    for name, pixels, shows in [
        ("grey", GREY, grey(GREY)),
        ("grey alpha", GREY_ALPHA, on_black(grey(GREY))),
        ("rgb", RGB, RGB),
        ("rgb alpha", RGBA, on_black(RGB)),
    ]:
        yield f"png {name} 8", Picture(png.png(pixels), shows)
        yield f"png {name} 16", Picture(png.png(deep(pixels), bits=16), shows)
        interlaced = png.png(deep(pixels), bits=16, interlaced=True)
        yield f"png {name} 16 interlaced", Picture(interlaced, shows)
    hidden = on_black(RGB, HIDDEN[..., 3:])
    yield "png noise under transparency", Picture(png.png(HIDDEN), hidden)


def png_transparent_colours():
    left = X[..., None] < WIDTH // 2
    for bits in (1, 2, 4, 8, 16):
        values = deep(KEYED[..., :1]) >> (16 - bits)
        transparent = int(values[0, 0, 0])
        full = grey(np.round(values * (255 / (2**bits - 1))))
        shows = np.where(values == transparent, 0, full).astype(np.uint8)
        data = png.png(values, bits=bits, chunks=[png.transparent(transparent)])
        yield f"png grey {bits} transparent colour", Picture(data, shows)
    for bits, pixels in ((8, KEYED), (16, deep(KEYED))):
        data = png.png(pixels, bits=bits, chunks=[png.transparent(*map(int, pixels[0, 0]))])
        shows = np.where(left, 0, RGB).astype(np.uint8)
        yield f"png rgb {bits} transparent colour", Picture(data, shows)


def png_profiles():
    p3, linear = png.profile_chunk(P3), png.profile_chunk(icc.grey_profile(1.0))
    shows_p3 = icc.shown_in_srgb(RGB, icc.DISPLAY_P3)
    shows_linear = icc.shown_in_srgb(RGB, gamma=1.0)
    adobe = png.profile_chunk(icc.rgb_profile(icc.ADOBE_RGB))
    shows_grey = icc.shown_in_srgb(grey(GREY), gamma=1.0)
    broken = chunk(b"iCCP", b"profile\0\0rubbish")
    p3_white = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
    cicp = chunk(b"cICP", bytes([12, 13, 0, 1]))
    for name, pixels, chunks, shows in [
        ("p3", RGB, [p3], shows_p3),
        ("adobe rgb", RGB, [adobe], icc.shown_in_srgb(RGB, icc.ADOBE_RGB)),
        ("p3, alpha", RGBA, [p3], on_black(shows_p3)),
        ("linear grey", GREY, [linear], shows_grey),
        ("linear grey, alpha", GREY_ALPHA, [linear], on_black(shows_grey)),
        ("of grey on rgb", RGB, [linear], RGB),
        ("of cmyk on rgb", RGB, [png.profile_chunk(icc.cmyk_profile())], RGB),
        ("of rgb on grey", GREY, [png.profile_chunk(icc.rgb_profile(gamma=1.0))], shows_grey),
        ("rubbish", RGB, [png.profile_chunk(b"rubbish" * 40)], RGB),
        ("cut off", RGB, [png.profile_chunk(P3[:200])], RGB),
        ("badly compressed", RGB, [broken], RGB),
        ("of 3 MiB", RGB, [png.profile_chunk(P3 + bytes(3 << 20))], shows_p3),
        ("p3 over a gamma", RGB, [png.gamma_chunk(1.0), p3], shows_p3),
    ]:
        yield f"png profile {name}", Picture(png.png(pixels, chunks=chunks), shows)
    for name, pixels, chunks, shows in [
        ("linear", RGB, [png.gamma_chunk(1.0)], shows_linear),
        ("linear grey", GREY, [png.gamma_chunk(1.0)], shows_grey),
        ("1/1.8", RGB, [png.gamma_chunk(1 / 1.8)], icc.shown_in_srgb(RGB, gamma=1.8)),
        ("1/2.2", RGB, [png.gamma_chunk(1 / 2.2)], RGB),
        ("linear, but sRGB", RGB, [png.gamma_chunk(1.0), chunk(b"sRGB", b"\0")], RGB),
        (
            "and primaries",
            RGB,
            [png.gamma_chunk(1 / 2.2), png.primaries_chunk(*p3_white)],
            shows_p3,
        ),
        ("of no display", RGB, [png.gamma_chunk(0.5), png.primaries_chunk(*[0.3] * 8)], None),
        ("cut off", RGB, [chunk(b"gAMA", b"\0")], RGB),
        ("none, primaries alone", RGB, [png.primaries_chunk(*p3_white)], RGB),
    ]:
        yield f"png gamma {name}", Picture(png.png(pixels, chunks=chunks), shows)
    yield "png code points p3", Picture(png.png(RGB, chunks=[cicp]), shows_p3)
    yield "png code points 2020", Picture(png.png(RGB, chunks=[chunk(b"cICP", b"\x09\1\0\1")]))
    linear = png.png(deep(RGB), bits=16, chunks=[png.gamma_chunk(1.0)])
    yield "png rgb 16 linear", Picture(linear, shows_linear)


def png_damage():
    text = chunk(b"tEXt", b"Comment\0hello")
    p3 = png.png(RGB, chunks=[png.profile_chunk(P3)])
    raw = b"\nexif\n%8d\n" % len(exif(6)) + exif(6).hex().encode()
    for name, data in {
        "text with a wrong checksum": png.damaged(png.png(RGB, chunks=[text]), b"tEXt"),
        "80 MiB of text": png.png(RGB, chunks=[png.compressed_text(80 << 20)]),
        "70 texts of 1 MB": png.png(RGB, chunks=[png.compressed_text(10**6)] * 70),
        "badly compressed text": png.png(RGB, chunks=[chunk(b"zTXt", b"Comment\0\0rubbish")]),
        "bad international text": png.png(RGB, chunks=[chunk(b"iTXt", b"a\0\1\0\0\0rubbish")]),
        "text after the pixels": png.png(RGB, after=[chunk(b"zTXt", b"Comment\0\0rubbish")]),
        "no end": png.png(RGB)[:-12],
        "more after its end": png.png(RGB) + b"more" * 100,
        "pixels with a wrong checksum": png.damaged(png.png(RGB), b"IDAT"),
        "a profile with a wrong checksum": png.damaged(p3, b"iCCP"),
        "orientation in text": png.png(
            RGB, chunks=[chunk(b"tEXt", b"Raw profile type exif\0" + raw)]
        ),
        "orientation in xmp": png.png(
            RGB, chunks=[chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)]
        ),
        "orientation after the pixels": png.png(RGB, after=[chunk(b"eXIf", exif(6))]),
    }.items():
        yield f"png {name}", Picture(data, RGB)
    rotated = png.png(RGB, chunks=[chunk(b"eXIf", exif(6))])
    yield "png orientation 6", Picture(rotated, upright(6))
    noisy = (RGB + np.random.default_rng(1).integers(-3, 4, RGB.shape)).astype(np.uint8)
    half = png.png(noisy)
    yield "png half", Picture(half[: len(half) // 2])
