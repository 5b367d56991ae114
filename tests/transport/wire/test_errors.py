import pickle

import pytest

from transport.wire.errors import (
    BadMessage,
    Busy,
    Refused,
    TooLarge,
    WorldFailed,
    WorldLost,
    quote,
    truncate_reason,
    unknown_name,
)


@pytest.mark.parametrize(
    "kind, code, close_code",
    [
        (BadMessage, "invalid_field", None),
        (Refused, "refused", None),
        (TooLarge, "too_large", 1009),
        (WorldFailed, "internal", 1011),
        (WorldLost, "world_lost", 1012),
        (Busy, "busy", 1013),
    ],
)
def test_each_error_has_its_code_and_close_code(kind, code, close_code):
    error = kind("why")
    assert (error.code, error.close_code, error.field, str(error)) == (
        code,
        close_code,
        None,
        "why",
    )


def test_an_error_survives_pickling():
    error = Refused("no such thing", code="timeout", field="size", close_code=1008)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is Refused
    assert (str(copy), copy.code, copy.field, copy.close_code) == (
        "no such thing",
        "timeout",
        "size",
        1008,
    )


def test_a_failed_world_has_one_text_for_all_clients():
    assert str(pickle.loads(pickle.dumps(WorldFailed()))) == "the world failed"


def test_a_close_reason_fits_its_frame_and_stays_text():
    assert truncate_reason("short") == "short"
    assert len(truncate_reason("é" * 200).encode()) == 122  # 123 would cut a character in two


def test_long_values_are_not_quoted_whole():
    assert quote("x") == "'x'"
    assert len(quote("x" * 10_000)) < 60


def test_an_unknown_name_gets_the_known_ones_and_the_nearest():
    error = unknown_name("sed", ["prompt", "seed"])
    assert str(error) == "'sed' is not a field, the nearest is 'seed', expected: prompt, seed"
    assert str(unknown_name("q", ["prompt"])) == "'q' is not a field, expected: prompt"
    assert len(str(unknown_name("x" * 10_000, ["prompt"]))) < 100
