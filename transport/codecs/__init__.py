"""Codecs: frames to payloads, and uploaded images to frames."""

from msgspec.structs import replace

from transport.codecs.delta import DeltaEncoder
from transport.codecs.h264 import H264Encoder
from transport.codecs.payload import Encoder
from transport.codecs.picture import PictureEncoder
from transport.codecs.raw import RawEncoder
from transport.wire.messages import Encoding

# Pixels behind one message to a client with extensions. Smaller messages let the first frame leave
# earlier, and no copy of a whole chunk keeps the GIL from an event loop.
MAX_BATCH_BYTES = 3 * 2**20
PLAIN_JPEG_QUALITY = 95  # SGLang-Diffusion's default, as is the chroma of 444


def open_encoder(encoding: Encoding, *, fps: int, extensions: bool = True) -> Encoder:
    """The encoder of one session. `fps` is the media rate, which timestamps count."""
    if encoding.format == "jpeg" and not extensions:
        quality, chroma = encoding.quality or PLAIN_JPEG_QUALITY, encoding.chroma or "444"
        encoding = replace(encoding, quality=quality, chroma=chroma)
    match encoding.format:
        case "raw":
            return RawEncoder(max_batch_bytes=MAX_BATCH_BYTES if extensions else None)
        case "delta-zstd":
            return DeltaEncoder(max_batch_bytes=MAX_BATCH_BYTES)
        case "h264":
            return H264Encoder(encoding, fps=fps)
        case "jpeg" | "webp":
            return PictureEncoder(encoding)
