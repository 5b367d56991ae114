"""A session's tensors in host memory, while its client is away.

A tensor keeps its identity, shape and strides: only the bytes of its storage move. Its storage on
the device is empty meanwhile, and the tensor must not be read.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, UntypedStorage

# The allocator of pinned memory rounds up to a power of two, so that such a piece wastes nothing.
PIECE_BYTES = 2**26


@dataclass(slots=True)
class MovedStorage:
    """A storage, and those of its pieces that have been copied to host memory."""

    storage: UntypedStorage
    stream: torch.cuda.Stream | None  # where its memory is allocated and used; None: the default
    pieces: list[Tensor] = field(default_factory=list)

    def copy_piece(self) -> int:
        """Copy the next piece, and free the device's memory after the last. Returns its bytes."""
        bytes_on_device = view_bytes(self.storage)
        start = PIECE_BYTES * len(self.pieces)
        source = bytes_on_device[start : start + PIECE_BYTES]
        pinned = source.device.type == "cuda"
        piece = torch.empty(len(source), dtype=torch.uint8, pin_memory=pinned)
        self.pieces.append(piece.copy_(source))  # returns when the bytes are there
        if start + len(source) == len(bytes_on_device):
            self.storage.resize_(0)
        return len(source)

    def copy_back(self) -> None:
        """Allocate the device's memory again if it was freed, and fill it."""
        if self.storage.nbytes() == 0:
            # On its own stream, where the allocator may give the memory to somebody else later.
            with torch.cuda.stream(self.stream):
                self.storage.resize_(sum(len(piece) for piece in self.pieces))
                for target, piece in zip(
                    view_bytes(self.storage).split(PIECE_BYTES), self.pieces, strict=True
                ):
                    target.copy_(piece)
        self.pieces.clear()


@dataclass(slots=True)
class Suspension:
    """The storages of one session, on their way to host memory or in it."""

    storages: list[MovedStorage]

    @classmethod
    def begin(
        cls,
        tensors: Iterable[Tensor],
        decoder_tensors: Iterable[Tensor],
        *,
        decode_stream: torch.cuda.Stream | None,
    ) -> Self:
        """Nothing has moved yet. Tensors may share a storage with others of their own kind."""
        kinds = ((tensors, None), (decoder_tensors, decode_stream))
        found = [(tensor.untyped_storage(), stream) for kind, stream in kinds for tensor in kind]
        each = {storage.data_ptr(): (storage, stream) for storage, stream in found}
        return cls([MovedStorage(*one) for one in each.values() if one[0].nbytes()])

    def move_out(self, max_bytes: int) -> bool:
        """Move the next pieces, about `max_bytes` of them. True if none is left on the device."""
        for one in self.storages:
            while one.storage.nbytes():
                if max_bytes <= 0:
                    return False
                max_bytes -= one.copy_piece()
        return True

    def move_back(self) -> None:
        """Return everything to the device, where each tensor has the bits that it had."""
        for one in self.storages:
            one.copy_back()


def view_bytes(storage: UntypedStorage) -> Tensor:
    """A storage as uint8 [N]."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
