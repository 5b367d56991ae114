"""Every codec, through the wire's header, against the frames that were encoded."""

from typing import get_args

import msgspec
import numpy as np
import pytest

from transport.codecs import open_encoder
from transport.codecs.decoder import Decoder
from transport.codecs.payload import build_header, split_chunk
from transport.wire.messages import Encoding, Format


def encode(frames, name):
    """(header, payload) of each batch, the header as a client receives it."""
    encoder = open_encoder(Encoding(format=name, quality=95), fps=16)
    batches = split_chunk(frames, encoder)
    for index, batch in enumerate(batches):
        payload = encoder.encode(batch)
        header = build_header(
            payload, request_id="s-0", chunk_index=0, index=index, num_batches=len(batches)
        )
        fields = msgspec.to_builtins(header) | msgspec.to_builtins(payload.layout)
        yield fields, bytes(payload.data)


@pytest.mark.parametrize("name", get_args(Format))
def test_every_format_decodes_to_its_frames(scenery, psnr, name):
    frames, decoder = scenery(12), Decoder()
    decoded = np.concatenate([decoder.decode(*batch) for batch in encode(frames, name)])
    if name in ("raw", "delta-zstd"):
        assert np.array_equal(decoded, frames)
    else:
        assert psnr(decoded, frames) > 33


@pytest.mark.parametrize("name", ["raw", "jpeg"])
def test_a_header_without_its_layout_is_refused(scenery, name):
    header, payload = next(encode(scenery(6), name))
    del header["width"]
    with pytest.raises(msgspec.ValidationError, match="width"):
        Decoder().decode(header, payload)
