"""Every file either shows what a browser shows, or is refused with a line that names it.

`tests/browser/test_pictures.py` compares the same pictures with Chromium.
"""

import struct
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.transport.codecs import icc_files as icc
from tests.transport.codecs import png_files as png
from tests.transport.codecs.picture import (
    FINE,
    GREY,
    HEIGHT,
    P3,
    RGB,
    RGBA,
    WIDTH,
    X,
    Y,
    assert_looks_like,
    deep,
    encode,
    grey,
    jpeg_exif,
    on_black,
    upright,
)
from tests.transport.codecs.pictures import PICTURES
from transport.codecs import image_file
from transport.codecs.image_file import read_image


def read(data, *, width=WIDTH, height=HEIGHT):
    return np.asarray(read_image(data, sizes=[(width, height)]))


def refusal(data):
    with pytest.raises(ValueError) as caught:
        read(data)
    return str(caught.value)


KNOWN = [name for name, picture in PICTURES.items() if picture.shows is not None]


@pytest.mark.parametrize("name", KNOWN)
def test_a_picture_shows_what_its_maker_meant(name):
    picture = PICTURES[name]
    height, width, _ = picture.shows.shape
    assert_looks_like(read(picture.data, width=width, height=height), picture.shows)


def test_a_profile_is_converted_as_precisely_as_its_formula():
    data = png.png(RGB, chunks=[png.profile_chunk(P3)])
    shown = icc.shown_in_srgb(RGB, icc.DISPLAY_P3)
    assert np.abs(read(data).astype(int) - shown).max() <= 3


def test_ink_under_a_profile_is_what_the_profile_says():
    """Only where no black ink is: a browser replaces it by the three others."""
    inks = Image.merge("CMYK", [Image.new("L", (WIDTH, HEIGHT), ink) for ink in (200, 100, 60, 0)])
    data = encode(inks, "JPEG", icc_profile=icc.cmyk_profile(), **FINE)
    lightness = 20 + 60 * (1 - 360 / 255 / 4)
    light = ((lightness + 16) / 116) ** 3
    assert_looks_like(read(data), 255 * (1.055 * light ** (1 / 2.4) - 0.055))


# ---- TIFF, which browsers do not show


def tiff(pixels, **options):
    return encode(pixels, "TIFF", **options)


def raw_tiff(pixels, *, bits, photometric=1, sample_format=1):
    """An uncompressed little-endian TIFF of one strip, for what Pillow does not write."""
    height, width, channels = pixels.shape
    data = pixels.tobytes()
    entries = [
        *[(256, 3, width), (257, 3, height), (259, 3, 1), (262, 3, photometric), (273, 4, 8)],
        *[(277, 3, channels), (278, 3, height), (279, 4, len(data)), (339, 3, sample_format)],
    ]
    depths = 8 + len(data)  # the offset of the bits of each channel, which do not fit their entry
    entries.append((258, 3, depths if channels > 2 else bits))
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in sorted(entries):
        num = channels if tag == 258 else 1
        directory += struct.pack("<HHII", tag, kind, num, value)
    start = depths + 8
    header = b"II*\0" + struct.pack("<I", start)
    return header + data + struct.pack("<4H", *[bits] * 4) + directory + bytes(4)


SMOOTH = (X + Y)[..., None] / (WIDTH + HEIGHT)


