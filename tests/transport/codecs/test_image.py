import base64
import io

import numpy as np
import pytest
from PIL import Image

from transport.codecs.image import decode_image
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


def refused(source):
    with pytest.raises(BadMessage) as caught:
        decode_image(source, sizes=[(16, 16)])
    assert (caught.value.code, caught.value.field) == ("invalid_field", "first_frame")
    return str(caught.value)


def test_the_image_covers_the_size_and_is_cropped_at_its_centre():
    frame = decode_image(encoded(flag()), sizes=[(10, 10)])
    assert (frame == [0, 255, 0]).all()


def test_an_image_of_the_right_size_is_unchanged():
    image = flag(32, 16)
    assert np.array_equal(decode_image(encoded(image), sizes=[(32, 16)]), image)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:;base64,"])
def test_text_may_be_base64_or_a_data_url(prefix):
    text = prefix + base64.encodebytes(encoded(flag())).decode()  # with line breaks
    assert decode_image(text, sizes=[(30, 10)]).shape == (10, 30, 3)


def test_the_base64_of_a_jpeg_is_not_a_path():
    text = base64.b64encode(encoded(flag(), "JPEG")).decode()
    assert text.startswith("/")
    assert decode_image(text, sizes=[(30, 10)]).shape == (10, 30, 3)


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
        encoded(flag(), "ICO"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "",
        "AAAA",
        "data:image/png;base64,AAAA",
    ],
)
def test_anything_but_an_image_is_refused(source):
    assert refused(source).endswith("expected a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF image")


def test_the_error_names_the_given_field():
    with pytest.raises(BadMessage, match="`image` is not valid base64") as caught:
        decode_image("!", sizes=[(16, 16)], field="image")
    assert caught.value.field == "image"
