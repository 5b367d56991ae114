"""How fast a world is generated, as a share of real time.

Pure. Waits for the media clock, for acks and for the socket do not count: they are the client's.
"""

from collections import deque
from statistics import median

from transport.wire.messages import Paced

SLOW = 0.9  # a share of real time; below it, the client gets `paced`
RECOVERED = 0.95  # from here on, a slow world keeps up again
NUM_CHUNKS = 5  # their median is the speed, so that one late chunk is no news
STEP_PERCENT = 10  # a slow world's speed is news again after such a change


class SpeedMeter:
    """The speed of one session's latest chunks."""

    def __init__(self, *, fps: int) -> None:
        self._fps = fps
        self._speeds: deque[float] = deque(maxlen=NUM_CHUNKS)
        self._told_percent = 100

    def note_chunk(self, *, num_frames: int, took_s: float, decoding_s: float) -> Paced | None:
        """Returns the news for the client, if a chunk has brought some.

        Decoding overlaps with the next chunk's denoising: the longer of the two counts.
        """
        busy_s = max(took_s, decoding_s, 1e-3)
        self._speeds.append(num_frames / self._fps / busy_s)
        if len(self._speeds) < NUM_CHUNKS:
            return None
        speed, was_slow = median(self._speeds), self._told_percent < 100
        is_slow = speed < (RECOVERED if was_slow else SLOW)
        percent = round(100 * speed) if is_slow else 100
        if is_slow == was_slow and abs(percent - self._told_percent) < STEP_PERCENT:
            return None
        self._told_percent = percent
        return Paced(percent)
