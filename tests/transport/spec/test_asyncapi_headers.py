"""The AsyncAPI document against the headers and payloads of every codec."""

from typing import get_args

import numpy as np
import pytest
from msgspec import msgpack

from tests.transport.spec.asyncapi_document import MESSAGES, Validator, errors_of
from transport.codecs import open_encoder
from transport.codecs.payload import build_header, split_chunk
from transport.wire.messages import AppliedControls, Encoding, Format, HeaderExtras, encode_batch

EXTRAS = HeaderExtras(
    applied_controls=AppliedControls([["w"], [], []], [4]),
    world_chunk_index=7,
    cut_over=True,
    dropped_frames=12,
)


def batches(encoding, *, size=(64, 32), extras=None):
    """All parts of one chunk, as a client reads them."""
    chunk = np.random.default_rng(0).integers(0, 255, (9, *reversed(size), 3), np.uint8)
    encoder = open_encoder(encoding, fps=16)
    split, parts = split_chunk(chunk, encoder), []
    for index, batch in enumerate(split):
        payload = encoder.encode(batch)
        header = build_header(
            payload,
            request_id="s-0",
            chunk_index=0,
            index=index,
            num_batches=len(split),
            event_id=3,
        )
        parts.append(encode_batch(header, payload.layout, payload.data, extras=extras))
    return parts


@pytest.mark.parametrize("extras", [None, EXTRAS])
@pytest.mark.parametrize("name", get_args(Format))
def test_the_header_of_every_codec_validates(name, extras):
    for encoding in (Encoding(format=name), Encoding(format=name, preview_max_width=32)):
        for size in ((64, 32), (256, 128)):
            for header, *_ in batches(encoding, size=size, extras=extras):
                assert errors_of(msgpack.decode(header)) == []


def test_a_header_and_a_whole_batch_have_different_types():
    ((small,),) = batches(Encoding(format="raw"))[:1]
    header, payload = batches(Encoding(format="raw"), size=(256, 128))[0]
    assert msgpack.decode(small)["type"] == "frame_batch"
    assert msgpack.decode(header)["type"] == "frame_batch_header"
    schema = MESSAGES["payload"]["payload"]
    assert Validator(schema).is_valid(bytes(payload))
    assert not Validator(schema).is_valid("text")


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": "text"},
        {"payload": None},
        {"width": "64"},
        {"encoding": "av1"},
        {"encoding": "jpeg"},  # has another layout
        {"num_frames": 1.5},
        {"applied_controls": {"actions": [["w"]]}},
        {"applied_controls": {"actions": [[1]], "event_ids": []}},
        {"type": "frame_batch_header", "chunk_index": None},
    ],
)
def test_a_header_with_a_wrong_field_does_not_validate(changes):
    fields = msgpack.decode(batches(Encoding(format="raw"))[0][0])
    assert errors_of(fields) == []
    assert errors_of(fields | changes) != []
