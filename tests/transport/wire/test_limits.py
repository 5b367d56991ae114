import msgspec
import pytest

from transport.wire.limits import MAX_MESSAGE_BYTES, ClientLimits


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_sockets", 0),
        ("max_init_bytes", 1023),
        ("max_init_bytes", MAX_MESSAGE_BYTES + 1),
        ("max_event_bytes", 1023),
        ("max_errors", -1),
        ("init_timeout_s", 0),
        ("ack_timeout_s", 0),
        ("max_clip_bytes", 1023),
        ("max_clip_latent_frames", 0),
    ],
)
def test_a_limit_out_of_range_is_named(name, value):
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{name}"):
        msgspec.convert({name: value}, ClientLimits)


def test_an_unknown_limit_is_an_error():
    with pytest.raises(msgspec.ValidationError, match="max_socket"):
        msgspec.convert({"max_socket": 1}, ClientLimits)
