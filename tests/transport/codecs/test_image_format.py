import pytest
from PIL import Image

from tests.transport.codecs.picture import encode
from transport.codecs.image_format import FORMATS, NAMES, describe


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_of_each_format_is_named_as_the_client_reads_it(kind):
    name = describe(encode(Image.new("RGB", (9, 9)), kind)[:40])
    assert name.startswith("a damaged ") and name.split()[2] in NAMES


@pytest.mark.parametrize(
    "data, name",
    [
        (b"", "empty"),
        (b"<svg width='9'/>", "an SVG image"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- made by hand -->\n<svg>", "an SVG image"),
        (b"\n <!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN'>\n<svg\n>", "an SVG image"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"<html lang='en'>", "an HTML page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0", "a camera's raw image"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"\x1a\x45\xdf\xa3webm", "a video"),
        (b"\xff\x0a\x01", "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"\0\0\1\0\1\0", "an icon (ICO)"),
        (b"8BPS\0\1", "a Photoshop image (PSD)"),
        (b"P6\n9 9\n255\n", "a Netpbm image"),
        (b"%PDF-1.7", "a PDF document"),
        (b"%!PS-Adobe-3.0", "a PostScript document"),
        (b"PK\3\4", "a ZIP archive"),
        (b"hello", "not a known image"),
        (b"Px", "not a known image"),
    ],
)
def test_what_else_clients_send_is_named(data, name):
    assert describe(data) == name
