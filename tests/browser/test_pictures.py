"""The server makes of each first picture what Chromium shows for the same file."""

import base64
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from tests.transport.codecs.picture import HEIGHT, RGB, WIDTH, assert_looks_like, encode
from tests.transport.codecs.pictures import PICTURES
from transport.codecs.image_file import read_image
from transport.codecs.payload import Frame

pytestmark = pytest.mark.browser

Show = Callable[[bytes], Frame | None]


@pytest.fixture(scope="module")
def show(browser: Browser) -> Iterator[Show]:
    """The pixels [height, width, 3] of a file in an <img>, drawn on a black canvas, or None."""
    page = browser.new_page()
    page.goto("about:blank")

    def show(data: bytes) -> Frame | None:
        shown = page.evaluate(
            """async (base64) => {
                const data = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
                const image = new Image();
                image.src = URL.createObjectURL(new Blob([data]));
                await image.decode().catch(() => {}); // it rejects for damage that is shown
                if (image.naturalWidth === 0) return null;
                const canvas = document.createElement("canvas");
                [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
                const context = canvas.getContext("2d", { alpha: false });
                context.drawImage(image, 0, 0);
                const { data: rgba } = context.getImageData(0, 0, canvas.width, canvas.height);
                let text = "";
                for (let at = 0; at < rgba.length; at += 4096)
                    text += String.fromCharCode(...rgba.subarray(at, at + 4096));
                return { width: canvas.width, height: canvas.height, text: btoa(text) };
            }""",
            base64.b64encode(data).decode(),
        )
        if shown is None:
            return None
        rgba = np.frombuffer(base64.b64decode(shown["text"]), np.uint8)
        return rgba.reshape(shown["height"], shown["width"], 4)[..., :3]

    yield show
    page.close()


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_shows_what_chromium_shows(name: str, show: Show) -> None:
    data = PICTURES[name].data
    shown = show(data)
    assert shown is not None, "Chromium cannot show it"
    height, width, _ = shown.shape
    frame = np.asarray(read_image(data, sizes=[(width, height)]))
    assert_looks_like(frame, shown, mean=1, most=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_large_picture_shows_what_chromium_shows(kind: str, show: Show) -> None:
    large = Image.fromarray(RGB).resize((WIDTH * 30, HEIGHT * 30), Image.Resampling.BICUBIC)
    data = encode(large, kind)
    shown = show(data)
    assert shown is not None
    small = shown.reshape(HEIGHT, 30, WIDTH, 30, 3).mean(axis=(1, 3))
    frame = np.asarray(read_image(data, sizes=[(WIDTH, HEIGHT)]))
    assert_looks_like(frame, small, mean=1, most=2)