ROTATED, PAGES = {274: 6}, {"save_all": True, "append_images": [Image.new("L", (9, 9))]}
TIFFS = {
    "rgb": (tiff(RGB), RGB),
    "lzw": (tiff(RGB, compression="tiff_lzw"), RGB),
    "deflate": (tiff(RGB, compression="tiff_adobe_deflate"), RGB),
    "jpeg": (tiff(RGB, compression="jpeg", quality=95), RGB),
    "alpha": (tiff(RGBA), on_black(RGB)),
    "grey": (tiff(GREY), grey(GREY)),
    "p3": (tiff(RGB, icc_profile=P3), icc.shown_in_srgb(RGB, icc.DISPLAY_P3)),
    "rotated": (tiff(RGB, tiffinfo=ROTATED), upright(6)),
    "cmyk": (tiff(Image.fromarray(RGB).convert("CMYK")), RGB),
    "two pages": (tiff(Image.fromarray(RGB), **PAGES), RGB),
    "grey 16": (raw_tiff(deep(GREY), bits=16), grey(GREY)),
    "rgb 16": (raw_tiff(deep(RGB), bits=16, photometric=2), RGB),
    "grey, white is 0": (raw_tiff(255 - GREY, bits=8, photometric=0), grey(GREY)),
    "grey 16, white is 0": (raw_tiff(65535 - deep(GREY), bits=16, photometric=0), grey(GREY)),
    "float to 1": (tiff(SMOOTH.astype(np.float32)), grey(255 * SMOOTH)),
    "float to 255": (tiff((255 * SMOOTH).astype(np.float32)), grey(255 * SMOOTH)),
    "int32 to 65535": (tiff((65535 * SMOOTH).astype(np.int32)), grey(255 * SMOOTH)),
}


@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_shows_its_first_page(name):
    data, shows = TIFFS[name]
    height, width, _ = shows.shape
    assert_looks_like(read(data, width=width, height=height), shows)


# ---- size


def test_the_image_covers_the_size_and_is_cropped_at_its_centre():
    shown = read(encode(RGB, "PNG"), width=32, height=64)
    assert np.array_equal(shown, RGB[:, 32:64])


SIZES = [(64, 32), (128, 64), (32, 64), (48, 48)]


@pytest.mark.parametrize(
    "width, height, chosen",
    [
        (300, 100, (64, 32)),  # the first of two equal shapes
        (100, 300, (32, 64)),
        (100, 101, (48, 48)),
        (141, 100, (48, 48)),  # just below the middle of 1:1 and 2:1, a ratio of sqrt(2)
        (142, 100, (64, 32)),
    ],
)
def test_an_image_has_the_size_of_the_nearest_shape(width, height, chosen):
    assert read_image(encode(Image.new("RGB", (width, height)), "PNG"), sizes=SIZES).size == chosen


@pytest.mark.parametrize("orientation, chosen", [(1, (64, 32)), (6, (32, 64)), (8, (32, 64))])
def test_the_shape_of_a_turned_photo_is_that_of_the_upright_one(orientation, chosen):
    data = encode(Image.new("RGB", (100, 50)), "JPEG", exif=jpeg_exif(orientation))
    assert read_image(data, sizes=SIZES).size == chosen


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [1, 5])
def test_a_crop_is_that_of_the_upright_image(orientation, scale):
    large = Image.fromarray(RGB).resize((WIDTH * scale, HEIGHT * scale), Image.Resampling.BICUBIC)
    data = encode(large, "JPEG", exif=jpeg_exif(orientation), **FINE)
    turned = Image.fromarray(upright(orientation, np.asarray(large)).copy())
    shown = read(data, width=40, height=24)
    box = min(turned.width / 40, turned.height / 24)
    left, top = (turned.width - 40 * box) / 2, (turned.height - 24 * box) / 2
    expected = turned.resize(
        (40, 24), Image.Resampling.LANCZOS, box=(left, top, left + 40 * box, top + 24 * box)
    )
    assert_looks_like(shown, np.asarray(expected))


@pytest.mark.parametrize("width, height", [(208, 128), (832, 480), (64, 112)])
def test_an_image_of_one_colour_stays_of_one_colour_at_any_size(width, height):
    """No edge is taken from outside of the image, however the sizes are rounded."""
    generator = np.random.default_rng(5)
    thin = [(1, 1), (1, 5000), (5000, 1), (6000, 1800), (3, 9000)]
    for size in thin + generator.integers(1, 1500, (60, 2)).tolist():
        data = encode(Image.new("RGB", tuple(size), (200, 100, 50)), "PNG", compress_level=1)
        shown = read(data, width=width, height=height)
        assert (shown == [200, 100, 50]).all(), size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_large_image_looks_like_the_small_one_of_which_it_was_made(kind, monkeypatch):
    monkeypatch.setattr(image_file, "STRIP_PIXELS", 20_000)  # several strips, the last one shorter
    size = (WIDTH * 16 + 5, HEIGHT * 16 + 3)
    large = Image.fromarray(RGB).resize(size, Image.Resampling.BICUBIC)
    assert_looks_like(read(encode(large, kind)), RGB, mean=3 if kind == "GIF" else 2)  # 256 colours


