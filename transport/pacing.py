"""When the next chunk may be generated: just in time, so that its controls are fresh.

Pure: time is an argument, in seconds of any steady clock. A client that does not acknowledge is
always paced by the media clock, because nothing else bounds what piles up on the way to it. One
that does has at most two chunks in flight, and may ask not to be paced on top.
"""

import math
from dataclasses import dataclass

from transport.errors import BadMessage

MAX_UNACKNOWLEDGED_CHUNKS = 2
SLACK_S = 0.1  # for encoding, sending and the client's own queue


@dataclass(slots=True)
class Pacer:
    """The media clock of one session: where its playout stands if it shows each chunk on time."""

    fps: int
    paced: bool = True
    acknowledged: bool = False  # whether the client sends acks at all
    _num_generated: int = 0
    _num_acked: int = 0
    _ends: float = -math.inf  # when the client will have shown all that was generated
    _lead: float = 0.0
    _media: float = 0.0  # of the last chunk

    def generated(self, now: float, *, num_frames: int, took: float, decoding: float = 0.0) -> None:
        """A chunk is there but for its pictures: it took `took` seconds, they will `decoding`.

        The next chunk may be made while they are: the world keeps up if the longer of the two
        is shorter than a chunk.
        """
        self._media = media = num_frames / self.fps
        decoding = min(decoding, media)  # one that took longer was an accident
        # Late, or the first one: the picture stood still, so the clock starts again from here.
        self._ends = max(self._ends, now + decoding) + media
        self._lead = min(media + decoding, 2 * (took + decoding) + SLACK_S)
        self._num_generated += 1

    def acknowledge(self, chunk_index: int) -> None:
        """Everything up to this chunk has arrived. Raises BadMessage for one not generated yet."""
        if chunk_index >= self._num_generated:
            raise BadMessage(
                f"chunk {chunk_index} has not been sent, only {self._num_generated} have",
                field="chunk_index",
            )
        self._num_acked = max(self._num_acked, chunk_index + 1)

    def due_s(self, now: float) -> float:
        """In how long the client will have nothing left to show; 0 where that is so already.

        A chunk at most: who has more in store than that may wait so long, but not for ever.
        """
        return min(max(0.0, self._ends - now), self._media)

    def wait_s(self, now: float) -> float:
        """How long the next chunk must wait; infinite where an ack must come first."""
        in_flight = self._num_generated - self._num_acked
        if self.acknowledged and in_flight >= MAX_UNACKNOWLEDGED_CHUNKS:
            return math.inf
        if not self.paced:
            return 0.0
        return max(0.0, self._ends - self._lead - now)
