"""Which codec a session's encoding asks for."""

from transport.codecs.delta import DeltaEncoder
from transport.codecs.h264 import H264Encoder
from transport.codecs.payload import Encoder
from transport.codecs.picture import PictureEncoder
from transport.codecs.raw import RawEncoder
from transport.wire.messages import Encoding

# Of uncompressed pixels in one message to a client with extensions. A first frame leaves so much
# earlier, and nothing copies a whole chunk in one go while an event loop waits for the GIL.
MESSAGE_BYTES = 3 * 2**20


def open_encoder(encoding: Encoding, *, fps: int, extensions: bool = True) -> Encoder:
    """`fps` is the media rate, which timestamps count."""
    match encoding.format:
        case "raw":
            return RawEncoder(max_bytes=MESSAGE_BYTES if extensions else None)
        case "delta-zstd":
            return DeltaEncoder(max_bytes=MESSAGE_BYTES)
        case "h264":
            return H264Encoder(encoding, fps=fps)
        case "jpeg" | "webp":
            return PictureEncoder(encoding)
