"""Worker threads, counted by kind of work, so that no kind queues behind another."""

import os

from anyio import CapacityLimiter


class Threads:
    """What may run at once. Every socket and every clip of the process shares it."""

    def __init__(self) -> None:
        self.payloads = CapacityLimiter(os.cpu_count() or 1)  # of chunks that somebody waits for
        # Anybody may upload a picture, again and again, before there is a world to wait for.
        self.pictures = CapacityLimiter(1)
        # Not the pictures' place: a clip holds a world while it encodes, and strangers' uploads
        # would keep that world from everybody. Nor the payloads': of a clip nobody sees a frame
        # before its end, so it yields to those who watch.
        self.videos = CapacityLimiter(1)
