import io

import pytest
from PIL import Image

from tests.transport.codecs import png_files
from tests.transport.codecs.picture import P3, RGB, deep
from tests.transport.codecs.png_files import chunk
from transport.codecs import png

TEXT = chunk(b"tEXt", b"Comment\0hello")


def names(data):
    return [name for name, _, _ in png._chunks(data)]


def test_only_chunks_that_pixels_need_are_kept():
    alpha = png_files.transparent(1, 2, 3)
    data = png_files.png(RGB, chunks=[TEXT, chunk(b"tIME", bytes(7)), alpha], after=[TEXT])
    assert names(png.without_rest(data)) == [b"IHDR", b"tRNS", b"IDAT", b"IEND"]


def test_a_file_without_other_chunks_comes_back_as_it_is():
    data = png_files.png(RGB)
    assert png.without_rest(data) == data


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xd8" + TEXT, png.SIGNATURE, png.SIGNATURE + b"x"]
)
def test_other_bytes_come_back_as_they_are(data):
    assert png.without_rest(data) == data


def test_a_damaged_chunk_is_dropped_unless_it_is_critical():
    data = png_files.png(RGB, chunks=[png_files.gamma_chunk(0.5)])
    assert b"gAMA" not in png.without_rest(png_files.damaged(data, b"gAMA"))
    assert b"IDAT" in png.without_rest(png_files.damaged(data, b"IDAT"))


def test_a_chunk_that_is_cut_off_is_kept_for_the_decoder():
    data = png_files.png(RGB)[:200]
    assert png.without_rest(data) == data


def test_a_profile_is_read_whole():
    data = png_files.png(RGB, chunks=[png_files.profile_chunk(P3 + bytes(3 << 20))])
    assert png.embedded_profile(data) == P3 + bytes(3 << 20)


def test_no_more_of_a_profile_than_its_bound_is_decompressed():
    data = png_files.png(RGB, chunks=[png_files.profile_chunk(bytes(100 << 20))])
    assert len(png.embedded_profile(data)) == png.MAX_PROFILE_BYTES


@pytest.mark.parametrize("body", [b"", b"name", b"name\0", b"name\0\1x", b"name\0\0rubbish"])
def test_a_broken_profile_counts_as_none(body):
    assert png.embedded_profile(png_files.png(RGB, chunks=[chunk(b"iCCP", body)])) is None


@pytest.mark.parametrize(
    "chunks, points",
    [([chunk(b"cICP", b"\x0c\x0d\0\1")], (12, 13)), ([chunk(b"cICP", b"\x0c")], None), ([], None)],
)
def test_code_points_are_read(chunks, points):
    assert png.code_points(png_files.png(RGB, chunks=chunks)) == points


def test_code_points_after_the_pixels_do_not_count():
    data = png_files.png(RGB, after=[chunk(b"cICP", b"\x0c\x0d\0\1")])
    assert png.code_points(data) is None


@pytest.mark.parametrize(
    "pixels, bits, stored, scaled",
    [
        (RGB[..., :1] >> 6, 2, (3,), 255),
        (RGB[..., :1] >> 4, 4, (5,), 85),
        (RGB[..., :1], 8, (77,), 77),
        (deep(RGB[..., :1]), 16, (513,), 513),
        (RGB, 8, (1, 2, 3), (1, 2, 3)),
        (deep(RGB), 16, (257, 514, 65535), (1, 2, 255)),
    ],
)
def test_the_transparent_colour_has_the_depth_of_pillows_pixels(pixels, bits, stored, scaled):
    data = png_files.png(pixels, bits=bits, chunks=[png_files.transparent(*stored)])
    image = Image.open(io.BytesIO(data))
    png.scale_transparency(image)
    assert image.info["transparency"] == scaled
