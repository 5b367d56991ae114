"""When to generate the next chunk: just in time, so that its controls are fresh.

A client that sends no acks is paced by the media clock, which alone bounds its backlog. Without
pacing it may be 30 s of media ahead of that clock. A client that acknowledges may have two chunks
in flight, and may turn pacing off. Without an ack, generation stops; in `latest` mode it continues,
and unsent chunks are dropped.

Pure: time is an argument, in seconds of any steady clock.
"""

import math
from dataclasses import dataclass, field

from transport.wire.errors import BadMessage

MAX_UNACKNOWLEDGED_CHUNKS = 2
MAX_LEAD_S = 30.0  # ahead of the media clock, for a client with neither acks nor pacing
SLACK_S = 0.1  # for encoding, sending and the client's own queue


@dataclass(slots=True, kw_only=True)
class Pacer:
    """The media clock and the unacknowledged chunks of one session."""

    fps: int
    paced: bool = True
    acknowledged: bool = False  # the client sends acks
    latest: bool = False  # generation does not wait for acks
    on_demand: bool = False  # the client waits for no frames but those that it asks for
    stall_s: float = 0.0  # before the last chunk the client had nothing left to show for so long
    _num_generated: int = 0
    _num_acked: int = 0
    _in_flight: list[int] = field(default_factory=list)  # indices of sent chunks without an ack
    _playout_ends_s: float = -math.inf  # when the client has shown all generated frames
    _lead_s: float = 0.0  # from the start of the next chunk to the end of the playout
    _media_s: float = 0.0  # duration of the last chunk
    _is_resuming: bool = False  # the next chunk is the first after a pause

    def generated(
        self,
        now_s: float,
        *,
        num_frames: int,
        took_s: float,
        decoding_s: float = 0.0,
        flushes_older: bool = False,
    ) -> None:
        """A chunk has been denoised in `took_s`. Decoding will take about `decoding_s` more.

        The next chunk may be denoised meanwhile: the world keeps up if the longer of the two is
        shorter than a chunk. With `flushes_older` the client shows this chunk before older ones.
        """
        self._media_s = media_s = num_frames / self.fps
        decoding_s = min(decoding_s, media_s)  # a longer one was an outlier
        starts_s = now_s + decoding_s
        is_first = self._num_generated == 0 or self._is_resuming or self.on_demand
        self.stall_s = 0.0 if is_first else max(0.0, starts_s - self._playout_ends_s)
        self._is_resuming = False
        if not flushes_older:
            # After a late chunk playout had stopped, so the clock starts again here.
            starts_s = max(self._playout_ends_s, starts_s)
        self._playout_ends_s = starts_s + media_s
        self._lead_s = min(media_s + decoding_s, 2 * (took_s + decoding_s) + SLACK_S)
        self._num_generated += 1

    def note_resume(self) -> None:
        """Notes the end of a pause. The client had nothing left to show, which was no stall."""
        self._is_resuming = True

    def restart(self) -> None:
        """The world was turned back or reset. The client shows nothing of its old course."""
        self._playout_ends_s = -math.inf
        self._is_resuming = True

    def acknowledge(self, chunk_index: int) -> None:
        """Notes the arrival of all chunks up to this one. Raises BadMessage for a future chunk."""
        if chunk_index >= self._num_generated:
            raise BadMessage(
                f"chunk {chunk_index} has not been sent, only {self._num_generated} have",
                field="chunk_index",
            )
        self._num_acked = max(self._num_acked, chunk_index + 1)
        self._in_flight = [index for index in self._in_flight if index > chunk_index]

    def sent(self, chunk_index: int) -> None:
        """Notes that a chunk is in flight, unless its ack has already arrived."""
        if self.acknowledged and chunk_index >= self._num_acked:
            self._in_flight.append(chunk_index)

    @property
    def may_send(self) -> bool:
        """True if another chunk may be in flight before the next ack."""
        return len(self._in_flight) < MAX_UNACKNOWLEDGED_CHUNKS

    def time_to_underrun_s(self, now_s: float) -> float:
        """Seconds until the client has no frames left to show, at least 0.

        Capped at one chunk, so that a client with a full buffer is not starved.
        """
        return min(max(0.0, self._playout_ends_s - now_s), self._media_s)

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next chunk may be generated; infinite until an ack arrives."""
        num_unacknowledged = self._num_generated - self._num_acked
        waits_for_acks = self.acknowledged and not self.latest
        if waits_for_acks and num_unacknowledged >= MAX_UNACKNOWLEDGED_CHUNKS:
            return math.inf
        if not self.paced and self.acknowledged:
            return 0.0
        lead_s = self._lead_s if self.paced else MAX_LEAD_S
        return max(0.0, self._playout_ends_s - lead_s - now_s)
