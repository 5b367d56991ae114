"""When the next chunk may be generated: just in time, so that its controls are fresh.

Pure: time is an argument, in seconds of any steady clock. A client that does not acknowledge is
always paced by the media clock, because nothing else bounds what piles up on the way to it. One
that does has at most two chunks in flight, and may ask not to be paced on top; where an ack is
missing the world waits, or, for who wants the latest, goes on without sending.
"""

import math
from dataclasses import dataclass, field

from transport.wire.errors import BadMessage

MAX_UNACKNOWLEDGED_CHUNKS = 2
SLACK_S = 0.1  # for encoding, sending and the client's own queue


@dataclass(slots=True)
class Pacer:
    """The media clock of one session: where its playout stands if it shows each chunk on time."""

    fps: int
    paced: bool = True
    acknowledged: bool = False  # whether the client sends acks at all
    latest: bool = False  # whether the world goes on where an ack is missing
    _num_generated: int = 0
    _num_acked: int = 0
    _in_flight: list[int] = field(default_factory=list)  # chunks that were sent and not acked
    _ends: float = -math.inf  # when the client will have shown all that was generated
    _lead: float = 0.0
    _media: float = 0.0  # of the last chunk

    def generated(
        self,
        now: float,
        *,
        num_frames: int,
        took: float,
        decoding: float = 0.0,
        cut_over: bool = False,
    ) -> None:
        """A chunk is there but for its pictures: it took `took` seconds, they will `decoding`.

        The next chunk may be made while they are: the world keeps up if the longer of the two
        is shorter than a chunk. With `cut_over` the client shows this one before older ones.
        """
        self._media = media = num_frames / self.fps
        decoding = min(decoding, media)  # one that took longer was an accident
        # Late, or the first one: the picture stood still, so the clock starts again from here.
        shown = now + decoding if cut_over else max(self._ends, now + decoding)
        self._ends = shown + media
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
        self._in_flight = [index for index in self._in_flight if index > chunk_index]

    def sent(self, chunk_index: int) -> None:
        """A chunk is on its way."""
        if self.acknowledged and chunk_index >= self._num_acked:
            self._in_flight.append(chunk_index)

    @property
    def may_send(self) -> bool:
        """Whether another chunk may be on its way, or an ack must come first."""
        return len(self._in_flight) < MAX_UNACKNOWLEDGED_CHUNKS

    def time_to_underrun_s(self, now: float) -> float:
        """In how long the client will have nothing left to show; 0 where that is so already.

        A chunk at most: who has more in store than that may wait so long, but not for ever.
        """
        return min(max(0.0, self._ends - now), self._media)

    def wait_s(self, now: float) -> float:
        """How long the next chunk must wait; infinite where an ack must come first."""
        unacknowledged = self._num_generated - self._num_acked
        waits = self.acknowledged and not self.latest
        if waits and unacknowledged >= MAX_UNACKNOWLEDGED_CHUNKS:
            return math.inf
        if not self.paced:
            return 0.0
        return max(0.0, self._ends - self._lead - now)
