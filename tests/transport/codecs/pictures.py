"""First pictures of every mode, depth, profile, orientation and damage, and what they show."""

import struct

import numpy as np
from PIL import Image

from tests.transport.codecs import icc_files as icc
from tests.transport.codecs.picture import (
    ALPHA,
    BLACK,
    FINE,
    GREY,
    HEIGHT,
    HIDDEN,
    OUTSIDE,
    P3,
    RGB,
    RGBA,
    WIDTH,
    XMP,
    Picture,
    X,
    Y,
    encode,
    exif,
    grey,
    jpeg_exif,
    on_black,
    upright,
)
from tests.transport.codecs.png_pictures import (
    png_damage,
    png_depths,
    png_profiles,
    png_transparent_colours,
)


def jpegs():
    for name, options, shows in [
        ("444", {}, RGB),
        ("420", {"subsampling": 2}, RGB),
        ("progressive", {"progressive": True}, RGB),
        ("rgb inside", {"keep_rgb": True}, RGB),
        ("with a long comment", {"comment": b"x" * 60_000}, RGB),
        ("p3", {"icc_profile": P3}, icc.shown_in_srgb(RGB, icc.DISPLAY_P3)),
        ("p3 in several segments", {"icc_profile": P3 + bytes(150_000)}, None),
        ("of a broken profile", {"icc_profile": b"rubbish" * 40}, RGB),
        ("of a profile cut off", {"icc_profile": P3[:300]}, RGB),
        ("of a profile for grey", {"icc_profile": icc.grey_profile()}, RGB),
        ("of a profile for cmyk", {"icc_profile": icc.cmyk_profile()}, RGB),
        ("xmp orientation", {"xmp": XMP}, RGB),
        ("exif rubbish", {"exif": b"Exif\0\0rubbish"}, RGB),
        ("exif cut off", {"exif": jpeg_exif(6)[:21]}, RGB),
        ("exif bad value", {"exif": jpeg_exif(1, before=OUTSIDE, num=2)}, RGB),
        ("exif bad value, rotated", {"exif": jpeg_exif(6, before=OUTSIDE, num=2)}, upright(6)),
    ]:
        yield f"jpeg {name}", Picture(encode(RGB, "JPEG", **{**FINE, **options}), shows)
    for orientation in range(10):
        data = encode(RGB, "JPEG", exif=jpeg_exif(orientation), **FINE)
        yield f"jpeg orientation {orientation}", Picture(data, upright(orientation))
    linear = icc.shown_in_srgb(grey(GREY), gamma=1.0)
    for name, profile, shows in [
        ("grey", None, grey(GREY)),
        ("grey, linear profile", icc.grey_profile(), linear),
        ("grey, profile for rgb", icc.rgb_profile(gamma=1.0), linear),
    ]:
        data = encode(GREY, "JPEG", quality=95, icc_profile=profile)
        yield f"jpeg {name}", Picture(data, shows)
    yield from jpeg_cmyk()
    frames = {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT))]}
    mpo = encode(RGB, "MPO", exif=jpeg_exif(8), **frames, **FINE)
    yield "jpeg of several pictures", Picture(mpo, upright(8))


def jpeg_cmyk():
    """The inks as Adobe's programs store them, inverted, and as luma and chroma of them."""
    ink = (X * 1.5).astype(np.uint8)
    luma = np.asarray(Image.fromarray(255 - RGB).convert("YCbCr"))
    shows = on_black(RGB, 255 - ink[..., None])
    for name, planes in {"cmyk": 255 - RGB, "ycck": 255 - luma}.items():
        inks = Image.merge(
            "CMYK", [Image.fromarray(one) for one in (*np.moveaxis(planes, -1, 0), ink)]
        )
        for profile in (None, icc.cmyk_profile(), P3):
            data = encode(inks, "JPEG", icc_profile=profile, **FINE)
            transform = data.index(b"Adobe") + 11
            if name == "ycck":
                data = data[:transform] + b"\2" + data[transform + 1 :]
            kind = {None: "", P3: ", profile for rgb"}.get(profile, ", profile")
            yield f"jpeg {name}{kind}", Picture(data, None if kind == ", profile" else shows)
        if name == "cmyk":
            start = data.index(b"\xff\xee")
            plain = data[:start] + data[start + 16 :]
            yield "jpeg cmyk without Adobe's segment", Picture(plain)


