import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from transport.codecs.image import _open_image, decode_image
from transport.wire.errors import BadMessage


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flag(width=30, height=10):
    """Red, green and blue thirds."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for third in range(3):
        pixels[:, third * width // 3 : (third + 1) * width // 3, third] = 255
    return Image.fromarray(pixels)


def bomb(width=60_000, height=60_000):
    """A PNG of a few bytes with a header of gigabytes."""

    def part(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [part(b"IHDR", header), part(b"IDAT", zlib.compress(b"")), part(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def refused(source):
    with pytest.raises(BadMessage) as caught:
        decode_image(source, width=16, height=16)
    assert (caught.value.code, caught.value.field) == ("invalid_field", "first_frame")
    return str(caught.value)


@pytest.mark.parametrize(
    "kind, mode",
    [
        *[("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")],
        *[("JPEG", mode) for mode in ("RGB", "L", "CMYK")],
        *[("WEBP", mode) for mode in ("RGB", "RGBA")],
    ],
)
def test_every_usual_mode_becomes_rgb(kind, mode):
    data = encoded(Image.new(mode, (40, 30)), kind)
    frame = decode_image(data, width=16, height=32)
    assert (frame.shape, frame.dtype) == ((32, 16, 3), np.uint8)


def test_the_image_covers_the_size_and_is_cropped_at_its_centre():
    frame = decode_image(encoded(flag()), width=10, height=10)
    assert (frame == [0, 255, 0]).all()


def test_an_image_of_the_right_size_is_unchanged():
    image = flag(32, 16)
    assert np.array_equal(decode_image(encoded(image), width=32, height=16), image)


def test_the_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    upright = decode_image(
        encoded(flag(), "JPEG", exif=exif, quality=100, subsampling=0), width=10, height=30
    )
    assert upright[2, 5].argmax() == 0 and upright[15, 5].argmax() == 1


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:;base64,"])
def test_text_may_be_base64_or_a_data_url(prefix):
    text = prefix + base64.encodebytes(encoded(flag())).decode()  # with line breaks
    assert decode_image(text, width=30, height=10).shape == (10, 30, 3)


def test_the_base64_of_a_jpeg_is_not_a_path():
    text = base64.b64encode(encoded(flag(), "JPEG")).decode()
    assert text.startswith("/")
    assert decode_image(text, width=30, height=10).shape == (10, 30, 3)


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd",
        "/etc/passwds",  # valid base64, too
        "/tmp/picture.png",
        "./picture.png",
        "../../secret",
        "~/picture",
        "picture.png",
        "images/lake.jpg",
        "C:\\picture.png",
        "http://example.org/picture.png",
        "https://example.org/picture",
        "file:///etc/passwd",
        "s3://bucket/picture",
    ],
)
def test_a_path_or_url_is_refused_because_no_file_is_read(source):
    assert "the server reads no files for clients" in refused(source)


@pytest.mark.parametrize("source", ["zz!!", "data:image/png;base64,%%", "data:text/plain,hello"])
def test_bad_base64_is_refused(source):
    assert "not valid base64" in refused(source)


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        encoded(flag())[:-30],
        encoded(flag(300, 300), "JPEG")[:-200],
        encoded(flag(), "GIF"),
        encoded(flag(), "BMP"),
        encoded(flag(), "TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "",
        "AAAA",
        "data:image/png;base64,AAAA",
    ],
)
def test_anything_but_a_whole_image_is_refused(source):
    assert "expected a whole PNG, JPEG or WebP file" in refused(source)


@pytest.mark.parametrize("side", [4097, 10_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side):
    assert "too large" in refused(bomb(side, side))


@pytest.mark.parametrize("orientation, width, height", [(1, 256, 128), (6, 128, 256)])
def test_a_big_jpeg_is_decoded_small_and_looks_the_same(orientation, width, height):
    exif = Image.Exif()
    exif[0x0112] = orientation
    down, across = np.sin(np.mgrid[:1024, :2048] / 8)
    pixels = np.stack([down, across, down * across], axis=-1) * 100 + 128
    data = encoded(Image.fromarray(pixels.astype(np.uint8)), "JPEG", exif=exif)
    assert max(_open_image(data, min_side=512).size) == 1024
    frame = decode_image(data, width=width, height=height)
    png = encoded(Image.open(io.BytesIO(data)), exif=exif)  # a PNG is always decoded whole
    whole = decode_image(png, width=width, height=height)
    assert np.abs(frame.astype(int) - whole).max() <= 3


def test_the_error_names_the_given_field():
    with pytest.raises(BadMessage, match="`image` is not valid base64") as caught:
        decode_image("!", width=16, height=16, field="image")
    assert caught.value.field == "image"
