"""The video autoencoder as the engine sees it. Tested in `tests/lingbot/runtime/test_engine.py`."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class ImageCondition(NamedTuple):
    """Mask and image latents, which the DiT takes beside the noise; [1, 20, F, h, w] a chunk."""

    chunks: tuple[Tensor, ...]  # the first begins with the image; the last serves all later chunks

    def of_chunk(self, index: int) -> Tensor:
        return self.chunks[min(index, len(self.chunks) - 1)]


class ImageEncoder(Protocol):
    """Encodes the image of a new world."""

    def encode_image(self, image: NDArray[np.uint8], *, chunk: int) -> ImageCondition:
        """image [H, W, 3] -> the condition of a world that starts from it.

        `chunk` is the number of latent frames in a chunk.
        """


class ChunkDecoder(Protocol):
    """Decodes a session's chunks in their order.

    The state between two chunks belongs to the session; its type is the decoder's own.
    """

    def new_decoder_state(self) -> Any:
        """The state before a session's first chunk."""

    def state_tensors(self, state: Any) -> list[Tensor]:
        """The tensors of a state, on the decoder's device."""

    def decode(self, latents: Tensor, state: Any) -> NDArray[np.uint8]:
        """latents [1, 16, F, h, w] -> frames [T, H, W, 3]. Moves `state` on.

        T is 4 * F, 3 fewer in a session's first chunk.
        """


class VAE(ImageEncoder, ChunkDecoder, Protocol):
    """Both. One thread may decode while another encodes."""
