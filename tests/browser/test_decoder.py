"""The decoders of JPEG files and of pixel differences, one batch at a time."""

import base64

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.browser.fake_server import chunk, read_batches

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


def test_a_batch_with_a_corrupt_file_closes_the_others(page: Page) -> None:
    num_closed = page.evaluate(
        """async () => {
            const { decodePictures } = await import("/static/player/picture.js");
            const canvas = document.createElement("canvas");
            const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg"));
            const good = new Uint8Array(await blob.arrayBuffer());
            const bad = new Uint8Array(10);
            const files = [good, bad, good];
            let numClosed = 0;
            const close = ImageBitmap.prototype.close;
            ImageBitmap.prototype.close = function () {
                numClosed += 1;
                close.call(this);
            };
            try {
                await decodePictures({
                    content_type: "image/jpeg",
                    payload: new Uint8Array(files.flatMap((data) => [...data])),
                    payload_lengths: files.map((data) => data.length),
                });
            } catch {
                return numClosed;
            }
            return null;
        }"""
    )
    assert num_closed == 2


def test_deltas_are_summed_across_batches_but_not_across_a_gap(page: Page) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 8, 16, 3), np.uint8)
    first, second = read_batches(chunk(frames, index=3, name="delta-zstd"))
    sent = [
        header | {"payload": base64.b64encode(payload).decode()}
        for header, payload in (first, second, first)
    ]
    decoded = page.evaluate(
        """async (sent) => {
            const { DeltaDecoder } = await import("/static/player/pixels.js");
            const decoder = new DeltaDecoder();
            const decode = (message) => {
                const payload = Uint8Array.from(atob(message.payload), (c) => c.charCodeAt(0));
                return decoder.decode({ ...message, payload }).map(({ data }) => [...data]);
            };
            const pixels = [...decode(sent[0]), ...decode(sent[1])];
            decode(sent[2]);
            decode(sent[1]);
            try {
                decode(sent[1]);
            } catch (error) {
                return { pixels, error: error.message };
            }
        }""",
        sent,
    )
    shown = np.array(decoded["pixels"], np.uint8).reshape(12, 8, 16, 4)
    assert (shown[..., :3] == frames).all() and (shown[..., 3] == 255).all()
    assert decoded["error"] == "the previous batch is missing"
