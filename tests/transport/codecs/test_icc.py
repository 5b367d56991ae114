import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.transport.codecs import icc_files
from transport.codecs import icc

P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


def in_srgb(profile, *pixels):
    image = Image.fromarray(np.array([pixels], np.uint8))
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, source, srgb))[0].astype(int)


def srgb_curve(light):
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_light_is_the_pixel_to_the_power_of_gamma(gamma):
    levels = np.array([10, 60, 120, 200, 255])
    shown = in_srgb(icc.profile_of_gamma(gamma, icc.SRGB), *np.stack([levels] * 3, 1))
    assert np.abs(shown - srgb_curve((levels / 255) ** gamma)[:, None]).max() <= 1


def test_primaries_agree_with_a_published_profile():
    pixels = [(96, 196, 72), (200, 120, 110), (60, 70, 150)]
    shown = in_srgb(icc.profile_of_gamma(2.2, P3), *pixels)
    published = icc_files.shown_in_srgb(np.array(pixels), icc_files.DISPLAY_P3)
    assert np.abs(shown - published).max() <= 2


@pytest.mark.parametrize("white", [(0.3127, 0.3290), (0.3457, 0.3585), (0.314, 0.351)])
def test_white_stays_white_under_every_white_point(white):
    shown = in_srgb(icc.profile_of_gamma(1.8, (*white, *P3[2:])), (255, 255, 255))
    assert np.abs(shown - 255).max() <= 1


@pytest.mark.parametrize("gamma", [1 / 0.45455, 1 / 0.45, 1 / 0.46])
def test_what_programs_write_for_srgb_needs_no_profile(gamma):
    assert icc.profile_of_gamma(gamma, None) is None


@pytest.mark.parametrize(
    "chromaticity",
    [
        [0.3] * 8,
        [0.0] * 8,
        [0.3127, 0.329, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3],
        [42949.0] * 8,
    ],
)
def test_a_chromaticity_of_no_display_gives_no_profile(chromaticity):
    assert icc.profile_of_gamma(1.8, chromaticity) is None


@pytest.mark.parametrize("gamma", [100_000.0, 1e300])
def test_a_gamma_out_of_range_gives_no_profile(gamma):
    assert icc.profile_of_gamma(gamma, None) is None


def test_code_points_of_srgb_and_unknown_ones_need_no_profile():
    for points in ((1, 13), (2, 2), (200, 13)):
        assert icc.profile_of_code_points(*points) is None


@pytest.mark.parametrize("primaries, transfer, gamma", [(1, 8, 1.0), (1, 4, 2.2), (1, 1, 2.4)])
def test_code_points_name_a_transfer(primaries, transfer, gamma):
    shown = in_srgb(icc.profile_of_code_points(primaries, transfer), (120, 120, 120))
    assert np.abs(shown - srgb_curve((120 / 255) ** gamma)).max() <= 1


def test_code_points_name_primaries():
    """Display P3 with sRGB's curve, by the matrix of its published profile."""
    pixel = np.array([120, 180, 90])
    light = ((pixel / 255 + 0.055) / 1.055) ** 2.4
    light = light @ np.array(icc_files.DISPLAY_P3) @ np.linalg.inv(icc_files.SRGB)
    shown = in_srgb(icc.profile_of_code_points(12, 13), pixel)
    assert np.abs(shown - srgb_curve(light)).max() <= 2