def test_a_jpeg_of_24_megapixels_shows_its_picture():
    row = np.linspace(0, 255, 5712).astype(np.uint8)
    data = encode(Image.fromarray(np.tile(row, (4284, 1))), "JPEG", quality=60)
    shown = read(data, width=208, height=128)
    expected = (np.arange(208) + 0.5) / 208 * 255
    assert np.abs(shown.astype(int) - expected[None, :, None]).max() <= 3


MEMORY = """
import resource, sys
from PIL import Image
from transport.codecs.image_file import read_image
data = open(sys.argv[1], "rb").read()
Image.init()
before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shown = read_image(data, sizes=[(832, 480)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib, *shown.getpixel((416, 240)))
"""


@pytest.mark.parametrize("kind, most_mib", [("JPEG", 120), ("PNG", 200), ("GIF", 200)])
def test_100_megapixels_are_decoded_within_a_bound_of_memory(tmp_path, kind, most_mib):
    options = {"quality": 50} if kind == "JPEG" else {}
    path = tmp_path / "large"
    path.write_bytes(encode(Image.new("L", (11_500, 8_700), 77), kind, **options))
    output = subprocess.check_output([sys.executable, "-c", MEMORY, str(path)], timeout=120)
    used_kib, *colour = map(int, output.split())
    assert colour == pytest.approx([77] * 3, abs=2)
    assert used_kib < most_mib * 1024


# ---- what is refused


def test_a_bomb_is_refused_before_it_is_decoded():
    data = png.SIGNATURE + png.chunk(
        b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    )
    data += png.chunk(b"IDAT") + png.chunk(b"IEND")
    assert refusal(data) == "too large, expected at most 110000000 pixels"


@pytest.mark.parametrize(
    "kind, size, words",
    [
        ("PNG", (11_000, 10_001), "too large, 11000 x 10001, expected at most 110000000 pixels"),
        ("JPEG", (11_000, 10_001), "too large, 11000 x 10001, expected at most 110000000 pixels"),
        ("GIF", (65_535, 1_700), "too large, 65535 x 1700, expected at most 110000000 pixels"),
        ("WEBP", (7_000, 7_000), "a WEBP image of 7000 x 7000, which takes 747 MiB to decode"),
    ],
)
def test_a_large_image_is_refused_by_its_size_before_it_is_decoded(kind, size, words, monkeypatch):
    monkeypatch.setattr(image_file, "_decode", pytest.fail)
    small = {"JPEG": {"quality": 1}, "WEBP": {"method": 0}, "PNG": {"compress_level": 1}}
    data = encode(Image.new("L" if kind != "WEBP" else "RGB", size), kind, **small.get(kind, {}))
    assert words in refusal(data)


COMMENT = b"\xff\xfe\0\4"  # the header of one of two bytes
SCAN = b"\xff\xda"
END = b"\xff\xd9"


@pytest.mark.parametrize("before", [b"", COMMENT + END])
def test_a_jpeg_of_very_many_scans_is_refused(before):
    data = encode(Image.new("L", (4_000, 4_000)), "JPEG", progressive=True)
    scan = data.rindex(SCAN)
    assert "too many scans" in refusal(data[:-2] + before + data[scan:-2] * 200 + END)


