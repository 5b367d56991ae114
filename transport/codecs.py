"""Which codec a session's encoding asks for."""

from transport.h264 import H264Encoder
from transport.lossless import DeltaEncoder
from transport.messages import Encoding
from transport.payload import Encoder
from transport.still import PictureEncoder, RawEncoder


def open_encoder(encoding: Encoding, *, fps: int) -> Encoder:
    """`fps` is the media rate, which timestamps count."""
    match encoding.format:
        case "raw":
            return RawEncoder()
        case "delta-zstd":
            return DeltaEncoder()
        case "h264":
            return H264Encoder(encoding, fps=fps)
        case "jpeg" | "webp":
            return PictureEncoder(encoding)
