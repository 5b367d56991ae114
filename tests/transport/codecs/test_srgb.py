import numpy as np
import pytest
from PIL import Image

from tests.transport.codecs import icc_files as icc
from transport.codecs.srgb import open_transform, to_eight_bits, to_srgb


def grey(*values, dtype):
    return Image.fromarray(np.array([values], dtype))


def eight_bits(image, *, is_inverted=False):
    return np.asarray(to_eight_bits(image, is_inverted=is_inverted))[0].tolist()


def shown(image, profile=None):
    return np.asarray(to_srgb(image, open_transform(image, profile)))[0, 0].tolist()


def test_16_bits_lose_their_lower_half():
    image = grey(0, 255, 256, 0x8000, 0xFFFF, dtype=np.uint16)
    assert eight_bits(image) == [0, 0, 1, 128, 255]
    assert eight_bits(image, is_inverted=True) == [255, 255, 254, 127, 0]


def test_the_transparent_grey_of_16_bits_is_exact():
    image = grey(0x8000, 0x8001, dtype=np.uint16)
    image.info["transparency"] = 0x8000
    assert eight_bits(image) == [[128, 0], [128, 255]]


@pytest.mark.parametrize(
    "values, dtype, shows",
    [
        ((0, 0.5, 1), np.float32, [0, 128, 255]),
        ((0, 51, 255), np.float32, [0, 51, 255]),
        ((-5, 0.2, 1), np.float32, [0, 51, 255]),
        ((0, 13107, 65535), np.int32, [0, 51, 255]),
        ((0, 1, 1), np.int32, [0, 255, 255]),
    ],
)
def test_the_white_of_32_bits_is_the_least_that_fits(values, dtype, shows):
    assert eight_bits(grey(*values, dtype=dtype)) == shows


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "YCbCr"])
def test_modes_of_8_bits_come_back_as_they_are(mode):
    image = Image.new(mode, (2, 2))
    assert to_eight_bits(image, is_inverted=False) is image


@pytest.mark.parametrize(
    "mode, colour, shows",
    [
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (200, 100, 50, 128), [100, 50, 25]),
        ("RGBA", (200, 100, 50, 0), [0, 0, 0]),
        ("L", 77, [77, 77, 77]),
        ("LA", (100, 51), [20, 20, 20]),
        ("1", 1, [255, 255, 255]),
        ("CMYK", (255, 0, 0, 0), [0, 255, 255]),
        ("CMYK", (0, 0, 0, 255), [0, 0, 0]),
        ("YCbCr", (128, 128, 128), [128, 128, 128]),
        ("LAB", (255, 128, 128), [255, 255, 255]),
    ],
)
def test_a_colour_of_any_mode_is_shown_on_black(mode, colour, shows):
    assert shown(Image.new(mode, (1, 1), colour)) == pytest.approx(shows, abs=1)


def test_the_transparent_index_of_a_palette_is_black():
    image = Image.new("P", (1, 1), 3)
    image.putpalette([200] * 768)
    assert shown(image) == [200, 200, 200]
    image.info["transparency"] = 3
    assert shown(image) == [0, 0, 0]


LINEAR = icc.rgb_profile(icc.SRGB, 1.0)


@pytest.mark.parametrize(
    "mode, colour, profile, shows",
    [
        ("RGB", (55, 55, 55), LINEAR, [128, 128, 128]),
        ("RGBA", (55, 55, 55, 128), LINEAR, [64, 64, 64]),
        ("L", 55, LINEAR, [128, 128, 128]),
        ("L", 55, icc.grey_profile(1.0), [128, 128, 128]),
        ("LA", (55, 128), icc.grey_profile(1.0), [64, 64, 64]),
        ("RGB", (55, 55, 55), icc.grey_profile(1.0), [55, 55, 55]),
        ("RGB", (55, 55, 55), icc.cmyk_profile(), [55, 55, 55]),
        ("CMYK", (200, 200, 200, 0), LINEAR, [55, 55, 55]),
        ("RGB", (55, 55, 55), b"rubbish", [55, 55, 55]),
        ("RGB", (55, 55, 55), LINEAR[:150], [55, 55, 55]),
        ("RGB", (55, 55, 55), b"", [55, 55, 55]),
        ("RGB", (96, 196, 72), icc.rgb_profile(icc.DISPLAY_P3), [35, 200, 40]),
    ],
)
def test_a_profile_is_applied_to_the_pixels_that_it_describes(mode, colour, profile, shows):
    assert shown(Image.new(mode, (1, 1), colour), profile) == pytest.approx(shows, abs=2)