@pytest.mark.parametrize("restart", [0, 1])
def test_bytes_of_a_scan_are_no_scan_behind_a_jpeg_or_in_its_segments(restart):
    image = Image.new("RGB", (4_000, 4_000), (200, 100, 50))
    data = encode(image, "JPEG", restart_marker_rows=restart)
    video = np.random.default_rng(0).bytes(12_000_000) + 200 * SCAN
    comments = (COMMENT + SCAN) * 200
    frame = read(data[:2] + comments + data[2:] + video)
    assert (frame == read(data)).all()


@pytest.mark.parametrize("offsets, sides", [(324, (322, 323)), (273, (278,))])
def test_a_tiff_of_very_many_parts_is_refused(offsets, sides, monkeypatch):
    monkeypatch.setattr(image_file.Image, "open", pytest.fail)
    num = 100_001
    entries = [(256, 4, 1, num), (257, 4, 1, 1), (offsets, 4, num, 12)]
    entries += [(side, 4, 1, 1) for side in sides]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    data = b"II*\0" + struct.pack("<I", 12 + 4 * num) + bytes(4 + 4 * num) + directory + bytes(4)
    assert refusal(data) == "a TIFF image in too many parts, expected at most 100000"


@pytest.mark.parametrize("transfer", [16, 18])
def test_an_hdr_image_is_refused_as_such(transfer):
    data = png.png(RGB, chunks=[png.chunk(b"cICP", bytes([9, transfer, 0, 1]))])
    assert refusal(data).startswith("an HDR image")
    avif = encode(RGB, "AVIF", speed=10)
    at = avif.index(b"colrnclx") + 8
    data = avif[:at] + struct.pack(">HH", 9, transfer) + avif[at + 4 :]
    assert refusal(data).startswith("an HDR image")


UNREADABLE = [
    ("a damaged PNG image", png.png(RGB)[:60]),
    ("a damaged PNG image", png.png(RGB, interlaced=True)[:900]),
    ("a damaged JPEG image", encode(RGB, "JPEG")[:200]),
    ("a damaged WebP image", encode(RGB, "WEBP")[:100]),
    ("a damaged GIF image", encode(RGB, "GIF")[:-1500]),
    ("a damaged AVIF image", encode(RGB, "AVIF", speed=10)[:-100]),
    ("a damaged BMP image", b"BM" + bytes(60)),
    ("a damaged TIFF image", b"II*\0" + bytes(60)),
    ("an icon (ICO)", encode(RGB, "ICO")),
    ("a PostScript document", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    ("an SVG image", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ("empty", b""),
    ("not a known image", b"hello"),
]


@pytest.mark.parametrize("words, data", UNREADABLE, ids=[words for words, _ in UNREADABLE])
def test_what_cannot_be_shown_is_named(words, data):
    expected = f"{words}, expected a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF image"
    assert refusal(data) == expected


@pytest.mark.parametrize(
    "name", ["png rgb 8", "jpeg 444", "gif plain", "webp lossy", "bmp 24", "avif 444"]
)
def test_any_damage_is_shown_or_refused(name):
    """Bytes cut off, lost or changed. Nothing but ValueError is ever raised."""
    data, generator = PICTURES[name].data, np.random.default_rng(3)
    for _ in range(60):
        at = int(generator.integers(len(data)))
        lost = int(generator.integers(1, 60))
        noise = generator.bytes(lost)
        for damaged in (
            data[:at],
            data[:at] + data[at + lost :],
            data[:at] + noise + data[at + lost :],
        ):
            try:
                assert read(damaged).shape == (HEIGHT, WIDTH, 3)
            except ValueError as exc:
                assert ", expected " in str(exc)


# ---- what other code sees


def test_pillows_settings_are_restored_and_no_warning_is_shown():
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read(PICTURES["jpeg exif bad value"].data)
        refusal(b"hello")
    assert caught == []
    assert (limit, False) == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_images_of_several_threads_do_not_disturb_each_other():
    pictures = [PICTURES[name] for name in ("png half", "jpeg 444", "png rgb 8", "jpeg 50 %")] * 4
    alone = [read(picture.data) for picture in pictures]
    together = [None] * len(pictures)

    def work(index):
        together[index] = read(pictures[index].data)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))
