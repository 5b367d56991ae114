"""A walk over a slow line in simulated time: how long each key takes to its first frame.

The server's pacer and encoders, the page's choice of the encoding and the proxy's token bucket are
the real ones. Time is an argument of all of them, so that no figure depends on the machine.
"""

import itertools
import math
from dataclasses import dataclass
from random import Random
from typing import Any

from playwright.sync_api import Page

from benchmarks.throttle import Bucket
from tests.browser.picture_world import SIZE, paint
from transport.codecs import open_encoder
from transport.codecs.payload import FrameBatch, split_chunk
from transport.wire.messages import Encoding
from transport.wire.pacing import Pacer

FPS = 16
NUM_FRAMES = 12
STEP_S = 0.3  # to generate a chunk
DELAY_S = 0.1  # of the line, in each direction
DECODE_S = 0.02  # a chunk, in the browser
SHOW_S = 0.08  # until the frame before has had its time, and the display its next refresh
HEADER_BYTES = 430  # of each message
TAP_S = (0.4, 1.6)  # from a change of the held keys to the next one

# The page's side, kept in the page between calls.
OPEN = """async (decodesVideo) => {
    const { LineMeter } = await import("/static/session/line.js");
    const { Output } = await import("/static/session/output.js");
    const output = new Output({ realtime_output_format: "auto" });
    output.setVideo(decodesVideo);
    window.simulated = { meter: new LineMeter(), output };
    return output.fields;
}"""
ADD_CHUNK = """({ accepted, batches, nowMs, stats, width }) => {
    const { meter, output } = simulated;
    output.setWidth(width);
    for (const id of accepted) meter.accept(id);
    for (const [atMs, batch] of batches) meter.addBatch(atMs, batch);
    const fields = output.add(nowMs, meter.finish(stats, 16));
    if (fields !== null) meter.await(nowMs);
    return fields;
}"""


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A change of the held keys."""

    chunk_index: int  # of the first chunk that follows it
    delay_s: float  # to that chunk's first frame
    step: tuple[str, int | None, int | None]  # format, quality and width of that chunk


class SimulatedWalk:
    """One walk. It generates, encodes, sends and acknowledges as the server and the page do."""

    def __init__(
        self,
        page: Page,
        *,
        megabits_per_s: float,
        decodes_video: bool = True,
        fixed: str | None = None,
        encode_s: float = 0.0,
    ) -> None:
        """`fixed`: a format that the visitor has chosen by hand; None: the automatic one.

        `encode_s`: what the server's encoder takes for a frame.
        """
        self._page = page
        self._fixed = fixed
        self._encode_s = encode_s
        self._line = Bucket(bytes_per_s=megabits_per_s * 1e6 / 8)
        self._pacer = Pacer(fps=FPS, acknowledged=True)
        self._random = Random(0)
        self._taps_s: list[float] = [1.0]  # of changes that no chunk has followed yet
        self._acks: list[tuple[float, int]] = []  # (arrival at the server, chunk index)
        self._change: tuple[float, float, dict[str, Any]] | None = None  # (arrival, id, fields)
        fields = page.evaluate(OPEN, decodes_video)
        self._encode(fields if fixed is None else {"realtime_output_format": fixed})
        self._arrived_s: list[float] = []  # the ends of all chunks
        self.taps: list[Tap] = []

    @property
    def frames_per_s(self) -> float:
        """Frames that arrive, at most as many as the page shows."""
        took_s = self._arrived_s[-1] - self._arrived_s[0]
        return min(FPS, NUM_FRAMES * (len(self._arrived_s) - 1) / took_s)

    def run(self, seconds: float) -> None:
        ended_s = 0.0
        for index in itertools.count():
            if ended_s > seconds:
                return
            started_s = self._wait_for_turn(ended_s)
            ended_s = started_s + STEP_S
            taps_s = self._take_taps(started_s)
            self._pacer.generated(
                ended_s, num_frames=NUM_FRAMES, took_s=STEP_S, flushes_older=bool(taps_s)
            )
            self._pacer.sent(index)
            shown_s = self._send(index, ended_s) + SHOW_S
            for tap_s in taps_s:
                tap = Tap(chunk_index=index, delay_s=shown_s - tap_s, step=self._step)
                self.taps.append(tap)

    def _wait_for_turn(self, now_s: float) -> float:
        while True:
            while self._acks and self._acks[0][0] <= now_s:
                self._pacer.acknowledge(self._acks.pop(0)[1])
            wait_s = self._pacer.wait_s(now_s)
            if wait_s <= 0:
                return now_s
            next_ack_s = self._acks[0][0] if self._acks else math.inf
            now_s = min(now_s + wait_s, next_ack_s)

    def _take_taps(self, now_s: float) -> list[float]:
        """The moments of the taps that have arrived. The visitor taps on."""
        while self._taps_s[-1] <= now_s:
            self._taps_s.append(self._taps_s[-1] + self._random.uniform(*TAP_S))
        arrived = [tap_s for tap_s in self._taps_s if tap_s + DELAY_S <= now_s]
        self._taps_s = self._taps_s[len(arrived) :]
        return arrived

    def _send(self, index: int, now_s: float) -> float:
        """Returns when the chunk's first batch is decoded. The page answers in its own time."""
        accepted = []
        if self._change is not None and self._change[0] <= now_s:
            arrived_s, event_id, fields = self._change
            self._change = None
            self._line.take(arrived_s, HEADER_BYTES)  # its answer
            self._encode(fields)
            accepted.append(event_id)
        batches, encoded_s = [], now_s
        for batch in self._batches_of(index):
            encoded_s = now_s + self._encoding_s(batch)
            size = len(self._encoder.encode(batch).data) + HEADER_BYTES
            batches.append(self._carry(index, encoded_s, size))
        stats_s = encoded_s + self._line.take(encoded_s, HEADER_BYTES) + DELAY_S
        first_s, last_s = batches[0][0] / 1000, batches[-1][0] / 1000
        self._arrived_s.append(last_s)
        self._acks.append((last_s + DECODE_S + DELAY_S, index))
        fields = self._page.evaluate(
            ADD_CHUNK,
            {
                "accepted": accepted,
                "batches": batches,
                "nowMs": 1000 * stats_s,
                "width": SIZE[0],
                "stats": {
                    "num_frames": NUM_FRAMES,
                    "chunk_total_ms": 1000 * NUM_FRAMES / FPS,
                    "pace_wait_ms": 1000 * (NUM_FRAMES / FPS - STEP_S),
                    "scheduler_forward_ms": 1000 * STEP_S,
                    "raw_payload_build_ms": 1000 * (encoded_s - now_s),
                },
            },
        )
        if fields is not None and self._fixed is None:
            self._change = stats_s + DELAY_S, 1000 * stats_s, fields
        return first_s + DECODE_S

    def _carry(self, index: int, now_s: float, size: int) -> tuple[float, dict[str, Any]]:
        """A batch of less than 64 KiB, which is one message: its arrival in ms, and the batch."""
        arrived_s = now_s + self._line.take(now_s, size) + DELAY_S
        return 1000 * arrived_s, {"chunkIndex": index, "numBytes": size, "beganMs": None}

    def _batches_of(self, index: int) -> list[FrameBatch]:
        """Each becomes one message of a chunk."""
        frames = paint((NUM_FRAMES, *SIZE[::-1], 3), index)
        return split_chunk(frames, self._encoder, position=index * NUM_FRAMES)

    def _encoding_s(self, batch: FrameBatch) -> float:
        """From the end of generation until this batch is encoded. Only H.264 encodes in turn."""
        num_frames = batch.stop if self._encoder.is_sequential else len(batch.frames)
        return num_frames * self._encode_s

    def _encode(self, fields: dict[str, Any]) -> None:
        """Follows the output fields of an init."""
        encoding = Encoding(
            format=fields["realtime_output_format"],
            quality=fields.get("output_compression"),
            preview_max_width=fields.get("realtime_preview_max_width") or None,
        )
        self._step = (encoding.format, encoding.quality, encoding.preview_max_width)
        self._encoder = open_encoder(encoding, fps=FPS)
