"""Messages from rank 0 to the other ranks, over gloo."""

import numpy as np
import torch
import torch.distributed as dist

BUFFER_BYTES = 4096  # of one broadcast; a longer message takes two


class CommandChannel:
    """Broadcasts byte strings through one reused buffer.

    A message is preceded by its length, 8 bytes. All ranks must send or receive in the same order.
    """

    def __init__(self) -> None:
        self._buffer = torch.zeros(BUFFER_BYTES, dtype=torch.uint8)

    def send(self, message: bytes) -> None:
        """On rank 0: send `message` to every other rank."""
        data = np.frombuffer(len(message).to_bytes(8) + message, np.uint8).copy()
        head = min(len(data), BUFFER_BYTES)
        self._buffer[:head] = torch.from_numpy(data[:head])
        dist.broadcast(self._buffer, src=0)
        if len(data) > BUFFER_BYTES:
            dist.broadcast(torch.from_numpy(data[BUFFER_BYTES:]), src=0)

    def receive(self) -> bytes:
        """On every other rank: wait for the next message."""
        dist.broadcast(self._buffer, src=0)
        data = self._buffer.numpy().tobytes()
        num_bytes = int.from_bytes(data[:8])
        missing = 8 + num_bytes - BUFFER_BYTES
        if missing > 0:
            tail = torch.empty(missing, dtype=torch.uint8)
            dist.broadcast(tail, src=0)
            data += tail.numpy().tobytes()
        return data[8 : 8 + num_bytes]