def jpeg_damage():
    large = Image.fromarray(RGB).resize((WIDTH * 4, HEIGHT * 4), Image.Resampling.BILINEAR)
    baseline = encode(large, "JPEG", quality=90)
    progressive = encode(large, "JPEG", quality=90, progressive=True)
    for percent in (50, 90):
        yield f"jpeg {percent} %", Picture(baseline[: len(baseline) * percent // 100])
    for percent in (30, 70):
        cut = progressive[: len(progressive) * percent // 100]
        yield f"jpeg progressive {percent} %", Picture(cut)
    whole = encode(RGB, "JPEG", **FINE)
    yield "jpeg without its end", Picture(whole[:-2])
    yield "jpeg without its last 20 bytes", Picture(whole[:-20])
    yield "jpeg with more after its end", Picture(whole + b"more" * 100, RGB)
    middle = len(baseline) * 6 // 10
    holed = baseline[:middle] + bytes(30) + baseline[middle + 30 :]
    yield "jpeg with a hole", Picture(holed)


def others():
    black = {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT))]}
    shows_p3 = icc.shown_in_srgb(RGB, icc.DISPLAY_P3)
    hidden = on_black(RGB, HIDDEN[..., 3:])
    for name, pixels, options, shows in [
        ("lossless", RGB, {}, RGB),
        ("alpha", RGBA, {"exact": True}, on_black(RGB)),
        ("noise under transparency", HIDDEN, {"exact": True}, hidden),
        ("p3", RGB, {"icc_profile": P3}, shows_p3),
        ("exif orientation", RGB, {"exif": exif(6)}, RGB),  # browsers do not read it here
        ("animated", RGB, black, RGB),
    ]:
        yield f"webp {name}", Picture(encode(pixels, "WEBP", lossless=True, **options), shows)
    yield "webp lossy", Picture(encode(RGB, "WEBP", quality=95), RGB)
    fine = {"quality": 95, "subsampling": "4:4:4", "speed": 8}
    for name, pixels, options, shows in [
        ("444", RGB, {}, RGB),
        ("grey", GREY, {}, grey(GREY)),
        ("p3", RGB, {"icc_profile": P3}, shows_p3),
        ("orientation 6", RGB, {"exif": exif(6)}, upright(6)),
    ]:
        yield f"avif {name}", Picture(encode(pixels, "AVIF", **fine, **options), shows)
    # The first frame follows a picture for programs that cannot animate.
    red = Image.new("RGB", (WIDTH, HEIGHT), (200, 0, 0))
    frames = {"save_all": True, "default_image": True}
    late = [Image.fromarray(RGB), Image.new("RGB", (WIDTH, HEIGHT))]
    yield "apng", Picture(encode(RGB, "PNG", **black), RGB)
    yield "apng after a picture", Picture(encode(red, "PNG", append_images=late, **frames), RGB)


def gifs():
    image = Image.fromarray(RGB).quantize(64)
    shows = np.asarray(image.convert("RGB"))
    more = {"save_all": True, "append_images": [Image.new("P", (WIDTH, HEIGHT))]}
    for name, options in {"plain": {"interlace": 0}, "interlaced": {}, "animated": more}.items():
        yield f"gif {name}", Picture(encode(image, "GIF", **options), shows)
    yield "gif grey", Picture(encode(GREY, "GIF"), grey(GREY))
    yield "gif without its end", Picture(encode(image, "GIF")[:-1], shows)
    clear = Image.fromarray(np.dstack([RGB, 255 * (Y > 40)]).astype(np.uint8))
    yield "gif transparent", Picture(encode(clear, "GIF"))
    # A frame of 40 x 30 at (20, 10) of the canvas.
    data = bytearray(encode(image.crop((0, 0, 40, 30)), "GIF"))
    data[6:10] = struct.pack("<HH", WIDTH, HEIGHT)
    frame = data.index(b",", 13 + 3 * (2 << (data[10] & 7)))
    data[frame + 1 : frame + 5] = struct.pack("<HH", 20, 10)
    placed = BLACK.copy()
    placed[10:40, 20:60] = shows[:30, :40]
    yield "gif frame in a larger canvas", Picture(bytes(data), placed)


def bmp(bits, data, *, compression=0, masks=(), height=HEIGHT, size=40, tail=b""):
    """A file with a header of version 3, 4 or 5, by its size, and `tail` as the profile."""
    header = struct.pack("<IiiHHIIii8x", size, WIDTH, height, 1, bits, compression, len(data), 0, 0)
    header += struct.pack(f"<{len(masks)}I", *masks)
    if size >= 108:
        header += (b"DEBM" if tail else b"BGRs") + bytes(48)
    if size == 124:
        header += struct.pack("<IIII", 4, size + len(data), len(tail), 0)
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + data + tail


def bmps():
    up = RGB[::-1, :, ::-1]
    clear, opaque = (
        np.dstack([up, np.full(GREY.shape, alpha)]).astype(np.uint8) for alpha in (0, 255)
    )
    bgra = np.dstack([up, ALPHA]).tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    deep5 = up.astype(np.uint16)
    rgb565 = (deep5[..., 2] >> 3) << 11 | (deep5[..., 1] >> 2) << 5 | deep5[..., 0] >> 3
    rgb555 = (deep5[..., 2] >> 3) << 10 | (deep5[..., 1] >> 3) << 5 | deep5[..., 0] >> 3
    black_white = Image.fromarray(GREY[..., 0]).convert("1")
    for name, data, shows in [
        ("24", encode(RGB, "BMP"), RGB),
        ("grey", encode(GREY, "BMP"), grey(GREY)),
        ("1", encode(black_white, "BMP"), np.asarray(black_white.convert("RGB"))),
        ("top down", bmp(24, RGB[..., ::-1].tobytes(), height=-HEIGHT), RGB),
        ("32", bmp(32, clear.tobytes()), RGB),
        ("565", bmp(16, rgb565.astype("<u2").tobytes(), compression=3, masks=masks565()), None),
        ("555", bmp(16, rgb555.astype("<u2").tobytes()), None),
        ("alpha", bmp(32, bgra, compression=3, masks=masks, size=108), on_black(RGB)),
        (
            "p3",
            bmp(32, opaque.tobytes(), compression=3, masks=masks, size=124, tail=P3),
            icc.shown_in_srgb(RGB, icc.DISPLAY_P3),
        ),
        ("cut off", encode(RGB, "BMP")[:-5000], None),
    ]:
        yield f"bmp {name}", Picture(data, shows)


def masks565():
    return 0xF800, 0x7E0, 0x1F


# A browser can show each of them.
PICTURES = {
    name: picture
    for pictures in (
        png_depths,
        png_transparent_colours,
        png_profiles,
        png_damage,
        jpegs,
        jpeg_damage,
        others,
        gifs,
        bmps,
    )
    for name, picture in pictures()
}
