"""Pixels of any mode to sRGB, as a browser shows them on a black page."""

import io

import numpy as np
from PIL import Image, ImageChops, ImageCms

# No convention fixes the white of 32-bit pixels: it is the least of these that fits.
_WHITES = (1, 255, 65535, 2**32 - 1)
_SRGB = ImageCms.createProfile("sRGB")


def to_eight_bits(image: Image.Image, *, is_inverted: bool) -> Image.Image:
    """Grey pixels of 16 or 32 bits as mode L or LA. Other images come back as they are.

    `is_inverted`: 0 is white, which Pillow heeds for fewer bits alone.
    """
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        if is_inverted:
            pixels = 65535 - pixels
        grey = Image.fromarray((pixels >> 8).astype(np.uint8))
        colour = image.info.get("transparency")
        if colour is None:
            return grey
        return Image.merge("LA", (grey, Image.fromarray(np.uint8(255) * (pixels != colour))))
    if image.mode in ("I", "F"):
        brightest = float(image.getextrema()[1])  # type: ignore[arg-type]
        white = next((white for white in _WHITES if brightest <= white), _WHITES[-1])
        pixels = np.clip(np.asarray(image) * (255 / white), 0, 255).round()
        return Image.fromarray(pixels.astype(np.uint8))
    return image


def open_transform(image: Image.Image, profile: bytes | None) -> ImageCms.ImageCmsTransform | None:
    """The conversion to sRGB, or None where the profile is absent, broken or of other pixels.

    A browser ignores such a profile, too.
    """
    if image.mode == "LAB":
        return ImageCms.buildTransform(ImageCms.createProfile("LAB"), _SRGB, "LAB", "RGB")
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}.get(source.profile.xcolor_space, "")
        if mode == "L" and image.mode not in ("1", "L", "LA"):
            return None
        if (mode == "CMYK") != (image.mode == "CMYK"):
            return None
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.buildTransform(source, _SRGB, mode, "RGB", intent)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def to_srgb(image: Image.Image, transform: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """An RGB image of the same size. Black stands under transparent pixels."""
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if transform is None:
        image = image.convert("RGB")
    else:
        if image.mode == "CMYK":
            # As Chromium does: black ink becomes as much of the three others.
            image = image.convert("RGB")
        if image.mode != transform.input_mode:
            image = image.convert(transform.input_mode)
        image = transform.apply(image)
    if alpha is None:
        return image
    return ImageChops.multiply(image, Image.merge("RGB", (alpha, alpha, alpha)))
