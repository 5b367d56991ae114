"""A VAE of two: one encodes images, the other decodes chunks."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lingbot.vae.pixels import Frames
from lingbot.vae.protocol import ChunkDecoder, ImageCondition, ImageEncoder


@dataclass(frozen=True, slots=True)
class SplitVAE:
    """The full encoder with a tiny decoder.

    A DiT was trained on conditions of the full encoder. A tiny VAE decodes nearly the same frames
    in a fraction of the time.
    """

    encoder: ImageEncoder
    decoder: ChunkDecoder

    def encode_image(self, image: Frames, *, chunk: int) -> ImageCondition:
        return self.encoder.encode_image(image, chunk=chunk)

    def new_decoder_state(self) -> Any:
        return self.decoder.new_decoder_state()

    def state_tensors(self, state: Any) -> list[Tensor]:
        return self.decoder.state_tensors(state)

    def decode(self, latents: Tensor, state: Any) -> Frames:
        return self.decoder.decode(latents, state)
