import copy

import pytest
import torch
from msgspec.structs import replace

from lingbot.config import SCHEDULE_V1, Size
from lingbot.dit.precision import cast_weights
from lingbot.runtime.fingerprint import fingerprint_of
from lingbot.runtime.presets import load_engine
from tests.lingbot.toy import WORLD, make_engine


@pytest.fixture(scope="module")
def model():
    return make_engine().model


def test_other_weights_have_another_fingerprint(model):
    other = copy.deepcopy(model)
    for weight in other.parameters():
        before = fingerprint_of(other, WORLD)
        with torch.no_grad():
            weight.view(-1)[-1] += 0.5
        assert fingerprint_of(other, WORLD) != before


def test_a_world_that_computes_otherwise_has_another_fingerprint(model):
    changes = [{}, {"schedule": SCHEDULE_V1}, {"rope_scale": (2.0, 2.0)}, {"max_positions": 512},
               {"chunk": 2, "sink": 2}]  # fmt: skip
    found = {fingerprint_of(model, replace(WORLD, **change)) for change in changes}
    assert len(found) == len(changes)


def test_sizes_windows_and_types_leave_it_as_it_is(model):
    served = replace(WORLD, sizes=(Size(64, 64),), window=6, fps=8, max_steps=4)
    assert fingerprint_of(model, served) == fingerprint_of(model, WORLD)
    cast = cast_weights(copy.deepcopy(model), torch.bfloat16)
    assert fingerprint_of(cast, WORLD) == fingerprint_of(model, WORLD)


def test_an_engine_has_that_of_the_weights_as_they_were_read():
    found = {load_engine("pocket", dtype=dtype).fingerprint
             for dtype in (torch.float32, torch.bfloat16)}  # fmt: skip
    assert len(found) == 1 and len(found.pop()) == 32
